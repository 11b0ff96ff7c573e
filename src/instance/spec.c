/* config.json of the OCI runtime specification from an instance's configuration. */
#include "spec.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "box/spec/spec.h"
#include "ops.h"
#include "rights.h"
#include "userns.h"

#define DEFAULT_SHM_SIZE (64 * MIB)
#define CPU_PERIOD       100000
#define TTY_GROUP        5

static int no_memory(struct err **err)
{
        return err_sys(err, ENOMEM, "making the container's configuration");
}

/* --- the process ------------------------------------------------------------------------------------------------ */

static const char *find_variable(const struct instance_strings *env, const char *name)
{
        const size_t n = strlen(name);

        for (size_t i = 0; i < env->n; i++)
                if (strncmp(env->item[i], name, n) == 0 && env->item[i][n] == '=')
                        return env->item[i] + n + 1;
        return NULL;
}

static void add_variable(json_t *list, const struct instance_strings *env, const char *name, const char *value)
{
        if (!find_variable(env, name))
                json_array_append_new(list, json_sprintf("%s=%s", name, value));
}

json_t *spec_environment(const struct instance_strings *env, const char *home, const char *hostname, bool tty)
{
        json_t *list = json_array();

        add_variable(list, env, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        if (hostname)
                add_variable(list, env, "HOSTNAME", hostname);
        if (tty)
                add_variable(list, env, "TERM", "xterm");
        add_variable(list, env, "HOME", home);
        for (size_t i = 0; i < env->n; i++)
                json_array_append_new(list, json_string(env->item[i]));
        return list;
}

static void add_group(json_t *gids, u32 gid)
{
        for (size_t i = 0; i < json_array_size(gids); i++)
                if (json_integer_value(json_array_get(gids, i)) == gid)
                        return;
        json_array_append_new(gids, json_integer(gid));
}

static int add_groups(const struct instance_config *c, int root, json_t *gids, struct err **err)
{
        for (size_t i = 0; i < c->groups.n; i++) {
                _cleanup_free_ char *text = NULL;
                struct build_user user;
                int r;

                if (asprintf(&text, "0:%s", c->groups.item[i]) < 0)
                        return no_memory(err);
                r = build_user_find(root, text, &user, err);
                if (r < 0)
                        return r;
                add_group(gids, user.gid);
        }
        return 0;
}

int spec_user(const struct instance_config *c, const char *name, int root, json_t **ret, struct build_user *ret_user,
        struct err **err)
{
        json_t *gids, *user;
        int r = build_user_find(root, name ? name : "", ret_user, err);

        if (r < 0)
                return r;
        gids = json_array();
        for (size_t i = 0; i < ret_user->n_groups; i++)
                add_group(gids, ret_user->groups[i]);
        r = add_groups(c, root, gids, err);
        user = json_pack("{s:I, s:I, s:o}", "uid", (json_int_t)ret_user->uid, "gid", (json_int_t)ret_user->gid,
                "additionalGids", gids);
        if (r < 0 || !user) {
                json_decref(user);
                return r < 0 ? r : no_memory(err);
        }
        *ret = user;
        return 0;
}

static json_t *strings_json(const struct instance_strings *list)
{
        json_t *json = json_array();

        for (size_t i = 0; i < list->n; i++)
                json_array_append_new(json, json_string(list->item[i]));
        return json;
}

static int make_rlimits(const struct instance_config *c, json_t **ret, struct err **err)
{
        json_t *list = json_array();

        for (size_t i = 0; i < c->ulimits.n; i++) {
                const struct instance_ulimit *u = &c->ulimits.item[i];
                char name[40] = "RLIMIT_";

                for (size_t k = 0; u->name[k] && k < 24; k++)
                        name[7 + k] = (char)(u->name[k] >= 'a' && u->name[k] <= 'z' ? u->name[k] - 32 : u->name[k]);
                if (spec_rlimit_resource(name) < 0) {
                        json_decref(list);
                        return err_set(err, ERR_USAGE, EINVAL, "'%.40s' is not a limit", u->name);
                }
                /* Numbers above INT64_MAX are reals in jansson; the reader takes them as "without limit". */
                json_array_append_new(
                        list, json_pack("{s:s, s:o, s:o}", "type", name, "soft",
                                      u->soft < 0 ? json_real(18446744073709551615.0) : json_integer(u->soft), "hard",
                                      u->hard < 0 ? json_real(18446744073709551615.0) : json_integer(u->hard)));
        }
        *ret = list;
        return 0;
}

static int make_process(
        struct launch_plan *plan, u64 caps, const struct security *security, json_t **ret, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        json_t *user = NULL, *rlimits = NULL, *args, *process;
        struct instance_strings argv;
        struct build_user found;
        int r = config_argv(&plan->inst->arena, c, &argv, err);

        if (r == 0)
                r = spec_user(c, c->user, plan->root, &user, &found, err);
        if (r == 0)
                r = make_rlimits(c, &rlimits, err);
        if (r < 0) {
                json_decref(user);
                return r;
        }
        args = strings_json(&argv);
        if (c->init) {
                json_array_insert_new(args, 0, json_string(SPEC_INIT_PATH));
                json_array_insert_new(args, 1, json_string("init"));
        }
        process = json_pack("{s:b, s:o, s:o, s:o, s:s, s:o, s:b, s:o}", "terminal", c->tty, "user", user, "args", args,
                "env", spec_environment(&c->env, found.home, plan->hostname, c->tty), "cwd",
                c->working_dir && c->working_dir[0] ? c->working_dir : "/", "capabilities",
                rights_capabilities_json(caps, found.uid == 0), "noNewPrivileges", security->no_new_privileges,
                "rlimits", rlimits);
        if (!process)
                return no_memory(err);
        if (c->oom_score_adj)
                json_object_set_new(process, "oomScoreAdj", json_integer(c->oom_score_adj));
        if (security->apparmor)
                json_object_set_new(process, "apparmorProfile", json_string(security->apparmor));
        *ret = process;
        return 0;
}

int spec_process_json(struct launch_plan *plan, json_t **ret, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        struct security security;
        u64 caps = 0;
        int r = security_parse(c, &security, err);

        if (r == 0)
                r = rights_capabilities(c, &caps, err);
        return r < 0 ? r : make_process(plan, caps, &security, ret, err);
}

/* --- mounts ----------------------------------------------------------------------------------------------------- */

void spec_add_mount(json_t *mounts, const char *type, const char *source, const char *target, const char *options)
{
        json_t *list = json_array();
        const char *p = options;

        while (*p) {
                const size_t n = strcspn(p, ",");

                if (n)
                        json_array_append_new(list, json_stringn(p, n));
                p += n + (p[n] == ',');
        }
        json_array_append_new(mounts, json_pack("{s:s, s:s, s:s, s:o}", "destination", target, "type", type, "source",
                                              source, "options", list));
}

static bool is_mode(const char *mode, const char *wanted)
{
        return mode && strcmp(mode, wanted) == 0;
}

static bool mounts_on(const struct instance_config *c, const char *target)
{
        for (size_t i = 0; i < c->mounts.n; i++)
                if (strcmp(c->mounts.item[i].target, target) == 0)
                        return true;
        return false;
}

/* Whether the group has a number outside of the user namespace that we are in. */
static bool has_group(u32 gid)
{
        _cleanup_fclose_ FILE *f = fopen("/proc/self/gid_map", "re");
        u32 inside, outside, n;

        while (f && fscanf(f, "%u %u %u", &inside, &outside, &n) == 3)
                if (gid >= inside && gid - inside < n)
                        return true;
        return false;
}


/* "container:NAME": that one's first process; 0 for another mode. @kind is for the error. */
static int find_other(struct instance_host *host, const char *mode, const char *kind, pid_t *ret, struct err **err)
{
        _cleanup_(instance_freep) struct instance *other = NULL;
        const struct instance_state *state;
        int r;

        *ret = 0;
        if (!mode || strncmp(mode, MODE_CONTAINER, strlen(MODE_CONTAINER)) != 0)
                return 0;
        r = instance_find(host, mode + strlen(MODE_CONTAINER), &other, err);
        if (r == 0)
                r = instance_get_state(other, &state, err);
        if (r < 0)
                return r;
        if (!state->pid)
                return err_set(err, ERR_BUSY, ESRCH, "'%s' is not running: its %s namespace cannot be joined",
                        other->config.name, kind);
        *ret = state->pid;
        return 0;
}

/* /dev/shm goes with the IPC namespace: shm_open's names are files there. */
static int add_shm(struct launch_plan *plan, json_t *mounts, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        _cleanup_free_ char *shared = NULL;
        char options[128];
        pid_t other;
        int r = find_other(plan->inst->host, c->ipc_mode, "ipc", &other, err);

        if (r < 0 || mounts_on(c, "/dev/shm") || is_mode(c->ipc_mode, "none"))
                return r;
        if (other) {
                r = shm_borrow(plan->inst, other, &shared, err);
                if (r < 0)
                        return r;
        }
        if (shared || is_mode(c->ipc_mode, "host"))
                spec_add_mount(mounts, "bind", shared ? shared : "/dev/shm", "/dev/shm", "bind,nosuid,noexec,nodev");
        else {
                snprintf(options, sizeof(options), "nosuid,noexec,nodev,mode=1777,size=%lld",
                        (long long)(c->shm_size ? c->shm_size : (s64)DEFAULT_SHM_SIZE));
                spec_add_mount(mounts, "tmpfs", "shm", "/dev/shm", options);
        }
        return 0;
}

static int make_mounts(struct launch_plan *plan, json_t **ret, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        const char *access = c->privileged ? "rw" : "ro";
        json_t *mounts = json_array();
        char options[128];
        int r;

        spec_add_mount(mounts, "proc", "proc", "/proc", "nosuid,noexec,nodev");
        spec_add_mount(mounts, "tmpfs", "tmpfs", "/dev", "nosuid,strictatime,mode=755,size=65536k");
        /* Terminals are the group tty's, where there is such a group. */
        spec_add_mount(mounts, "devpts", "devpts", "/dev/pts",
                has_group(TTY_GROUP) ? "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"
                                     : "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620");
        snprintf(options, sizeof(options), "nosuid,noexec,nodev,%s", access);
        /* A sysfs belongs to a network namespace: in the host's that is the host's own. */
        if (is_mode(c->network_mode, "host"))
                spec_add_mount(mounts, "bind", "/sys", "/sys",
                        c->privileged ? "rbind,nosuid,noexec,nodev,rw" : "rbind,nosuid,noexec,nodev,ro");
        else
                spec_add_mount(mounts, "sysfs", "sysfs", "/sys", options);
        snprintf(options, sizeof(options), "nosuid,noexec,nodev,relatime,%s", access);
        spec_add_mount(mounts, "cgroup", "cgroup", "/sys/fs/cgroup", options);
        if (!is_mode(c->ipc_mode, "host"))
                spec_add_mount(mounts, "mqueue", "mqueue", "/dev/mqueue", "nosuid,noexec,nodev");
        else if (faccessat(AT_FDCWD, "/dev/mqueue", F_OK, 0) == 0) /* a host may have none */
                spec_add_mount(mounts, "bind", "/dev/mqueue", "/dev/mqueue", "bind,nosuid,noexec,nodev");
        r = add_shm(plan, mounts, err);
        if (r < 0) {
                json_decref(mounts);
                return r;
        }
        json_array_extend(mounts, plan->mounts);
        *ret = mounts;
        return 0;
}

/* --- resources -------------------------------------------------------------------------------------------------- */

static void set_number(json_t *object, const char *section, const char *key, s64 value)
{
        json_t *part = json_object_get(object, section);

        if (!part) {
                part = json_object();
                json_object_set_new(object, section, part);
        }
        json_object_set_new(part, key, json_integer(value));
}

static void set_text(json_t *object, const char *section, const char *key, const char *value)
{
        if (!value || !value[0])
                return;
        set_number(object, section, key, 0);
        json_object_set_new(json_object_get(object, section), key, json_string(value));
}

static int add_rates(json_t *object, const char *key, const struct instance_io_rates *rates, struct err **err)
{
        json_t *list;

        if (!rates->n)
                return 0;
        set_number(object, "blockIO", key, 0);
        list = json_array();
        json_object_set_new(json_object_get(object, "blockIO"), key, list);
        for (size_t i = 0; i < rates->n; i++) {
                struct stat st;

                if (stat(rates->item[i].device, &st) < 0)
                        return err_sys(err, errno, "'%s'", rates->item[i].device);
                if (!S_ISBLK(st.st_mode))
                        return err_set(err, ERR_USAGE, ENOTBLK, "'%s' is not a block device", rates->item[i].device);
                json_array_append_new(list, json_pack("{s:i, s:i, s:I}", "major", (int)major(st.st_rdev), "minor",
                                                    (int)minor(st.st_rdev), "rate", (json_int_t)rates->item[i].rate));
        }
        return 0;
}

int spec_resources(const struct instance_resources *res, json_t **ret, struct err **err)
{
        const struct {
                const char *section, *key;
                s64 value;
        } numbers[] = {
                { "memory", "limit", res->memory },
                { "memory", "reservation", res->memory_reservation },
                /* As docker: with a limit and nothing said about swap, as much swap as memory. */
                { "memory", "swap",
                        res->memory_swap  ? res->memory_swap
                        : res->memory > 0 ? res->memory * 2
                                          : 0 },
                { "cpu", "shares", res->cpu_shares },
                { "cpu", "period", res->nano_cpus ? CPU_PERIOD : res->cpu_period },
                { "cpu", "quota", res->nano_cpus ? res->nano_cpus / (s64)(1000000000 / CPU_PERIOD) : res->cpu_quota },
                { "pids", "limit", res->pids },
                { "blockIO", "weight", res->blkio_weight },
        };
        json_t *json = json_object();
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
                if (numbers[i].value)
                        set_number(json, numbers[i].section, numbers[i].key, numbers[i].value);
        if (res->memory_swappiness >= 0)
                set_number(json, "memory", "swappiness", res->memory_swappiness);
        if (res->oom_kill_disable) {
                set_number(json, "memory", "disableOOMKiller", 0);
                json_object_set_new(json_object_get(json, "memory"), "disableOOMKiller", json_true());
        }
        set_text(json, "cpu", "cpus", res->cpuset_cpus);
        set_text(json, "cpu", "mems", res->cpuset_mems);
        r = add_rates(json, "throttleReadBpsDevice", &res->read_bps, err);
        if (r == 0)
                r = add_rates(json, "throttleWriteBpsDevice", &res->write_bps, err);
        if (r == 0)
                r = add_rates(json, "throttleReadIOPSDevice", &res->read_iops, err);
        if (r == 0)
                r = add_rates(json, "throttleWriteIOPSDevice", &res->write_iops, err);
        if (r < 0) {
                json_decref(json);
                return r;
        }
        *ret = json;
        return 0;
}

/* --- devices ---------------------------------------------------------------------------------------------------- */

struct device_lists {
        json_t *devices, *rules;
};

static void add_rule(json_t *rules, char type, s64 major, s64 minor, const char *access)
{
        json_t *rule = json_pack("{s:b, s:s, s:s}", "allow", 1, "type",
                type == 'b'   ? "b"
                : type == 'c' ? "c"
                              : "a",
                "access", access);

        if (major >= 0)
                json_object_set_new(rule, "major", json_integer(major));
        if (minor >= 0)
                json_object_set_new(rule, "minor", json_integer(minor));
        json_array_append_new(rules, rule);
}

static void add_node(struct device_lists *l, const struct stat *st, const char *target, const char *access)
{
        const char type = S_ISBLK(st->st_mode) ? 'b' : 'c';
        const char name[2] = { type, 0 };

        json_array_append_new(
                l->devices, json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i}", "path", target, "type", name, "major",
                                    (int)major(st->st_rdev), "minor", (int)minor(st->st_rdev), "fileMode",
                                    (int)(st->st_mode & 0777), "uid", (int)st->st_uid, "gid", (int)st->st_gid));
        add_rule(l->rules, type, major(st->st_rdev), minor(st->st_rdev), access);
}

