#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PA_PML4 0x1000
#define PA_KERNEL_PDPT 0x2000
#define PA_KERNEL_PD 0x3000
#define PA_KERNEL_PT 0x4000
#define PA_USER_PDPT 0x5000
#define PA_USER_PD 0x6000
#define PA_CODE_PT 0x7000
#define PA_DATA_PT 0x8000
#define PA_GDT 0x9000
#define PA_IDT 0xa000
#define PA_TSS 0xb000
#define PA_STUBS 0xc000
#define PA_STACK_TOP 0xf000
#define PA_CODE 0x10000
#define PA_DATA 0x20000
#define PA_EXTRA 0x30000
#define PA_KERNEL_CODE_PT 0x40000
#define PA_KERNEL_DATA_PT 0x41000
#define PA_DEVICE 0xd0000000ULL

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_NX BIT(63)

/* The pages from EXTRA_GVA on, chosen so that every kind has every other for a neighbour that an operand can cross into. */
static const struct extra_page {
        u64 gpa, flags; /* PTE_U is what differs from the space's own: see pte() */
} extra_pages[EXTRA_PAGES] = {
        { PA_EXTRA + 0x0000, PTE_P | PTE_W },
        { PA_EXTRA + 0x1000, PTE_P },                 /* read-only */
        { PA_EXTRA + 0x2000, PTE_P | PTE_W },
        { PA_EXTRA + 0x3000, PTE_P | PTE_W | PTE_U }, /* the other privilege level's */
        { PA_EXTRA + 0x4000, PTE_P | PTE_W },
        { PA_EXTRA + 0x5000, 0 },                     /* not present */
        { PA_EXTRA + 0x6000, PTE_P | PTE_W },
        { PA_DEVICE, PTE_P | PTE_W },
        { PA_EXTRA + 0x7000, PTE_P | PTE_W },
        { PA_EXTRA + 0x0000, PTE_P | PTE_W },         /* alias of the first */
        { PA_CODE, PTE_P | PTE_W },                   /* alias of the code: self-modifying code by another address */
        { PA_EXTRA + 0x1000, PTE_P | PTE_W },         /* writable alias of the read-only one */
};

static void poke64(struct guest *g, u64 gpa, u64 v)
{
        guest_memory_write(g->memory, gpa, &v, 8);
}

/* Leaf tables: written again for every case, so that accessed and dirty bits start clear. */
static void build_leaves(struct guest *g)
{
        for (unsigned kernel = 0; kernel < 2; kernel++) {
                const u64 user = kernel ? 0 : PTE_U;
                const u64 code = kernel ? PA_KERNEL_CODE_PT : PA_CODE_PT, data = kernel ? PA_KERNEL_DATA_PT : PA_DATA_PT;

                for (unsigned i = 0; i < CODE_SIZE / PAGE_SIZE; i++)
                        poke64(g, code + i * 8, (PA_CODE + i * PAGE_SIZE) | PTE_P | PTE_W | user);
                for (unsigned i = 0; i < DATA_SIZE / PAGE_SIZE; i++)
                        poke64(g, data + i * 8, (PA_DATA + i * PAGE_SIZE) | PTE_P | PTE_W | user | PTE_NX);
                for (unsigned i = 0; i < EXTRA_PAGES; i++)
                        poke64(g, data + 0x800 + i * 8, (extra_pages[i].gpa | extra_pages[i].flags | PTE_NX) ^ user);
        }
        for (unsigned i = 0; i < 16; i++)
                poke64(g, PA_KERNEL_PT + i * 8, i * PAGE_SIZE | PTE_P | PTE_W);
}

