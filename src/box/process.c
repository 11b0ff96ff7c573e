#include "process.h"

#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/audit.h>
#include <linux/mempolicy.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/cleanup.h"
#include "handover_program.h"
#include "notify.h"
#include "procfs.h"
#include "spec/names.h"
#include "sync.h"
#include "sys.h"

enum { ENV_UNIQUE_MAX = 1024 }; /* an environment larger than that is passed on as it is */

/* ---- the program ---- */

static const char *environment(const struct spec_process *p, const char *name)
{
        const size_t n = strlen(name);
        const char *value = NULL;

        for (size_t i = 0; i < p->env.n; i++)
                if (strncmp(p->env.item[i], name, n) == 0 && p->env.item[i][n] == '=')
                        value = p->env.item[i] + n + 1;
        return value;
}

/* 0 when @path is a file with an x bit. */
static int executable(const char *path)
{
        struct stat st;

        if (stat(path, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EACCES;
        return st.st_mode & 0111 ? 0 : -EACCES;
}

int process_find_program(const struct launch *l, const char **ret, struct err **err)
{
        const struct spec_process *p = l->process;
        struct arena *arena = &l->spec->arena;
        const char *name = p->args.item[0], *path = environment(p, "PATH");
        int r = -ENOENT;

        if (strchr(name, '/')) {
                const char *full = name[0] == '/' ? name : arena_printf(arena, "%s/%s", p->cwd, name);

                r = full ? executable(full) : -ENOMEM;
                if (r < 0)
                        return err_sys(err, -r, "executable file '%s': exec: \"%s\": stat %s", name, name, name);
                *ret = full;
                return 0;
        }
        if (!path)
                path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        for (;;) {
                const size_t n = strcspn(path, ":");
                const char *full = n ? arena_printf(arena, "%.*s/%s", (int)n, path, name)
                                     : arena_printf(arena, "%s/%s", p->cwd, name);
                const int found = full ? executable(full) : -ENOMEM;

                if (found == 0) {
                        *ret = full;
                        return 0;
                }
                if (found != -ENOENT && found != -ENOTDIR)
                        r = found;
                if (!path[n])
                        break;
                path += n + 1;
        }
        if (r == -ENOENT)
                return err_set(err, ERR_NOT_FOUND, ENOENT,
                        "executable file '%s' not found in $PATH: No such file or directory", name);
        return err_sys(err, -r, "executable file '%s'", name);
}

int process_open_handover(struct err **err)
{
        _cleanup_close_ int fd = memfd_create("payload", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (fd < 0 || write(fd, handover_program, sizeof(handover_program)) != (ssize_t)sizeof(handover_program) ||
                fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
                return err_sys(err, errno, "preparing the handover program");
        return TAKE_FD(fd);
}

/* Whether the filter lets an unconditional @nr pass. Interprets the few instructions that such programs consist of;
 * anything unexpected counts as "no". */
static bool filter_allows(const struct seccomp_filter *filter, u32 nr)
{
        struct seccomp_data data = { .nr = (int)nr, .arch = AUDIT_ARCH_X86_64 };
        u32 a = 0;

        for (size_t pc = 0, steps = 0; pc < filter->n_insns && steps <= filter->n_insns; pc++, steps++) {
                const struct sock_filter *i = &filter->insn[pc];
                bool yes;

                switch (i->code) {
                case BPF_LD | BPF_W | BPF_ABS:
                        if (i->k > sizeof(data) - 4)
                                return false;
                        memcpy(&a, (const char *)&data + i->k, 4);
                        continue;
                case BPF_JMP | BPF_JA:
                        pc += i->k;
                        continue;
                case BPF_JMP | BPF_JEQ | BPF_K:
                        yes = a == i->k;
                        break;
                case BPF_JMP | BPF_JGT | BPF_K:
                        yes = a > i->k;
                        break;
                case BPF_JMP | BPF_JGE | BPF_K:
                        yes = a >= i->k;
                        break;
                case BPF_JMP | BPF_JSET | BPF_K:
                        yes = a & i->k;
                        break;
                case BPF_ALU | BPF_AND | BPF_K:
                        a &= i->k;
                        continue;
                case BPF_RET | BPF_K:
                        return i->k == SECCOMP_RET_ALLOW || i->k == SECCOMP_RET_LOG;
                default:
                        return false;
                }
                pc += yes ? i->jt : i->jf;
        }
        return false;
}

enum lsm process_find_lsm(void)
{
        _cleanup_close_ int fd = open("/sys/module/apparmor/parameters/enabled", O_RDONLY | O_CLOEXEC);
        char enabled = 0;

        if (fd >= 0 && read(fd, &enabled, 1) == 1 && enabled == 'Y')
                return LSM_APPARMOR;
        return faccessat(AT_FDCWD, "/sys/fs/selinux/enforce", F_OK, 0) == 0 ? LSM_SELINUX : LSM_NONE;
}

bool process_needs_clone(const struct spec_process *p, const struct seccomp_filter *filter)
{
        if (p->apparmor_profile && p->apparmor_profile[0])
                return true;
        if (p->selinux_label && p->selinux_label[0])
                return true;
        /* The handover program's own calls, and the one that starts it. */
        return filter && !(filter_allows(filter, SYS_execveat) && filter_allows(filter, SYS_fcntl) &&
                                 filter_allows(filter, SYS_write));
}

/* ---- with all rights still there ---- */

static int write_label(const struct launch *l, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        const struct spec_process *p = l->process;

        if (l->lsm == LSM_SELINUX && p->selinux_label && p->selinux_label[0])
                return procfs_write(l->proc, "thread-self/attr/exec", p->selinux_label, err);
        /* As runc: a profile where there is no AppArmor means nothing. */
        if (l->lsm != LSM_APPARMOR || !p->apparmor_profile || !p->apparmor_profile[0])
                return 0;
        if (asprintf(&text, "exec %s", p->apparmor_profile) < 0)
                return err_sys(err, ENOMEM, "setting the AppArmor profile");
        if (procfs_write(l->proc, "thread-self/attr/apparmor/exec", text, NULL) == 0)
                return 0;
        return procfs_write(l->proc, "thread-self/attr/exec", text, err);
}

static int set_scheduler(const struct spec_scheduler *s, struct err **err)
{
        /* struct sched_attr of <linux/sched/types.h>, which glibc's headers do not go together with. */
        struct {
                u32 size, policy;
                u64 flags;
                s32 nice;
                u32 priority;
                u64 runtime, deadline, period;
        } attr = {
                .size = sizeof(attr),
                .policy = (u32)s->policy,
                .flags = s->flags,
                .nice = s->nice,
                .priority = (u32)s->priority,
                .runtime = s->runtime,
                .deadline = s->deadline,
                .period = s->period,
        };

        if (syscall(SYS_sched_setattr, 0, &attr, 0) < 0)
                return err_sys(err, errno, "process.scheduler: setting policy %d: sched_setattr", s->policy);
        return 0;
}

static int set_memory_policy(const struct spec_memory_policy *m, struct err **err)
{
        unsigned long mask[16];
        const bool none = !m->nodes || !m->nodes[0];

        if (spec_id_list(none ? "" : m->nodes, mask, sizeof(mask) * 8) < 0)
                return err_set(
                        err, ERR_BAD_CONFIG, EINVAL, "linux.memoryPolicy.nodes: '%s' is not a list of nodes", m->nodes);
        if (syscall(SYS_set_mempolicy, m->mode | (int)m->flags, none ? NULL : mask, none ? 0 : sizeof(mask) * 8) < 0)
                return err_sys(err, errno, "linux.memoryPolicy: set_mempolicy");
        return 0;
}

int process_set_affinity(const char *list, struct err **err)
{
        cpu_set_t set;

        if (!list || !list[0])
                return 0;
        if (spec_id_list(list, set.__bits, CPU_SETSIZE) < 0)
                return err_set(
                        err, ERR_BAD_CONFIG, EINVAL, "process.execCPUAffinity: '%s' is not a list of CPUs", list);
        return sched_setaffinity(0, sizeof(set), &set) < 0 ? err_sys(err, errno, "process.execCPUAffinity '%s'", list)
                                                           : 0;
}

void process_reset_affinity(void)
{
        cpu_set_t all;

        memset(&all, 0xff, sizeof(all));
        sched_setaffinity(0, sizeof(all), &all); /* less than all is no reason to fail */
}

static int set_rlimits(const struct spec_process *p, struct err **err)
{
        for (size_t i = 0; i < p->rlimits.n; i++) {
                const struct spec_rlimit *r = &p->rlimits.item[i];
                const struct rlimit limit = { r->soft, r->hard };

                if (setrlimit((unsigned)r->resource, &limit) < 0) {
                        for (const struct name *n = spec_rlimit_names; n->text; n++)
                                if (n->value == r->resource)
                                        return err_sys(err, errno, "process.rlimits: setting %s: setrlimit", n->text);
                }
        }
        return 0;
}

int process_prepare(const struct launch *l, struct err **err)
{
        const struct spec_process *p = l->process;
        const struct spec_linux *linux_ = &l->spec->linux_;
        char text[16];
        int r = write_label(l, err);

        if (r < 0)
                return r;
        if (p->oom_score_adj) {
                snprintf(text, sizeof(text), "%d", *p->oom_score_adj);
                r = procfs_write(l->proc, "self/oom_score_adj", text, err);
                if (r < 0)
                        return err_wrap(err, r, "process.oomScoreAdj");
        }
        if (linux_->personality && personality((unsigned long)linux_->personality->domain) < 0)
                return err_sys(err, errno, "linux.personality: setting it");
        if (linux_->memory_policy) {
                r = set_memory_policy(linux_->memory_policy, err);
                if (r < 0)
                        return r;
        }
        if (p->scheduler) {
                r = set_scheduler(p->scheduler, err);
                if (r < 0)
                        return r;
        }
        /* ioprio_set(2): IOPRIO_WHO_PROCESS, ourselves, class << 13. */
        if (p->io_priority && syscall(SYS_ioprio_set, 1, 0, p->io_priority->class << 13 | p->io_priority->priority) < 0)
                return err_sys(err, errno, "process.ioPriority: setting it");
        return set_rlimits(p, err);
}

/* ---- user and capabilities ---- */

static int last_capability(void)
{
        int cap = 40;

        /* CAP_LAST_CAP of the running kernel: the first that prctl does not know. */
        while (cap < 63 && prctl(PR_CAPBSET_READ, cap + 1, 0, 0, 0) >= 0)
                cap++;
        while (cap > 0 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) < 0)
                cap--;
        return cap;
}

static int drop_bounding(u64 keep, struct err **err)
{
        const int last = last_capability();

        for (int cap = 0; cap <= last; cap++) {
                if (keep & BIT(cap) || prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 0)
                        continue;
                if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
                        return err_sys(err, errno, "dropping capability %d from the bounding set", cap);
        }
        return 0;
}

static int set_capabilities(u64 effective, u64 permitted, u64 inheritable, struct err **err)
{
        struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = {
                { (u32)effective, (u32)permitted, (u32)inheritable },
                { (u32)(effective >> 32), (u32)(permitted >> 32), (u32)(inheritable >> 32) },
        };

        return syscall(SYS_capset, &head, data) < 0 ? err_sys(err, errno, "setting capabilities") : 0;
}

static int get_permitted(u64 *ret, struct err **err)
{
        struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2];

        if (syscall(SYS_capget, &head, data) < 0)
                return err_sys(err, errno, "reading capabilities");
        *ret = data[0].permitted | (u64)data[1].permitted << 32;
        return 0;
}

/* What is asked for but not ours to give is left out, as crun does: a profile made for root serves rootless containers
 * too. */
static int apply_capabilities(const struct spec_capabilities *c, struct err **err)
{
        u64 have = 0, permitted, effective, inheritable;
        int r = get_permitted(&have, err);

        if (r < 0)
                return r;
        permitted = c->set[CAP_SET_PERMITTED] & have;
        effective = c->set[CAP_SET_EFFECTIVE] & permitted;
        inheritable = c->set[CAP_SET_INHERITABLE] & (have | permitted);
        r = set_capabilities(effective, permitted, inheritable, err);
        if (r < 0)
                return r;
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        for (int cap = 0; cap < 63; cap++)
                if (c->set[CAP_SET_AMBIENT] & permitted & inheritable & BIT(cap) &&
                        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
                        return err_sys(err, errno, "raising ambient capability %d", cap);
        return 0;
}

/* Without rights over groups the kernel forbids setgroups in a user namespace (user_namespaces(7)). */
static bool groups_are_denied(int proc)
{
        char text[16];

        return procfs_read(proc, "self/setgroups", text, sizeof(text)) > 0 && strncmp(text, "deny", 4) == 0;
}

static int set_groups(const struct launch *l, bool denied, struct err **err)
{
        const struct spec_user *user = &l->process->user;

        if (denied) {
                if (user->additional_gids.n)
                        return err_set(err, ERR_BAD_CONFIG, EPERM,
                                "process.user.additionalGids: groups cannot be set in this user namespace");
                return 0;
        }
        if (l->keep_groups)
                return 0;
        if (syscall(SYS_setgroups, user->additional_gids.n, user->additional_gids.item) < 0)
                return err_sys(err, errno, "process.user.additionalGids: setting %zu groups", user->additional_gids.n);
        return 0;
}

void process_own_stdio(u32 uid, u32 gid)
{
        struct stat st;

        for (int fd = 0; fd < 3; fd++) {
                if (fstat(fd, &st) < 0 || !(S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) || st.st_uid == uid)
                        continue;
                if (fchown(fd, uid, gid) < 0)
                        return; /* not ours to give */
        }
}

static int become_user(const struct launch *l, bool groups_denied, struct err **err)
{
        const struct spec_user *user = &l->process->user;
        int r = set_groups(l, groups_denied, err);

        if (r < 0)
                return r;
        if (user->uid)
                process_own_stdio(user->uid, user->gid);
        if (syscall(SYS_setresgid, user->gid, user->gid, user->gid) < 0)
                return err_sys(err, errno, "process.user.gid: becoming group %u", user->gid);
        if (syscall(SYS_setresuid, user->uid, user->uid, user->uid) < 0)
                return err_sys(err, errno, "process.user.uid: becoming user %u", user->uid);
        /* Both may have made the process dumpable or not by the kernel's own rule. */
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
        return 0;
}

static int change_identity(const struct launch *l, bool groups_denied, struct err **err)
{
        const struct spec_capabilities *c = l->process->capabilities;
        int r;

        if (!c)
                return become_user(l, groups_denied, err);
        r = drop_bounding(c->set[CAP_SET_BOUNDING], err);
        if (r < 0)
                return r;
        if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
                return err_sys(err, errno, "keeping capabilities");
        r = become_user(l, groups_denied, err);
        if (r == 0)
                r = apply_capabilities(c, err);
        prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
        return r;
}

/* ---- the rest ---- */

/* The directory must be inside: a descriptor of the host that leaked in could otherwise be entered by
 * /proc/self/fd/N (CVE-2024-21626). Every descriptor is closed by now; this is the second lock on the same door. */
static int enter_cwd(const char *cwd, struct err **err)
{
        char path[PATH_MAX];

        if (chdir(cwd) < 0)
                return err_sys(err, errno, "process.cwd: entering '%s': chdir to cwd", cwd);
        /* The system call: glibc's getcwd hides "(unreachable)". */
        if (syscall(SYS_getcwd, path, sizeof(path)) < 0)
                return err_sys(err, errno, "process.cwd: '%s' is outside of the container", cwd);
        if (path[0] != '/')
                return err_set(
                        err, ERR_NO_PERMISSION, EPERM, "process.cwd: '%s' is outside of the container's root", cwd);
        return 0;
}

/* The home directory of @uid in the container's /etc/passwd; "/" when there is none. */
static const char *find_home(struct arena *arena, u32 uid)
{
        _cleanup_close_ int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        _cleanup_fclose_ FILE *f = NULL;
        struct stat st;
        char line[4096];

        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > 16 * 1024 * 1024)
                return "/";
        f = fdopen(fd, "re");
        if (!f)
                return "/";
        (void)TAKE_FD(fd);
        while (fgets(line, sizeof(line), f)) {
                char *field[7] = { NULL }, *rest = line, *end;

                for (int i = 0; i < 7 && rest; i++)
                        field[i] = strsep(&rest, ":\n");
                if (field[5] && field[2][0] && strtoul(field[2], &end, 10) == uid && !*end && field[5][0])
                        return arena_strdup(arena, field[5]);
        }
        return "/";
}

/* Whether a later entry sets the same variable: the last one counts, while getenv would find the first. */
static bool is_overridden(const struct spec_process *p, size_t i)
{
        const char *entry = p->env.item[i];
        const size_t n = strcspn(entry, "=");

        for (size_t k = i + 1; k < p->env.n; k++)
                if (strncmp(p->env.item[k], entry, n) == 0 && (p->env.item[k][n] == '=' || !p->env.item[k][n]))
                        return true;
        return false;
}

static char **make_environment(const struct launch *l)
{
        const struct spec_process *p = l->process;
        char **env = arena_new(&l->spec->arena, char *, p->env.n + 6);
        const char *home = environment(p, "HOME");
        const bool set_home = !home || !home[0]; /* one that is empty counts as none, as with runc */
        size_t n = 0;

        if (!env)
                return NULL;
        for (size_t i = 0; i < p->env.n; i++)
                if ((p->env.n > ENV_UNIQUE_MAX || !is_overridden(p, i)) &&
                        !(set_home && strncmp(p->env.item[i], "HOME=", 5) == 0))
                        env[n++] = (char *)p->env.item[i];
        if (set_home) {
                home = find_home(&l->spec->arena, p->user.uid);
                env[n] = home ? arena_printf(&l->spec->arena, "HOME=%s", home) : NULL;
                if (!env[n++])
                        return NULL;
        }
        if (l->notify_path) {
                env[n] = arena_printf(&l->spec->arena, "NOTIFY_SOCKET=%s/" NOTIFY_DIRECTORY, l->notify_path);
                if (!env[n++])
                        return NULL;
        }
        if (l->stdio->listen_fds) {
                /* Socket activation (sd_listen_fds(3)); the payload is process 1 of its namespace. */
                env[n++] = arena_printf(&l->spec->arena, "LISTEN_FDS=%u", l->stdio->listen_fds);
                env[n] = env[n - 1] ? arena_strdup(&l->spec->arena, "LISTEN_PID=1") : NULL;
                if (!env[n])
                        return NULL;
        }
        return env;
}

/* Loads the filter. A notification listener is fetched by the runtime (pidfd_getfd), told by a page that both share:
 * from the load on, this process may do only what the filter allows, so it must not need a system call to hand it over. */
static int load_filter(const struct launch *l, struct err **err)
{
        int listener = -1, r;

        if (!l->filter)
                return 0;
        /* An unprivileged runtime may not look into a process that is not dumpable. Nobody else is in here yet. */
        if (l->listener_page && geteuid() != 0 && !l->exec)
                prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
        r = seccomp_filter_load(l->filter, &listener);
        if (l->listener_page) {
                *l->listener_page = r < 0 ? LISTENER_NONE : listener;
                for (u64 spins = 0; *l->listener_page == listener && spins < LISTENER_SPINS; spins++)
                        __builtin_ia32_pause();
        }
        return r < 0 ? err_sys(err, -r, "loading the seccomp filter") : 0;
}

static void reset_signals(void)
{
        sigset_t none;

        for (int sig = 1; sig < NSIG; sig++)
                signal(sig, SIG_DFL);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
}

void process_close_descriptors(const struct launch *l, int *keep, size_t n)
{
        unsigned from = 3 + l->stdio->preserve_fds;

        for (;;) {
                int next = -1;

                for (size_t i = 0; i < n; i++)
                        if (keep[i] >= (int)from && (next < 0 || keep[i] < next))
                                next = keep[i];
                if (next < 0)
                        break;
                if (next > (int)from)
                        syscall(SYS_close_range, from, (unsigned)next - 1, 0);
                from = (unsigned)next + 1;
        }
        syscall(SYS_close_range, from, ~0U, 0);
}

/* The preserved ones lose close-on-exec. */
static void keep_descriptors(const struct launch *l)
{
        for (unsigned i = 0; i < l->stdio->preserve_fds; i++)
                fcntl((int)(3 + i), F_SETFD, 0);
}

static int execute(const struct launch *l, int sync, const char *program, char **env, struct err **err)
{
        const struct spec_process *p = l->process;
        const char **argv;
        char number[16];

        if (l->handover < 0) {
                execve(program, (char *const *)p->args.item, env);
                return err_sys(err, errno, "executing '%s'", program);
        }
        argv = arena_new(&l->spec->arena, const char *, p->args.n + 3);
        if (!argv)
                return err_sys(err, ENOMEM, "executing '%s'", program);
        snprintf(number, sizeof(number), "%d", sync);
        argv[0] = program;
        argv[1] = number;
        memcpy(argv + 2, p->args.item, p->args.n * sizeof(*argv));
        fcntl(sync, F_SETFD, 0); /* the handover program sets it again */
        execveat(l->handover, "", (char *const *)argv, env, AT_EMPTY_PATH);
        fcntl(sync, F_SETFD, FD_CLOEXEC);
        return err_sys(err, errno, "executing '%s'", program);
}

int process_become(const struct launch *l, int sync, struct err **err)
{
        const struct spec_process *p = l->process;
        const bool groups_denied = groups_are_denied(l->proc);
        bool entered;
        const char *program;
        char **env;
        int r;

        process_close_descriptors(l, (int[]){ sync, l->handover }, 2);
        /* First with the runtime's rights, as runc does: a payload may start where its user could not go. Where root
         * may not (root_squash), again as the user. Before the filter, which may refuse what it takes. */
        entered = enter_cwd(p->cwd, NULL) == 0;
        /* Without no_new_privs only CAP_SYS_ADMIN may load a filter: before it is gone. */
        if (!p->no_new_privileges) {
                r = load_filter(l, err);
                if (r < 0)
                        return r;
        }
        r = change_identity(l, groups_denied, err);
        if (r == 0 && !entered)
                r = enter_cwd(p->cwd, err);
        if (r == 0)
                r = process_find_program(l, &program, err);
        if (r < 0)
                return r;
        env = make_environment(l);
        if (!env)
                return err_sys(err, ENOMEM, "making the environment");
        keep_descriptors(l);
        umask(p->user.umask ? *p->user.umask : 0022);
        reset_signals();
        if (p->no_new_privileges) {
                if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                        return err_sys(err, errno, "setting no_new_privs");
                r = load_filter(l, err);
                if (r < 0)
                        return r;
        }
        if (l->before_payload) {
                environ = env; /* what the hooks get that say nothing of theirs */
                r = l->before_payload(l, err);
                if (r < 0)
                        return r;
        }
        return execute(l, sync, program, env, err);
}
