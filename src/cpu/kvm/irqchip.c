/* Interrupts: lines, MSIs, eventfds, and the state of the chips in the kernel. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "internal.h"

_Static_assert(KVM_IRQ_GSIS == KVM_IOAPIC_NUM_PINS, "a GSI for each IOAPIC pin");
_Static_assert(KVM_LAPIC_PAGE_SIZE == KVM_APIC_REG_SIZE, "LAPIC page");
_Static_assert(KVM_FIRST_MSI_GSI == KVM_IRQ_GSIS, "MSIs follow the lines");

/* ---- lines and messages ---- */

void kvm_irq_set(void *machine, unsigned gsi, bool level)
{
        struct kvm_machine *m = machine;
        struct kvm_irq_level line = { .irq = gsi, .level = level };

        if (gsi < KVM_IRQ_GSIS)
                kvm_ioctl(m->vm_fd, KVM_IRQ_LINE, &line);
}

/* With 32-bit APIC ids the upper address half carries destination bits 31-8, which is also how we pass it on. */
void kvm_msi_send(void *machine, u64 address, u32 data)
{
        struct kvm_machine *m = machine;
        struct kvm_msi msi = { .address_lo = (u32)address, .address_hi = (u32)(address >> 32), .data = data };

        trace(IRQ_MSI, address, data);
        kvm_ioctl(m->vm_fd, KVM_SIGNAL_MSI, &msi);
}

/* ---- routing ---- */

/* Gives the whole table to the kernel. Lock held. */
static int routes_commit(struct kvm_machine *m, struct err **err)
{
        struct kvm_irq_routing *table;
        int r;

        table = calloc(1, sizeof(*table) + m->n_routes * sizeof(table->entries[0]));
        if (!table)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for interrupt routes");
        table->nr = (u32)m->n_routes;
        memcpy(table->entries, m->routes, m->n_routes * sizeof(table->entries[0]));
        r = kvm_ioctl(m->vm_fd, KVM_SET_GSI_ROUTING, table);
        free(table);
        return r < 0 ? err_sys(err, -r, "KVM refuses the interrupt routes") : 0;
}

static int route_add(struct kvm_machine *m, const struct kvm_irq_routing_entry *entry, struct err **err)
{
        if (m->n_routes == m->cap_routes) {
                size_t cap = m->cap_routes ? m->cap_routes * 2 : 64;
                struct kvm_irq_routing_entry *routes = reallocarray(m->routes, cap, sizeof(*routes));

                if (!routes)
                        return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for interrupt routes");
                m->routes = routes;
                m->cap_routes = cap;
        }
        m->routes[m->n_routes++] = *entry;
        return 0;
}

static int route_pin(struct kvm_machine *m, u32 gsi, u32 chip, u32 pin, struct err **err)
{
        struct kvm_irq_routing_entry entry = { .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP,
                                               .u.irqchip = { .irqchip = chip, .pin = pin } };

        return route_add(m, &entry, err);
}

/* As the MADT says: GSI 0 is on IOAPIC pin 2. The PIC's input 2 is its cascade. */
int kvm_routing_init(struct kvm_machine *m, struct err **err)
{
        int r;

        r = kvm_ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_IRQ_ROUTING);
        m->max_msi_routes = r > KVM_FIRST_MSI_GSI ? MIN((size_t)r - KVM_FIRST_MSI_GSI, (size_t)4096) : 0;
        m->msi_routes_used = calloc(m->max_msi_routes / 64 + 1, sizeof(u64));
        if (!m->msi_routes_used)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for interrupt routes");
        for (u32 gsi = 0; gsi < KVM_IRQ_GSIS; gsi++) {
                if (gsi < 16 && gsi != 2) {
                        r = route_pin(m, gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % 8, err);
                        if (r < 0)
                                return r;
                }
                if (gsi == 2)
                        continue;
                r = route_pin(m, gsi, KVM_IRQCHIP_IOAPIC, gsi == 0 ? 2 : gsi, err);
                if (r < 0)
                        return r;
        }
        return routes_commit(m, err);
}

static struct kvm_irq_routing_entry msi_entry(u32 gsi, u64 address, u32 data)
{
        return (struct kvm_irq_routing_entry){
                .gsi = gsi,
                .type = KVM_IRQ_ROUTING_MSI,
                .u.msi = { .address_lo = (u32)address, .address_hi = (u32)(address >> 32), .data = data },
        };
}

