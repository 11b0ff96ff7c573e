/* Snapshots of machines: the machine's control socket (docs/machine.md), which is given files, since strata-vmm in its jail can open none; and what a machine
 * that begins as a snapshot is told. */
#include "vm_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd_pass.h"
#include "base/unix_listener.h"
#include "network_vm.h"
#include "snapshot_internal.h"
#include "vm/snapshot_files.h"

#define REPLY_MS  (10 * 60 * 1000) /* a large memory goes to a slow disk */
#define REPLY_MAX 2048

/* --- the control socket ------------------------------------------------------------------------------------------- */

struct control {
        struct instance *inst;
        int fd;
        int files[SNAPSHOT_LAYERS_MAX]; /* that came with the answer */
        unsigned n_files;
};

static void control_close(struct control *c)
{
        while (c->n_files)
                close(c->files[--c->n_files]);
        closep(&c->fd);
}

static int control_open(struct instance *inst, struct control *ret, struct err **err)
{
        char path[64];

        snprintf(path, sizeof(path), "/proc/self/fd/%d/" VM_CONTROL, inst->dir);
        *ret = (struct control){ .inst = inst, .fd = unix_connect(path) };
        return ret->fd < 0 ? err_sys(err, -ret->fd, "reaching the machine of '%s'", inst->config.name) : 0;
}

/* 1; 0 when nothing came in time; -errno. */
static int wait_readable(int fd)
{
        struct pollfd p = { .fd = fd, .events = POLLIN };
        const int r = poll(&p, 1, REPLY_MS);

        return r < 0 ? -errno : r;
}

/* One request: lines come back, the last of which is "ok" or "error: ...". */
static int ask(struct control *c, const char *request, const int *files, unsigned n_files, struct err **err)
{
        char reply[REPLY_MAX] = "";
        size_t len = 0;
        const bool sent = fds_send(c->fd, request, strlen(request), files, n_files, 0) == (ssize_t)strlen(request);

        while (sent) {
                const char *error, *last;
                ssize_t n = -ENOBUFS;

                if (len < sizeof(reply) - 1)
                        n = wait_readable(c->fd);
                if (n > 0)
                        n = fds_receive(c->fd, reply + len, sizeof(reply) - 1 - len, c->files, &c->n_files, SNAPSHOT_LAYERS_MAX, 0);
                if (n == -EINTR)
                        continue;
                if (n <= 0)
                        break;
                len += (size_t)n;
                reply[len] = '\0';
                if (reply[len - 1] != '\n')
                        continue;
                error = strncmp(reply, "error: ", 7) == 0 ? reply : strstr(reply, "\nerror: ");
                if (error) {
                        reply[len - 1] = '\0';
                        return err_set(err, ERR_IO, EIO, "the machine of '%s': %s", c->inst->config.name, strchr(error, ' ') + 1);
                }
                last = len >= 4 ? reply + len - 4 : "";
                if (strcmp(reply, "ok\n") == 0 || strcmp(last, "\nok\n") == 0)
                        return 0;
        }
        return err_set(err, ERR_IO, EIO, "the machine of '%s' does not answer", c->inst->config.name);
}

/* --- layers ------------------------------------------------------------------------------------------------------- */

/* A machine that began as a snapshot has opened its files in another mount namespace, where they cannot be linked from: the same
 * files as we see them take their places. */
struct search {
        struct control *c;
        int all; /* the directory of snapshots */
};

static void take_place(struct control *c, int fd)
{
        struct stat found, st;

        if (fstat(fd, &found) < 0)
                return;
        for (unsigned i = 0; i < c->n_files; i++)
                if (fstat(c->files[i], &st) == 0 && st.st_dev == found.st_dev && st.st_ino == found.st_ino)
                        dup3(fd, c->files[i], O_CLOEXEC);
}

