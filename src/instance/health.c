#include "health.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "box/sys.h"
#include "exec.h"
#include "ops.h"

#define OUTPUT_MAX      4096
#define KEPT            5
#define DEFAULT_TIMEOUT (30 * NSEC_PER_SEC)

struct check {
        struct instance *inst;
        char output[OUTPUT_MAX + 1];
        size_t len;
        int status;
};

static json_t *rfc3339(void)
{
        struct timespec now;
        struct tm tm;

        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &tm);
        return json_sprintf("%04d-%02d-%02dT%02d:%02d:%02d.%09ldZ", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
                tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec);
}

json_t *health_log(const struct instance *inst)
{
        json_t *json = NULL;

        return json_load(inst, FILE_HEALTH, &json, NULL) == 0 && json_is_array(json) ? json : json_array();
}

static void keep(struct check *c, json_t *start)
{
        json_t *log = health_log(c->inst);
        json_t *output = json_stringn(c->output, c->len);
        _cleanup_free_ char *text = NULL;

        json_array_append_new(log, json_pack("{s:o, s:o, s:i, s:o}", "Start", start, "End", rfc3339(), "ExitCode",
                                           c->status, "Output", output ? output : json_string("(not UTF-8)")));
        while (json_array_size(log) > KEPT)
                json_array_remove(log, 0);
        text = json_dumps(log, JSON_COMPACT);
        json_decref(log);
        if (text)
                file_replace(c->inst->dir, FILE_HEALTH ".new", FILE_HEALTH, text, strlen(text), false, NULL);
}

static int make_command(const struct instance_health *health, const char *argv[], size_t room, struct err **err)
{
        const char *kind = health->test.n ? health->test.item[0] : "NONE";
        size_t n = 0;

        if (strcmp(kind, "CMD-SHELL") == 0 && health->test.n == 2) {
                argv[n++] = "/bin/sh";
                argv[n++] = "-c";
        } else if (strcmp(kind, "CMD") != 0)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "there is no health check");
        for (size_t i = 1; i < health->test.n && n + 1 < room; i++)
                argv[n++] = health->test.item[i];
        argv[n] = NULL;
        return 0;
}

/* Until @pid, our child, ended or the time is up. What it prints is read all along, kept in part. */
static void follow(struct check *c, pid_t pid, int output, u64 timeout_ns)
{
        const u64 deadline = clock_now_ns() + timeout_ns;
        _cleanup_close_ int pidfd = sys_pidfd_open(pid);
        char buf[4096];
        int status = 0;

        for (bool over = false; !over;) {
                struct pollfd p[2] = { { .fd = pidfd, .events = POLLIN }, { .fd = output, .events = POLLIN } };
                const u64 now = clock_now_ns();

                if (now >= deadline) {
                        c->inst->ops->unspawn(pid);
                        c->status = -1;
                        break;
                }
                poll(p, 2, (int)MIN((deadline - now) / 1000000 + 1, 1000));
                if (p[1].revents) {
                        const ssize_t n = read(output, buf, sizeof(buf));
                        const size_t kept = n > 0 ? MIN((size_t)n, OUTPUT_MAX - c->len) : 0;

                        memcpy(c->output + c->len, buf, kept);
                        c->len += kept;
                        if (n == 0)
                                output = -1;
                } else
                        over = p[0].revents;
        }
        waitpid(pid, &status, 0);
        if (c->status == -1)
                c->len = (size_t)snprintf(c->output, OUTPUT_MAX, "health check exceeded its time limit");
        else
                c->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Its output comes by *ret_output; it is a child of ours. */
static int start(struct check *c, pid_t *ret_pid, int *ret_output, struct err **err)
{
        const char *argv[64];
        const struct instance_exec exec = { .argv = argv, .detach = true };
        json_t *process = NULL;
        int ends[2], r = make_command(&c->inst->config.health, argv, ARRAY_SIZE(argv), err);

        if (r == 0)
                r = exec_process(c->inst, &exec, &process, err);
        if (r < 0)
                return r;
        if (pipe2(ends, O_CLOEXEC) < 0)
                r = err_sys(err, errno, "checking health");
        else {
                r = c->inst->ops->spawn(c->inst, process, ends[1], ret_pid, err);
                close(ends[1]);
                *ret_output = ends[0];
        }
        json_decref(process);
        return r;
}

int health_check(struct instance *inst, struct err **err)
{
        struct check c = { .inst = inst };
        const s64 timeout = inst->config.health.timeout_ns;
        const struct instance_state *state;
        struct err *error = NULL;
        json_t *began;
        pid_t pid = 0;
        int output = -1, r = instance_get_state(inst, &state, err);

        if (r < 0 || state->status != INSTANCE_RUNNING)
                return HELPER_HEALTH_UNKNOWN;
        began = rfc3339();
        r = start(&c, &pid, &output, &error);
        if (r < 0) {
                c.status = 126;
                c.len = (size_t)snprintf(c.output, OUTPUT_MAX, "%s", err_message(error));
                c.len = MIN(c.len, (size_t)OUTPUT_MAX - 1);
        } else
                follow(&c, pid, output, timeout > 0 ? (u64)timeout : DEFAULT_TIMEOUT);
        err_free(error);
        closep(&output);
        keep(&c, began);
        return c.status == 0 ? 0 : 1;
}
