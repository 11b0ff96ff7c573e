/* What the guest is told at its beginning, after a restore, or whenever somebody asks for it. */
#include "agent_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Requests of a script that are under way. */
#define SCRIPT_WINDOW 64U

/* ---- what it may be ---- */

static bool is_setup(const struct init_message *m)
{
        static const enum init_type types[] = { INIT_SYSTEM, INIT_MOUNT, INIT_ROOT, INIT_FILE, INIT_LINK, INIT_SYSCTL, INIT_ADDRESS };

        for (size_t i = 0; i < ARRAY_SIZE(types); i++)
                if (types[i] == m->type)
                        return true;
        return false;
}

/* Whole frames that may stand in a script; START only at the end, where @with_start says so. */
static bool script_is_good(const u8 *data, size_t len, bool with_start)
{
        struct init_message m;
        bool started = false;
        size_t size;

        for (; len; data += size, len -= size) {
                if (init_frame_next(data, len, &size) != 1 || init_parse(data, size, INIT_TO_GUEST, &m) < 0 || started)
                        return false;
                started = m.type == INIT_START && m.id == INIT_ID_MAIN && with_start;
                if (!started && !is_setup(&m))
                        return false;
        }
        return started == with_start;
}

void agent_script_clear(struct agent_script *script)
{
        free(script->data);
        *script = (struct agent_script){ .owner = script->owner };
}

void agent_script_over(struct agent *agent, struct agent_script *script, const char *error)
{
        void (*done)(void *opaque, const char *error) = script->done;
        void *opaque = script->opaque;

        agent_script_clear(script);
        if (done) {
                done(opaque, error);
        } else if (error) {
                agent_fail(agent, error);
        } else {
                agent_report(agent, NULL);
                if (agent->s.phase == AGENT_SETUP) /* a machine without a main process */
                        agent->s.phase = AGENT_RUNNING;
                agent_clients_update(agent);
        }
}

static void send_start(struct agent *agent, const u8 *frame, size_t size, const struct init_message *m)
{
        struct agent_task *task = agent_task_new(agent, OWNER_MAIN);

        if (!task) {
                agent_fail(agent, "the machine has too much to do");
                return;
        }
        agent->s.phase = AGENT_STARTING;
        agent->s.tty = m->field[START_FLAGS].number & INIT_START_TTY;
        agent->s.has_input = m->field[START_FLAGS].number & INIT_START_STDIN;
        task->is_process = true;
        task->input_ended = !agent->s.has_input;
        for (unsigned i = 0; i < INIT_STREAMS; i++)
                task->room[i] = INIT_ROOM_FIRST;
        agent_send(agent, frame, size, task->id);
}

void agent_script_go_on(struct agent *agent, struct agent_script *script)
{
        struct init_message m;
        size_t size;

        while (script->data && !agent->failed && !agent_full(agent)) {
                const u8 *frame = script->data + script->at;
                struct agent_task *task;

                if (script->at == script->len) {
                        /* Right behind the last frame: the guest does not let them go on when one of those before failed. */
                        if (script->owner == OWNER_REPLAY && agent_let_go(agent, OWNER_REPLAY))
                                script->pending++;
                        if (!script->pending)
                                agent_script_over(agent, script, NULL);
                        return;
                }
                /* Checked when it was taken. */
                if (init_frame_next(frame, script->len - script->at, &size) != 1 || init_parse(frame, size, INIT_TO_GUEST, &m) < 0)
                        return;
                if (script->pending == SCRIPT_WINDOW || (m.type == INIT_START && script->pending))
                        return;
                script->at += size;
                if (m.type == INIT_START) {
                        _cleanup_free_ _unused_ u8 *data = TAKE_PTR(script->data); /* where the frame is */

                        agent_script_clear(script);
                        send_start(agent, frame, size, &m);
                        return;
                }
                task = agent_task_new(agent, script->owner);
                if (!task) {
                        agent_script_over(agent, script, "the machine has too much to do");
                        return;
                }
                script->pending++;
                agent_send(agent, frame, size, task->id);
        }
}

bool agent_script_check(const u8 *data, size_t len)
{
        return script_is_good(data, len, false) || script_is_good(data, len, true);
}

bool agent_script_starts(const u8 *data, size_t len)
{
        return script_is_good(data, len, true);
}

int agent_replay(struct agent *agent, const void *script, size_t len, void (*done)(void *opaque, const char *error), void *opaque)
{
        u8 *copy;

        if (agent->replay.data)
                return -EBUSY;
        if (len > AGENT_SCRIPT_MAX || !script_is_good(script, len, false))
                return -EINVAL;
        copy = malloc(len + 1);
        if (!copy)
                return -ENOMEM;
        memcpy(copy, script, len);
        agent->replay = (struct agent_script){ .owner = OWNER_REPLAY, .data = copy, .len = len, .done = done, .opaque = opaque };
        if (agent->s.phase == AGENT_RUNNING)
                agent_script_go_on(agent, &agent->replay);
        return 0;
}

/* ---- files ---- */

int agent_script_read(const char *path, struct agent_script *ret, struct err **err)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        _cleanup_free_ u8 *data = NULL;
        struct stat st;
        size_t n = 0;
        ssize_t got = 0;

        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, errno, "opening the agent's script '%s'", path);
        if (st.st_size > AGENT_SCRIPT_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "the agent's script '%s' is larger than %u bytes", path, AGENT_SCRIPT_MAX);
        data = malloc((size_t)st.st_size + 1);
        if (!data)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the agent's script");
        while (n < (size_t)st.st_size && (got = read(fd, data + n, (size_t)st.st_size - n)) > 0)
                n += (size_t)got;
        if (got < 0)
                return err_sys(err, errno, "reading the agent's script '%s'", path);
        if (!agent_script_check(data, n))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' is no script for an agent, or damaged", path);
        *ret = (struct agent_script){ .owner = OWNER_BOOT, .data = TAKE_PTR(data), .len = n };
        return 0;
}