static struct kvm_irq_routing_entry *route_find(struct kvm_machine *m, u32 gsi)
{
        for (size_t i = 0; i < m->n_routes; i++)
                if (m->routes[i].gsi == gsi)
                        return &m->routes[i];
        return NULL;
}

/* Takes a free GSI for an MSI and routes it. Lock held. */
static int msi_route_new(struct kvm_machine *m, u64 address, u32 data, unsigned *ret_gsi, struct err **err)
{
        for (size_t i = 0; i < m->max_msi_routes; i++) {
                struct kvm_irq_routing_entry entry = msi_entry((u32)(KVM_FIRST_MSI_GSI + i), address, data);
                int r;

                if (m->msi_routes_used[i / 64] & BIT(i % 64))
                        continue;
                r = route_add(m, &entry, err);
                if (r < 0)
                        return r;
                r = routes_commit(m, err);
                if (r < 0) {
                        m->n_routes--;
                        return r;
                }
                m->msi_routes_used[i / 64] |= BIT(i % 64);
                *ret_gsi = entry.gsi;
                return 0;
        }
        return err_set(err, ERR_TOO_LARGE, ENOSPC, "all %zu interrupt routes of KVM are taken", m->max_msi_routes);
}

/* Lock held. */
static void msi_route_free(struct kvm_machine *m, unsigned gsi)
{
        struct kvm_irq_routing_entry *entry = gsi >= KVM_FIRST_MSI_GSI ? route_find(m, gsi) : NULL;

        if (!entry)
                return;
        *entry = m->routes[--m->n_routes];
        m->msi_routes_used[(gsi - KVM_FIRST_MSI_GSI) / 64] &= ~BIT((gsi - KVM_FIRST_MSI_GSI) % 64);
        routes_commit(m, NULL);
}

int kvm_irqfd_add(void *machine, int fd, u64 address, u32 data, unsigned *ret_route, struct err **err)
{
        struct kvm_machine *m = machine;
        struct kvm_irqfd irqfd = { .fd = (u32)fd };
        unsigned gsi = 0;
        int r;

        pthread_mutex_lock(&m->lock);
        r = msi_route_new(m, address, data, &gsi, err);
        if (r >= 0) {
                irqfd.gsi = gsi;
                r = kvm_ioctl(m->vm_fd, KVM_IRQFD, &irqfd);
                if (r < 0) {
                        msi_route_free(m, gsi);
                        r = err_sys(err, -r, "KVM refuses an interrupt eventfd");
                }
        }
        pthread_mutex_unlock(&m->lock);
        if (r < 0)
                return r;
        *ret_route = gsi;
        return 0;
}

int kvm_irqfd_change(void *machine, unsigned route, u64 address, u32 data, struct err **err)
{
        struct kvm_machine *m = machine;
        struct kvm_irq_routing_entry *entry;
        int r;

        pthread_mutex_lock(&m->lock);
        entry = route >= KVM_FIRST_MSI_GSI ? route_find(m, route) : NULL;
        if (entry) {
                *entry = msi_entry(route, address, data);
                r = routes_commit(m, err);
        } else {
                r = err_set(err, ERR_INTERNAL, EINVAL, "there is no interrupt route %u", route);
        }
        pthread_mutex_unlock(&m->lock);
        return r;
}

void kvm_irqfd_remove(void *machine, int fd, unsigned route)
{
        struct kvm_machine *m = machine;
        struct kvm_irqfd irqfd = { .fd = (u32)fd, .gsi = route, .flags = KVM_IRQFD_FLAG_DEASSIGN };

        pthread_mutex_lock(&m->lock);
        kvm_ioctl(m->vm_fd, KVM_IRQFD, &irqfd);
        msi_route_free(m, route);
        pthread_mutex_unlock(&m->lock);
}

int kvm_ioeventfd(void *machine, bool port, u64 address, unsigned size, int fd, bool add, struct err **err)
{
        struct kvm_machine *m = machine;
        struct kvm_ioeventfd event = { .addr = address, .len = size, .fd = fd,
                                       .flags = (port ? KVM_IOEVENTFD_FLAG_PIO : 0u) |
                                                (add ? 0u : KVM_IOEVENTFD_FLAG_DEASSIGN) };
        int r = kvm_ioctl(m->vm_fd, KVM_IOEVENTFD, &event);

        return r < 0 ? err_sys(err, -r, "KVM refuses a doorbell at 0x%lx", (unsigned long)address) : 0;
}

/* ---- state ---- */

