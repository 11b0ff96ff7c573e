#include "dev/irq_router.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SINKS_MAX 4

struct irq_router {
        struct device dev;
        struct device_env *env;
        struct irq_line sink[SINKS_MAX];
        size_t n_sinks;
        u64 sources[IRQ_GSIS];   /* which sources drive the line high */
        unsigned n_sources[IRQ_GSIS];
};

/* A wire's n: GSI and source bit. */
static unsigned wire(unsigned gsi, unsigned source)
{
        return gsi | source << 8;
}

static void gsi_set(struct irq_router *router, unsigned gsi, bool level)
{
        trace(IRQ_LINE, gsi, level);
        if (level)
                counter_inc(router->env->counters, COUNTER_IRQS_RAISED);
        for (size_t i = 0; i < router->n_sinks; i++)
                router->sink[i].set(router->sink[i].opaque, gsi, level);
}

static void wire_set(void *opaque, unsigned n, bool level)
{
        struct irq_router *router = opaque;
        const unsigned gsi = n & 0xff;
        const u64 bit = BIT(n >> 8), old = router->sources[gsi];

        router->sources[gsi] = level ? old | bit : old & ~bit;
        if (!old != !router->sources[gsi])
                gsi_set(router, gsi, level);
}

struct irq_line irq_router_line(struct irq_router *router, unsigned gsi)
{
        if (gsi >= IRQ_GSIS)
                return (struct irq_line){ 0 };
        return (struct irq_line){
                .set = wire_set,
                .opaque = router,
                .n = wire(gsi, MIN(router->n_sources[gsi]++, (unsigned)IRQ_SOURCES_MAX - 1)),
        };
}

void irq_router_set_sinks(struct irq_router *router, const struct irq_line sinks[], size_t n_sinks)
{
        router->n_sinks = MIN(n_sinks, (size_t)SINKS_MAX);
        memcpy(router->sink, sinks, router->n_sinks * sizeof(sinks[0]));
        for (unsigned gsi = 0; gsi < IRQ_GSIS; gsi++)
                if (router->sources[gsi])
                        for (size_t i = 0; i < router->n_sinks; i++)
                                router->sink[i].set(router->sink[i].opaque, gsi, true);
}

static void router_reset(struct device *dev)
{
        /* Wires belong to their devices: each lowers its own when it is reset. */
}

static void router_save(struct device *dev, struct state_out *out)
{
        const struct irq_router *router = container_of(dev, struct irq_router, dev);

        for (unsigned gsi = 0; gsi < IRQ_GSIS; gsi++)
                state_put_u64(out, router->sources[gsi]);
}

/* Only the wires' levels; the controllers load what they saw of them themselves. */
static int router_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct irq_router *router = container_of(dev, struct irq_router, dev);
        u64 sources[IRQ_GSIS];

        for (unsigned gsi = 0; gsi < IRQ_GSIS; gsi++) {
                const unsigned n = MIN(router->n_sources[gsi], (unsigned)IRQ_SOURCES_MAX);
                const u64 wired = n == 64 ? ~0ULL : BIT(n) - 1;

                sources[gsi] = state_get_u64(in);
                if (sources[gsi] & ~wired)
                        return err_set(err, ERR_BAD_STATE, EINVAL, "the saved machine has other interrupt wires on GSI %u", gsi);
        }
        if (state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved interrupt wires are truncated");
        memcpy(router->sources, sources, sizeof(sources));
        return 0;
}

static void router_destroy(struct device *dev)
{
        free(container_of(dev, struct irq_router, dev));
}

static const struct device_ops router_ops = {
        .name = "irq-router",
        .version = 1,
        .reset = router_reset,
        .save = router_save,
        .load = router_load,
        .destroy = router_destroy,
};

int irq_router_new(struct device_env *env, const struct irq_line sinks[], size_t n_sinks, struct irq_router **ret,
                   struct err **err)
{
        struct irq_router *router = calloc(1, sizeof(*router));

        if (!router)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the interrupt wires");
        router->dev.ops = &router_ops;
        router->env = env;
        irq_router_set_sinks(router, sinks, n_sinks);
        env->add(env, &router->dev);
        *ret = router;
        return 0;
}
