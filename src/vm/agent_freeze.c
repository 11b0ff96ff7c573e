/* Processes that stand still while a machine is saved, so that none of what goes on from there runs before it has been told who it is: strata-init alone
 * does then. A machine that was saved so lets them go on when its script is done (agent_script.c); this one when it is told to (agent_thaw). */
#include "agent_internal.h"

#include <errno.h>

#include "base/cleanup.h"

/* A guest that does so much else that it cannot be saved. */
#define FREEZE_NS (20 * NSEC_PER_SEC)

void agent_freeze_over(struct agent *agent, const char *error)
{
        void (*done)(void *opaque, const char *error) = agent->freeze_done;

        loop_timer_cancel(&agent->freeze_timer);
        agent->freeze_done = NULL;
        if (error)
                agent_thaw(agent);
        if (done)
                done(agent->freeze_opaque, error);
}

void agent_on_freeze_timer(void *opaque)
{
        agent_freeze_over(opaque, "strata-init in the machine does not answer");
}

/* Whether there will be an answer. */
static bool tell(struct agent *agent, u32 freeze, enum agent_owner owner)
{
        const struct agent_task *task = owner == OWNER_NOBODY ? NULL : agent_task_new(agent, owner);

        if (task || !freeze) /* what stands still is let go whatever else is going on */
                agent_send_numbers(agent, INIT_FREEZE, task ? task->id : 0, &freeze, 1);
        return task;
}

int agent_freeze(struct agent *agent, void (*done)(void *opaque, const char *error), void *opaque)
{
        if (agent->s.phase != AGENT_RUNNING || agent->failed || !(agent->s.features & INIT_FEATURE_FREEZE))
                return -EOPNOTSUPP;
        if (agent->replay.data || agent->s.frozen || !tell(agent, 1, OWNER_FREEZE))
                return -EBUSY;
        agent->s.frozen = true;
        agent->freeze_done = done;
        agent->freeze_opaque = opaque;
        loop_timer_set(&agent->freeze_timer, clock_now_ns() + FREEZE_NS);
        return 0;
}

bool agent_let_go(struct agent *agent, enum agent_owner owner)
{
        if (!agent->s.frozen)
                return false;
        agent->s.frozen = false;
        return tell(agent, 0, owner);
}

void agent_thaw(struct agent *agent)
{
        if (!agent->s.frozen || agent->replay.data) /* a script does so itself */
                return;
        agent_let_go(agent, OWNER_NOBODY);
        agent_clients_update(agent);
}
