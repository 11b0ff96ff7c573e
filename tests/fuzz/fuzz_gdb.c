/* The debugger's port: any bytes at all, while a machine stops and runs. Bytes 0xfe and 0xff of the input stand
 * for events: a vCPU stops, the connection's next read begins. */
#include <stdlib.h>
#include <string.h>

#include "vm/gdb_session.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define N_CPUS      2
#define MEMORY_SIZE (64 * KIB)

struct fake {
        struct gdb_session session;
        struct vcpu vcpus[N_CPUS];
        struct guest_memory *memory;
        pthread_mutex_t lock;
        bool running;
};

static unsigned n_vcpus(void *opaque)
{
        return N_CPUS;
}

static struct vcpu *vcpu(void *opaque, unsigned index)
{
        struct fake *f = opaque;

        if (index >= N_CPUS)
                abort();
        return &f->vcpus[index];
}

static void resume(void *opaque)
{
        struct fake *f = opaque;

        if (f->running) /* only a stopped machine is let go */
                abort();
        f->running = true;
}

static void nothing(void *opaque)
{
}

static void hold(void *opaque, unsigned index, bool on)
{
        if (index >= N_CPUS)
                abort();
}

static void drop(void *opaque, const char *data, size_t n)
{
        if (n > GDB_FRAME_MAX)
                abort();
}

static const struct gdb_machine_ops ops = {
        .n_vcpus = n_vcpus,
        .vcpu = vcpu,
        .resume = resume,
        .interrupt = nothing,
        .hold = hold,
        .quit = nothing,
};

static void event(struct fake *f, u8 byte)
{
        if (!f->running)
                return;
        f->running = false;
        f->vcpus[byte & 1].debug.hit_point = (int)f->vcpus[0].debug.n_points - 1;
        gdb_session_stopped(&f->session, byte & 1, false);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        static struct fake *f;

        if (!f) {
                f = aligned_alloc(64, ALIGN_UP(sizeof(*f), 64));
                memset(f, 0, sizeof(*f));
                pthread_mutex_init(&f->lock, NULL);
                if (guest_memory_new(MEMORY_SIZE, &f->lock, NULL, &f->memory, NULL) < 0)
                        abort();
        }
        for (unsigned i = 0; i < N_CPUS; i++) {
                memset(&f->vcpus[i], 0, sizeof(f->vcpus[i]));
                f->vcpus[i].memory = f->memory;
                cpu_state_reset(&f->vcpus[i].state, i == 0);
        }
        f->running = false;
        if (gdb_session_init(&f->session, &ops, f, drop, f, NULL) < 0)
                return 0;
        for (size_t i = 0; i < len; i++) {
                if (data[i] >= 0xfe)
                        event(f, data[i]);
                else
                        gdb_session_input(&f->session, &data[i], 1);
                if (f->session.n_points > DEBUG_POINTS_MAX || f->session.general_thread >= N_CPUS)
                        abort();
        }
        gdb_session_end(&f->session);
        return 0;
}
