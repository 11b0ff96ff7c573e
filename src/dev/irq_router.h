/* From devices' interrupt wires to the interrupt controllers.
 *
 * A GSI may be driven by several devices (PCI INTx); each gets its own source bit and the line is high while any is. What the
 * line does then goes to every sink: the PIC and the IOAPIC models, or the hypervisor's in-kernel chips.
 *
 * Device lock held in every call. */
#pragma once

#include "dev/dev.h"

#define IRQ_GSIS 24
#define IRQ_SOURCES_MAX 64 /* of one GSI; later ones share the last bit */

struct irq_router;

/* Each sink's set(opaque, gsi, level) is called when the level of a GSI changes; its n is ignored. Up to 4; copied. */
int irq_router_new(struct device_env *env, const struct irq_line sinks[], size_t n_sinks, struct irq_router **ret,
                   struct err **err);
/* A new source on @gsi; what device_env.irq returns. A GSI that does not exist gives a wire that goes nowhere. */
struct irq_line irq_router_line(struct irq_router *router, unsigned gsi);
/* Replaces the sinks (engine switch) and tells the new ones every level that is high. */
void irq_router_set_sinks(struct irq_router *router, const struct irq_line sinks[], size_t n_sinks);