/* A device, or the devices of a directory. What else is in /dev (terminals, shared memory, sockets) is the container's own. */
static int add_device(struct device_lists *l, const char *source, const char *target, const char *access,
        unsigned depth, struct err **err)
{
        static const char *const own[] = { "pts", "shm", "mqueue", "fd", "console", "ptmx", "core" };
        struct stat st;
        struct dirent *entry;
        DIR *dir;
        int r = 0;

        if ((depth ? lstat(source, &st) : stat(source, &st)) < 0)
                return depth ? 0 : err_sys(err, errno, "the device '%s'", source);
        if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
                add_node(l, &st, target, access);
                return 0;
        }
        if (!S_ISDIR(st.st_mode) || depth > 4)
                return depth ? 0 : err_set(err, ERR_USAGE, ENODEV, "'%s' is not a device", source);
        dir = opendir(source);
        while (dir && r == 0 && (entry = readdir(dir))) {
                _cleanup_free_ char *from = NULL, *to = NULL;
                size_t k = 0;

                while (k < ARRAY_SIZE(own) && strcmp(own[k], entry->d_name) != 0)
                        k++;
                if (entry->d_name[0] == '.' || k < ARRAY_SIZE(own))
                        continue;
                if (asprintf(&from, "%s/%s", source, entry->d_name) < 0 ||
                        asprintf(&to, "%s/%s", target, entry->d_name) < 0)
                        r = no_memory(err);
                else
                        r = add_device(l, from, to, access, depth + 1, err);
        }
        if (dir)
                closedir(dir);
        return r;
}

