/* strata-init as process 1 of namespaces, with the client of init/client.h at the other end of its connection. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/unix_listener.h"
#include "init/client_internal.h"

#define TIMEOUT_MS 20000
static const char *program; /* strata-init */

struct fixture {
        char dir[32], path[64];
        pid_t pid; /* of unshare's child: strata-init seen from here */
        struct init_client *client;
};

static _noreturn_ void child(int fd)
{
        pid_t pid;
        int status;

        /* The client's end too, and what we were given. */
        if (dup2(fd, 3) < 0 || close_range(4, ~0U, 0) < 0)
                _exit(77);
        /* What it does ends with it, whatever happens to us. */
        if (unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET) < 0 ||
            mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                _exit(77);
        pid = fork();
        if (pid == 0) {
                execl(program, program, "--fd", "3", NULL);
                _exit(126);
        }
        close(3);
        waitpid(pid, &status, 0);
        _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void run_script(struct fixture *f, struct init_script *script)
{
        _cleanup_(err_freep) struct err *err = NULL;

        assert_int_equal(init_script_end(script, NULL), 0);
        if (init_client_run(f->client, script, &err) < 0)
                fail_msg("%s", err_message(err));
        init_script_free(script);
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct unix_listener *listener;
        struct init_script script = { 0 };
        int fd;

        assert_non_null(f);
        if (geteuid() != 0)
                skip();
        snprintf(f->dir, sizeof(f->dir), "/tmp/init.XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        chmod(f->dir, 0755);
        snprintf(f->path, sizeof(f->path), "%s/socket", f->dir);
        assert_int_equal(unix_listener_new(f->path, 0, &listener, NULL), 0);
        assert_int_equal(init_client_connect(f->path, &f->client, NULL), 0);
        fd = accept(listener->fd, NULL, NULL);
        assert_true(fd >= 0);
        unix_listener_free(listener);
        f->pid = fork();
        if (f->pid == 0)
                child(fd);
        close(fd);
        init_client_set_timeout(f->client, TIMEOUT_MS);
        /* The one that is there shows the host's namespace. */
        init_script_mount(&script, "proc", "/proc", "proc", 0, "");
        run_script(f, &script);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        char command[64];
        int status;

        init_client_free(f->client); /* with the connection it ends */
        if (f->pid)
                assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
        snprintf(command, sizeof(command), "rm -r %s", f->dir);
        assert_int_equal(system(command), 0);
        free(f);
        return 0;
}

/* ---- running something ---- */

struct result {
        int status;
        char out[65536], err[4096];
        size_t n_out, n_err;
};

static const char *const environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "COLOUR=green", NULL };

static struct init_process shell(const char *const argv[static 4])
{
        return (struct init_process){ .argv = argv, .env = environment, .umask = 022, .capabilities = INIT_CAPABILITIES_ALL };
}

#define SHELL(script) ((const char *const[]){ "sh", "-c", script, NULL })

static size_t read_all(int fd, char *to, size_t size)
{
        size_t n = 0;
        ssize_t got;

        lseek(fd, 0, SEEK_SET);
        while (n < size - 1 && (got = read(fd, to + n, size - 1 - n)) > 0)
                n += (size_t)got;
        to[n] = '\0';
        close(fd);
        return n;
}

/* Input comes from @in, -1: none; with a terminal of @columns. */
static void run_with(struct fixture *f, const struct init_process *process, int in, struct result *ret)
{
        _cleanup_(err_freep) struct err *err = NULL;
        const int out = fileno(tmpfile()), errors = fileno(tmpfile());
        const struct init_relay relay = { .in = in, .out = out, .err = errors, .tty = -1, .signals = -1 };
        u32 pid;
        int r = init_client_start(f->client, process, &pid, &err);

        if (r < 0)
                fail_msg("%s", err_message(err));
        r = init_client_relay(f->client, &relay, &ret->status, &err);
        if (r < 0)
                fail_msg("%s", err_message(err));
        ret->n_out = read_all(out, ret->out, sizeof(ret->out));
        ret->n_err = read_all(errors, ret->err, sizeof(ret->err));
}

static struct result *run(struct fixture *f, const char *script)
{
        static struct result result;
        const struct init_process process = shell(SHELL(script));

        run_with(f, &process, -1, &result);
        return &result;
}

static void refused(struct fixture *f, struct init_script *script, int errnum, const char *what)
{
        _cleanup_(err_freep) struct err *err = NULL;

        assert_int_equal(init_script_end(script, NULL), 0);
        assert_int_equal(init_client_run(f->client, script, &err), -errnum);
        assert_non_null(strstr(err_message(err), what));
        init_script_free(script);
}

/* ---- processes ---- */

static void output_and_status_come_back(void **state)
{
        const struct result *r = run(*state, "echo out; echo err >&2; exit 7");

        assert_int_equal(r->status, 7);
        assert_string_equal(r->out, "out\n");
        assert_string_equal(r->err, "err\n");
}

static void a_signal_that_ends_it_is_told(void **state)
{
        assert_int_equal(run(*state, "kill -TERM $$")->status, 128 + SIGTERM);
        assert_int_equal(run(*state, "kill -KILL $$")->status, 128 + SIGKILL);
}

static void environment_directory_and_umask_are_as_asked(void **state)
{
        static struct result r;
        struct init_process p = shell(SHELL("echo $COLOUR $(pwd) $(umask); ls /proc/self/fd | wc -l"));

        p.cwd = "/usr";
        p.umask = 027;
        run_with(*state, &p, -1, &r);
        assert_string_equal(r.out, "green /usr 0027\n4\n"); /* three, and the directory */
}

static void the_user_groups_and_rights_are_as_asked(void **state)
{
        static struct result r;
        static const u32 groups[] = { 5, 1234 };
        static const struct init_rlimit limits[] = { { RLIMIT_NOFILE, 321, 654 }, { RLIMIT_CORE, 0, RLIM_INFINITY } };
        struct init_process p = shell(SHELL("id -u; id -g; id -G; ulimit -Sn; ulimit -Hn; ulimit -Sc; grep -E 'NoNewPrivs|CapBnd' /proc/self/status; "
                                            "cat /proc/self/oom_score_adj; echo through >/dev/stdout"));

        p.uid = 1000;
        p.gid = 100;
        p.groups = groups;
        p.n_groups = ARRAY_SIZE(groups);
        p.rlimits = limits;
        p.n_rlimits = ARRAY_SIZE(limits);
        p.flags = INIT_START_NO_NEW_PRIVS;
        p.capabilities = 0xa80425fb;
        p.oom_score_adj = 123;
        run_with(*state, &p, -1, &r);
        assert_string_equal(r.err, "");
        assert_string_equal(r.out, "1000\n100\n100 5 1234\n321\n654\n0\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\n123\nthrough\n");
}

static void root_has_no_more_than_the_capabilities_it_may(void **state)
{
        static struct result r;
        struct init_process p = shell(SHELL("grep -E 'CapEff|CapInh|CapAmb' /proc/self/status"));

        p.capabilities = 0x21;
        run_with(*state, &p, -1, &r);
        assert_string_equal(r.out, "CapInh:\t0000000000000000\nCapEff:\t0000000000000021\nCapAmb:\t0000000000000000\n");
}

static void commands_that_cannot_be_started_say_why(void **state)
{
        static const struct {
                const char *command;
                const char *cwd;
                int errnum;
                enum err_id id;
        } cases[] = {
                { "no-such-command", "/", ENOENT, ERR_NO_COMMAND },
                { "/no/such/command", "/", ENOENT, ERR_NO_COMMAND },
                { "/etc/passwd", "/", EACCES, ERR_NOT_EXECUTABLE },
                { "/etc", "/", EACCES, ERR_NOT_EXECUTABLE },
                { "true", "/no/such/directory", ENOENT, ERR_IO },
                { "true", "/etc/passwd", ENOTDIR, ERR_IO },
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_(err_freep) struct err *err = NULL;
                struct init_process p = shell((const char *const[4]){ cases[i].command });
                u32 pid;

                p.cwd = cases[i].cwd;
                assert_int_equal(init_client_start(f->client, &p, &pid, &err), -cases[i].errnum);
                assert_int_equal(err_get_id(err), cases[i].id);
        }
        assert_int_equal(run(f, "exit 3")->status, 3); /* nothing was left behind */
}

static void the_main_process_gets_its_directory(void **state)
{
        static struct result r;
        struct fixture *f = *state;
        struct init_process p = shell(SHELL("pwd"));
        char cwd[64];

        snprintf(cwd, sizeof(cwd), "%s/made/for/it", f->dir);
        p.cwd = cwd;
        f->client->last_id = INIT_ID_MAIN - 1;
        run_with(f, &p, -1, &r);
        assert_memory_equal(r.out, cwd, strlen(cwd));
}

static int file_of(size_t size)
{
        const int fd = fileno(tmpfile());
        u32 seed = 1;

        for (size_t n = 0; n < size; n += 4096) {
                u8 block[4096];

                for (size_t i = 0; i < sizeof(block); i++)
                        block[i] = (u8)((seed = seed * 1664525 + 1013904223) >> 24);
                assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
        }
        lseek(fd, 0, SEEK_SET);
        return fd;
}

static void much_data_goes_both_ways_unchanged(void **state)
{
        struct fixture *f = *state;
        const int in = file_of(4 * MIB), out = fileno(tmpfile());
        const struct init_relay relay = { .in = in, .out = out, .err = -1, .tty = -1, .signals = -1 };
        struct init_process p = shell(SHELL("cat"));
        u8 sent[4096], got[4096];
        int status;
        u32 pid;

        p.flags = INIT_START_STDIN;
        assert_int_equal(init_client_start(f->client, &p, &pid, NULL), 0);
        assert_int_equal(init_client_relay(f->client, &relay, &status, NULL), 0);
        assert_int_equal(status, 0);
        for (u64 at = 0; at < 4 * MIB; at += sizeof(sent)) {
                assert_int_equal(pread(in, sent, sizeof(sent), (off_t)at), sizeof(sent));
                assert_int_equal(pread(out, got, sizeof(got), (off_t)at), sizeof(got));
                assert_memory_equal(sent, got, sizeof(sent));
        }
        close(in);
        close(out);
}

static void a_process_without_input_reads_its_end(void **state)
{
        assert_string_equal(run(*state, "wc -c")->out, "0\n");
}

static void input_that_nobody_reads_ends_nothing(void **state)
{
        static struct result r;
        const int in = file_of(MIB);
        struct init_process p = shell(SHELL("head -c 5 | wc -c; exit 4"));

        p.flags = INIT_START_STDIN;
        run_with(*state, &p, in, &r);
        assert_string_equal(r.out, "5\n");
        assert_int_equal(r.status, 4);
        close(in);
}

static void those_who_hold_the_output_do_not_hold_up_the_end(void **state)
{
        const struct result *r = run(*state, "echo first; sleep 1000 & (while :; do echo more; done) & exit 9");

        assert_int_equal(r->status, 9);
        assert_memory_equal(r->out, "first\n", 6);
}

static void the_last_words_are_all_there(void **state)
{
        for (int i = 0; i < 20; i++)
                assert_int_equal(run(*state, "head -c 50000 /dev/zero")->n_out, 50000);
}

/* ---- terminals ---- */

static void a_terminal_is_one(void **state)
{
        static struct result r;
        struct init_process p = shell(SHELL("tty; stty size; echo err >&2; ps -o tty= -p $$"));

        p.flags = INIT_START_TTY;
        p.columns = 123;
        p.rows = 45;
        run_with(*state, &p, -1, &r);
        assert_memory_equal(r.out, "/dev/pts/", 9);
        assert_non_null(strstr(r.out, "\r\n45 123\r\nerr\r\npts/"));
        assert_int_equal(r.n_err, 0);
}

static void a_terminal_can_be_resized_and_typed_at(void **state)
{
        struct fixture *f = *state;
        struct init_process p = shell(SHELL("trap 'stty size' WINCH; while ! read -r line; do :; done; echo \"got $line\""));
        int pipe_in[2], status;
        const int out = fileno(tmpfile());
        const struct init_relay relay = { .in = -1, .out = out, .err = -1, .tty = -1, .signals = -1 };
        static char text[4096];
        struct init_frame frame;
        u32 pid;

        assert_int_equal(pipe(pipe_in), 0);
        p.flags = INIT_START_TTY | INIT_START_STDIN;
        assert_int_equal(init_client_start(f->client, &p, &pid, NULL), 0);
        usleep(200000); /* until the trap is set */
        assert_int_equal(init_client_resize(f->client, 77, 33, NULL), 0);
        usleep(200000);
        client_begin(f->client, &frame, INIT_DATA, f->client->process);
        init_put_u32(&frame, 0);
        init_put_bytes(&frame, "hello\n", 6);
        assert_int_equal(client_send(f->client, &frame, NULL), 0);
        assert_int_equal(init_client_relay(f->client, &relay, &status, NULL), 0);
        read_all(out, text, sizeof(text));
        assert_non_null(strstr(text, "33 77"));
        assert_non_null(strstr(text, "got hello"));
}

/* ---- PID namespaces, signals, orphans ---- */

static void the_main_process_is_the_first_of_its_namespace(void **state)
{
        static struct result r;
        struct fixture *f = *state;
        struct init_process p = shell(SHELL("echo $$; ls /proc | grep -c '^[0-9]'"));

        p.flags = INIT_START_PID_NS;
        run_with(f, &p, -1, &r);
        assert_string_equal(r.out, "1\n3\n"); /* the shell, ls, grep */
}

static void further_processes_join_it(void **state)
{
        static struct result r;
        struct fixture *f = *state, g = *f;
        struct init_process p = shell(SHELL("exec sleep 1000"));
        u32 pid;

        p.flags = INIT_START_PID_NS;
        assert_int_equal(init_client_start(f->client, &p, &pid, NULL), 0);
        f->client->process = 0; /* the next one may start */
        /* The first one may still be on its way from strata-init to sleep. */
        p = shell(SHELL("for i in $(seq 500); do grep -q sleep /proc/1/comm && break; sleep 0.01; done; cat /proc/1/comm"));
        p.flags = INIT_START_INSIDE;
        run_with(&g, &p, -1, &r);
        assert_string_equal(r.out, "sleep\n");
}

static void signals_reach_the_process(void **state)
{
        struct fixture *f = *state;
        const struct init_process p = shell(SHELL("exec sleep 1000"));
        const struct init_relay relay = { .in = -1, .out = -1, .err = -1, .tty = -1, .signals = -1 };
        int status;
        u32 pid;

        assert_int_equal(init_client_start(f->client, &p, &pid, NULL), 0);
        assert_int_equal(init_client_signal(f->client, SIGUSR1, NULL), 0);
        assert_int_equal(init_client_relay(f->client, &relay, &status, NULL), 0);
        assert_int_equal(status, 128 + SIGUSR1);
}

static void orphans_are_waited_for(void **state)
{
        const struct init_process_info *list;
        struct fixture *f = *state;
        size_t n;

        run(f, "for i in 1 2 3 4 5; do (sh -c 'sleep 0.1 &') ; done");
        usleep(500000);
        assert_int_equal(run(f, "ps -o stat= -e | grep -c Z")->status, 1);
        assert_int_equal(init_client_processes(f->client, &list, &n, NULL), 0);
        assert_int_equal(n, 0);
}

/* ---- the machine ---- */

static void processes_and_sums_are_listed(void **state)
{
        struct fixture *f = *state;
        const struct init_process p = { .argv = (const char *const[]){ "sleep", "1000", NULL }, .env = environment, .uid = 33,
                .capabilities = INIT_CAPABILITIES_ALL };
        const struct init_process_info *list;
        struct init_stats stats;
        size_t n;
        u32 pid;

        assert_int_equal(init_client_start(f->client, &p, &pid, NULL), 0);
        usleep(200000); /* its command line is there a moment after it was started */
        assert_int_equal(init_client_processes(f->client, &list, &n, NULL), 0);
        assert_int_equal(n, 1);
        assert_int_equal(list[0].pid, pid);
        assert_int_equal(list[0].ppid, 1);
        assert_int_equal(list[0].uid, 33);
        assert_string_equal(list[0].tty, "?");
        assert_string_equal(list[0].command, "sleep 1000");
        assert_in_range(list[0].started_ns / 1000000000, time(NULL) - 60, time(NULL) + 1);
        assert_int_equal(init_client_stats(f->client, &stats, NULL), 0);
        assert_int_equal(stats.processes, 1);
        assert_true(stats.memory_total > stats.memory_used && stats.memory_used > 0 && stats.cpu_ns > 0);
}

static void files_links_and_settings_are_made(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };
        char path[64], command[512];

        snprintf(path, sizeof(path), "%s/a/b/file", f->dir);
        init_script_file(&script, path, 0640, "text\n", 5);
        snprintf(command, sizeof(command), "%s/c/link", f->dir);
        init_script_link(&script, path, command);
        init_script_link(&script, "elsewhere", command); /* it stays */
        init_script_sysctl(&script, "net.ipv4.ip_default_ttl", "77");
        init_script_sysctl(&script, "net/ipv4/conf/lo/forwarding", "1");
        init_script_system(&script, "a-name", 0, "random bytes", 12);
        run_script(f, &script);
        snprintf(command, sizeof(command), "cat %s/c/link; stat -c %%a %s; cat /proc/sys/net/ipv4/ip_default_ttl "
                 "/proc/sys/net/ipv4/conf/lo/forwarding; hostname", f->dir, path);
        assert_string_equal(run(f, command)->out, "text\n640\n77\n1\na-name\n");
}

