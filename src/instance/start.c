/* Who starts whom.
 *
 *      command                      supervisor                       helper
 *      locks the instance
 *      makes pipes, the socket,
 *      takes the supervisor's lock
 *      fork, fork (an orphan) ----> setsid, subreaper
 *                                   fork --------------------------> dies with its parent
 *                                   executes strata-supervise        launch_instance: root, network, container
 *                                                                    "it runs", or an error, into a pipe
 *      reads that <----------------------------------------------    exits: the container's first process is
 *                                   the supervisor's child now       left to the subreaper
 *
 * The helper is a copy of the command, so that the first start costs no execution of a big program. Later ones (the restart
 * policy) are done by `strata instance-start`, which the supervisor executes. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "network.h"
#include "ops.h"
#include "session.h"

/* Descriptors of a start, all close-on-exec. */
struct start {
        struct instance *inst;
        int lock, listener, console;
        int in[2], out[2], err_[2]; /* pipes: [0] is read from */
        int report[2];
        int ports[2]; /* what the supervisor holds, what the helper sends to */
};

static void start_release(struct start *s)
{
        const int fds[] = { s->lock, s->listener, s->console, s->in[0], s->in[1], s->out[0], s->out[1], s->err_[0],
                s->err_[1], s->report[0], s->report[1], s->ports[0], s->ports[1] };

        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
                closep(&fds[i]);
}

/* --- what the supervisor must know ------------------------------------------------------------------------------ */

/* The beginning of its lines in ROOT/events. */
static void put_event(struct record *record, const struct instance *inst)
{
        json_t *json =
                json_pack("{s:s, s:s, s:s}", "id", inst->id, "name", inst->config.name, "image", inst->config.image);
        _cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

        json_decref(json);
        if (text && text[0])
                text[strlen(text) - 1] = '\0';
        if (text)
                record_put(record, "event", text);
}

int supervise_save(const struct instance *inst, struct err **err)
{
        const struct instance_config *c = &inst->config;
        const struct instance_health *health = &c->health;
        struct record record = { "" };
        bool fits = record_put(&record, "root", inst->host->root);

        fits &= record_put(&record, "programs", inst->host->programs);
        fits &= record_put(&record, "id", inst->id);
        record_put(&record, "boot", inst->host->boot_id);
        record_put_number(&record, "restart", c->restart);
        record_put_number(&record, "restart_max", c->restart_max);
        record_put_number(&record, "auto_remove", c->auto_remove);
        record_put_number(&record, "tty", c->tty);
        record_put_number(&record, "open_stdin", c->open_stdin);
        record_put_number(&record, "stop_signal", instance_signal_parse(c->stop_signal ? c->stop_signal : "", NULL));
        record_put_number(&record, "stop_timeout", c->stop_timeout ? c->stop_timeout : 10);
        record_put_number(&record, "log", !c->log.driver || strcmp(c->log.driver, "none") != 0);
        record_put_number(&record, "log_max_size", c->log.max_size);
        record_put_number(&record, "log_max_files", c->log.max_files);
        if (health->test.n && strcmp(health->test.item[0], "NONE") != 0) {
                record_put_number(&record, "health", 1);
                if (health->interval_ns)
                        record_put_number(&record, "health_interval", health->interval_ns);
                if (health->timeout_ns)
                        record_put_number(&record, "health_timeout", health->timeout_ns);
                if (health->retries)
                        record_put_number(&record, "health_retries", health->retries);
                record_put_number(&record, "health_start", health->start_period_ns);
                if (health->start_interval_ns)
                        record_put_number(&record, "health_start_interval", health->start_interval_ns);
        }
        put_event(&record, inst);
        if (!fits)
                return err_set(err, ERR_TOO_LARGE, ENAMETOOLONG, "the path '%s' is too long", inst->host->root);
        return record_store(inst, FILE_SUPERVISE, &record, err);
}

/* --- sockets and pipes ------------------------------------------------------------------------------------------ */

/* Paths of sockets are short (108 bytes): through the directory's descriptor. */
struct sockaddr_un instance_socket(const struct instance *inst, const char *name)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", inst->dir, name);
        return address;
}

