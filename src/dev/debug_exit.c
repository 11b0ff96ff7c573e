#include "dev/debug_exit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TESTDEV_MEMORY_BASE 0xff000000ULL
#define TESTDEV_MEMORY_SIZE 0x10000
#define TESTDEV_GSIS 24
#define TESTDEV_IRQ_PORT 0x2000
#define TESTDEV_VALUE_PORT 0xe0
#define TESTDEV_FLUSH_PORT 0xe4

/* ---- debug exit ---- */

struct debug_exit {
        struct device dev;
        struct device_env *env;
};

static void exit_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct debug_exit *d = opaque;

        if (offset == 0)
                d->env->stop(d->env, MACHINE_DEBUG_EXIT, value & 0xff);
}

static const struct io_ops exit_ops = { .write = exit_write };

static void nothing(struct device *dev)
{
}

static void nothing_save(struct device *dev, struct state_out *out)
{
}

static int nothing_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        return 0;
}

static void exit_destroy(struct device *dev)
{
        struct debug_exit *d = container_of(dev, struct debug_exit, dev);

        io_space_remove(d->env->ports, DEBUG_EXIT_PORT, d);
        free(d);
}

static const struct device_ops exit_device_ops = {
        .name = "debug-exit",
        .version = 1,
        .reset = nothing,
        .save = nothing_save,
        .load = nothing_load,
        .destroy = exit_destroy,
};

int debug_exit_new(struct device_env *env, struct err **err)
{
        struct debug_exit *d = calloc(1, sizeof(*d));
        int r;

        if (!d)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the debug-exit port");
        d->dev.ops = &exit_device_ops;
        d->env = env;
        r = io_space_add(env->ports, DEBUG_EXIT_PORT, 4, &exit_ops, d, "debug-exit", err);
        if (r < 0) {
                free(d);
                return r;
        }
        env->add(env, &d->dev);
        return 0;
}

/* ---- testdev ---- */

struct testdev {
        struct device dev;
        struct device_env *env;
        struct irq_line line[TESTDEV_GSIS];
        u32 value;
        u8 memory[TESTDEV_MEMORY_SIZE];
};

static void irq_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct testdev *t = opaque;

        irq_line_set(&t->line[offset], value & 1);
}

static u64 value_read(void *opaque, u64 offset, unsigned size)
{
        const struct testdev *t = opaque;

        return t->value >> (offset * 8);
}

static void value_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct testdev *t = opaque;
        const u64 mask = (BIT(size * 8) - 1) << (offset * 8);

        t->value = (u32)((t->value & ~mask) | (value << (offset * 8) & mask));
}

/* Accesses stay inside the region, so inside the array. */
static u64 memory_read(void *opaque, u64 offset, unsigned size)
{
        const struct testdev *t = opaque;
        u64 v = 0;

        memcpy(&v, t->memory + offset, size);
        return v;
}

static void memory_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct testdev *t = opaque;

        memcpy(t->memory + offset, &value, size);
}

static const struct io_ops memory_ops = { .read = memory_read, .write = memory_write };

static const struct testdev_ports {
        u16 port, size;
        struct io_ops ops;
} testdev_ports[] = {
        { TESTDEV_IRQ_PORT, TESTDEV_GSIS, { .write = irq_write, .max_size = 1 } },
        { TESTDEV_VALUE_PORT, 4, { .read = value_read, .write = value_write, .max_size = 4 } },
        { TESTDEV_FLUSH_PORT, 8, { .read = NULL } },
};

static void testdev_reset(struct device *dev)
{
        struct testdev *t = container_of(dev, struct testdev, dev);

        for (size_t i = 0; i < TESTDEV_GSIS; i++)
                irq_line_set(&t->line[i], false);
        t->value = 0;
        memset(t->memory, 0, sizeof(t->memory));
}

static void testdev_save(struct device *dev, struct state_out *out)
{
        const struct testdev *t = container_of(dev, struct testdev, dev);

        state_put_u32(out, t->value);
        state_put_bytes(out, t->memory, sizeof(t->memory));
}

static int testdev_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct testdev *t = container_of(dev, struct testdev, dev);
        const u32 value = state_get_u32(in);

        if (state_in_left(in) != sizeof(t->memory))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved test device state has the wrong size");
        t->value = value;
        state_get_bytes(in, t->memory, sizeof(t->memory));
        return 0;
}

static void testdev_destroy(struct device *dev)
{
        struct testdev *t = container_of(dev, struct testdev, dev);

        for (size_t i = 0; i < ARRAY_SIZE(testdev_ports); i++)
                io_space_remove(t->env->ports, testdev_ports[i].port, t);
        io_space_remove(&t->env->memory->mmio, TESTDEV_MEMORY_BASE, t);
        free(t);
}

static const struct device_ops testdev_device_ops = {
        .name = "testdev",
        .version = 1,
        .reset = testdev_reset,
        .save = testdev_save,
        .load = testdev_load,
        .destroy = testdev_destroy,
};

int testdev_new(struct device_env *env, struct err **err)
{
        struct testdev *t = calloc(1, sizeof(*t));
        int r;

        if (!t)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the test device");
        t->dev.ops = &testdev_device_ops;
        t->env = env;
        for (size_t i = 0; i < ARRAY_SIZE(testdev_ports); i++) {
                const struct testdev_ports *p = &testdev_ports[i];

                r = io_space_add(env->ports, p->port, p->size, &p->ops, t, "testdev", err);
                if (r < 0) {
                        testdev_destroy(&t->dev);
                        return r;
                }
        }
        r = io_space_add(&env->memory->mmio, TESTDEV_MEMORY_BASE, TESTDEV_MEMORY_SIZE, &memory_ops, t, "testdev memory", err);
        if (r < 0) {
                testdev_destroy(&t->dev);
                return r;
        }
        for (unsigned i = 0; i < TESTDEV_GSIS; i++)
                t->line[i] = env->irq(env, i);
        env->add(env, &t->dev);
        return 0;
}