static void file_systems_are_mounted(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };
        char target[64], file[64], bound[64], command[512];

        snprintf(target, sizeof(target), "%s/mnt/x", f->dir);
        snprintf(file, sizeof(file), "%s/mnt/x/file", f->dir);
        snprintf(bound, sizeof(bound), "%s/mnt/x/y/bound", f->dir);
        init_script_mount(&script, "tmpfs", target, "tmpfs", MS_NOSUID, "mode=711,size=64k");
        init_script_file(&script, file, 0644, "x", 1);
        init_script_mount(&script, file, bound, "", MS_BIND | MS_RDONLY, "");
        run_script(f, &script);
        snprintf(command, sizeof(command), "stat -c '%%a' %s; cat %s; echo y >%s || echo read-only", target, bound, bound);
        assert_string_equal(run(f, command)->out, "711\nxread-only\n");
}

static void what_cannot_be_done_is_said(void **state)
{
        struct fixture *f = *state;
        struct init_script script = { 0 };

        init_script_mount(&script, "none", "/tmp", "no-such-type", 0, "");
        refused(f, &script, ENODEV, "mounting 'none' at '/tmp'");
        init_script_sysctl(&script, "../uptime", "1");
        refused(f, &script, EINVAL, "'../uptime'");
        init_script_sysctl(&script, "no.such.setting", "1");
        refused(f, &script, ENOENT, "'no.such.setting'");
        init_script_file(&script, "/proc/no/file", 0600, "", 0);
        refused(f, &script, ENOENT, "'/proc/no/file'");
        init_script_root(&script, "/no/such/root");
        refused(f, &script, ENOENT, "'/no/such/root'");
        init_script_address(&script, &(struct init_address){ .interface = "eth9" });
        refused(f, &script, ENODEV, "'eth9'");
        init_script_address(&script, &(struct init_address){ .interface = "lo", .addresses = (const char *const[]){ "300.0.0.1/8", NULL } });
        refused(f, &script, EINVAL, "'300.0.0.1/8'");
}