static int look_into(void *opaque, int dirfd, const char *name, struct err **err)
{
        const struct search *search = opaque;

        (void)dirfd;
        (void)err;
        for (unsigned i = 0; i < SNAPSHOT_LAYERS_MAX; i++) {
                char path[NAME_MAX + 40];
                _cleanup_close_ int fd = -1;

                snprintf(path, sizeof(path), "%.255s/" SNAPSHOT_MACHINE "/memory.%u", name, i);
                fd = openat(search->all, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
                if (fd >= 0)
                        take_place(search->c, fd);
        }
        return 0;
}

static int find_layers(struct control *c, struct err **err)
{
        struct search search = { .c = c, .all = -1 };
        int r = c->n_files ? snapshot_open_dir(c->inst->host, &search.all, err) : 0;

        if (r == 0 && c->n_files)
                r = io_list_dir(search.all, ".", look_into, &search, err);
        closep(&search.all);
        return r;
}

/* --- taking one --------------------------------------------------------------------------------------------------- */

/* Only this connection keeps it still: whoever is killed here lets it go on. */
static int copy_machine(struct control *c, const struct vm_snapshot *s, struct snapshot_writer *w, struct err **err)
{
        const int files[] = { snapshot_writer_state_fd(w), snapshot_writer_memory_fd(w), snapshot_writer_code_fd(w) };
        int r = ask(c, "hold\n", NULL, 0, err);

        if (r == 0)
                r = s->meanwhile(s->opaque, err);
        if (r == 0)
                r = ask(c, s->diff ? "snapshot-diff -\n" : "snapshot -\n", files, ARRAY_SIZE(files), err);
        if (r == 0)
                r = ask(c, "resume\n", NULL, 0, err);
        return r;
}

int vm_snapshot(struct instance *inst, const struct vm_snapshot *s, unsigned *ret_layers, struct err **err)
{
        _cleanup_(snapshot_writer_freep) struct snapshot_writer *w = NULL;
        _cleanup_(control_close) struct control c = { .fd = -1 };
        int r = control_open(inst, &c, err);

        if (r == 0)
                r = snapshot_writer_new(s->path, &w, err);
        if (r == 0)
                r = copy_machine(&c, s, w, err);
        if (r == 0)
                r = find_layers(&c, err);
        if (r == 0)
                r = snapshot_writer_set_layers(w, c.files, c.n_files, err);
        if (r == 0)
                r = snapshot_writer_commit(w, err);
        if (r == 0)
                *ret_layers = c.n_files + 1;
        return r;
}

/* --- beginning as one --------------------------------------------------------------------------------------------- */

bool vm_restore_wanted(const struct instance *inst)
{
        return faccessat(inst->dir, FILE_RESTORE, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int vm_restore_load(const struct instance *inst, struct vm_restore *ret, struct err **err)
{
        json_t *json = NULL;
        const char *path;
        int r;

        *ret = (struct vm_restore){ 0 };
        if (!vm_restore_wanted(inst))
                return 0;
        r = json_load(inst, FILE_RESTORE, &json, err);
        if (r < 0)
                return r;
        path = json_string_value(json_object_get(json, "path"));
        ret->same = json_is_true(json_object_get(json, "same"));
        ret->path = path ? strdup(path) : NULL;
        json_decref(json);
        return ret->path ? 0 : err_set(err, ERR_BAD_STATE, EINVAL, "%s/" FILE_RESTORE " is damaged", inst->id);
}

void vm_restore_release(struct vm_restore *restore)
{
        free(TAKE_PTR(restore->path));
}

/* Where the image has one. systemd's machine-id(5): 32 lower-case hexadecimal digits. */
static int add_machine_id(const struct launch_plan *plan, struct init_script *script, struct err **err)
{
        char id[32 + 2];
        struct stat st;
        int r;

        if (plan->inst->config.read_only || fstatat(plan->root, "etc/machine-id", &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
                return 0;
        r = random_hex(id, 32, err);
        if (r < 0)
                return r;
        memcpy(id + 32, "\n", 2);
        init_script_file(script, "/etc/machine-id", st.st_mode & 0777, id, strlen(id));
        return 0;
}

int vm_restore_script(struct launch_plan *plan, const struct vm_restore *restore, struct init_script *script, struct err **err)
{
        const struct network_vm_interface *interface = NULL;
        const size_t n = network_vm_interfaces(plan->network, &interface);
        struct timespec now;
        u8 random[64];
        int r = 0;

        if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
                return err_sys(err, errno, "getting random bytes");
        clock_gettime(CLOCK_REALTIME, &now);
        init_script_system(script, plan->hostname, (u64)now.tv_sec * NSEC_PER_SEC + (u64)now.tv_nsec, random, sizeof(random));
        explicit_bzero(random, sizeof(random));
        /* By name: it has the address of who was saved. */
        for (size_t i = 0; i < n; i++)
                vm_script_add_interface(script, &interface[i], interface[i].ifname, interface[i].mac);
        if (!restore->same)
                r = add_machine_id(plan, script, err);
        return r < 0 ? r : init_script_end(script, err);
}
