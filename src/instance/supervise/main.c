/* The supervisor's life.
 *
 * Somebody (start.c) made it the ancestor and subreaper of a helper that is making the container: when the helper exits, the
 * container's first process becomes our child. From then on the container needs nobody else. Everything that takes a big
 * program (starting again, cleaning up, health checks) is done by the strata command, which we run for it.
 *
 * Whoever holds the lock on FILE_LOCK owns the container's resources; so when we are killed, the next command sees that by the
 * lock and takes away what is left. FILE_STATE says how far we were. */
#include "supervise.h"

#include <linux/wait.h>

#define BACKOFF_FIRST 100000000LL
#define BACKOFF_LAST  60000000000LL
#define LONG_ENOUGH   10000000000LL /* a run of that length makes the backoff begin anew */
#define SECOND        1000000000LL
#define CLEANINGS_MAX 3u            /* begun by helpers, which may be killed, before what they leave is left */

enum { RESTART_NO, RESTART_ON_FAILURE, RESTART_ALWAYS, RESTART_UNLESS_STOPPED };

s64 supervisor_now(void)
{
        return sys_clock(CLOCK_BOOTTIME);
}

/* --- records ---------------------------------------------------------------------------------------------------- */

static bool read_record(const char *name, struct record *ret)
{
        const int fd = sys_open(name, O_RDONLY, 0);
        const ssize_t n = fd < 0 ? fd : sys_read(fd, ret->text, RECORD_SIZE - 1);

        sys_close(fd);
        if (n < 0)
                return false;
        ret->text[n] = '\0';
        return true;
}

void supervisor_load(struct supervisor *s)
{
        const struct record *r = &s->config;

        read_record(FILE_SUPERVISE, &s->config);
        s->policy = (struct policy){
                .restart = record_number(r, "restart", RESTART_NO),
                .restart_max = record_number(r, "restart_max", 0),
                .auto_remove = record_number(r, "auto_remove", 0),
                .tty = record_number(r, "tty", 0),
                .open_stdin = record_number(r, "open_stdin", 0),
                .log = record_number(r, "log", 1),
                .stop_signal = (int)record_number(r, "stop_signal", SIGTERM),
                .stop_timeout = record_number(r, "stop_timeout", 10),
                .log_max_size = record_number(r, "log_max_size", 0),
                .log_max_files = record_number(r, "log_max_files", 1),
                .health = record_number(r, "health", 0),
                .health_interval = record_number(r, "health_interval", 30 * SECOND),
                .health_timeout = record_number(r, "health_timeout", 30 * SECOND),
                .health_start = record_number(r, "health_start", 0),
                .health_start_interval = record_number(r, "health_start_interval", 5 * SECOND),
                .health_retries = record_number(r, "health_retries", 3),
        };
}

