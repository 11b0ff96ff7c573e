/* Starting a machine.
 *
 *      helper (launch.c)                              strata-vmm
 *      networks are there
 *      DIR_VM: the control groups, machine.json
 *      clone3 ------------------------------------>   enters the groups, a session of its own, the terminal
 *      the root, volumes; DIR_VM: files/ with         reads the kernel, or maps the snapshot; makes the engine
 *      everything that is bound, the script
 *      GO: a byte ------------------------------->    opens everything, jails itself, boots the kernel;
 *                                                     strata-init connects, the agent tells it the script
 *      READY: "started" or why not   <-------------   the command runs
 *      FILE_PID; exits: strata-vmm is the             relays streams and signals, ends with the command's status
 *      supervisor's child, as a container's first
 *      process would be
 *
 * Both are in the helper's mount namespace, where the root and files/ are mounted, and which goes with them. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#include "base/clock.h"
#include "base/log.h"
#include "box/mount.h"
#include "box/sys.h"
#include "box/terminal.h"
#include "groups.h"
#include "kernel.h"
#include "network_vm.h"
#include "snapshot_internal.h"
#include "vm.h"
#include "vm_snapshot.h"
#include "working_set.h"

#define READY_SECONDS 180 /* until the command runs: a slow engine on a busy host boots in a few */
#define END_MS        5000
#define SHARES        1024 /* of the CPUs, when nothing is said */
#define SHARES_MAX    262144
#define HASTE         32
#define ARGS_MAX      256

/* --- before every start ----------------------------------------------------------------------------------------- */

static void say(void *opaque, const char *text)
{
        (void)opaque;
        log_info("%s", text);
}

int vm_prepare(struct instance *inst, struct err **err)
{
        _cleanup_(kernel_freep) struct kernel *kernel = NULL;

        return vm_restore_wanted(inst) ? 0 : kernel_get(inst->host, NULL, say, NULL, &kernel, err);
}

/* --- what it gets from the host --------------------------------------------------------------------------------- */

struct machine_start {
        struct launch_plan *plan;
        struct kernel *kernel; /* NULL: it begins as @restore */
        struct vm_machine machine;
        struct vm_restore restore; /* what it begins as, instead of booting */
        int files;                 /* the directory of VM_FILES */
        int ready[2];              /* pipe */
        int go[2];                 /* sockets: [1] is strata-vmm's, which ends if nothing comes any more */
        bool runs;                 /* what was begun is the workload now */
        int console, master, peer; /* the supervisor's socket, the terminal; -1 without one */
        const char *argv[ARGS_MAX];
        size_t n;
        bool failed; /* no room or memory for an argument */
};

#define MACHINE_START_NONE(p)                                                                          \
        {                                                                                              \
                .plan = (p), .files = -1, .ready = { -1, -1 }, .go = { -1, -1 }, .console = -1, .master = -1, .peer = -1 \
        }

static void start_release(struct machine_start *s)
{
        const int fds[] = { s->files, s->ready[0], s->ready[1], s->go[0], s->go[1], s->console, s->master, s->peer };

        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
                closep(&fds[i]);
        vm_restore_release(&s->restore);
        kernel_free(s->kernel);
        vm_machine_release(&s->machine);
}