static void interfaces_have_just_what_is_said(void **state)
{
        static const char *const first[] = { "10.9.8.7/24", "fd00:9::7/64", NULL }, *const ways[] = { "10.9.8.1", "fd00:9::1", NULL },
                          *const second[] = { "10.9.9.9/16", NULL }, *const way[] = { "10.9.0.1", NULL };
        struct fixture *f = *state;
        struct init_script script = { 0 };

        if (run(f, "ip link add bridge7 address 02:00:00:00:00:07 type bridge")->status != 0)
                skip();
        init_script_address(&script, &(struct init_address){ .interface = "02:00:00:00:00:07", .name = "eth0", .mtu = 1400, .addresses = first,
                .gateways = ways });
        run_script(f, &script);
        assert_string_equal(run(f, "ip -o addr show eth0 scope global | awk '{ print $4 }'; cat /sys/class/net/eth0/mtu; ip route show default | cut -d' ' -f-5; ip -6 route show default | cut -d' ' -f-5")->out,
                "10.9.8.7/24\nfd00:9::7/64\n1400\ndefault via 10.9.8.1 dev eth0\n"
                "default via fd00:9::1 dev eth0\n");
        init_script_address(&script, &(struct init_address){ .interface = "eth0", .mac = "02:00:00:00:00:99", .addresses = second, .gateways = way });
        run_script(f, &script);
        assert_string_equal(run(f, "ip -o addr show eth0 scope global | awk '{ print $4 }'; ip -o link show eth0 | grep -o '02:00:00:00:00:99'; ip route show default | cut -d' ' -f-5")->out,
                "10.9.9.9/16\n02:00:00:00:00:99\ndefault via 10.9.0.1 dev eth0\n");
        init_script_address(&script, &(struct init_address){ .interface = "eth0" });
        run_script(f, &script);
        assert_string_equal(run(f, "ip -o addr show eth0 scope global; ip -o link show eth0 | grep -c ,UP")->out, "0\n");
}