static int parse_rule(const char *text, json_t *rules, struct err **err)
{
        char type, major_text[16], minor_text[16], access[8];
        char *end_major, *end_minor;
        s64 major, minor;

        if (sscanf(text, "%c %15[0-9*]:%15[0-9*] %7s", &type, major_text, minor_text, access) != 4 ||
                !strchr("abc", type) || strspn(access, "rwm") != strlen(access))
                return err_set(err, ERR_USAGE, EINVAL, "'%.100s' is not a device rule: 'c 1:3 rwm'", text);
        major = major_text[0] == '*' ? -1 : strtol(major_text, &end_major, 10);
        minor = minor_text[0] == '*' ? -1 : strtol(minor_text, &end_minor, 10);
        add_rule(rules, type, major, minor, access);
        return 0;
}

static int make_devices(const struct instance_config *c, struct device_lists *l, struct err **err)
{
        int r = 0;

        l->devices = json_array();
        l->rules = json_array();
        if (c->privileged) {
                r = add_device(l, "/dev", "/dev", "rwm", 0, err);
                json_array_clear(l->rules);
                json_array_append_new(l->rules, json_pack("{s:b, s:s}", "allow", 1, "access", "rwm"));
        } else
                json_array_append_new(l->rules, json_pack("{s:b, s:s}", "allow", 0, "access", "rwm"));
        for (size_t i = 0; r == 0 && i < c->devices.n; i++) {
                const struct instance_device *d = &c->devices.item[i];

                r = add_device(l, d->source, d->target ? d->target : d->source, d->permissions ? d->permissions : "rwm",
                        0, err);
        }
        for (size_t i = 0; r == 0 && i < c->device_rules.n; i++)
                r = parse_rule(c->device_rules.item[i], l->rules, err);
        return r;
}