static void build_gates(struct guest *g)
{
        for (unsigned v = 0; v <= GUEST_STUB_SYSCALL; v++) {
                const u64 stub = KERNEL_GVA + PA_STUBS + v * 16;
                const u64 type = v == EXC_BP || v == EXC_OF ? 0xee : 0x8e; /* INT3 and INTO from CPL 3 too */
                const u8 hlt = 0xf4;

                guest_memory_write(g->memory, PA_STUBS + v * 16, &hlt, 1);
                if (v == GUEST_STUB_SYSCALL)
                        break;
                poke64(g, PA_IDT + v * 16, (stub & 0xffff) | 0x08ULL << 16 | 1ULL << 32 | type << 40 | (stub >> 16 & 0xffff) << 48);
                poke64(g, PA_IDT + v * 16 + 8, stub >> 32);
        }
}

static void build_tables(struct guest *g)
{
        const u64 user = PTE_P | PTE_W | PTE_U, kernel = PTE_P | PTE_W;

        poke64(g, PA_PML4, PA_USER_PDPT | user);
        poke64(g, PA_PML4 + 256 * 8, PA_KERNEL_PDPT | user);
        poke64(g, PA_KERNEL_PDPT, PA_KERNEL_PD | user);
        poke64(g, PA_KERNEL_PD, PA_KERNEL_PT | kernel);
        poke64(g, PA_KERNEL_PD + 8, PA_KERNEL_DATA_PT | user); /* one page there is a user page */
        poke64(g, PA_KERNEL_PD + 16, PA_KERNEL_CODE_PT | kernel);
        poke64(g, PA_USER_PDPT, PA_USER_PD | user);
        poke64(g, PA_USER_PD + (CODE_GVA >> 21) * 8, PA_CODE_PT | user);
        poke64(g, PA_USER_PD + (DATA_GVA >> 21) * 8, PA_DATA_PT | user);
        build_leaves(g);
        /* Kernel code 0x08, kernel data 0x10, user data 0x1b, user code 0x23, TSS 0x28. */
        poke64(g, PA_GDT + 0x08, 0x00209b0000000000ULL);
        poke64(g, PA_GDT + 0x10, 0x00cf93000000ffffULL);
        poke64(g, PA_GDT + 0x18, 0x00cff3000000ffffULL);
        poke64(g, PA_GDT + 0x20, 0x00affb000000ffffULL);
        poke64(g, PA_TSS + 4, KERNEL_GVA + PA_STACK_TOP);
        poke64(g, PA_TSS + 0x24, KERNEL_GVA + PA_STACK_TOP); /* IST 1: at CPL 0 the stack pointer may be anything */
        poke64(g, PA_TSS + 0x60, 0x68ULL << 48); /* no I/O bitmap: all ports forbidden, as on the host */
        build_gates(g);
}

/* Processors set accessed bits when they like, also for accesses that then do not happen. Nor does it matter in which order an instruction that
 * @faulted looked at its operands: @got may have more dirty bits then. */
void guest_forgive_page_bits(struct guest *got, struct guest *want, bool faulted)
{
        static const u64 tables[] = { PA_PML4, PA_KERNEL_PDPT, PA_KERNEL_PD, PA_KERNEL_PT, PA_USER_PDPT, PA_USER_PD, PA_CODE_PT,
                                      PA_DATA_PT, PA_KERNEL_CODE_PT, PA_KERNEL_DATA_PT };

        for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
                u64 *a = guest_memory_hva(got->memory, tables[i], PAGE_SIZE);
                u64 *b = guest_memory_hva(want->memory, tables[i], PAGE_SIZE);

                for (unsigned j = 0; j < PAGE_SIZE / 8; j++) {
                        if (a[j] & PTE_P)
                                a[j] &= faulted && !(b[j] & PTE_D) ? ~(PTE_A | PTE_D) : ~PTE_A;
                        if (b[j] & PTE_P)
                                b[j] &= ~PTE_A;
                }
        }
}

/* ---- the device page ---- */

static void device_note(struct guest *g, u64 offset, unsigned size, bool write, u64 value)
{
        if (g->device_accesses < DEVICE_LOG)
                g->device_log[g->device_accesses] = offset << 48 | (u64)size << 44 | (u64)write << 43 | (value & 0x7ffffffffff);
        g->device_accesses++;
}

