/* Virtual machines: the wall's table, what a machine cannot be, its size, and what is done to one that runs. */
#include "vm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/unix_listener.h"
#include "box/sys.h"
#include "groups.h"
#include "network_vm.h"
#include "rights.h"

#define DEFAULT_MEMORY (512 * MIB)
#define SMALLEST       (80 * MIB) /* a kernel, its modules and strata-init */
#define CPUS_MAX       255
/* What strata-vmm may need beside the guest's memory: translated code, queues, pages of files. */
#define OVERHEAD  (256 * MIB)
#define REPLY_MAX 256
#define REPLY_MS  5000

/* --- what it cannot be ------------------------------------------------------------------------------------------ */

static int refuse(struct err **err, const char *what, const char *why)
{
        return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "%s is not possible with --isolation vm: %s", what, why);
}

static bool is_shared(const char *mode)
{
        return mode && (strcmp(mode, "host") == 0 || strncmp(mode, "container:", 10) == 0);
}

static int check_shared(const struct instance_config *c, struct err **err)
{
        static const char own_kernel[] = "the machine has a kernel of its own";
        const struct {
                const char *option, *mode;
        } modes[] = {
                { "--pid", c->pid_mode },
                { "--ipc", c->ipc_mode },
                { "--uts", c->uts_mode },
                { "--cgroupns", c->cgroupns_mode },
                { "--network", c->network_mode },
        };

        for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
                char what[80];

                if (!is_shared(modes[i].mode))
                        continue;
                snprintf(what, sizeof(what), "%s %.60s", modes[i].option, modes[i].mode);
                return refuse(err, what, own_kernel);
        }
        if (c->userns_mode && c->userns_mode[0] && strcmp(c->userns_mode, "host") != 0)
                return refuse(err, "--userns", "its users are the machine's own already");
        if (c->devices.n || c->device_rules.n)
                return refuse(err, "--device", "devices of the host are not handed to machines");
        return 0;
}

static int check_files(const struct instance_config *c, struct err **err)
{
        for (size_t i = 0; i < c->mounts.n; i++) {
                const struct instance_mount *m = &c->mounts.item[i];

                if (m->id_map)
                        return refuse(
                                err, "a mount with idmap", "there is no user namespace whose owners it could shift to");
                if (m->propagation && strcmp(m->propagation, "rprivate") != 0 && strcmp(m->propagation, "private") != 0)
                        return refuse(err, "a mount that propagates",
                                "what is mounted later on one side is not seen on the other");
        }
        return 0;
}

static int check_rights(const struct instance_config *c, struct err **err)
{
        struct security security;
        int r = security_parse(c, &security, err);

        if (r < 0)
                return r;
        if (security.apparmor)
                return refuse(err, "--security-opt apparmor", "the host's profiles do not reach into the machine");
        if (security.seccomp_file)
                return refuse(
                        err, "--security-opt seccomp=FILE", "what the workload calls is the machine's own kernel");
        return 0;
}

static int check_size(const struct instance_config *c, struct err **err)
{
        const struct instance_resources *res = &c->resources;

        if (res->memory && res->memory < (s64)SMALLEST)
                return err_set(err, ERR_USAGE, EINVAL, "a machine with less than %llu MiB of memory cannot start",
                        (unsigned long long)(SMALLEST / MIB));
        if (res->nano_cpus > CPUS_MAX * 1000000000LL)
                return err_set(err, ERR_USAGE, EINVAL, "a machine has at most %d CPUs", CPUS_MAX);
        if (res->oom_kill_disable)
                return refuse(err, "--oom-kill-disable", "the machine's own kernel decides what it kills");
        return 0;
}

static int check(const struct instance_config *config, struct err **err)
{
        int r = check_shared(config, err);

        if (r == 0)
                r = check_files(config, err);
        if (r == 0)
                r = check_rights(config, err);
        return r < 0 ? r : check_size(config, err);
}

static bool needs_program(const struct instance *inst)
{
        return false;
}