/* --- namespaces ------------------------------------------------------------------------------------------------- */

static int make_namespaces(struct launch_plan *plan, json_t *list, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        const struct {
                const char *type, *mode;
        } wanted[] = {
                { "pid", c->pid_mode },
                { "ipc", c->ipc_mode },
                { "uts", c->uts_mode                        ? c->uts_mode
                         : is_mode(c->network_mode, "host") ? "host"
                                                            : NULL },
                { "cgroup", c->cgroupns_mode ? c->cgroupns_mode
                            : c->privileged  ? "host"
                                             : NULL },
        };
        pid_t other;
        int r;

        json_array_append_new(list, json_pack("{s:s}", "type", "mount"));
        for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
                json_t *path = NULL, *entry;

                if (is_mode(wanted[i].mode, "host"))
                        continue;
                r = find_other(plan->inst->host, wanted[i].mode, wanted[i].type, &other, err);
                if (r < 0)
                        return r;
                if (other)
                        path = json_sprintf("/proc/%d/ns/%s", (int)other, wanted[i].type);
                entry = json_pack("{s:s}", "type", wanted[i].type);
                if (path)
                        json_object_set_new(entry, "path", path);
                json_array_append_new(list, entry);
        }
        if (plan->network_path)
                json_array_append_new(list, json_pack("{s:s, s:s}", "type", "network", "path", plan->network_path));
        if (plan->inst->userns >= 0)
                json_array_append_new(list, json_pack("{s:s, s:o}", "type", "user", "path",
                                                    json_sprintf("/proc/self/fd/%d", plan->inst->userns)));
        return 0;
}