static int listen_at(const struct instance *inst, const char *name, int type, int *ret, struct err **err)
{
        const struct sockaddr_un address = instance_socket(inst, name);

        unlinkat(inst->dir, name, 0);
        *ret = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
        if (*ret < 0 || bind(*ret, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(*ret, 32) < 0)
                return err_sys(err, errno, "making the socket '%s'", name);
        return 0;
}

static int open_stdio(struct start *s, struct err **err)
{
        const struct instance_config *c = &s->inst->config;
        int r = 0;

        if (c->tty)
                return listen_at(s->inst, FILE_CONSOLE, SOCK_STREAM, &s->console, err);
        if (pipe2(s->out, O_CLOEXEC) < 0 || pipe2(s->err_, O_CLOEXEC) < 0 ||
                (c->open_stdin && pipe2(s->in, O_CLOEXEC) < 0))
                r = err_sys(err, errno, "making pipes");
        return r;
}

/* --- the processes ---------------------------------------------------------------------------------------------- */

int helper_status(const struct err *error)
{
        return err_get_id(error) == ERR_NO_COMMAND ? 127 : err_get_id(error) == ERR_NOT_EXECUTABLE ? 126 : 125;
}

static void use_stdio(const struct start *s)
{
        const int null = open("/dev/null", O_RDWR | O_CLOEXEC);

        dup2(s->in[0] >= 0 ? s->in[0] : null, 0);
        dup2(s->out[1] >= 0 ? s->out[1] : null, 1);
        dup2(s->err_[1] >= 0 ? s->err_[1] : null, 2);
}

/* To a program that is executed: HELPER_PORTS (@ports, -1: none) and HELPER_LOCK, wherever they are now. */
static void give(int ports, int lock)
{
        const int high[] = { fcntl(ports, F_DUPFD_CLOEXEC, HELPER_LOCK + 1),
                fcntl(lock, F_DUPFD_CLOEXEC, HELPER_LOCK + 1) };

        close(HELPER_PORTS);
        for (int i = 0; i < 2; i++)
                if (high[i] >= 0)
                        dup2(high[i], HELPER_PORTS + i);
}

/* In place of a copy of the command: the runtime may have to start its own program again, which here would be whatever command
 * this is. Returns only on failure. */
static void execute_helper(struct start *s)
{
        const struct instance_host *host = s->inst->host;
        char program[PATH_MAX], fd[16];

        snprintf(program, sizeof(program), "%s/strata", host->programs);
        snprintf(fd, sizeof(fd), "%d", fcntl(s->report[1], F_DUPFD, HELPER_LOCK + 1));
        setenv(HELPER_REPORT, fd, 1);
        give(s->ports[1], s->lock);
        execl(program, "strata", HELPER_START, host->root, s->inst->id, NULL);
}

static _noreturn_ void helper(struct start *s, pid_t parent)
{
        struct err *error = NULL;
        sigset_t none;
        int r;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                _exit(125);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        use_stdio(s);
        /* Ends of ours that others wait for to be closed; not the lock: it is free when supervisor and helper are dead. */
        closep(&s->listener);
        closep(&s->in[1]);
        closep(&s->in[0]);
        closep(&s->out[0]);
        closep(&s->out[1]);
        closep(&s->err_[0]);
        closep(&s->err_[1]);
        closep(&s->report[0]);
        closep(&s->ports[0]);
        s->inst->ports_to = s->ports[1];
        if (s->inst->ops->needs_program(s->inst))
                execute_helper(s);
        r = launch_instance(s->inst, &error);
        err_send(s->report[1], r, error);
        _exit(r < 0 ? helper_status(error) : 0);
}

static char *number(char text[16], int fd)
{
        if (fd >= 0)
                fcntl(fd, F_SETFD, 0);
        snprintf(text, 16, "%d", fd);
        return text;
}

extern char **environ;

static _noreturn_ void become_supervisor(struct start *s)
{
        char text[SUPERVISE_ARGC][16], program[PATH_MAX];
        char *argv[SUPERVISE_ARGC + 1] = { program };
        const pid_t self = getpid();
        pid_t pid;
        int null;

        if (snprintf(program, sizeof(program), "%s/strata-supervise", s->inst->host->programs) >=
                        (int)sizeof(program) ||
                setsid() < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
                _exit(125);
        pid = fork();
        if (pid == 0)
                helper(s, self);
        if (pid < 0)
                _exit(125);
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int fd = 0; fd < 3; fd++)
                dup2(null, fd);
        argv[SUPERVISE_DIR] = number(text[SUPERVISE_DIR], dup(s->inst->dir));
        argv[SUPERVISE_LOCK] = number(text[SUPERVISE_LOCK], s->lock);
        argv[SUPERVISE_LISTENER] = number(text[SUPERVISE_LISTENER], s->listener);
        argv[SUPERVISE_STDIN] = number(text[SUPERVISE_STDIN], s->in[1]);
        argv[SUPERVISE_STDOUT] = number(text[SUPERVISE_STDOUT], s->out[0]);
        argv[SUPERVISE_STDERR] = number(text[SUPERVISE_STDERR], s->err_[0]);
        argv[SUPERVISE_CONSOLE] = number(text[SUPERVISE_CONSOLE], s->console);
        snprintf(text[SUPERVISE_HELPER], 16, "%d", (int)pid);
        argv[SUPERVISE_HELPER] = text[SUPERVISE_HELPER];
        argv[SUPERVISE_REPORT] = number(text[SUPERVISE_REPORT], s->report[1]);
        argv[SUPERVISE_PORTS] = number(text[SUPERVISE_PORTS], s->ports[0]);
        execve(program, argv, environ);
        _exit(125); /* the helper dies with us */
}

/* Its parent is gone when this returns: nobody here ever has to wait for it. */
static int spawn_supervisor(struct start *s, struct err **err)
{
        pid_t pid;
        int status;

        fflush(NULL);
        pid = fork();
        if (pid == 0) {
                pid = fork();
                if (pid == 0)
                        become_supervisor(s);
                _exit(pid < 0);
        }
        if (pid < 0)
                return err_sys(err, errno, "starting the supervisor");
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return err_sys(err, errno, "starting the supervisor");
        return status == 0 ? 0 : err_set(err, ERR_IO, EAGAIN, "starting the supervisor");
}

/* --- the call --------------------------------------------------------------------------------------------------- */

static int start_locked(struct instance *inst, unsigned attach, struct instance_session **ret_session, struct err **err)
{
        _cleanup_(start_release) struct start s = { inst, -1, -1, -1, { -1, -1 }, { -1, -1 }, { -1, -1 }, { -1, -1 },
                { -1, -1 } };
        _cleanup_(instance_session_freep) struct instance_session *session = NULL;
        int r;

        if (supervisor_is_ending(inst))
                supervisor_wait_gone(inst);
        r = supervisor_lock(inst, &s.lock, err);
        if (r == 0)
                r = supervise_save(inst, err);
        if (r == 0)
                r = listen_at(inst, FILE_ATTACH, SOCK_SEQPACKET, &s.listener, err);
        if (r == 0)
                r = open_stdio(&s, err);
        /* Its connection waits in the listener, so that it is there before the first byte. */
        if (r == 0 && attach)
                r = session_open(inst, attach, &session, err);
        if (r == 0 && pipe2(s.report, O_CLOEXEC) < 0)
                r = err_sys(err, errno, "making pipes");
        if (r == 0 && network_publishes(inst) && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s.ports) < 0)
                r = err_sys(err, errno, "making sockets");
        unlinkat(inst->dir, FILE_PID, 0);
        if (r == 0)
                r = state_begin(inst, err);
        if (r == 0)
                r = spawn_supervisor(&s, err);
        if (r < 0)
                return r;
        closep(&s.report[1]);
        s.report[1] = -1;
        r = err_receive(s.report[0], err);
        /* Not before: what the helper does to the file system would wait for the disk with us. */
        if (r == 0)
                r = config_sync(inst, err);
        if (r < 0)
                return r;
        if (ret_session)
                *ret_session = TAKE_PTR(session);
        return 0;
}

int instance_start(struct instance *inst, unsigned attach, struct instance_session **ret_session, struct err **err)
{
        _cleanup_close_ int lock = -1;
        int r = instance_lock(inst, true, &lock, err);

        if (r == 0)
                r = state_recover(inst, err);
        if (r == 0)
                r = inst->ops->prepare(inst, err);
        if (r == 0)
                r = start_locked(inst, attach, ret_session, err);
        return r < 0 ? err_wrap(err, r, "starting '%s'", inst->config.name) : 0;
}
