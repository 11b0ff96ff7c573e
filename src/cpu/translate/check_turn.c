/* Turns: under lockstep checking one vCPU at a time runs guest code. A vCPU that waits for its turn counts as outside of guest code, so that nobody
 * waits for its answers; it hears what it was told when it gets its turn (machine.h). */
#include "check.h"

#include "runtime.h"

#define TURN_BLOCKS 500u

void check_turns_init(struct check_turns *turns)
{
        pthread_mutex_init(&turns->lock, NULL);
        pthread_cond_init(&turns->given, NULL);
        turns->next = turns->now = 0;
}

void check_turns_destroy(struct check_turns *turns)
{
        pthread_cond_destroy(&turns->given);
        pthread_mutex_destroy(&turns->lock);
}

void check_turn_take(struct check_turns *turns)
{
        u64 ticket;

        pthread_mutex_lock(&turns->lock);
        for (ticket = turns->next++; turns->now != ticket;)
                pthread_cond_wait(&turns->given, &turns->lock);
        pthread_mutex_unlock(&turns->lock);
}

void check_turn_give(struct check_turns *turns)
{
        pthread_mutex_lock(&turns->lock);
        turns->now++;
        pthread_cond_broadcast(&turns->given);
        pthread_mutex_unlock(&turns->lock);
}

void check_turn_pass(struct interp *in)
{
        struct check_turns *turns = &in->translate->translator->turns;

        if (++in->translate->turn_blocks % TURN_BLOCKS || __atomic_load_n(&turns->next, __ATOMIC_RELAXED) == turns->now + 1)
                return;
        interp_leave_guest(in);
        check_turn_give(turns);
        check_turn_take(turns);
        interp_enter_guest(in);
}