/* --- its size --------------------------------------------------------------------------------------------------- */

u64 vm_memory_of(const struct instance_config *config)
{
        const u64 bytes = config->resources.memory > 0 ? (u64)config->resources.memory : DEFAULT_MEMORY;

        return (bytes + MIB - 1) / MIB * MIB;
}

/* A machine has whole CPUs; their quota is the fraction. */
unsigned vm_cpus_of(const struct instance_config *config)
{
        const struct instance_resources *res = &config->resources;
        const s64 nano = res->nano_cpus ? res->nano_cpus
                         : res->cpu_quota > 0
                                 ? res->cpu_quota * 1000000000LL / (res->cpu_period ? res->cpu_period : 100000)
                                 : 1000000000LL;

        return (unsigned)MIN(MAX((nano + 999999999LL) / 1000000000LL, 1), CPUS_MAX);
}

int vm_cgroup_resources(const struct instance *inst, struct cgroup_resources **ret, struct err **err)
{
        const struct instance_config *config = &inst->config;
        struct instance_resources res = config->resources;
        json_t *json = NULL;
        int r;

        /* The guest's memory and whole CPUs are the machine's size; the groups' limit is for what goes wrong in strata-vmm. A user may have
         * no groups to set it in. */
        res.memory = inst->host->rootless ? 0 : (s64)(vm_memory_of(config) + OVERHEAD);
        if (inst->host->rootless && res.nano_cpus % 1000000000 == 0)
                res.nano_cpus = 0;
        res.memory_swap = res.memory_reservation = 0;
        res.pids = 0;
        r = spec_resources(&res, &json, err);
        if (r == 0 && config->resources.memory_reservation)
                json_object_set_new(json_object_get(json, "memory"), "reservation",
                        json_integer(config->resources.memory_reservation));
        if (r < 0)
                return r;
        json_object_set_new(json, "devices",
                json_pack("[{s:b, s:s}, {s:b, s:s, s:i, s:i, s:s}, {s:b, s:s, s:i, s:i, s:s}]", "allow", 0, "access",
                        "rwm", "allow", 1, "type", "c", "major", 10, "minor", 232, "access", "rw", /* /dev/kvm */
                        "allow", 1, "type", "c", "major", 10, "minor", 200, "access", "rw"));      /* /dev/net/tun */
        r = cgroup_resources_parse(json, ret, err);
        json_decref(json);
        return r;
}

/* --- what is remembered of it ----------------------------------------------------------------------------------- */

u64 vm_process_start(pid_t pid)
{
        char path[40], text[1024];
        _cleanup_close_ int fd = -1;
        unsigned long long start = 0;
        const char *p;
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        text[MAX(n, 0)] = '\0';
        p = strrchr(text, ')');
        if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                          &start) != 1)
                return 0;
        return start;
}

int vm_machine_save(const struct instance *inst, const struct vm_machine *m, struct err **err)
{
        json_t *json = json_pack("{s:I, s:i, s:I, s:I, s:i, s:I, s:o*}", "memory", (json_int_t)m->memory, "cpus",
                (int)m->cpus, "rootDevice", (json_int_t)m->root_dev, "rootInode", (json_int_t)m->root_ino, "pid",
                (int)m->pid, "pidStart", (json_int_t)m->pid_start, "cgroup", m->cgroup ? cgroup_save(m->cgroup) : NULL);
        int r = json ? json_save(inst, VM_MACHINE, json, false, err) : err_sys(err, ENOMEM, "recording the machine");

        json_decref(json);
        return r;
}

static u64 number(const json_t *json, const char *key)
{
        return (u64)json_integer_value(json_object_get(json, key));
}

