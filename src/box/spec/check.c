#include "check.h"

#include <errno.h>
#include <linux/sched.h>
#include <stdlib.h>
#include <string.h>

#include "names.h"

#define bad(err, ...) err_set((err), ERR_BAD_CONFIG, EINVAL, __VA_ARGS__)

static const u32 namespace_flags[] = {
#define NAMESPACE(id, name, proc, flag) [NAMESPACE_##id] = flag,
        SPEC_NAMESPACES(NAMESPACE)
#undef NAMESPACE
};

static int check_version(const struct spec *spec, struct err **err)
{
        char *end;
        const unsigned long major = strtoul(spec->oci_version, &end, 10);

        /* A semantic version; every 1.x describes the same things as ours or more (spec.md, "Versions"). */
        if (end == spec->oci_version || *end != '.')
                return bad(err, "ociVersion: '%s' is not a version", spec->oci_version);
        if (major != 1)
                return bad(err, "ociVersion: %s is not supported, only 1.x is", spec->oci_version);
        return 0;
}

static int check_namespaces(struct spec *spec, struct err **err)
{
        const struct spec_linux *l = &spec->linux_;

        for (size_t i = 0; i < l->namespaces.n; i++) {
                const struct spec_namespace *ns = &l->namespaces.item[i];
                const u32 flag = namespace_flags[ns->id];

                if ((spec->namespaces_new | spec->namespaces_joined) & flag)
                        return bad(err, "linux.namespaces: '%s' is there twice", spec_namespace_names[ns->id].text);
                if (ns->path && ns->path[0]) {
                        if (ns->path[0] != '/')
                                return bad(err, "linux.namespaces[%zu].path: '%s' is not absolute", i, ns->path);
                        spec->namespaces_joined |= flag;
                        spec->namespace_path[ns->id] = ns->path;
                } else {
                        spec->namespaces_new |= flag;
                }
        }
        return 0;
}

static int check_maps(const char *what, const struct spec_id_maps *maps, struct err **err)
{
        for (size_t i = 0; i < maps->n; i++) {
                const struct spec_id_map *m = &maps->item[i];

                if (m->size == 0 || m->container_id > UINT32_MAX - m->size || m->host_id > UINT32_MAX - m->size)
                        return bad(err, "%s[%zu]: %u ids from %u to %u do not fit", what, i, m->size, m->container_id,
                                m->host_id);
        }
        return 0;
}

static bool has_namespace(const struct spec *spec, u32 flag)
{
        return (spec->namespaces_new | spec->namespaces_joined) & flag;
}

static int check_user_namespace(const struct spec *spec, struct err **err)
{
        const struct spec_linux *l = &spec->linux_;
        int r = check_maps("linux.uidMappings", &l->uid_mappings, err);

        if (r == 0)
                r = check_maps("linux.gidMappings", &l->gid_mappings, err);
        if (r < 0)
                return r;
        if (!has_namespace(spec, CLONE_NEWUSER)) {
                if (l->uid_mappings.n || l->gid_mappings.n)
                        return bad(err, "linux.uidMappings: need a user namespace");
                return 0;
        }
        if (spec->namespaces_new & CLONE_NEWUSER && (!l->uid_mappings.n || !l->gid_mappings.n))
                return bad(err, "linux.namespaces: a new user namespace needs uidMappings and gidMappings");
        return 0;
}

/* The sysctls that belong to a namespace: (prefix or whole name, the namespace). All others are the host's. */
static const struct {
        const char *name;
        u32 flag;
} namespaced_sysctls[] = {
        { "kernel/msgmax", CLONE_NEWIPC },
        { "kernel/msgmnb", CLONE_NEWIPC },
        { "kernel/msgmni", CLONE_NEWIPC },
        { "kernel/sem", CLONE_NEWIPC },
        { "kernel/shmall", CLONE_NEWIPC },
        { "kernel/shmmax", CLONE_NEWIPC },
        { "kernel/shmmni", CLONE_NEWIPC },
        { "kernel/shm_rmid_forced", CLONE_NEWIPC },
        { "kernel/auto_msgmni", CLONE_NEWIPC },
        { "kernel/sem_next_id", CLONE_NEWIPC },
        { "kernel/msg_next_id", CLONE_NEWIPC },
        { "kernel/shm_next_id", CLONE_NEWIPC },
        { "fs/mqueue/", CLONE_NEWIPC },
        { "net/", CLONE_NEWNET },
        { "kernel/domainname", CLONE_NEWUTS },
        { "user/", CLONE_NEWUSER },
};

