#include "fake_env.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- what devices call ---- */

static void line_set(void *opaque, unsigned n, bool level)
{
        struct fake_env *f = opaque;

        if (level && !f->line[n])
                f->rises[n]++;
        f->line[n] = level;
}

static struct irq_line env_irq(struct device_env *env, unsigned gsi)
{
        struct fake_env *f = container_of(env, struct fake_env, env);

        assert_in_range(gsi, 0, FAKE_GSIS - 1);
        return (struct irq_line){ .set = line_set, .opaque = f, .n = gsi };
}

static void env_stop(struct device_env *env, enum machine_stop why, unsigned code)
{
        struct fake_env *f = container_of(env, struct fake_env, env);

        f->stop = why;
        f->stop_code = code;
        f->n_stops++;
}

static void env_add(struct device_env *env, struct device *dev)
{
        struct fake_env *f = container_of(env, struct fake_env, env);

        dev->next = NULL;
        *f->devices_tail = dev;
        f->devices_tail = &dev->next;
}

static void msi_send(void *opaque, u64 address, u32 data)
{
        struct fake_env *f = opaque;

        if (f->n_msis < FAKE_MSIS)
                f->msi[f->n_msis] = (struct fake_msi){ address, data };
        f->n_msis++;
}

/* ---- life ---- */

void fake_env_init(struct fake_env *f, u64 ram_size)
{
        struct err *err = NULL;

        memset(f, 0, sizeof(*f));
        pthread_mutex_init(&f->lock, NULL);
        f->devices_tail = &f->devices;
        io_space_init(&f->ports, &f->lock, &f->counters, true);
        f->env = (struct device_env){
                .ports = &f->ports,
                .lock = &f->lock,
                .counters = &f->counters,
                .msi = { .send = msi_send, .opaque = f },
                .irq = env_irq,
                .stop = env_stop,
                .add = env_add,
        };
        if (guest_memory_new(ram_size, &f->lock, &f->counters, &f->env.memory, &err) < 0)
                fail_msg("%s", err_message(err));
        f->env.loop = loop_new(&f->lock, &err);
        if (!f->env.loop)
                fail_msg("%s", err_message(err));
}

static void unlink_device(struct fake_env *f, struct device *dev)
{
        struct device **p = &f->devices;

        while (*p && *p != dev)
                p = &(*p)->next;
        assert_ptr_equal(*p, dev);
        *p = dev->next;
        if (!*p)
                f->devices_tail = p;
}

void fake_env_remove(struct fake_env *f, struct device *dev)
{
        fake_env_lock(f);
        unlink_device(f, dev);
        dev->ops->destroy(dev);
        fake_env_unlock(f);
}

void fake_env_free(struct fake_env *f)
{
        if (f->thread_runs) {
                loop_stop(f->env.loop);
                pthread_join(f->thread, NULL);
        }
        while (f->devices) {
                struct device *last = f->devices;

                while (last->next)
                        last = last->next;
                fake_env_remove(f, last);
        }
        loop_free(f->env.loop);
        guest_memory_free(f->env.memory);
        io_space_free(&f->ports);
        pthread_mutex_destroy(&f->lock);
}

struct device *fake_env_device(struct fake_env *f, const char *name)
{
        for (struct device *dev = f->devices; dev; dev = dev->next)
                if (strcmp(dev->ops->name, name) == 0)
                        return dev;
        fail_msg("there is no device '%s'", name);
        return NULL;
}

/* ---- threads ---- */

void fake_env_lock(struct fake_env *f)
{
        pthread_mutex_lock(&f->lock);
}

void fake_env_unlock(struct fake_env *f)
{
        pthread_mutex_unlock(&f->lock);
}

static void *loop_thread(void *opaque)
{
        struct fake_env *f = opaque;

        loop_run(f->env.loop, NULL);
        return NULL;
}