static u64 device_read(void *opaque, u64 offset, unsigned size)
{
        struct guest *g = opaque;
        u64 value = 0;

        memcpy(&value, g->device + offset, size);
        device_note(g, offset, size, false, value);
        return value;
}

static void device_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct guest *g = opaque;

        memcpy(g->device + offset, &value, size);
        device_note(g, offset, size, true, value);
}

static const struct io_ops device_ops = { .read = device_read, .write = device_write };

/* ---- life ---- */

int guest_start(struct guest *g, const struct cpu_engine *engine, struct err **err)
{
        int r;

        pthread_mutex_init(&g->lock, NULL);
        io_space_init(&g->ports, &g->lock, NULL, true);
        r = guest_memory_new(MIB, &g->lock, NULL, &g->memory, err);
        if (r == 0)
                r = io_space_add(&g->memory->mmio, PA_DEVICE, PAGE_SIZE, &device_ops, g, "device", err);
        if (r == 0)
                r = engine->machine_create(g->memory, 1, &g->machine, err);
        if (r < 0)
                return r;
        g->vcpu = (struct vcpu){ .n_vcpus = 1, .engine = engine, .engine_machine = g->machine, .memory = g->memory, .ports = &g->ports };
        cpu_state_reset(&g->vcpu.state, true);
        build_tables(g);
        return engine->vcpu_create(&g->vcpu, err);
}

void guest_stop(struct guest *g)
{
        g->vcpu.engine->vcpu_destroy(&g->vcpu);
        g->vcpu.engine->machine_destroy(g->machine);
        g->memory = guest_memory_free(g->memory);
        io_space_free(&g->ports);
}

static struct seg flat_segment(u16 selector, u16 attr)
{
        return (struct seg){ .selector = selector, .attr = attr, .limit = 0xffffffff };
}

static void guest_state(const struct machine_case *c, struct cpu_state *s)
{
        const struct seg data = c->kernel ? flat_segment(0x10, 0xc093) : flat_segment(0x1b, 0xc0f3);

        memcpy(s->gpr, c->gpr, sizeof(s->gpr));
        s->rip = c->rip;
        s->rflags = c->rflags;
        for (unsigned i = 0; i < SEG_COUNT; i++)
                s->seg[i] = data;
        s->seg[SEG_CS] = c->compat ? flat_segment(0x33, 0xc0fb) : c->kernel ? flat_segment(0x08, 0xa09b) : flat_segment(0x23, 0xa0fb);
        s->seg[SEG_FS].base = c->fs_base;
        s->seg[SEG_GS].base = c->gs_base;
        s->kernel_gs_base = c->kernel_gs_base;
        s->tr = (struct seg){ .selector = 0x28, .attr = 0x8b, .limit = 0x67, .base = KERNEL_GVA + PA_TSS };
        s->gdtr = (struct dtable){ KERNEL_GVA + PA_GDT, 0x3f };
        s->idtr = (struct dtable){ KERNEL_GVA + PA_IDT, 32 * 16 - 1 };
        s->paging = (struct paging_state){
                .cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG,
                .cr3 = PA_PML4,
                .cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | c->cr4,
                .efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE,
        };
        s->star = 0x13ULL << 48 | 0x08ULL << 32;
        s->lstar = KERNEL_GVA + PA_STUBS + GUEST_STUB_SYSCALL * 16;
        s->sfmask = RFLAGS_IF | RFLAGS_DF;
        s->xcr0 = XCR0_SUPPORTED;
        s->cpl = c->kernel ? 0 : 3;
        s->dr[6] = 0xffff0ff0;
        s->dr[7] = 0x400;
        s->cr2 = 0;
        s->halted = s->sti_shadow = s->mov_ss_shadow = false;
        memcpy(s->xsave, c->xsave, XSAVE_SIZE);
}