static int chip_get(struct kvm_machine *m, u32 id, struct kvm_irqchip *ret, struct err **err)
{
        int r;

        *ret = (struct kvm_irqchip){ .chip_id = id };
        r = kvm_ioctl(m->vm_fd, KVM_GET_IRQCHIP, ret);
        return r < 0 ? err_sys(err, -r, "reading an interrupt controller from KVM") : 0;
}

static int chip_set(struct kvm_machine *m, struct kvm_irqchip *chip, struct err **err)
{
        int r = kvm_ioctl(m->vm_fd, KVM_SET_IRQCHIP, chip);

        return r < 0 ? err_sys(err, -r, "KVM refuses the state of an interrupt controller") : 0;
}

int kvm_ioapic_get(void *machine, struct kvm_ioapic_registers *ret, struct err **err)
{
        struct kvm_irqchip chip;
        int r = chip_get(machine, KVM_IRQCHIP_IOAPIC, &chip, err);

        if (r < 0)
                return r;
        *ret = (struct kvm_ioapic_registers){ .id = (u8)(chip.chip.ioapic.id & 0xf),
                                              .select = (u8)chip.chip.ioapic.ioregsel,
                                              .pins = chip.chip.ioapic.irr };
        for (unsigned i = 0; i < KVM_IOAPIC_REDIRECTIONS; i++)
                ret->redirection[i] = chip.chip.ioapic.redirtbl[i].bits;
        return 0;
}

#define REDIRECTION_LEVEL BIT(15)

int kvm_ioapic_set(void *machine, const struct kvm_ioapic_registers *regs, struct err **err)
{
        struct kvm_irqchip chip;
        int r = chip_get(machine, KVM_IRQCHIP_IOAPIC, &chip, err);

        if (r < 0)
                return r;
        chip.chip.ioapic.id = regs->id;
        chip.chip.ioapic.ioregsel = regs->select;
        chip.chip.ioapic.irr = 0;
        for (unsigned i = 0; i < KVM_IOAPIC_REDIRECTIONS; i++) {
                chip.chip.ioapic.redirtbl[i].bits = regs->redirection[i];
                /* The kernel sends what is set here. An edge that is high was sent already. */
                if (regs->pins & BIT(i) && regs->redirection[i] & REDIRECTION_LEVEL)
                        chip.chip.ioapic.irr |= (u32)BIT(i);
        }
        return chip_set(machine, &chip, err);
}

static struct kvm_pic_chip pic_from_kvm(const struct kvm_pic_state *k)
{
        return (struct kvm_pic_chip){
                .irr = k->irr, .imr = k->imr, .isr = k->isr, .lines = k->last_irr, .vector_base = k->irq_base,
                .priority_top = k->priority_add, .elcr = k->elcr, .init_step = k->init_state, .needs_icw4 = k->init4,
                .auto_eoi = k->auto_eoi, .rotate_on_auto_eoi = k->rotate_on_auto_eoi,
                .special_fully_nested = k->special_fully_nested_mode, .special_mask = k->special_mask,
                .read_isr = k->read_reg_select, .poll = k->poll,
        };
}

/* Keeps elcr_mask, which is wiring and not state. */
static void pic_to_kvm(const struct kvm_pic_chip *chip, struct kvm_pic_state *k)
{
        *k = (struct kvm_pic_state){
                .irr = chip->irr, .imr = chip->imr, .isr = chip->isr, .last_irr = chip->lines,
                .irq_base = chip->vector_base, .priority_add = chip->priority_top & 7, .elcr = chip->elcr, .elcr_mask = k->elcr_mask,
                .init_state = chip->init_step & 3, .init4 = chip->needs_icw4, .auto_eoi = chip->auto_eoi,
                .rotate_on_auto_eoi = chip->rotate_on_auto_eoi,
                .special_fully_nested_mode = chip->special_fully_nested, .special_mask = chip->special_mask,
                .read_reg_select = chip->read_isr, .poll = chip->poll,
        };
}

int kvm_pic_get(void *machine, struct kvm_pic_chip ret[2], struct err **err)
{
        struct kvm_irqchip master, slave;
        int r = chip_get(machine, KVM_IRQCHIP_PIC_MASTER, &master, err);

        if (r >= 0)
                r = chip_get(machine, KVM_IRQCHIP_PIC_SLAVE, &slave, err);
        if (r < 0)
                return r;
        ret[0] = pic_from_kvm(&master.chip.pic);
        ret[1] = pic_from_kvm(&slave.chip.pic);
        return 0;
}

