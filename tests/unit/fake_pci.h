/* fake_env with a PCI bus, and the guest's side of it: configuration accesses and memory. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/pci.h"
#include "fake_env.h"

#define FAKE_RAM (16 * MIB)
#define FAKE_DOORBELLS 16

struct fake_doorbell {
        u64 address;
        int fd;
};

struct fake_machine {
        struct fake_env f;
        struct pci_bus *bus;
        unsigned msis[FAKE_MSIS]; /* how many with this data */
        u64 last_msi_address;
        struct fake_doorbell doorbells[FAKE_DOORBELLS];
};

static inline void fake_machine_msi(void *opaque, u64 address, u32 data)
{
        struct fake_machine *m = opaque;

        m->last_msi_address = address;
        if (data < FAKE_MSIS)
                __atomic_add_fetch(&m->msis[data], 1, __ATOMIC_RELAXED);
}

/* For env.ioeventfd of tests that want it. */
static inline int fake_ioeventfd(struct device_env *env, bool port, u64 address, unsigned size, int fd, bool add)
{
        struct fake_machine *m = env->machine;

        (void)port;
        (void)size;
        for (unsigned i = 0; i < FAKE_DOORBELLS; i++) {
                struct fake_doorbell *bell = &m->doorbells[i];

                if (add ? bell->fd <= 0 : bell->fd == fd && bell->address == address) {
                        *bell = (struct fake_doorbell){ .address = add ? address : 0, .fd = add ? fd : 0 };
                        return 0;
                }
        }
        return -1;
}

/* Devices are created between fake_machine_new and fake_machine_start. */
static inline struct fake_machine *fake_machine_new(void)
{
        struct fake_machine *m = calloc(1, sizeof(*m));

        assert_non_null(m);
        fake_env_init(&m->f, FAKE_RAM);
        m->f.env.msi = (struct msi_sink){ fake_machine_msi, m };
        m->f.env.machine = m;
        assert_int_equal(pci_bus_new(&m->f.env, &m->bus, NULL), 0);
        return m;
}

static inline bool fake_always(void *opaque)
{
        (void)opaque;
        return true;
}

static inline void fake_machine_start(struct fake_machine *m)
{
        assert_int_equal(pci_assign_resources(m->bus, NULL), 0);
        assert_true(fake_env_wait(&m->f, fake_always, NULL));
}

static inline void fake_machine_free(struct fake_machine *m)
{
        fake_env_free(&m->f);
        free(m);
}

/* Waits up to ten seconds for something the loop's thread does. */
#define wait_for(condition)                                                                                            \
        do {                                                                                                           \
                bool _holds = (condition);                                                                             \
                                                                                                                       \
                for (int _i = 0; _i < 10000 && !_holds; _i++, _holds = (condition))                                    \
                        usleep(1000);                                                                                  \
                assert_true(_holds);                                                                                   \
        } while (0)

/* The same for what is written with the device lock held. */
#define wait_locked(env, condition)                                                                                    \
        wait_for(({                                                                                                    \
                fake_env_lock(env);                                                                                    \
                bool _now = (condition);                                                                               \
                fake_env_unlock(env);                                                                                  \
                _now;                                                                                                  \
        }))

/* Waits until everything that was queued for the loop before this call has run, timers that were due included. */
static inline void fake_synced(void *opaque)
{
        __atomic_store_n((bool *)opaque, true, __ATOMIC_RELEASE);
}
static inline void fake_sync(struct fake_machine *m)
{
        struct loop_timer timer;
        bool done = false;

        loop_timer_init(&timer, m->f.env.loop, fake_synced, &done);
        fake_env_lock(&m->f);
        loop_timer_set(&timer, 0);
        fake_env_unlock(&m->f);
        wait_for(__atomic_load_n(&done, __ATOMIC_ACQUIRE));
        fake_env_lock(&m->f); /* the loop has let go of the timer */
        fake_env_unlock(&m->f);
}

/* ---- the guest's side ---- */

static inline u32 cfg_read(struct fake_machine *m, unsigned slot, unsigned offset, unsigned size)
{
        fake_out(&m->f, PCI_CONFIG_ADDRESS, 4, 0x80000000U | slot << 11 | (offset & 0xfc));
        return (u32)fake_in(&m->f, (u16)(PCI_CONFIG_DATA + (offset & 3)), size);
}

static inline void cfg_write(struct fake_machine *m, unsigned slot, unsigned offset, unsigned size, u32 value)
{
        fake_out(&m->f, PCI_CONFIG_ADDRESS, 4, 0x80000000U | slot << 11 | (offset & 0xfc));
        fake_out(&m->f, (u16)(PCI_CONFIG_DATA + (offset & 3)), size, value);
}

static inline u64 ecam(unsigned slot, unsigned offset)
{
        return PCI_ECAM_BASE + ((u64)slot << 15) + offset;
}

static inline u64 mmio_read(struct fake_machine *m, u64 address, unsigned size)
{
        return fake_mmio_read(&m->f, address, size);
}

static inline void mmio_write(struct fake_machine *m, u64 address, unsigned size, u64 value)
{
        fake_mmio_write(&m->f, address, size, value);
}

static inline void *ram(struct fake_machine *m, u64 gpa)
{
        void *p = guest_memory_hva(m->f.env.memory, gpa, 1);

        assert_non_null(p);
        return p;
}

static inline u64 bar_at(struct fake_machine *m, unsigned slot, unsigned bar)
{
        const u32 low = cfg_read(m, slot, PCI_BAR0 + 4 * bar, 4);
        u64 address = low & ~0xfU;

        if ((low & 7) == 4)
                address |= (u64)cfg_read(m, slot, PCI_BAR0 + 4 * bar + 4, 4) << 32;
        return address;
}

/* Offset of the @nth (from 0) capability with @id, 0 when there is none. */
static inline unsigned find_cap(struct fake_machine *m, unsigned slot, u8 id, unsigned nth)
{
        unsigned offset = cfg_read(m, slot, PCI_CAPABILITY_LIST, 1);

        for (int i = 0; i < 48 && offset; i++, offset = cfg_read(m, slot, offset + 1, 1)) {
                if (cfg_read(m, slot, offset, 1) == id && nth-- == 0)
                        return offset;
        }
        return 0;
}