bool fake_env_wait(struct fake_env *f, bool (*condition)(void *opaque), void *opaque)
{
        const struct timespec pause = { .tv_nsec = 500000 };
        const u64 give_up = clock_now_ns() + 20 * NSEC_PER_SEC;

        if (!f->thread_runs) {
                assert_int_equal(pthread_create(&f->thread, NULL, loop_thread, f), 0);
                f->thread_runs = true;
        }
        for (;;) {
                bool holds;

                fake_env_lock(f);
                holds = condition(opaque);
                fake_env_unlock(f);
                if (holds || clock_now_ns() > give_up)
                        return holds;
                nanosleep(&pause, NULL);
        }
}

/* ---- accesses ---- */

u64 fake_in(struct fake_env *f, u16 port, unsigned size)
{
        u64 value;

        io_read(&f->ports, port, size, &value);
        return value;
}

void fake_out(struct fake_env *f, u16 port, unsigned size, u64 value)
{
        io_write(&f->ports, port, value, size);
}

u64 fake_mmio_read(struct fake_env *f, u64 gpa, unsigned size)
{
        u64 value;

        io_read(&f->env.memory->mmio, gpa, size, &value);
        return value;
}

void fake_mmio_write(struct fake_env *f, u64 gpa, unsigned size, u64 value)
{
        io_write(&f->env.memory->mmio, gpa, value, size);
}

/* ---- saved state ---- */

void fake_save(struct device *dev, struct state_out *out)
{
        state_out_init(out);
        state_out_section_begin(out, dev->ops->name, dev->ops->version);
        dev->ops->save(dev, out);
        state_out_section_end(out);
        assert_int_equal(state_out_finish(out, NULL), 0);
}

int fake_load(struct device *dev, const struct state_out *state, struct err **err)
{
        char name[STATE_NAME_MAX];
        struct state_in in;
        u32 version;

        state_in_init(&in, state->data, state->len);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        assert_string_equal(name, dev->ops->name);
        return dev->ops->load(dev, &in, version, err);
}

/* Offset of a section's payload, and of its length field. */
#define HEADER (STATE_NAME_MAX + 8)
#define LENGTH_AT (STATE_NAME_MAX + 4)

static void assert_state_is(struct device *dev, const struct state_out *expected)
{
        struct state_out now;

        fake_save(dev, &now);
        assert_int_equal(now.len, expected->len);
        assert_memory_equal(now.data, expected->data, now.len);
        state_out_free(&now);
}

void fake_check_state(struct fake_env *f, struct device *dev)
{
        struct state_out state, part;
        size_t step;
        u8 *copy;

        fake_env_lock(f);
        if (dev->ops->quiesce)
                dev->ops->quiesce(dev);
        fake_save(dev, &state);
        copy = malloc(state.len);
        assert_non_null(copy);
        step = 1 + (state.len - HEADER) / 2048; /* every byte of a small state, some of a large one */

        for (size_t len = HEADER; len < state.len; len += step) {
                const u32 payload = (u32)(len - HEADER);
                struct err *err = NULL;

                memcpy(copy, state.data, len);
                memcpy(copy + LENGTH_AT, &payload, sizeof(payload));
                part = (struct state_out){ .data = copy, .len = len };
                assert_true(fake_load(dev, &part, &err) < 0);
                assert_non_null(err);
                err_free(err);
                assert_state_is(dev, &state);
        }
        assert_int_equal(fake_load(dev, &state, NULL), 0);
        assert_state_is(dev, &state);

        /* Wrong bytes may be refused or taken, but the device must live on: use it a little after each. */
        for (size_t i = HEADER; i < state.len; i += step) {
                memcpy(copy, state.data, state.len);
                copy[i] ^= (u8)(0x80 | i);
                part = (struct state_out){ .data = copy, .len = state.len };
                if (fake_load(dev, &part, NULL) < 0)
                        continue;
                if (dev->ops->resume)
                        dev->ops->resume(dev);
                dev->ops->reset(dev);
                if (dev->ops->quiesce)
                        dev->ops->quiesce(dev);
        }
        assert_int_equal(fake_load(dev, &state, NULL), 0);
        free(copy);
        state_out_free(&state);
        fake_env_unlock(f);
}