int kvm_pic_set(void *machine, const struct kvm_pic_chip chips[2], struct err **err)
{
        static const u32 ids[2] = { KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE };

        for (unsigned i = 0; i < 2; i++) {
                struct kvm_irqchip chip;
                int r = chip_get(machine, ids[i], &chip, err);

                if (r < 0)
                        return r;
                pic_to_kvm(&chips[i], &chip.chip.pic);
                r = chip_set(machine, &chip, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

int kvm_lapic_get(struct vcpu *vcpu, u8 ret_page[KVM_LAPIC_PAGE_SIZE], struct err **err)
{
        struct kvm_lapic_state lapic;
        int r = kvm_ioctl(kvm_vcpu_of(vcpu)->fd, KVM_GET_LAPIC, &lapic);

        if (r < 0)
                return err_sys(err, -r, "reading the LAPIC of vCPU %u from KVM", vcpu->index);
        memcpy(ret_page, lapic.regs, KVM_LAPIC_PAGE_SIZE);
        return 0;
}

/* The page is understood by APIC_BASE's mode, so a state that waits to be loaded goes first. */
int kvm_lapic_set(struct vcpu *vcpu, const u8 page[KVM_LAPIC_PAGE_SIZE], struct err **err)
{
        struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        struct kvm_lapic_state lapic;
        int r;

        if (kv->load_needed) {
                r = kvm_state_load(vcpu, err);
                if (r < 0)
                        return r;
                kv->load_needed = false;
        }
        memcpy(lapic.regs, page, KVM_LAPIC_PAGE_SIZE);
        r = kvm_ioctl(kv->fd, KVM_SET_LAPIC, &lapic);
        return r < 0 ? err_sys(err, -r, "KVM refuses the state of the LAPIC of vCPU %u", vcpu->index) : 0;
}

static int tsc_deadline(struct vcpu *vcpu, unsigned long request, u64 *value, struct err **err)
{
        int r = kvm_msr_exchange(kvm_vcpu_of(vcpu)->fd, request, MSR_TSC_DEADLINE, value);

        return r < 0 ? err_sys(err, -r, "the TSC deadline of vCPU %u in KVM", vcpu->index) : 0;
}

int kvm_tsc_deadline_get(struct vcpu *vcpu, u64 *ret, struct err **err)
{
        u64 value = 0;
        int r = tsc_deadline(vcpu, KVM_GET_MSRS, &value, err);

        if (r >= 0)
                *ret = value;
        return r;
}

int kvm_tsc_deadline_set(struct vcpu *vcpu, u64 deadline, struct err **err)
{
        return tsc_deadline(vcpu, KVM_SET_MSRS, &deadline, err);
}

/* ---- taking back an acknowledged interrupt ---- */

#define LAPIC_ISR 0x100u
#define LAPIC_IRR 0x200u

/* One of the 256-bit registers: 8 words at a distance of 16 bytes. */
static bool lapic_bit_move(u8 *page, unsigned from, unsigned to, u8 vector)
{
        const unsigned at = vector / 32 * 16;
        const u32 bit = 1u << vector % 32;
        u32 a, b;

        memcpy(&a, page + from + at, sizeof(a));
        memcpy(&b, page + to + at, sizeof(b));
        if (!(a & bit))
                return false;
        a &= ~bit;
        b |= bit;
        memcpy(page + from + at, &a, sizeof(a));
        memcpy(page + to + at, &b, sizeof(b));
        return true;
}

/* The acknowledge cycle moved a bit from IRR to ISR, in the LAPIC or in the PIC; this moves it back. A PIC in auto-EOI
 * mode has no ISR bit: its IRR is set again all the same. */
int kvm_unacknowledge(struct vcpu *vcpu, u8 vector, struct err **err)
{
        struct kvm_machine *m = kvm_vcpu_of(vcpu)->machine;
        u8 page[KVM_LAPIC_PAGE_SIZE];
        struct kvm_pic_chip pics[2];
        int r;

        r = kvm_lapic_get(vcpu, page, err);
        if (r < 0)
                return r;
        if (lapic_bit_move(page, LAPIC_ISR, LAPIC_IRR, vector))
                return kvm_lapic_set(vcpu, page, err);
        r = kvm_pic_get(m, pics, err);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < 2; i++) {
                if ((vector & 0xf8) != (pics[i].vector_base & 0xf8))
                        continue;
                pics[i].isr &= (u8) ~(1u << (vector & 7));
                pics[i].irr |= (u8)(1u << (vector & 7));
                if (i == 1) { /* the master sees the slave on input 2 */
                        pics[0].isr &= (u8)~4u;
                        pics[0].irr |= 4;
                }
        }
        return kvm_pic_set(m, pics, err);
}