static int check_sysctl(const struct spec *spec, const struct spec_pair *pair, struct err **err)
{
        char path[256];
        const size_t n = strlen(pair->key);

        if (n == 0 || n >= sizeof(path))
                return bad(err, "linux.sysctl: '%s' is not a name", pair->key);
        /* Dots separate, unless a slash came first: then a dot is part of a name (sysctl(8)). */
        memcpy(path, pair->key, n + 1);
        {
                const char *dot = strchr(path, '.');
                const char *slash = strchr(path, '/');

                if (!slash || (dot && dot < slash))
                        for (char *p = path; *p; p++)
                                *p = *p == '.' ? '/' : *p == '/' ? '.' : *p;
        }
        if (path[0] == '/' || strstr(path, "//") || strstr(path, "../"))
                return bad(err, "linux.sysctl: '%s' is not a name", pair->key);
        if (strcmp(path, "kernel/hostname") == 0)
                return bad(err, "linux.sysctl: '%s' is not allowed as it conflicts with hostname", pair->key);
        if (strcmp(path, "kernel/domainname") == 0 && spec->domainname && strcmp(spec->domainname, pair->value) != 0)
                return bad(err, "linux.sysctl: '%s' is not allowed as it conflicts with domainname", pair->key);
        for (size_t i = 0; i < ARRAY_SIZE(namespaced_sysctls); i++) {
                const char *name = namespaced_sysctls[i].name;
                const size_t length = strlen(name);
                const bool prefix = name[length - 1] == '/';

                if (prefix ? strncmp(path, name, length) != 0 : strcmp(path, name) != 0)
                        continue;
                if (has_namespace(spec, namespaced_sysctls[i].flag))
                        return 0;
                return bad(err, "linux.sysctl: '%s' is the host's: the container has no namespace of its own for it",
                        pair->key);
        }
        return bad(err, "linux.sysctl: '%s' is the host's: it belongs to no namespace", pair->key);
}

static int check_linux(const struct spec *spec, struct err **err)
{
        const struct spec_linux *l = &spec->linux_;
        int r;

        for (size_t i = 0; i < l->sysctl.n; i++) {
                r = check_sysctl(spec, &l->sysctl.item[i], err);
                if (r < 0)
                        return r;
        }
        if (l->rootfs_propagation && l->rootfs_propagation[0] && !name_find(spec_propagations, l->rootfs_propagation))
                return bad(err, "linux.rootfsPropagation: '%s' is unknown", l->rootfs_propagation);
        if ((l->masked_paths.n || l->readonly_paths.n) && !has_namespace(spec, CLONE_NEWNS))
                return bad(err, "linux.maskedPaths and readonlyPaths need a mount namespace");
        if ((l->monotonic || l->boottime) && !(spec->namespaces_new & CLONE_NEWTIME))
                return bad(err, "linux.timeOffsets: need a new time namespace");
        if (l->net_devices && !has_namespace(spec, CLONE_NEWNET))
                return bad(err, "linux.netDevices: need a network namespace");
        for (size_t i = 0; i < l->n_net_devices; i++)
                if (strlen(l->net_devices[i].name) >= 16 || strpbrk(l->net_devices[i].name, "/: ") ||
                        strcmp(l->net_devices[i].name, ".") == 0 || strcmp(l->net_devices[i].name, "..") == 0)
                        return bad(err, "linux.netDevices: '%s' is not a name of an interface", l->net_devices[i].name);
        for (size_t i = 0; i < l->devices.n; i++) {
                const struct spec_device *d = &l->devices.item[i];

                if (d->path[0] != '/')
                        return bad(err, "linux.devices[%zu].path: '%s' is not absolute", i, d->path);
                if (d->type != 'p' && (d->major < 0 || d->minor < 0 || d->major > 0xfffff || d->minor > 0xfffff))
                        return bad(err, "linux.devices[%zu]: %lld:%lld is not a device number", i, (long long)d->major,
                                (long long)d->minor);
        }
        if (l->personality && l->personality->flags.n)
                return bad(err, "linux.personality.flags: none is supported");
        if (l->intel_rdt && l->intel_rdt->clos_id &&
                (!l->intel_rdt->clos_id[0] || strchr(l->intel_rdt->clos_id, '/') ||
                        strcmp(l->intel_rdt->clos_id, ".") == 0 || strcmp(l->intel_rdt->clos_id, "..") == 0))
                return bad(err, "linux.intelRdt.closID: '%s' is not a name", l->intel_rdt->clos_id);
        return 0;
}

