/* What every engine's vCPUs have in common: work from other threads, moving between engines, a debugger's view of
 * memory. */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu.h"

/* work is set before the kick (release), and looked at by the engine after it made itself kickable (acquire): either
 * the engine sees the work or the kick finds it running. The futex wakes a vCPU that sleeps because it halted. */
void vcpu_post_work(struct vcpu *vcpu, u32 work)
{
        u32 old;

        if (work & VCPU_WORK_NMI)
                __atomic_add_fetch(&vcpu->nmis_posted, 1, __ATOMIC_SEQ_CST);
        old = __atomic_fetch_or(&vcpu->work, work, __ATOMIC_SEQ_CST);

        if ((old & work) == work)
                return; /* whoever set it first has kicked or is about to */
        syscall(SYS_futex, &vcpu->work, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
        pthread_mutex_lock(&vcpu->kick_lock);
        if (!vcpu->no_kick && vcpu->engine && vcpu->engine->kick)
                vcpu->engine->kick(vcpu);
        pthread_mutex_unlock(&vcpu->kick_lock);
}

void vcpu_wait_for_work(struct vcpu *vcpu)
{
        while (!__atomic_load_n(&vcpu->work, __ATOMIC_ACQUIRE))
                syscall(SYS_futex, &vcpu->work, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static unsigned engine_number(const struct cpu_engine *engine)
{
        for (unsigned i = 0; cpu_engines[i]; i++)
                if (cpu_engines[i] == engine)
                        return i;
        return UINT_MAX;
}

static void allow_kicks(struct vcpu *vcpu, bool allowed)
{
        pthread_mutex_lock(&vcpu->kick_lock);
        vcpu->no_kick = !allowed;
        pthread_mutex_unlock(&vcpu->kick_lock);
}

/* The new engine takes the vCPU first; only when it could is the old one's part destroyed. */
static int set_engine(struct vcpu *vcpu, const struct cpu_engine *engine, void *machine, struct err **err)
{
        const struct cpu_engine *old_engine = vcpu->engine;
        void *old_data = vcpu->engine_data, *old_machine = vcpu->engine_machine;
        void *new_data;
        int r;

        vcpu->engine = engine;
        vcpu->engine_machine = machine;
        vcpu->engine_data = NULL;
        r = engine->vcpu_create(vcpu, err);
        if (r < 0) {
                vcpu->engine = old_engine;
                vcpu->engine_machine = old_machine;
                vcpu->engine_data = old_data;
                return err_wrap(err, r, "moving vCPU %u to engine '%s'", vcpu->index, engine->name);
        }
        if (old_engine) {
                new_data = vcpu->engine_data;
                vcpu->engine_data = old_data;
                vcpu->engine_machine = old_machine;
                old_engine->vcpu_destroy(vcpu);
                vcpu->engine_data = new_data;
                vcpu->engine_machine = machine;
                counter_inc(&vcpu->counters, COUNTER_ENGINE_SWITCHES);
                trace(ENGINE_SWITCH, vcpu->index, engine_number(old_engine), engine_number(engine));
        }
        if (engine->state_changed)
                engine->state_changed(vcpu);
        return 0;
}

/* The lock is not held while engines work: they have locks of their own, under which others post work. A stopped vCPU needs no kick, it looks at
 * its work when it runs again. */
int vcpu_set_engine(struct vcpu *vcpu, const struct cpu_engine *engine, void *machine, struct err **err)
{
        int r;

        allow_kicks(vcpu, false);
        r = set_engine(vcpu, engine, machine, err);
        allow_kicks(vcpu, true);
        return r;
}

/* Calls @copy for each part of [gva, gva + len) that lies in one page; stops where nothing is mapped. */
static size_t for_each_page(struct vcpu *vcpu, u64 gva, size_t len,
                            int (*copy)(struct guest_memory *mem, u64 gpa, void *buf, u64 n), u8 *buf)
{
        size_t done = 0;

        while (done < len) {
                struct mmu_translation tr;
                u64 n = MIN(len - done, PAGE_SIZE - (gva & ~PAGE_MASK));

                if (!cpu_long_mode(&vcpu->state))
                        gva &= 0xffffffff;
                if (!mmu_is_canonical(gva) ||
                    mmu_walk(vcpu->memory, &vcpu->state.paging, gva, MMU_READ, MMU_PEEK, &tr) ||
                    copy(vcpu->memory, tr.gpa, buf + done, n) < 0)
                        break;
                done += n;
                gva += n;
        }
        return done;
}

static int copy_out(struct guest_memory *mem, u64 gpa, void *buf, u64 n)
{
        return guest_memory_read(mem, gpa, buf, n);
}

static int copy_in(struct guest_memory *mem, u64 gpa, void *buf, u64 n)
{
        return guest_memory_write(mem, gpa, buf, n);
}

size_t vcpu_peek(struct vcpu *vcpu, u64 gva, void *dst, size_t len)
{
        return for_each_page(vcpu, gva, len, copy_out, dst);
}

size_t vcpu_poke(struct vcpu *vcpu, u64 gva, const void *src, size_t len)
{
        return for_each_page(vcpu, gva, len, copy_in, (u8 *)(uintptr_t)src);
}
