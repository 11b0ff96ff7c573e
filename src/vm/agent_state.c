/* The agent's saved state. Clients are not part of it: their processes go on in the restored machine, and nobody looks at them. */
#include "agent_internal.h"

#include <errno.h>

#include "base/cleanup.h"

static void put_block(struct state_out *out, const void *data, size_t n)
{
        state_put_u32(out, (u32)n);
        state_put_bytes(out, data, n);
}

/* At most @max bytes, as new memory of at least @space. */
static bool get_block(struct state_in *in, size_t max, size_t space, u8 **ret, size_t *ret_n)
{
        const size_t n = state_get_u32(in);

        if (state_in_error(in) || n > max || n > state_in_left(in))
                return false;
        *ret = malloc(MAX(MAX(n, space), (size_t)1));
        if (!*ret)
                return false;
        state_get_bytes(in, *ret, n);
        *ret_n = n;
        return true;
}

void agent_save(struct device *dev, struct state_out *out)
{
        const struct agent *agent = container_of(dev, struct agent, dev);
        const struct agent_saved *s = &agent->s;
        u32 n = 0;

        state_put_u8(out, (u8)s->phase);
        state_put_u32(out, s->last_id);
        state_put_u32(out, s->features);
        state_put_bool(out, s->frozen);
        state_put_bool(out, s->tty);
        state_put_bool(out, s->has_input);
        state_put_bool(out, s->has_status);
        state_put_u32(out, (u32)s->status);
        put_block(out, s->in, s->n_in);
        put_block(out, byte_queue_data(&s->out), s->out.n);
        put_block(out, s->boot.data ? s->boot.data + s->boot.at : NULL, s->boot.data ? s->boot.len - s->boot.at : 0);
        state_put_bool(out, s->boot.data);
        for (unsigned i = 1; i < INIT_STREAMS; i++) {
                put_block(out, byte_queue_data(&agent->stdio[i].out), agent->stdio[i].out.n);
                state_put_u32(out, agent->stdio[i].owed);
        }
        for (size_t i = 0; i < AGENT_TASKS_MAX; i++)
                n += s->tasks[i].owner != OWNER_NONE;
        state_put_u32(out, n);
        for (size_t i = 0; i < AGENT_TASKS_MAX; i++) {
                const struct agent_task *task = &s->tasks[i];

                if (task->owner == OWNER_NONE)
                        continue;
                state_put_u32(out, task->id);
                state_put_u8(out, (u8)task->owner);
                state_put_bool(out, task->is_process);
                state_put_bool(out, task->input_ended);
                for (unsigned k = 0; k < INIT_STREAMS; k++)
                        state_put_u32(out, task->room[k]);
        }
}

/* What is read before anything is changed. */
struct loaded {
        struct agent_saved s;
        struct byte_queue stdio[INIT_STREAMS];
        u32 owed[INIT_STREAMS];
};

static void loaded_free(struct loaded **loaded)
{
        struct loaded *l = *loaded;

        if (!l)
                return;
        free(l->s.in);
        free(l->s.out.data);
        free(l->s.boot.data);
        for (unsigned i = 0; i < INIT_STREAMS; i++)
                free(l->stdio[i].data);
        free(l);
}

static bool load_task(struct state_in *in, struct agent_saved *s, size_t i)
{
        struct agent_task *task = &s->tasks[i];

        task->id = state_get_u32(in);
        task->owner = state_get_u8(in);
        task->is_process = state_get_bool(in);
        task->input_ended = state_get_bool(in);
        for (unsigned k = 0; k < INIT_STREAMS; k++) {
                task->room[k] = state_get_u32(in);
                if (task->room[k] > INIT_ROOM_MAX)
                        return false;
        }
        for (size_t k = 0; k < i; k++)
                if (s->tasks[k].id == task->id)
                        return false;
        if (task->owner == OWNER_NONE || task->owner >= OWNERS || (task->owner == OWNER_MAIN) != (task->id == INIT_ID_MAIN))
                return false;
        s->boot.pending += task->owner == OWNER_BOOT;
        /* Who asked is not here any more. */
        if (task->owner == OWNER_CLIENT || task->owner == OWNER_REPLAY || task->owner == OWNER_FREEZE)
                task->owner = OWNER_NOBODY;
        return true;
}