static void power_off_ends_all_processes(void **state)
{
        struct fixture *f = *state;
        const struct init_process p = shell(SHELL("trap '' TERM; while :; do sleep 0.1; done"));
        struct init_message m = { 0 };
        struct init_frame frame;
        int status;
        u32 pid;

        assert_int_equal(init_client_start(f->client, &p, &pid, NULL), 0);
        usleep(200000); /* until the trap is set */
        client_begin(f->client, &frame, INIT_POWER_OFF, 99);
        init_put_u32(&frame, 300);
        assert_int_equal(client_send(f->client, &frame, NULL), 0);
        while (m.type != INIT_DONE) {
                assert_int_equal(client_fill(f->client, TIMEOUT_MS, NULL), 0);
                while (m.type != INIT_DONE && client_next(f->client, &m, NULL) > 0)
                        ;
        }
        assert_int_equal(m.id, 99);
        assert_true(f->client->exited); /* said before */
        assert_int_equal(f->client->status, 128 + SIGKILL);
        assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
        f->pid = 0;
}

static void a_lost_connection_ends_all(void **state)
{
        struct fixture *f = *state;
        const struct init_process p = shell(SHELL("trap '' TERM HUP; while :; do sleep 0.1; done"));
        int status;
        u32 pid;

        assert_int_equal(init_client_start(f->client, &p, &pid, NULL), 0);
        f->client = init_client_free(f->client);
        assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
        f->pid = 0;
}