int vm_machine_load(const struct instance *inst, struct vm_machine *ret, struct err **err)
{
        const json_t *groups;
        json_t *json = NULL;
        int r = json_load(inst, VM_MACHINE, &json, err);

        if (r < 0)
                return r;
        *ret = (struct vm_machine){ .memory = number(json, "memory"),
                .cpus = (unsigned)number(json, "cpus"),
                .root_dev = number(json, "rootDevice"),
                .root_ino = number(json, "rootInode"),
                .pid = (pid_t)number(json, "pid"),
                .pid_start = number(json, "pidStart") };
        groups = json_object_get(json, "cgroup");
        if (groups)
                r = cgroup_load(groups, &ret->cgroup, err);
        json_decref(json);
        return r;
}

void vm_machine_release(struct vm_machine *machine)
{
        machine->cgroup = cgroup_free(machine->cgroup);
}

/* --- and back --------------------------------------------------------------------------------------------------- */

/* Also where there are no groups to kill by. */
static void kill_process(const struct vm_machine *m)
{
        _cleanup_close_ int fd = m->pid > 1 ? sys_pidfd_open(m->pid) : -1;

        /* The descriptor first: whose number it was before it is not any more after. */
        if (fd >= 0 && vm_process_start(m->pid) == m->pid_start)
                sys_pidfd_send_signal(fd, SIGKILL);
}

static int clean(struct instance *inst, struct err **err)
{
        _cleanup_(vm_machine_release) struct vm_machine machine = { 0 };
        int r = 0;

        if (faccessat(inst->dir, DIR_VM, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return 0;
        if (!state_is_of_another_boot(inst)) {
                if (vm_machine_load(inst, &machine, NULL) == 0) {
                        kill_process(&machine);
                        r = machine.cgroup ? cgroup_remove(machine.cgroup, err) : 0;
                } else
                        groups_remove(inst);
        }
        return r < 0 ? r : io_remove_tree(inst->dir, DIR_VM, err);
}

/* --- while it runs ---------------------------------------------------------------------------------------------- */

static int freeze(struct instance *inst, bool freeze, struct err **err)
{
        _cleanup_(vm_machine_release) struct vm_machine machine = { 0 };
        int r = vm_machine_load(inst, &machine, err);

        if (r == 0 && !machine.cgroup)
                r = err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "'%s' has no control group that could be frozen",
                        inst->config.name);
        return r < 0 ? r : cgroup_freeze(machine.cgroup, freeze, err);
}

static bool is_frozen(struct instance *inst)
{
        _cleanup_(vm_machine_release) struct vm_machine machine = { 0 };
        bool frozen = false;

        return vm_machine_load(inst, &machine, NULL) == 0 && machine.cgroup &&
               cgroup_is_frozen(machine.cgroup, &frozen, NULL) == 0 && frozen;
}

/* One request to the machine's control socket. */
static int control(struct instance *inst, const char *request, struct err **err)
{
        char path[64], reply[REPLY_MAX];
        _cleanup_close_ int fd = -1;
        struct pollfd p = { .events = POLLIN };
        ssize_t n = -1;

        snprintf(path, sizeof(path), "/proc/self/fd/%d/" VM_CONTROL, inst->dir);
        fd = unix_connect(path);
        if (fd < 0)
                return err_sys(err, -fd, "reaching the machine of '%s'", inst->config.name);
        p.fd = fd;
        if (send(fd, request, strlen(request), MSG_NOSIGNAL) > 0 && poll(&p, 1, REPLY_MS) > 0)
                n = recv(fd, reply, sizeof(reply) - 1, 0);
        if (n <= 0)
                return err_set(err, ERR_IO, EIO, "the machine of '%s' does not answer", inst->config.name);
        reply[n] = '\0';
        reply[strcspn(reply, "\n")] = '\0';
        return strcmp(reply, "ok") == 0
                       ? 0
                       : err_set(err, ERR_IO, EIO, "the machine of '%s': %s", inst->config.name, reply);
}

/* Something more than its script; frees it. */
static int tell(const struct instance *inst, struct init_script *script, struct err **err)
{
        struct init_client *client = NULL;
        int r = init_script_end(script, err);

        if (r == 0)
                r = vm_connect(inst, &client, err);
        if (r == 0) {
                init_client_set_timeout(client, REPLY_MS);
                r = init_client_run(client, script, err);
        }
        init_client_free(client);
        init_script_free(script);
        return r;
}

/* Its processes see their group as the root of all (init/guest/group.c), and at that place we change it. */
static int limit_processes(const struct instance *inst, struct err **err)
{
        const s64 pids = inst->config.resources.pids;
        struct init_script script = { 0 };
        char text[24];
        int r;

        if (!pids)
                return 0;
        snprintf(text, sizeof(text), "%lld", (long long)pids);
        init_script_file(&script, VM_GROUPS "/pids.max", 0644, pids > 0 ? text : "max", pids > 0 ? strlen(text) : 3);
        r = tell(inst, &script, pids > 0 ? err : NULL);
        if (r < 0 && pids > 0)
                return err_hint(err, r, "--pids-limit can be changed when the machine was started with one");
        return 0;
}

static int update(struct instance *inst, struct err **err)
{
        const struct instance_config *c = &inst->config;
        _cleanup_(vm_machine_release) struct vm_machine machine = { 0 };
        _cleanup_(cgroup_resources_freep) struct cgroup_resources *resources = NULL;
        const u64 memory = vm_memory_of(c);
        char request[64];
        int r = check(c, err);

        if (r == 0)
                r = vm_machine_load(inst, &machine, err);
        if (r < 0)
                return r;
        if (memory > machine.memory || vm_cpus_of(c) > machine.cpus) {
                r = err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP,
                        "'%s' was started with %u CPUs and %llu MiB of memory: while it runs it cannot have more",
                        c->name, machine.cpus, (unsigned long long)(machine.memory / MIB));
                return err_hint(err, r, "stop it first");
        }
        r = vm_cgroup_resources(inst, &resources, err);
        if (r == 0 && machine.cgroup)
                r = cgroup_apply(machine.cgroup, resources, err);
        snprintf(request, sizeof(request), "balloon %lluK\n", (unsigned long long)(machine.memory - memory) / 1024);
        if (r == 0)
                r = control(inst, request, err);
        return r < 0 ? r : limit_processes(inst, err);
}

