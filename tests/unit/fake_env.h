/* A machine without a CPU for the tests of devices: RAM, ports, an event loop and a device lock as in the real one, with
 * everything that devices send to the board recorded.
 *
 *         struct fake_env f;
 *         fake_env_init(&f, 2 * MIB);
 *         assert_int_equal(pit_new(&f.env, &pit, NULL), 0);        // constructors: before the loop runs, no lock needed
 *         fake_out(&f, 0x43, 1, 0x34);                             // accesses take the device lock, as a vCPU's do
 *         assert_true(fake_env_wait(&f, some_condition, &f));      // runs the loop on its own thread until it holds
 *         fake_env_free(&f);                                       // destroys the devices, newest first
 *
 * Once fake_env_wait was called the loop's thread runs to the end of the test, so direct calls of device functions then need
 * fake_env_lock. Conditions are called with the lock held. */
#pragma once

#include "dev/dev.h"

#define FAKE_GSIS 24
#define FAKE_MSIS 64

struct fake_msi {
        u64 address;
        u32 data;
};

struct fake_env {
        struct device_env env; /* what constructors want */
        pthread_mutex_t lock;
        struct counters counters;
        struct io_space ports;
        struct device *devices, **devices_tail;

        bool line[FAKE_GSIS];      /* wires from env.irq: level now */
        unsigned rises[FAKE_GSIS]; /* how often they went up */
        struct fake_msi msi[FAKE_MSIS];
        size_t n_msis; /* all that were sent; the first FAKE_MSIS are kept */
        enum machine_stop stop;
        unsigned stop_code, n_stops;

        pthread_t thread;
        bool thread_runs;
};

/* Ends the test when a part of the machine cannot be made. */
void fake_env_init(struct fake_env *f, u64 ram_size);
void fake_env_free(struct fake_env *f);
/* Destroys one device before its time. */
void fake_env_remove(struct fake_env *f, struct device *dev);
/* A device by the name in its ops; ends the test when there is none. */
struct device *fake_env_device(struct fake_env *f, const char *name);

void fake_env_lock(struct fake_env *f);
void fake_env_unlock(struct fake_env *f);
/* Runs the loop until @condition holds. False when it did not within 20 seconds: a device that never does its work. */
bool fake_env_wait(struct fake_env *f, bool (*condition)(void *opaque), void *opaque);

/* Port and memory accesses of 1, 2, 4 or 8 bytes. */
u64 fake_in(struct fake_env *f, u16 port, unsigned size);
void fake_out(struct fake_env *f, u16 port, unsigned size, u64 value);
u64 fake_mmio_read(struct fake_env *f, u64 gpa, unsigned size);
void fake_mmio_write(struct fake_env *f, u64 gpa, unsigned size, u64 value);

/* Saved state of one device. */
void fake_save(struct device *dev, struct state_out *out);
int fake_load(struct device *dev, const struct state_out *state, struct err **err);
/* What every device promises: each truncation of its state is refused without changing it, loading its own state and saving
 * again gives the same bytes, and no flip of a byte of the state breaks it. Quiesces the device, so do this last. */
void fake_check_state(struct fake_env *f, struct device *dev);