static json_t *id_maps_json(const struct spec_id_maps *maps)
{
        json_t *list = json_array();

        for (size_t i = 0; i < maps->n; i++)
                json_array_append_new(list,
                        json_pack("{s:I, s:I, s:I}", "containerID", (json_int_t)maps->item[i].container_id, "hostID",
                                (json_int_t)maps->item[i].host_id, "size", (json_int_t)maps->item[i].size));
        return list;
}

static int add_id_maps(struct launch_plan *plan, json_t *linux_, struct err **err)
{
        struct userns_maps maps;
        int r;

        if (plan->inst->userns < 0)
                return 0;
        r = userns_maps(&plan->inst->arena, &plan->inst->config, &maps, err);
        if (r < 0)
                return r;
        json_object_set_new(linux_, "uidMappings", id_maps_json(&maps.uids));
        json_object_set_new(linux_, "gidMappings", id_maps_json(&maps.gids));
        return 0;
}

static bool has_namespace(const json_t *list, const char *type)
{
        for (size_t i = 0; i < json_array_size(list); i++) {
                const json_t *entry = json_array_get(list, i);

                if (strcmp(json_string_value(json_object_get(entry, "type")), type) == 0)
                        return !json_object_get(entry, "path");
        }
        return false;
}

/* --- the document ----------------------------------------------------------------------------------------------- */