static int check_mounts(const struct spec *spec, struct err **err)
{
        for (size_t i = 0; i < spec->mounts.n; i++) {
                const struct spec_mount *m = &spec->mounts.item[i];
                int r;

                if (!m->destination[0])
                        return bad(err, "mounts[%zu].destination: empty", i);
                if (!m->uid_mappings.n != !m->gid_mappings.n)
                        return bad(err, "mounts[%zu]: uidMappings and gidMappings belong together", i);
                r = check_maps("mounts.uidMappings", &m->uid_mappings, err);
                if (r == 0)
                        r = check_maps("mounts.gidMappings", &m->gid_mappings, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int check_hooks(const struct spec *spec, struct err **err)
{
        for (int point = 0; point < HOOK_COUNT; point++) {
                for (size_t i = 0; i < spec->hooks[point].n; i++) {
                        const struct spec_hook *h = &spec->hooks[point].item[i];

                        if (h->path[0] != '/')
                                return bad(err, "hooks.%s[%zu].path: '%s' is not absolute",
                                        spec_hook_name((enum spec_hook_point)point), i, h->path);
                        if (h->timeout && *h->timeout <= 0)
                                return bad(err, "hooks.%s[%zu].timeout: %d is not a time",
                                        spec_hook_name((enum spec_hook_point)point), i, *h->timeout);
                }
        }
        return 0;
}

/* sched_setattr(2): what the kernel would refuse with a bare EINVAL. */
static int check_scheduler(const struct spec_scheduler *s, struct err **err)
{
        if (s->policy != SCHED_DEADLINE)
                return 0;
        if (!s->runtime || !s->deadline)
                return bad(err, "process.scheduler: SCHED_DEADLINE needs a runtime and a deadline");
        if (s->runtime > s->deadline || (s->period && s->deadline > s->period))
                return bad(err, "process.scheduler: SCHED_DEADLINE needs runtime <= deadline <= period");
        return 0;
}

int spec_check_process(const struct spec_process *p, struct err **err)
{
        u64 seen = 0;

        if (!p->args.n || !p->args.item[0][0])
                return bad(err, "process.args: empty");
        if (!p->cwd || p->cwd[0] != '/')
                return bad(err, "process.cwd: '%s' is not an absolute path", p->cwd ? p->cwd : "");
        for (size_t i = 0; i < p->rlimits.n; i++) {
                if (seen & BIT(p->rlimits.item[i].resource))
                        return bad(err, "process.rlimits[%zu]: there twice", i);
                seen |= BIT(p->rlimits.item[i].resource);
        }
        /* -1 is no id: setresuid(2) and setresgid(2) take it as "leave it as it is", which is the runtime's. */
        if (p->user.uid == UINT32_MAX || p->user.gid == UINT32_MAX)
                return bad(err, "process.user: 4294967295 is not an id");
        for (size_t i = 0; i < p->user.additional_gids.n; i++)
                if (p->user.additional_gids.item[i] == UINT32_MAX)
                        return bad(err, "process.user.additionalGids[%zu]: 4294967295 is not an id", i);
        if (p->oom_score_adj && (*p->oom_score_adj < -1000 || *p->oom_score_adj > 1000))
                return bad(err, "process.oomScoreAdj: %d is out of range -1000 to 1000", *p->oom_score_adj);
        if (p->io_priority && (p->io_priority->priority < 0 || p->io_priority->priority > 7))
                return bad(err, "process.ioPriority.priority: %d is out of range 0 to 7", p->io_priority->priority);
        if (p->scheduler && check_scheduler(p->scheduler, err) < 0)
                return -EINVAL;
        if (p->user.umask && *p->user.umask > 0777)
                return bad(err, "process.user.umask: 0%o is out of range", *p->user.umask);
        return 0;
}

int spec_check(struct spec *spec, struct err **err)
{
        int r = check_version(spec, err);

        if (r == 0)
                r = check_namespaces(spec, err);
        if (r == 0)
                r = check_user_namespace(spec, err);
        if (r < 0)
                return r;
        if (!spec->root.path)
                return bad(err, "root: missing");
        if ((spec->hostname || spec->domainname) && !has_namespace(spec, CLONE_NEWUTS) &&
                ((spec->hostname && spec->hostname[0]) || (spec->domainname && spec->domainname[0])))
                return bad(err, "hostname and domainname need a UTS namespace");
        r = check_linux(spec, err);
        if (r == 0)
                r = check_mounts(spec, err);
        if (r == 0)
                r = check_hooks(spec, err);
        if (r == 0 && spec->process)
                r = spec_check_process(spec->process, err);
        return r;
}