static bool load_queue(struct state_in *in, size_t max, struct byte_queue *ret)
{
        if (!get_block(in, max, 0, &ret->data, &ret->n))
                return false;
        ret->cap = MAX(ret->n, (size_t)1);
        return true;
}

static bool load_all(struct state_in *in, u32 version, struct loaded *l)
{
        bool has_boot;
        u32 n;

        l->s.phase = state_get_u8(in);
        l->s.last_id = state_get_u32(in);
        l->s.features = version > 1 ? state_get_u32(in) : 0;
        l->s.frozen = version > 1 && state_get_bool(in);
        l->s.tty = state_get_bool(in);
        l->s.has_input = state_get_bool(in);
        l->s.has_status = state_get_bool(in);
        l->s.status = (int)(state_get_u32(in) & 255);
        if (l->s.phase >= AGENT_PHASES || !get_block(in, AGENT_FRAME_SPACE, AGENT_FRAME_SPACE, &l->s.in, &l->s.n_in) ||
            !load_queue(in, AGENT_OUT_MAX, &l->s.out) || !get_block(in, AGENT_SCRIPT_MAX, 0, &l->s.boot.data, &l->s.boot.len))
                return false;
        has_boot = state_get_bool(in);
        if (!has_boot) {
                free(l->s.boot.data);
                l->s.boot.data = NULL;
        }
        for (unsigned i = 1; i < INIT_STREAMS; i++) {
                if (!load_queue(in, INIT_ROOM_MAX, &l->stdio[i]))
                        return false;
                l->owed[i] = state_get_u32(in);
                if (l->owed[i] > INIT_ROOM_MAX)
                        return false;
        }
        n = state_get_u32(in);
        if (state_in_error(in) || n > AGENT_TASKS_MAX)
                return false;
        for (u32 i = 0; i < n; i++)
                if (!load_task(in, &l->s, i))
                        return false;
        return !state_in_error(in) && (!has_boot || agent_script_check(l->s.boot.data, l->s.boot.len));
}

/* What this process's own script is for now. */
static int keep_script(struct agent *agent, const struct loaded *l, struct err **err)
{
        const struct agent_script *script = &agent->s.boot;
        bool has_main = l->s.boot.data || l->s.phase != AGENT_RUNNING;

        for (size_t i = 0; i < AGENT_TASKS_MAX; i++)
                has_main |= l->s.tasks[i].owner == OWNER_MAIN;
        if (has_main && agent_script_starts(script->data, script->len))
                return err_set(err, ERR_BAD_CONFIG, EEXIST, "the agent's script starts a main process, and the saved machine has one");
        agent->replay = *script;
        agent->replay.owner = OWNER_REPLAY;
        return 0;
}

int agent_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct agent *agent = container_of(dev, struct agent, dev);
        _cleanup_(loaded_free) struct loaded *l = calloc(1, sizeof(*l));
        int r;

        if (!l)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to load the agent");
        l->s.boot.owner = OWNER_BOOT;
        if (agent->s.phase != AGENT_WAITING || !load_all(in, version, l))
                return err_set(err, ERR_BAD_STATE, EINVAL, "saved state of the agent is damaged");
        r = keep_script(agent, l, err);
        if (r < 0)
                return r;
        free(agent->s.in);
        agent->s = l->s;
        l->s = (struct agent_saved){ 0 };
        for (unsigned i = 1; i < INIT_STREAMS; i++) {
                agent->stdio[i].out = l->stdio[i];
                agent->stdio[i].owed = l->owed[i];
                l->stdio[i] = (struct byte_queue){ 0 };
        }
        for (size_t i = 0; i < AGENT_TASKS_MAX; i++)
                if (agent->s.tasks[i].owner == OWNER_NOBODY)
                        agent_task_abandon(agent, &agent->s.tasks[i]);
        agent_go_on(agent);
        return 0;
}
