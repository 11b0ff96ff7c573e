#include "rdt.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"

#define RESCTRL "/sys/fs/resctrl"
#ifndef RDTGROUP_SUPER_MAGIC
#define RDTGROUP_SUPER_MAGIC 0x7655821
#endif

static int write_at(int dir, const char *file, const char *text, struct err **err)
{
        _cleanup_close_ int fd = openat(dir, file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);

        if (fd < 0 || write(fd, text, strlen(text)) < 0)
                return err_sys(err, errno, "linux.intelRdt: writing '%s' to %s", text, file);
        return 0;
}

/* The kernel takes one line a write. */
static int write_schemata(int dir, const struct spec_intel_rdt *rdt, struct err **err)
{
        const char *const single[] = { rdt->l3_cache_schema, rdt->mem_bw_schema };
        char line[1024];
        int r = 0;

        for (size_t i = 0; r == 0 && i < rdt->schemata.n + 2; i++) {
                const char *text = i < 2 ? single[i] : rdt->schemata.item[i - 2];

                if (!text || !text[0])
                        continue;
                if ((size_t)snprintf(line, sizeof(line), "%s\n", text) >= sizeof(line))
                        return err_set(err, ERR_BAD_CONFIG, E2BIG, "linux.intelRdt: a schema is too long");
                r = write_at(dir, "schemata", line, err);
        }
        return r;
}

int rdt_apply(const struct spec *spec, struct box_handle *h, pid_t pid, struct err **err)
{
        const struct spec_intel_rdt *rdt = spec->linux_.intel_rdt;
        const bool limits = rdt && (rdt->l3_cache_schema || rdt->mem_bw_schema || rdt->schemata.n);
        _cleanup_close_ int root = -1, dir = -1;
        struct statfs fs;
        char text[16];
        int r;

        if (!rdt)
                return 0;
        root = open(RESCTRL, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root < 0 || fstatfs(root, &fs) < 0 || fs.f_type != RDTGROUP_SUPER_MAGIC)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                        "linux.intelRdt: this host has no resctrl file system at " RESCTRL);
        h->rdt_group = strdup(rdt->clos_id ? rdt->clos_id : h->id);
        if (!h->rdt_group)
                return err_sys(err, ENOMEM, "linux.intelRdt");
        if (mkdirat(root, h->rdt_group, 0755) == 0)
                h->rdt_owned = true;
        else if (errno != EEXIST)
                return err_sys(err, errno, "linux.intelRdt: making group '%s'", h->rdt_group);
        else if (rdt->clos_id && !limits)
                h->rdt_owned = false;
        dir = openat(root, h->rdt_group, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir < 0)
                return err_sys(err, errno, "linux.intelRdt: opening group '%s'", h->rdt_group);
        if (rdt->clos_id && !limits && h->rdt_owned)
                return err_set(err, ERR_BAD_CONFIG, ENOENT,
                        "linux.intelRdt: group '%s' does not exist and no schema is given", rdt->clos_id);
        r = write_schemata(dir, rdt, err);
        snprintf(text, sizeof(text), "%d", pid);
        return r < 0 ? r : write_at(dir, "tasks", text, err);
}

void rdt_remove(const struct box_handle *h)
{
        char path[4096];

        if (h->rdt_group && h->rdt_owned &&
                (size_t)snprintf(path, sizeof(path), RESCTRL "/%s", h->rdt_group) < sizeof(path))
                rmdir(path);
}

int box_update_rdt(
        const struct box_runtime *runtime, const char *id, const char *l3, const char *bandwidth, struct err **err)
{
        const struct spec_intel_rdt rdt = { .l3_cache_schema = l3, .mem_bw_schema = bandwidth };
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_close_ int dir = -1;
        char path[4096];
        int r = state_load(runtime, id, &h, err);

        if (r < 0)
                return r;
        if (!h->rdt_group)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "container '%s' has no linux.intelRdt", id);
        snprintf(path, sizeof(path), RESCTRL "/%s", h->rdt_group);
        dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        return dir < 0 ? err_sys(err, errno, "opening '%s'", path) : write_schemata(dir, &rdt, err);
}