/* Memory as the case has it. What the last case left in the code pages goes. */
static void guest_fill(struct guest *g, const struct machine_case *c)
{
        const u64 gpa = PA_CODE + (c->rip - case_code_gva(c));
        static u8 fill[CODE_SIZE], noise[PAGE_SIZE];

        if (!fill[0]) {
                memset(fill, 0xcc, sizeof(fill));
                for (unsigned i = 0; i < PAGE_SIZE; i++)
                        noise[i] = (u8)(i * 7 + (i >> 8));
        }
        if (c->code_after) {
                u8 *now = guest_memory_hva(g->memory, PA_CODE, CODE_SIZE);
                u8 want[CODE_SIZE];

                memcpy(want, fill, CODE_SIZE);
                memcpy(want + (gpa - PA_CODE), c->code, c->length);
                if (memcmp(now, want, CODE_SIZE) != 0)
                        guest_memory_write(g->memory, PA_CODE, want, CODE_SIZE);
                for (unsigned i = 0; i < 8; i++)
                        guest_memory_write(g->memory, PA_EXTRA + i * PAGE_SIZE, noise, PAGE_SIZE);
                memcpy(g->device, noise, PAGE_SIZE);
        } else {
                guest_memory_write(g->memory, gpa, c->code, 16);
        }
        guest_memory_write(g->memory, PA_DATA, c->data, DATA_SIZE);
        memset(guest_memory_hva(g->memory, PA_STACK_TOP - 64, 64), 0, 64);
        g->device_accesses = 0;
}

static u64 stack_slot(struct guest *g, unsigned n)
{
        u64 v = 0;

        guest_memory_read(g->memory, g->vcpu.state.gpr[RSP] - KERNEL_GVA + n * 8, &v, 8);
        return v;
}

static bool has_error_code(unsigned vector)
{
        return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
}

/* Which handler the guest halted in. */
static unsigned stub_reached(const struct cpu_state *s, enum exit_reason reason)
{
        const u64 at = s->rip - 1 - KERNEL_GVA - PA_STUBS;

        return reason == EXIT_HALTED && at % 16 == 0 && at / 16 <= GUEST_STUB_SYSCALL ? (unsigned)at / 16 : GUEST_STUB_NONE;
}

int guest_run(struct guest *g, const struct machine_case *c, bool warm, struct outcome *o)
{
        struct cpu_state *s = &g->vcpu.state;
        unsigned at = 0;

        guest_state(c, s);
        guest_fill(g, c);
        if (!warm && c->code_after) {
                build_leaves(g);
                if (g->vcpu.engine->state_changed)
                        g->vcpu.engine->state_changed(&g->vcpu);
        }
        o->reason = g->vcpu.engine->run(&g->vcpu);
        if (o->reason == EXIT_FAILED) {
                err_print(g->vcpu.error, g->vcpu.engine->name);
                return -EIO;
        }
        memcpy(o->gpr, s->gpr, sizeof(o->gpr));
        memcpy(o->xsave, s->xsave, XSAVE_SIZE);
        o->data = guest_memory_hva(g->memory, PA_DATA, DATA_SIZE);
        o->rip = s->rip;
        o->rflags = s->rflags;
        o->cs = s->seg[SEG_CS].selector;
        o->ss = s->seg[SEG_SS].selector;
        o->error = o->address = 0;
        o->vector = stub_reached(s, o->reason);
        o->kind = o->vector == EXC_DB ? DONE : FAULT;
        if (o->vector >= GUEST_STUB_SYSCALL)
                return 0;
        if (has_error_code(o->vector)) {
                o->error = stack_slot(g, 0);
                at = 1;
        }
        o->rip = stack_slot(g, at);
        o->cs = stack_slot(g, at + 1);
        o->rflags = stack_slot(g, at + 2);
        o->gpr[RSP] = stack_slot(g, at + 3);
        o->ss = stack_slot(g, at + 4);
        o->address = o->vector == EXC_PF ? s->cr2 : 0;
        return 0;
}
