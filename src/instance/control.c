/* What is done to instances that exist. While a supervisor lives it is asked, because the first process is its child and so
 * cannot be mistaken for another. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "ops.h"
#include "session.h"

static int current_state(struct instance *inst, enum instance_status *ret, struct err **err)
{
        const struct instance_state *state;
        int r = instance_get_state(inst, &state, err);

        if (r == 0)
                *ret = state->status;
        return r;
}

static int not_running(const struct instance *inst, struct err **err)
{
        return err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
}

/* Sends @type and waits for the answer. */
static int ask(struct instance *inst, enum message_type type, int arg, int arg2, struct instance_session **ret,
        struct err **err)
{
        _cleanup_(instance_session_freep) struct instance_session *session = NULL;
        int r = session_open(inst, 0, &session, err);

        if (r == 0)
                r = session_send(session, type, arg, arg2, err);
        if (r == 0)
                r = session_answer(session, err);
        if (r == 0 && ret)
                *ret = TAKE_PTR(session);
        return r;
}

int instance_kill(struct instance *inst, int signal, struct err **err)
{
        enum instance_status status = INSTANCE_CREATED;
        _cleanup_(err_freep) struct err *error = NULL;
        int r = current_state(inst, &status, err);

        if (r < 0)
                return r;
        if (status != INSTANCE_RUNNING && status != INSTANCE_PAUSED)
                return not_running(inst, err);
        r = ask(inst, MESSAGE_SIGNAL, signal, 0, NULL, &error);
        if (r == -ESRCH)
                return not_running(inst, err);
        if (r < 0)
                return error ? err_set(err, err_get_id(error), -r, "%s", err_message(error))
                             : err_sys(err, -r, "signalling '%s'", inst->config.name);
        if (status == INSTANCE_PAUSED && signal == SIGKILL)
                instance_unpause(inst, NULL);
        return 0;
}

/* Asks for the end (MESSAGE_STOP, MESSAGE_RESTART) and waits for it. 1: the supervisor was gone already. */
static int end(struct instance *inst, enum message_type type, int signal, int timeout_s, struct instance_session **ret,
        struct err **err)
{
        _cleanup_(instance_session_freep) struct instance_session *session = NULL;
        enum instance_status status = INSTANCE_CREATED;
        int code, r = current_state(inst, &status, err);

        if (r < 0)
                return r;
        if (!supervisor_alive(inst))
                return 1;
        r = ask(inst, type, timeout_s, signal, &session, NULL);
        if (r < 0)
                return 1; /* it went away meanwhile: that is what was wanted */
        if (status == INSTANCE_PAUSED)
                instance_unpause(inst, NULL);
        r = session_wait_exit(session, &code, NULL, err);
        if (r == 0 && ret)
                *ret = TAKE_PTR(session);
        else if (r == 0)
                session_wait_closed(session);
        return r;
}

int instance_stop(struct instance *inst, int signal, int timeout_s, struct err **err)
{
        enum instance_status status = INSTANCE_CREATED;
        int r = end(inst, MESSAGE_STOP, signal, timeout_s, NULL, err);

        /* Should the supervisor have been killed, this takes away the container. */
        return r < 0 ? r : current_state(inst, &status, err);
}

int instance_restart(struct instance *inst, int signal, int timeout_s, struct err **err)
{
        _cleanup_(instance_session_freep) struct instance_session *session = NULL;
        int r = end(inst, MESSAGE_RESTART, signal, timeout_s, &session, err);

        if (r < 0)
                return r;
        if (r > 0)
                return instance_start(inst, 0, NULL, err);
        r = session_wait_started(session, err);
        if (r < 0) {
                const struct instance_state *state;

                if (instance_get_state(inst, &state, NULL) == 0 && state->error[0])
                        return err_set(err, ERR_IO, EIO, "restarting '%s': %s", inst->config.name, state->error);
        }
        return r;
}

static int freeze(struct instance *inst, bool freeze, struct err **err)
{
        _cleanup_close_ int lock = -1;
        enum instance_status status = INSTANCE_CREATED;
        int r = instance_lock(inst, true, &lock, err);

        if (r == 0)
                r = state_recover(inst, err);
        if (r == 0)
                r = current_state(inst, &status, err);
        if (r < 0)
                return r;
        if (status != INSTANCE_RUNNING && status != INSTANCE_PAUSED)
                return not_running(inst, err);
        if ((status == INSTANCE_PAUSED) == freeze)
                return err_set(err, ERR_BUSY, EBUSY, "the instance '%s' is %s", inst->config.name,
                        freeze ? "paused already" : "not paused");
        r = inst->ops->freeze(inst, freeze, err);
        if (r == 0)
                event_write(inst->host, freeze ? "pause" : "unpause", inst, 0, "");
        return r;
}

int instance_pause(struct instance *inst, struct err **err)
{
        return freeze(inst, true, err);
}

int instance_unpause(struct instance *inst, struct err **err)
{
        return freeze(inst, false, err);
}