/* A directory of ours in memory, to mount the sources of bind mounts in. */
static int make_files(struct machine_start *s, struct err **err)
{
        struct instance *inst = s->plan->inst;
        _cleanup_free_ char *path = instance_path(inst, VM_FILES);
        int r = path ? io_make_dir(inst->dir, VM_FILES, 0755, err) : err_sys(err, ENOMEM, "making a machine");

        if (r < 0)
                return r;
        if (mount("files", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755") < 0)
                return err_sys(err, errno, "mounting a directory for volumes");
        s->files = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return s->files < 0 ? err_sys(err, errno, "opening '%s'", path) : 0;
}

static int write_script(struct machine_start *s, struct err **err)
{
        struct instance *inst = s->plan->inst;
        struct init_script script = { 0 };
        _cleanup_close_ int fd = -1;
        int r = vm_script_make(s->plan, s->files, &script, err);

        if (r == 0 && s->restore.path) {
                init_script_free(&script);
                script = (struct init_script){ 0 };
                r = vm_restore_script(s->plan, &s->restore, &script, err);
        }
        if (r == 0) {
                fd = openat(inst->dir, VM_SCRIPT, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
                r = fd < 0 ? -errno : io_write_all(fd, script.data, script.len);
                if (r < 0)
                        r = err_sys(err, -r, "writing the machine's script");
        }
        init_script_free(&script);
        /* The mounts in it are as they are to be; the directory itself is not the guest's to fill. */
        if (r == 0 && mount_set_attr(s->files, MOUNT_ATTR_RDONLY, 0, false) < 0)
                r = err_sys(err, EINVAL, "closing the directory of volumes");
        return r;
}

/* A clone has little to do until it is somebody, and somebody waits for it: until then it has @times its part of the CPUs, beside machines that
 * are busy. Where the groups have no such thing it has what it gets. */
static void weigh(struct machine_start *s, s64 times)
{
        const s64 shares = s->plan->inst->config.resources.cpu_shares;
        struct cgroup_resources only = { .set = BIT(CGROUP_CPU_SHARES) };

        only.value[CGROUP_CPU_SHARES] = MIN((shares ? shares : SHARES) * times, SHARES_MAX);
        if (s->machine.cgroup)
                cgroup_apply(s->machine.cgroup, &only, NULL);
}

static int make_groups(struct machine_start *s, struct err **err)
{
        struct instance *inst = s->plan->inst;
        _cleanup_(cgroup_resources_freep) struct cgroup_resources *resources = NULL;
        _cleanup_free_ char *path = groups_path(inst);
        struct cgroup_spec spec = { .id = inst->id, .path = path, .rootless = inst->host->rootless };
        int r = path ? vm_cgroup_resources(inst, &resources, err) : err_sys(err, ENOMEM, "making a machine");

        spec.resources = resources;
        if (r == 0)
                r = cgroup_create(&spec, &s->machine.cgroup, err);
        if (r == 0)
                r = cgroup_apply(s->machine.cgroup, resources, err);
        if (r == 0 && s->restore.path)
                weigh(s, HASTE);
        return r;
}

/* Before there is a process: whoever cleans up knows the groups. */
static int record_groups(struct machine_start *s, struct err **err)
{
        const struct instance_config *c = &s->plan->inst->config;

        s->machine.memory = vm_memory_of(c);
        s->machine.cpus = vm_cpus_of(c);
        return vm_machine_save(s->plan->inst, &s->machine, err);
}

static int record_process(struct machine_start *s, struct err **err)
{
        struct stat st;

        if (fstat(s->plan->root, &st) < 0)
                return err_sys(err, errno, "looking at the root");
        s->machine.root_dev = st.st_dev;
        s->machine.root_ino = st.st_ino;
        s->machine.pid_start = vm_process_start(s->machine.pid);
        return vm_machine_save(s->plan->inst, &s->machine, err);
}

/* The other end of the supervisor's terminal: a pipe of bytes, since the guest has a terminal of its own behind it. */
static int open_terminal(struct machine_start *s, struct err **err)
{
        struct instance *inst = s->plan->inst;
        char path[64];
        struct termios raw;
        int unlock = 0;

        if (!inst->config.tty)
                return 0;
        snprintf(path, sizeof(path), "/proc/self/fd/%d/" FILE_CONSOLE, inst->dir);
        s->console = terminal_connect(path, err);
        if (s->console < 0)
                return s->console;
        s->master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (s->master < 0 || ioctl(s->master, TIOCSPTLCK, &unlock) < 0)
                return err_sys(err, errno, "making a terminal");
        s->peer = ioctl(s->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (s->peer < 0 || tcgetattr(s->peer, &raw) < 0)
                return err_sys(err, errno, "making a terminal");
        cfmakeraw(&raw);
        if (tcsetattr(s->peer, TCSANOW, &raw) < 0)
                return err_sys(err, errno, "making a terminal");
        return terminal_send(s->console, s->master, err);
}

/* --- the command line ------------------------------------------------------------------------------------------- */

static void add(struct machine_start *s, const char *word)
{
        s->failed |= !word || s->n + 1 >= ARGS_MAX;
        if (!s->failed)
                s->argv[s->n++] = word;
}

/* An option and its value. */
static void _printf_(3, 4) add_option(struct machine_start *s, const char *option, const char *fmt, ...)
{
        va_list ap;

        add(s, option);
        va_start(ap, fmt);
        add(s, arena_vprintf(&s->plan->inst->state_arena, fmt, ap));
        va_end(ap);
}

static void add_networks(struct machine_start *s)
{
        const struct network_vm_interface *interface = NULL;
        const size_t n = network_vm_interfaces(s->plan->network, &interface);

        for (size_t i = 0; i < n; i++) {
                if (interface[i].tap_fd >= 0)
                        add_option(s, "--net", "fd=%d,mac=%s", interface[i].tap_fd, interface[i].mac);
                else
                        add_option(s, "--net", "user");
        }
}

static int make_command_line(struct machine_start *s, struct err **err)
{
        const char *engine = getenv("STRATA_ENGINE"), *console = getenv("STRATA_VM_CONSOLE");
        char working_set[PATH_MAX];

        add(s, "strata-vmm");
        add(s, "run");
        /* First: what is wrong with the others is said there. */
        add_option(s, "--agent", "socket=" VM_AGENT ",script=" VM_SCRIPT ",ready=%d", s->ready[1]);
        if (s->kernel) {
                add_option(s, "--kernel", "%s", s->kernel->image);
                add_option(s, "--boot", "linux64"); /* a fifth faster than PVH, docs/kernels.md */
                add_option(s, "--initrd", "%s", s->kernel->initrd);
                add_option(s, "--append", "%s", s->kernel->append);
        } else {
                add_option(s, "--restore", "%s", s->restore.path);
                if (working_set_exists(s->restore.path, working_set))
                        add_option(s, "--working-set", "%s", working_set);
                add(s, "--restore-translations"); /* the snapshots of this host's own machines, which nobody else can write to */
        }
        add_option(s, "--wait", "%d", s->go[1]);
        add_option(s, "--memory", "%lluM", (unsigned long long)(s->machine.memory / MIB));
        add_option(s, "--cpus", "%u", s->machine.cpus);
        add_option(s, "--engine", "%s", engine && engine[0] ? engine : "auto");
        add_option(s, "--console", "%s", console && console[0] ? console : "none");
        add(s, "--balloon");
        /* Names, not paths of the host: the machine's current directory is the instance's. */
        add_option(s, "--share", "tag=" VM_TAG_ROOT ",path=" DIR_ROOTFS ",private"); /* root_changed tells it */
        add_option(s, "--share", "tag=" VM_TAG_FILES ",path=" VM_FILES); /* never empty: it has the host name */
        add_networks(s);
        add_option(s, "--control", VM_CONTROL);
        return s->failed ? err_sys(err, E2BIG, "making the machine's command line") : 0;
}

/* --- the process ------------------------------------------------------------------------------------------------ */

static void keep_open(int fd)
{
        fcntl(fd, F_SETFD, 0);
}

static void inherit(const struct machine_start *s)
{
        const struct network_vm_interface *interface = NULL;
        const size_t n = network_vm_interfaces(s->plan->network, &interface);

        close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC);
        keep_open(s->ready[1]);
        keep_open(s->go[1]);
        for (size_t i = 0; i < n; i++)
                if (interface[i].tap_fd >= 0)
                        keep_open(interface[i].tap_fd);
}

static int set_oom_score(s64 score)
{
        _cleanup_close_ int fd = score ? open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC) : -1;
        char text[16];

        snprintf(text, sizeof(text), "%d", (int)score);
        return score && (fd < 0 || write(fd, text, strlen(text)) < 0) ? -errno : 0;
}

static _noreturn_ void fail(const struct machine_start *s, const char *what)
{
        dprintf(s->ready[1], "error: %s: %s\n", what, strerror(errno));
        _exit(125);
}

static _noreturn_ void child(struct machine_start *s, bool cloned_into)
{
        const struct instance *inst = s->plan->inst;
        /* Nothing of the caller's environment but where programs are: it is not the machine's business. */
        const char *environment[] = { NULL, NULL, NULL };
        _cleanup_free_ char *directory = instance_path(inst, ""), *path = NULL, *runtime_dir = NULL;
        char program[PATH_MAX];
        const struct rlimit no_core = { 0, 0 };
        sigset_t none;

        /* By path: in the mount namespace that has the root. */
        if (!directory || chdir(directory) < 0)
                fail(s, "the instance's directory");
        if (cgroup_enter(s->machine.cgroup, cloned_into) < 0)
                fail(s, "entering the control groups");
        if (setsid() < 0 || (s->peer >= 0 && terminal_attach(s->peer, NULL) < 0))
                fail(s, "the terminal");
        if (set_oom_score(inst->config.oom_score_adj) < 0)
                fail(s, "--oom-score-adj");
        setrlimit(RLIMIT_CORE, &no_core);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        inherit(s);
        if (asprintf(&path, "PATH=%s", getenv("PATH") ?: "/usr/sbin:/usr/bin:/sbin:/bin") > 0)
                environment[0] = path;
        if (getenv("XDG_RUNTIME_DIR") && asprintf(&runtime_dir, "XDG_RUNTIME_DIR=%s", getenv("XDG_RUNTIME_DIR")) > 0)
                environment[1] = runtime_dir;
        snprintf(program, sizeof(program), "%s/strata-vmm", inst->host->programs);
        execve(program, (char *const *)s->argv, (char *const *)environment);
        fail(s, program);
}

static int spawn(struct machine_start *s, struct err **err)
{
        struct sys_clone_args args = { .exit_signal = SIGCHLD };
        const int group = cgroup_clone_fd(s->machine.cgroup);
        bool into = group >= 0;
        pid_t pid;

        if (into) {
                args.flags = SYS_CLONE_INTO_CGROUP;
                args.cgroup = (u64)group;
        }
        pid = sys_clone3(&args);
        if (pid < 0 && into) {
                into = false;
                args = (struct sys_clone_args){ .exit_signal = SIGCHLD };
                pid = sys_clone3(&args);
        }
        if (pid == 0)
                child(s, into);
        if (pid < 0)
                return err_sys(err, -pid, "starting strata-vmm");
        s->machine.pid = pid;
        closep(&s->ready[1]);
        closep(&s->go[1]);
        s->ready[1] = s->go[1] = -1;
        return 0;
}

/* The machine's last words, or why there are none. Who said why ends by itself: its status says who is to blame. */
static int blame(struct machine_start *s, const char *said, struct err **err)
{
        const pid_t pid = s->machine.pid;
        _cleanup_close_ int pidfd = sys_pidfd_open(pid);
        struct pollfd p = { .fd = pidfd, .events = POLLIN };
        int status = 0, code;

        if (!said[0] || pidfd < 0 || poll(&p, 1, END_MS) <= 0)
                kill(pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        s->machine.pid = 0;
        code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (!said[0])
                return err_set(err, ERR_IO, EIO, "the machine ended with status %d before the command ran", code);
        if (strncmp(said, "error: ", 7) == 0)
                said += 7;
        if (code == 127)
                return err_set(err, ERR_NO_COMMAND, ENOENT, "%s", said);
        if (code == 126)
                return err_set(err, ERR_NOT_EXECUTABLE, EACCES, "%s", said);
        return err_set(err, ERR_IO, EIO, "%s", said);
}

/* The line that READY says, without its end; "" when there was none. -ETIMEDOUT. */
static int read_ready(int fd, char *ret, size_t size)
{
        const u64 deadline = clock_now_ns() + READY_SECONDS * NSEC_PER_SEC;
        size_t n = 0;

        while (n + 1 < size && !memchr(ret, '\n', n)) {
                struct pollfd p = { .fd = fd, .events = POLLIN };
                const u64 now = clock_now_ns();
                ssize_t got;

                if (now >= deadline || (poll(&p, 1, (int)((deadline - now) / 1000000) + 1) == 0))
                        return -ETIMEDOUT;
                got = read(fd, ret + n, size - 1 - n);
                if (got < 0 && errno == EINTR)
                        continue;
                if (got <= 0)
                        break;
                n += (size_t)got;
        }
        ret[n] = '\0';
        ret[strcspn(ret, "\n")] = '\0';
        return 0;
}

/* Until its command runs. */
static int go(struct machine_start *s, struct err **err)
{
        char said[2048] = "";
        int r;

        send(s->go[0], "", 1, MSG_NOSIGNAL); /* if it is gone it has said why */
        r = record_process(s, err);
        if (r < 0)
                return r;
        r = read_ready(s->ready[0], said, sizeof(said));
        if (r < 0)
                return err_set(
                        err, ERR_IO, ETIMEDOUT, "the machine did not run the command within %d seconds", READY_SECONDS);
        return strcmp(said, "started") == 0 ? 0 : blame(s, said, err);
}

static int begin(struct machine_start *s, struct err **err)
{
        struct instance *inst = s->plan->inst;
        int r = vm_restore_load(inst, &s->restore, err);

        if (r == 0 && !s->restore.path)
                r = kernel_get(inst->host, NULL, NULL, NULL, &s->kernel, err);
        if (r == 0)
                r = io_make_dir(inst->dir, DIR_VM, 0700, err);
        if (r == 0)
                r = make_groups(s, err);
        if (r == 0)
                r = record_groups(s, err);
        if (r == 0 && (pipe2(s->ready, O_CLOEXEC) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->go) < 0))
                r = err_sys(err, errno, "starting a machine");
        if (r == 0)
                r = open_terminal(s, err);
        if (r == 0)
                r = make_command_line(s, err);
        return r == 0 ? spawn(s, err) : r;
}

int vm_begin(struct launch_plan *plan, struct err **err)
{
        struct machine_start *s = malloc(sizeof(*s));

        if (!s)
                return err_sys(err, ENOMEM, "starting a machine");
        *s = (struct machine_start)MACHINE_START_NONE(plan);
        plan->begun = s;
        return begin(s, err);
}

int vm_launch(struct launch_plan *plan, struct err **err)
{
        struct machine_start *s = plan->begun;
        struct instance *inst = plan->inst;
        char text[16];
        int r = make_files(s, err);

        if (r == 0)
                r = write_script(s, err);
        if (r == 0)
                r = go(s, err);
        if (r < 0)
                return r;
        s->runs = true;
        if (s->restore.path)
                weigh(s, 1);
        groups_find_oom_file(inst, s->machine.pid);
        snprintf(text, sizeof(text), "%d", (int)s->machine.pid);
        r = launch_write_file(inst, FILE_PID, text, err);
        if (r == 0 && s->restore.path) {
                unlinkat(inst->dir, FILE_RESTORE, 0); /* the next start is one as any other */
                working_set_record(s->restore.path, s->machine.pid);
        }
        return r;
}

void vm_end(struct launch_plan *plan)
{
        struct machine_start *s = plan->begun;

        if (!s)
                return;
        if (s->machine.pid > 0 && !s->runs)
                blame(s, "", NULL);
        start_release(s);
        free(s);
        plan->begun = NULL;
}