static json_t *pairs_json(const struct instance_pairs *pairs)
{
        json_t *json = json_object();

        for (size_t i = 0; i < pairs->n; i++)
                json_object_set_new(json, pairs->item[i].key, json_string(pairs->item[i].value));
        return json;
}

static void hide_paths(json_t *linux_)
{
        json_object_set_new(linux_, "maskedPaths",
                json_pack("[ssssssssssss]", "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore",
                        "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                        "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"));
        json_object_set_new(linux_, "readonlyPaths",
                json_pack("[sssss]", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"));
}

static int make_linux(
        struct launch_plan *plan, u64 caps, const struct security *security, json_t *linux_, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        json_t *namespaces = json_array(), *resources = NULL, *seccomp = NULL;
        struct device_lists lists = { 0 };
        int r = make_namespaces(plan, namespaces, err);

        json_object_set_new(linux_, "namespaces", namespaces);
        if (r == 0)
                r = add_id_maps(plan, linux_, err);
        if (r == 0)
                r = spec_resources(&c->resources, &resources, err);
        if (r < 0)
                return r;
        json_object_set_new(linux_, "resources", resources);
        r = make_devices(c, &lists, err);
        json_object_set_new(resources, "devices", lists.rules);
        json_object_set_new(linux_, "devices", lists.devices);
        if (r == 0)
                r = security_seccomp(security, caps, &seccomp, err);
        if (r < 0)
                return r;
        if (seccomp)
                json_object_set_new(linux_, "seccomp", seccomp);
        json_object_set_new(linux_, "sysctl", pairs_json(&c->sysctls));
        json_object_set_new(linux_, "cgroupsPath",
                json_sprintf("%s/strata-%s", c->cgroup_parent ? c->cgroup_parent : "", plan->inst->id));
        if (!c->privileged)
                hide_paths(linux_);
        return 0;
}

int spec_make(struct launch_plan *plan, json_t **ret, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        json_t *process = NULL, *linux_ = json_object(), *mounts = NULL, *json;
        struct security security;
        u64 caps = 0;
        int r = security_parse(c, &security, err);

        if (r == 0)
                r = rights_capabilities(c, &caps, err);
        if (r == 0)
                r = make_process(plan, caps, &security, &process, err);
        if (r == 0)
                r = make_linux(plan, caps, &security, linux_, err);
        if (r == 0)
                r = make_mounts(plan, &mounts, err);
        if (r < 0) {
                json_decref(process);
                json_decref(linux_);
                return r;
        }
        json = json_pack("{s:s, s:o, s:{s:s, s:b}, s:o, s:o, s:o}", "ociVersion", "1.0.2", "process", process, "root",
                "path", plan->rootfs, "readonly", c->read_only, "mounts", mounts, "annotations",
                pairs_json(&c->annotations), "linux", linux_);
        if (!json)
                return no_memory(err);
        if (has_namespace(json_object_get(linux_, "namespaces"), "uts")) {
                json_object_set_new(json, "hostname", json_string(plan->hostname));
                if (c->domainname)
                        json_object_set_new(json, "domainname", json_string(c->domainname));
        }
        *ret = json;
        return 0;
}