void supervisor_state(struct supervisor *s, const char *status, bool durable)
{
        struct record r;
        char boot[64];
        int fd;

        r.text[0] = '\0';
        record_put(&r, "status", status);
        if (record_get(&s->config, "boot", boot, sizeof(boot)))
                record_put(&r, "boot", boot);
        record_put_number(&r, "supervisor", SYS_0(SYS_getpid));
        record_put_number(&r, "pid", s->child);
        record_put_number(&r, "exit", s->status);
        record_put_number(&r, "started", s->started);
        record_put_number(&r, "finished", s->finished);
        record_put_number(&r, "restarts", s->restarts);
        record_put_number(&r, "oom", s->oom);
        record_put_number(&r, "stopped", s->stopping && !s->again);
        record_put(&r, "health", s->health);
        record_put_number(&r, "health_failing", s->health_failing);
        fd = sys_open(FILE_STATE ".new", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (fd < 0)
                return;
        if (sys_write(fd, r.text, record_len(&r)) == (ssize_t)record_len(&r)) {
                if (durable)
                        SYS_1(SYS_fdatasync, fd);
                sys_rename(FILE_STATE ".new", FILE_STATE);
        }
        sys_close(fd);
}

/* "event" in the record is the line's beginning, which names the instance. */
void supervisor_event(struct supervisor *s, const char *action, s64 exit_code, const char *detail)
{
        char line[RECORD_SIZE], *at = line;
        int fd;

        if (!record_get(&s->config, "event", line, sizeof(line) - 256))
                return;
        while (*at)
                at++;
        at = text_put(at, ",\"time\":");
        at = text_number(at, sys_clock(CLOCK_REALTIME));
        at = text_put(at, ",\"action\":\"");
        at = text_put(at, action);
        at = text_put(at, "\",\"exitCode\":");
        at = text_number(at, exit_code);
        at = text_put(at, ",\"detail\":\"");
        at = text_put(at, detail);
        at = text_put(at, "\"}\n");
        fd = sys_open("../../events", O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (fd >= 0)
                sys_write(fd, line, (size_t)(at - line));
        sys_close(fd);
}

/* --- phases ----------------------------------------------------------------------------------------------------- */

static void finish(struct supervisor *s)
{
        /* Where something is left "exiting" stays: so the next command takes it away (state_recover), or says why it cannot.
         * With --rm there is no directory any more, and this goes nowhere. */
        if (s->cleaned)
                supervisor_state(s, "exited", !s->policy.auto_remove);
        sys_exit(!s->cleaned);
}

/* Nothing runs; what is left is taken away by an attached command that offered to, or by one that we start. */
void supervisor_cleaned(struct supervisor *s)
{
        const bool over = s->cleaned || (!s->helper && s->cleanings == CLEANINGS_MAX);

        if (over && !clients_owe(s))
                finish(s);
        if (over || s->helper || clients_have_cleaner(s))
                return;
        s->cleanings++;
        s->helper = children_helper(s, HELPER_CLEAN, NULL);
        if (s->helper < 0)
                finish(s);
}

static void give_up(struct supervisor *s)
{
        s->phase = PHASE_CLEANING;
        supervisor_state(s, "exiting", false);
        clients_exit(s, true);
        supervisor_cleaned(s);
}

static void plan_restart(struct supervisor *s, bool at_once)
{
        s->backoff = s->backoff ? s->backoff * 2 : BACKOFF_FIRST;
        if (s->backoff > BACKOFF_LAST)
                s->backoff = BACKOFF_LAST;
        if (supervisor_now() - s->began > LONG_ENOUGH)
                s->backoff = BACKOFF_FIRST;
        s->phase = PHASE_WAITING;
        s->restart_at = supervisor_now() + (at_once ? 0 : s->backoff);
        supervisor_state(s, "restarting", false);
        clients_exit(s, false);
}

static bool wants_restart(const struct supervisor *s)
{
        if (s->again)
                return true;
        if (s->stopping)
                return false;
        switch (s->policy.restart) {
        case RESTART_ALWAYS:
        case RESTART_UNLESS_STOPPED:
                return true;
        case RESTART_ON_FAILURE:
                return s->status != 0 && (s->policy.restart_max == 0 || s->restarts < s->policy.restart_max);
        default:
                return false;
        }
}

static void decide(struct supervisor *s)
{
        const bool at_once = s->again;

        if (!wants_restart(s)) {
                give_up(s);
                return;
        }
        if (at_once)
                s->stopping = false;
        else
                s->restarts++;
        s->again = false;
        plan_restart(s, at_once);
}

static void start_again(struct supervisor *s)
{
        s->restart_at = 0;
        s->phase = PHASE_STARTING;
        s->oom = false;
        supervisor_state(s, "starting", false);
        if (children_start(s) < 0) {
                s->status = 125;
                decide(s);
        }
}

/* Whether it may still be unwell without that being counted. */
static bool is_starting(const struct supervisor *s)
{
        return s->health[0] == 's' && supervisor_now() - s->began < s->policy.health_start;
}

static s64 next_check(const struct supervisor *s)
{
        const s64 usual = s->policy.health_interval, early = s->policy.health_start_interval;

        return supervisor_now() + (is_starting(s) && early < usual ? early : usual);
}

/* The helper is gone; with status 0 it left us the container's first process. */
static void started(struct supervisor *s, int status)
{
        s->helper = 0;
        if (s->console >= 0) {
                if (status == 0)
                        console_accept(s);
                else {
                        sys_close(s->console);
                        s->console = -1;
                        sys_unlink(FILE_CONSOLE);
                }
        }
        if (status != 0 || !children_read_pid(&s->child)) {
                s->child = 0;
                output_drain(s);
                output_close(s);
                s->status = status >= 125 && status <= 127 ? status : 125;
                s->finished = sys_clock(CLOCK_REALTIME);
                if (s->restarts == 0 && !s->started)
                        s->stopping = true; /* it never ran: the policy is for what did */
                decide(s);
                return;
        }
        s->phase = PHASE_RUNNING;
        s->began = supervisor_now();
        s->started = sys_clock(CLOCK_REALTIME);
        s->health_failing = 0;
        s->health = s->policy.health ? "starting" : "";
        s->health_at = s->policy.health ? next_check(s) : 0;
        if (s->size && s->policy.tty && s->output[STREAM_OUT] >= 0) {
                const u16 size[4] = { (u16)(s->size >> 16), (u16)s->size, 0, 0 };

                SYS_3(SYS_ioctl, s->output[STREAM_OUT], 0x5414 /* TIOCSWINSZ */, size);
        }
        supervisor_state(s, "running", false);
        supervisor_event(s, "start", 0, "");
        clients_started(s);
        if (s->stopping)
                supervisor_stop(s, 0, s->policy.stop_timeout);
}

static void drained(struct supervisor *s)
{
        output_drain(s);
        if (s->out_len && supervisor_now() < s->drop_at)
                return;
        s->out_len = 0;
        output_close(s);
        decide(s);
}

static void ended(struct supervisor *s, int code, int status)
{
        s->status = code == CLD_EXITED ? status : 128 + status;
        s->finished = sys_clock(CLOCK_REALTIME);
        s->child = 0;
        s->kill_at = s->health_at = s->health_deadline = 0;
        if (s->health_child)
                sys_kill(s->health_child, SIGKILL);
        s->oom = s->status == 128 + SIGKILL && children_oom();
        s->phase = PHASE_DRAINING;
        s->drop_at = supervisor_now() + 10 * SECOND;
        supervisor_state(s, "exiting", false);
        if (s->oom)
                supervisor_event(s, "oom", 0, "");
        supervisor_event(s, "die", s->status, "");
        drained(s);
}

void supervisor_stop(struct supervisor *s, int signal, s64 timeout)
{
        if (timeout == -1)
                timeout = s->policy.stop_timeout;
        switch (s->phase) {
        case PHASE_RUNNING:
                sys_kill(s->child, timeout == 0 ? SIGKILL : signal ? signal : s->policy.stop_signal);
                s->kill_at = timeout >= 0 ? supervisor_now() + timeout * SECOND : 0;
                break;
        case PHASE_WAITING:
                s->restart_at = 0;
                decide(s);
                break;
        default: /* it comes to that by itself */
                break;
        }
}

/* --- health ----------------------------------------------------------------------------------------------------- */

static void set_health(struct supervisor *s, const char *health)
{
        const bool changed = s->health != health;

        s->health = health;
        supervisor_state(s, "running", false);
        if (changed)
                supervisor_event(s, "health_status", 0, health);
}

static void health_checked(struct supervisor *s, int code, int status)
{
        s->health_child = 0;
        s->health_deadline = 0;
        if (s->phase != PHASE_RUNNING)
                return;
        s->health_at = next_check(s);
        if (code == CLD_EXITED && status == 0) {
                s->health_failing = 0;
                set_health(s, "healthy");
                return;
        }
        if (code == CLD_EXITED && status == HELPER_HEALTH_UNKNOWN)
                return;
        if (is_starting(s))
                return;
        s->health_failing++;
        set_health(s, s->health_failing >= s->policy.health_retries ? "unhealthy" : s->health);
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static void child_ended(struct supervisor *s, int pid, int code, int status)
{
        if (pid == s->helper && s->phase == PHASE_STARTING) {
                started(s, code == CLD_EXITED ? status : 128);
                if (s->report >= 0)
                        sys_close(s->report);
                s->report = -1;
        } else if (pid == s->helper && s->phase == PHASE_CLEANING) {
                s->helper = 0;
                s->cleaned = code == CLD_EXITED && status == 0;
                supervisor_cleaned(s);
        } else if (pid == s->health_child)
                health_checked(s, code, status);
        else if (pid == s->child && pid)
                ended(s, code, status);
}

/* While the container starts only its helper is waited for: whose child we get from it is known afterwards. */
static void reap(struct supervisor *s)
{
        for (;;) {
                siginfo_t info = { 0 };
                const bool starting = s->phase == PHASE_STARTING;
                const long r = SYS_5(
                        SYS_waitid, starting ? P_PID : P_ALL, starting ? s->helper : 0, &info, WEXITED | WNOHANG, 0);

                if (r < 0 || info.si_pid == 0)
                        return;
                child_ended(s, info.si_pid, info.si_code, info.si_status);
        }
}

static void signalled(struct supervisor *s)
{
        struct {
                u32 signo;
                u8 rest[124];
        } info;

        while (sys_read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
                if (info.signo == SIGTERM) { /* the host goes down */
                        s->stopping = true;
                        s->again = false;
                        supervisor_stop(s, 0, -1);
                }
        }
        reap(s);
}

static void expire(struct supervisor *s)
{
        const s64 now = supervisor_now();

        if (s->kill_at && now >= s->kill_at) {
                s->kill_at = 0;
                if (s->phase == PHASE_RUNNING)
                        sys_kill(s->child, SIGKILL);
        }
        if (s->restart_at && now >= s->restart_at)
                start_again(s);
        if (s->health_deadline && now >= s->health_deadline) {
                s->health_deadline = 0;
                sys_kill(s->health_child, SIGKILL);
        }
        if (s->health_at && now >= s->health_at && !s->health_child) {
                s->health_at = 0;
                s->health_child = children_helper(s, HELPER_HEALTH, NULL);
                s->health_deadline = now + s->policy.health_timeout + SECOND; /* the helper itself is more exact */
                if (s->health_child < 0)
                        s->health_child = 0;
        }
        if (s->drop_at && now >= s->drop_at) {
                s->drop_at = 0;
                for (struct client *c = s->client; c < s->client + CLIENTS_MAX; c++)
                        if (c->fd >= 0 && (c->owes_data || c->owes_exit) && s->phase > PHASE_RUNNING)
                                client_close(s, c);
        }
        if (s->phase == PHASE_DRAINING)
                drained(s);
        else if (s->phase == PHASE_CLEANING)
                supervisor_cleaned(s);
}

/* Milliseconds until something is due, -1: nothing is. */
static int next_timeout(const struct supervisor *s)
{
        const s64 due[] = { s->kill_at, s->restart_at, s->health_at, s->health_deadline,
                s->phase > PHASE_RUNNING ? s->drop_at : 0 };
        s64 first = 0, now;

        for (size_t i = 0; i < ARRAY_SIZE(due); i++)
                if (due[i] && (!first || due[i] < first))
                        first = due[i];
        if (!first)
                return -1;
        now = supervisor_now();
        return first <= now ? 0 : (int)((first - now + 999999) / 1000000);
}

enum { WATCH_SIGNALS, WATCH_LISTENER, WATCH_CONSOLE, WATCH_OUT, WATCH_ERR, WATCH_IN, WATCH_CLIENTS };

static void loop(struct supervisor *s)
{
        struct pollfd p[WATCH_CLIENTS + CLIENTS_MAX];
        const bool readable = !s->out_len, full = s->in_len > 0;

        p[WATCH_SIGNALS] = (struct pollfd){ .fd = s->signals, .events = POLLIN };
        p[WATCH_LISTENER] = (struct pollfd){ .fd = s->listener, .events = POLLIN };
        p[WATCH_CONSOLE] = (struct pollfd){ .fd = s->console, .events = POLLIN };
        p[WATCH_OUT] = (struct pollfd){ .fd = readable ? s->output[STREAM_OUT] : -1, .events = POLLIN };
        p[WATCH_ERR] = (struct pollfd){ .fd = readable ? s->output[STREAM_ERR] : -1, .events = POLLIN };
        p[WATCH_IN] = (struct pollfd){ .fd = full ? s->input : -1, .events = POLLOUT };
        for (int i = 0; i < CLIENTS_MAX; i++) {
                const struct client *c = &s->client[i];

                p[WATCH_CLIENTS + i] = (struct pollfd){ .fd = c->fd,
                        .events = (short)((full && c->flags & 1 ? 0 : POLLIN) |
                                          (c->owes_data || c->owes_exit ? POLLOUT : 0)) };
        }
        if (SYS_3(SYS_poll, p, ARRAY_SIZE(p), next_timeout(s)) < 0)
                return;
        /* Who attaches before the first byte gets it. */
        if (p[WATCH_LISTENER].revents)
                clients_accept(s);
        for (int i = 0; i < CLIENTS_MAX; i++) {
                struct client *c = &s->client[i];

                if (c->fd != p[WATCH_CLIENTS + i].fd)
                        continue; /* new, or gone */
                if (p[WATCH_CLIENTS + i].revents & POLLOUT)
                        clients_flush(s);
                if (c->fd >= 0 && p[WATCH_CLIENTS + i].revents & (POLLIN | POLLHUP | POLLERR))
                        clients_receive(s, c);
        }
        if (s->console >= 0 && p[WATCH_CONSOLE].revents)
                console_accept(s);
        if (p[WATCH_IN].revents)
                input_flush(s);
        if (p[WATCH_OUT].revents)
                output_pump(s, STREAM_OUT);
        if (p[WATCH_ERR].revents)
                output_pump(s, STREAM_ERR);
        if (p[WATCH_SIGNALS].revents)
                signalled(s);
        expire(s);
}

static int number(const char *text)
{
        int n = 0;
        const char *p = text + (*text == '-');

        for (; *p >= '0' && *p <= '9'; p++)
                n = n * 10 + (*p - '0');
        return *text == '-' ? -n : n;
}

static int adopt(const char *text, bool nonblocking)
{
        const int fd = number(text);

        if (fd >= 0) {
                sys_fcntl(fd, F_SETFD, FD_CLOEXEC);
                if (nonblocking)
                        sys_fcntl(fd, F_SETFL, O_NONBLOCK);
        }
        return fd;
}

int supervise(int argc, char **argv, char **envp);
int supervise(int argc, char **argv, char **envp)
{
        static struct supervisor
                supervisor; /* in the program's zero pages, not on the stack: most of it is never touched */
        struct supervisor *s = &supervisor;
        const u64 blocked = ~0ULL;

        if (argc > 2 && argv[1][0] == 'i')
                return init_main(argv + 2, envp);
        if (argc != SUPERVISE_ARGC)
                return 125;
        s->envp = envp;
        s->dir = adopt(argv[SUPERVISE_DIR], false);
        s->lock = adopt(argv[SUPERVISE_LOCK], false);
        s->listener = adopt(argv[SUPERVISE_LISTENER], true);
        s->input = adopt(argv[SUPERVISE_STDIN], true);
        s->output[STREAM_OUT] = adopt(argv[SUPERVISE_STDOUT], true);
        s->output[STREAM_ERR] = adopt(argv[SUPERVISE_STDERR], true);
        s->console = adopt(argv[SUPERVISE_CONSOLE], false);
        s->helper = number(argv[SUPERVISE_HELPER]);
        s->report = adopt(argv[SUPERVISE_REPORT], false);
        s->ports = adopt(argv[SUPERVISE_PORTS], false);
        s->log = -1;
        s->health = "";
        for (int i = 0; i < CLIENTS_MAX; i++)
                s->client[i].fd = -1;
        if (SYS_1(SYS_fchdir, s->dir) < 0)
                return 125;
        SYS_4(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, NULL, sizeof(blocked));
        s->signals = (int)SYS_4(SYS_signalfd4, -1, &blocked, sizeof(blocked), O_CLOEXEC | O_NONBLOCK);
        supervisor_load(s);
        log_open(s);
        s->began = supervisor_now();
        clients_accept(s);
        reap(s);
        for (;;)
                loop(s);
}

__attribute__((noreturn, used)) void supervise_main(long *stack);
void supervise_main(long *stack)
{
        const int argc = (int)stack[0];
        char **argv = (char **)(stack + 1);

        sys_exit(supervise(argc, argv, argv + argc + 1));
}

__asm__(".globl _start\n"
        "_start:\n"
        "        xor %ebp, %ebp\n"
        "        mov %rsp, %rdi\n"
        "        and $-16, %rsp\n"
        "        call supervise_main\n");

/* What the compiler calls without being asked to. */
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
        void *d = to;

        __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
        return to;
}

void *memset(void *to, int value, size_t n);
void *memset(void *to, int value, size_t n)
{
        void *d = to;

        __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(value) : "memory");
        return to;
}