/* A host that sends what no host should: the guest ends, it does not hang. */
static void a_broken_host_ends_it(void **state)
{
        struct fixture *f = *state;
        const struct init_header header = { .length = INIT_FRAME_MAX + 1, .type = INIT_START };
        int status;

        assert_int_equal(send(f->client->fd, &header, sizeof(header), 0), sizeof(header));
        assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
        f->pid = 0;
}

int main(int argc, char *argv[])
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(output_and_status_come_back),
                TEST(a_signal_that_ends_it_is_told),
                TEST(environment_directory_and_umask_are_as_asked),
                TEST(the_user_groups_and_rights_are_as_asked),
                TEST(root_has_no_more_than_the_capabilities_it_may),
                TEST(commands_that_cannot_be_started_say_why),
                TEST(the_main_process_gets_its_directory),
                TEST(much_data_goes_both_ways_unchanged),
                TEST(a_process_without_input_reads_its_end),
                TEST(input_that_nobody_reads_ends_nothing),
                TEST(those_who_hold_the_output_do_not_hold_up_the_end),
                TEST(the_last_words_are_all_there),
                TEST(a_terminal_is_one),
                TEST(a_terminal_can_be_resized_and_typed_at),
                TEST(the_main_process_is_the_first_of_its_namespace),
                TEST(further_processes_join_it),
                TEST(signals_reach_the_process),
                TEST(orphans_are_waited_for),
                TEST(processes_and_sums_are_listed),
                TEST(files_links_and_settings_are_made),
                TEST(file_systems_are_mounted),
                TEST(what_cannot_be_done_is_said),
                TEST(interfaces_have_just_what_is_said),
                TEST(power_off_ends_all_processes),
                TEST(a_lost_connection_ends_all),
                TEST(a_broken_host_ends_it),
        };

        if (argc < 2)
                return 125;
        program = argv[1];
        return cmocka_run_group_tests_name("tests", tests, NULL, NULL);
}