/* strata-vmm has it open to share it: the directory is found among its descriptors, wherever its own mount namespace has it. */
static int open_root(struct instance *inst, pid_t pid, int *ret, struct err **err)
{
        _cleanup_(vm_machine_release) struct vm_machine machine = { 0 };
        struct dirent *entry;
        char path[64];
        DIR *dir;
        int r = vm_machine_load(inst, &machine, err), found = -1;

        if (r < 0)
                return r;
        snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        dir = opendir(path);
        while (dir && found < 0 && (entry = readdir(dir))) {
                struct stat st;

                if (fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && st.st_dev == machine.root_dev &&
                        st.st_ino == machine.root_ino)
                        found = openat(dirfd(dir), entry->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        }
        if (dir)
                closedir(dir);
        if (found < 0)
                return err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
        *ret = found;
        return 0;
}

/* The guest's kernel keeps what it knows of names and pages for a second (docs/adr/0070): it is to forget it now. */
static void root_changed(struct instance *inst)
{
        struct init_script script = { 0 };

        init_script_sysctl(&script, "vm.drop_caches", "3");
        tell(inst, &script, NULL);
}

const struct instance_ops vm_ops = {
        .name = "vm",
        .check = check,
        .prepare = vm_prepare,
        .needs_program = needs_program,
        .connect = network_vm_connect,
        .begin = vm_begin,
        .launch = vm_launch,
        .end = vm_end,
        .clean = clean,
        .freeze = freeze,
        .is_frozen = is_frozen,
        .update = update,
        .exec = vm_exec,
        .spawn = vm_spawn,
        .unspawn = vm_unspawn,
        .stats = vm_stats,
        .top = vm_top,
        .root = open_root,
        .root_changed = root_changed,
};