int instance_wait(struct instance *inst, enum instance_wait until, int *ret_status, struct err **err)
{
        _cleanup_(instance_session_freep) struct instance_session *session = NULL;
        const struct instance_state *state;
        bool last = false;
        int code = 0, r;

        r = session_open(inst, 0, &session, NULL);
        if (r == 0)
                r = session_send(session, MESSAGE_WAIT, 0, 0, NULL);
        if (r == 0) {
                r = session_wait_exit(session, &code, &last, err);
                while (r == 0 && !last && until == INSTANCE_WAIT_REMOVED)
                        r = session_wait_exit(session, &code, &last, err);
                if (r == 0 && last)
                        session_wait_closed(session);
                if (r == 0) {
                        *ret_status = code;
                        return 0;
                }
        }
        if (!config_exists(inst->dir)) {
                *ret_status = 137; /* nobody heard how it ended */
                return 0;
        }
        r = instance_get_state(inst, &state, err);
        if (r == 0)
                *ret_status = state->exit_code;
        return r;
}

/* --- removing --------------------------------------------------------------------------------------------------- */

int instance_remove(struct instance *inst, unsigned flags, struct err **err)
{
        _cleanup_close_ int lock = -1;
        enum instance_status status = INSTANCE_CREATED;
        int r = current_state(inst, &status, err);

        if (r < 0)
                return r;
        if (supervisor_alive(inst) && status == INSTANCE_EXITED)
                supervisor_wait_gone(inst); /* it is at its end */
        else if (supervisor_alive(inst)) {
                if (!(flags & INSTANCE_REMOVE_FORCE)) {
                        r = err_set(err, ERR_BUSY, EBUSY, "the instance '%s' is %s", inst->config.name,
                                instance_status_name(status));
                        return err_hint(err, r, "stop it first, or use --force");
                }
                r = instance_stop(inst, 0, 0, err);
                if (r < 0)
                        return r;
        }
        r = instance_lock(inst, true, &lock, NULL);
        if (r == -ENOENT || !config_exists(inst->dir))
                return 0; /* --rm was quicker */
        if (r == 0)
                r = state_recover(inst, err);
        if (r < 0)
                return r;
        if (supervisor_alive(inst))
                return err_set(err, ERR_BUSY, EBUSY, "the instance '%s' was started again", inst->config.name);
        event_write(inst->host, "destroy", inst, 0, "");
        return instance_destroy(inst, flags & INSTANCE_REMOVE_VOLUMES, err);
}

/* --- updates ---------------------------------------------------------------------------------------------------- */

/* Members of @change that are given replace those of @to. */
static void merge_resources(struct arena *arena, struct instance_resources *to, const struct instance_resources *change)
{
        const struct {
                s64 *to, change;
        } numbers[] = {
                { &to->memory, change->memory },
                { &to->memory_reservation, change->memory_reservation },
                { &to->memory_swap, change->memory_swap },
                { &to->nano_cpus, change->nano_cpus },
                { &to->cpu_shares, change->cpu_shares },
                { &to->cpu_period, change->cpu_period },
                { &to->cpu_quota, change->cpu_quota },
                { &to->pids, change->pids },
                { &to->blkio_weight, change->blkio_weight },
        };

        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
                if (numbers[i].change)
                        *numbers[i].to = numbers[i].change;
        if (change->memory_swappiness >= 0)
                to->memory_swappiness = change->memory_swappiness;
        if (change->cpuset_cpus)
                to->cpuset_cpus = arena_strdup(arena, change->cpuset_cpus);
        if (change->cpuset_mems)
                to->cpuset_mems = arena_strdup(arena, change->cpuset_mems);
}

int instance_update(struct instance *inst, const struct instance_update *update, struct err **err)
{
        struct instance_config *c = &inst->config;
        _cleanup_close_ int lock = -1;
        enum instance_status status = INSTANCE_CREATED;
        int r = instance_lock(inst, true, &lock, err);

        if (r == 0)
                r = config_load(inst, err);
        if (r == 0)
                r = state_recover(inst, err);
        if (r == 0)
                r = current_state(inst, &status, err);
        if (r < 0)
                return r;
        if (update->set_restart && c->auto_remove && update->restart != INSTANCE_RESTART_NO)
                return err_set(err, ERR_USAGE, EINVAL, "an instance that is removed at its end cannot be restarted");
        merge_resources(&inst->arena, &c->resources, &update->resources);
        if (c->resources.nano_cpus && (c->resources.cpu_quota || c->resources.cpu_period))
                return err_set(err, ERR_USAGE, EINVAL, "CPUs are given as a number or as quota and period");
        if (update->set_restart) {
                c->restart = update->restart;
                c->restart_max = update->restart_max;
        }
        if (status == INSTANCE_RUNNING || status == INSTANCE_PAUSED)
                r = inst->ops->update(inst, err);
        if (r == 0)
                r = config_save(inst, err);
        if (r == 0)
                r = supervise_save(inst, err);
        if (r == 0 && supervisor_alive(inst))
                ask(inst, MESSAGE_RELOAD, 0, 0, NULL, NULL);
        if (r == 0)
                event_write(inst->host, "update", inst, 0, "");
        return r;
}

int instance_resize(struct instance *inst, u16 rows, u16 columns, struct err **err)
{
        _cleanup_(instance_session_freep) struct instance_session *session = NULL;
        int r = session_open(inst, 0, &session, err);

        return r < 0 ? r : instance_session_resize(session, rows, columns, err);
}
