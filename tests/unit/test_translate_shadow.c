/* User code by way of a shadow window does what the interpreter does: random loops over pages that are there, read-only, absent or another's, with registers
 * that leave their range; kicks come at any time, the guest's kernel maps what was missing, remaps and flushes. And a guest address never becomes
 * one of the host's outside of the window.
 *
 * SHADOW_SEEDS=N runs N seeds and not a few; SHADOW_SEED=S runs just that one. */
#include "cpu_guest.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../diff/case.h"
#include "cpu/translate/runtime.h"

#define RAM (16 * MIB)
#define SEEDS 150u

/* ---- the guest's kernel ---- */

#define TABLES_AT 0x20000ULL /* page tables of the regions, then what leads to them */
#define TSS_AT 0x5000ULL
#define FRAMES_AT 0x800000ULL
#define REGION_PAGES 16u
#define REGION_SIZE (REGION_PAGES * PAGE_SIZE)

/* At LOG_AT the address of the next entry; FIX_AT: rows of first address, page table entries, what the kernel makes of them at a fault (0: nothing). */
#define LOG_AT 0x700000ULL
#define LOG_ENTRY (21 * 8)
#define LOG_MAX 60u
#define FIX_AT 0x6f0000ULL
#define FULL_AT 0x6e0000ULL

#define USER_BITS 7ULL       /* present, writable, user */
#define READ_ONLY_BITS 5ULL
#define ACCESSED_DIRTY 0x60ULL

#define VECTOR(n) "push $" #n "\n jmp common\n .balign 16\n"
#define VECTOR_0(n) "push $0\n push $" #n "\n jmp common\n .balign 16\n"

static const u8 vectors[] = { 0, 1, 6, 12, 13, 14, 17 };

GUEST_CODE(shadow_kernel, 64,
           VECTOR_0(0) VECTOR_0(1) VECTOR_0(6) VECTOR(12) VECTOR(13) VECTOR(14) VECTOR(17)
           /* SYSCALL: at rax nothing: the end; else a page table entry that becomes rdx, of the page at rsi. */
           "test %eax, %eax\n"
           "jz stop\n"
           "mov %rdx, (%rax)\n"
           "invlpg (%rsi)\n"
           "sysretq\n"
           "common:\n"
           "push %rax\n push %rcx\n push %rdi\n push %rsi\n"
           "mov 0x700000, %rdi\n"
           "mov %rbx, 80(%rdi)\n mov %rdx, 88(%rdi)\n mov %rbp, 96(%rdi)\n"
           "mov %r8, 104(%rdi)\n mov %r9, 112(%rdi)\n mov %r10, 120(%rdi)\n mov %r11, 128(%rdi)\n"
           "mov %r12, 136(%rdi)\n mov %r13, 144(%rdi)\n mov %r14, 152(%rdi)\n mov %r15, 160(%rdi)\n"
           "mov %cr2, %rcx\n mov %rcx, 40(%rdi)\n"
           "mov (%rsp), %rax\n mov %rax, 72(%rdi)\n"    /* rsi */
           "mov 8(%rsp), %rax\n mov %rax, 64(%rdi)\n"   /* rdi */
           "mov 16(%rsp), %rax\n mov %rax, 56(%rdi)\n"  /* rcx */
           "mov 24(%rsp), %rax\n mov %rax, 48(%rdi)\n"  /* rax */
           "mov 32(%rsp), %rax\n mov %rax, (%rdi)\n"    /* vector */
           "mov 40(%rsp), %rax\n mov %rax, 8(%rdi)\n"   /* error code */
           "mov 48(%rsp), %rax\n mov %rax, 16(%rdi)\n"  /* rip */
           "mov 64(%rsp), %rax\n mov %rax, 24(%rdi)\n"  /* rflags */
           "mov 72(%rsp), %rax\n mov %rax, 32(%rdi)\n"  /* rsp */
           "add $168, %rdi\n mov %rdi, 0x700000\n"
           "cmp $0x702760, %rdi\n"
           "jae stop\n"
           "cmpq $14, 32(%rsp)\n"
           "jne stop\n"
           "mov $0x6f0000, %edi\n"
           "1: mov %rcx, %rax\n sub (%rdi), %rax\n cmp $0x10000, %rax\n jb 2f\n"
           "add $24, %rdi\n cmp $0x6f0048, %rdi\n jb 1b\n jmp stop\n"
           "2: shr $12, %rax\n"
           "mov 16(%rdi), %rsi\n mov (%rsi,%rax,8), %rsi\n"
           "test %rsi, %rsi\n jz stop\n"
           "mov 8(%rdi), %rdi\n lea (%rdi,%rax,8), %rdi\n"
           "mov (%rdi), %rax\n or $0x60, %rax\n or $0x60, %rsi\n cmp %rax, %rsi\n je stop\n"
           "mov %rsi, (%rdi)\n"
           "invlpg (%rcx)\n"
           "pop %rsi\n pop %rdi\n pop %rcx\n pop %rax\n"
           "add $16, %rsp\n"
           "iretq\n"
           "stop: out %al, $0x18\n"
           "3: jmp 3b\n");
_Static_assert(LOG_AT + 8 + LOG_MAX * LOG_ENTRY - 8 == 0x702760, "the kernel knows the end of the log");
#define SYSCALL_AT (ARRAY_SIZE(vectors) * 16)

/* ---- the guest's memory ---- */

enum { LOW, HIGH, MIDDLE, REGIONS };

static const u64 region_gva[REGIONS] = { [LOW] = 0x400000, [HIGH] = 0x7ffff7a00000, [MIDDLE] = 0x555555554000 };

static u64 table_entry(unsigned region, unsigned page)
{
        return TABLES_AT + region * PAGE_SIZE + ((region_gva[region] >> PAGE_SHIFT & 511) + page) * 8;
}

static u64 frame_of(unsigned region, unsigned page)
{
        return FRAMES_AT + region * REGION_SIZE + page * PAGE_SIZE;
}

static void put(struct cpu_guest *g, u64 gpa, const void *data, size_t len)
{
        assert_int_equal(guest_memory_write(g->memory, gpa, data, len), 0);
}

static void put64(struct cpu_guest *g, u64 gpa, u64 value)
{
        put(g, gpa, &value, sizeof(value));
}

/* ---- a program ---- */

#define CODE_MAX 3500u
#define NONE 0xff
#define RIP_BASE 0xfe

struct program {
        u8 code[CODE_MAX + 512];
        unsigned n;
        unsigned region; /* its code is on the first page */
        u64 gpr[GPR_COUNT], fs_base;
        u64 entry[REGIONS][REGION_PAGES], full[REGIONS][REGION_PAGES];
        u64 seed;
        bool kicks;
};

static void byte(struct program *p, unsigned value)
{
        if (p->n < sizeof(p->code))
                p->code[p->n++] = (u8)value;
}

static void bytes(struct program *p, u64 value, unsigned n)
{
        for (unsigned i = 0; i < n; i++)
                byte(p, value >> 8 * i & 0xff);
}

struct operand {
        u8 base, index, scale; /* scale: log2 */
        bool fs;
        s32 disp;
};

/* @prefix: 0 or a byte; @opcode: one or two bytes, the last in the low eight bits. */
static void mem_op(struct program *p, unsigned prefix, unsigned opcode, bool wide, unsigned reg, const struct operand *o)
{
        const unsigned base = o->base < GPR_COUNT ? o->base : 5, index = o->index < GPR_COUNT ? o->index : 4;
        const unsigned rex = 0x40u | (unsigned)wide << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | (base >> 3);

        if (o->fs)
                byte(p, 0x64);
        if (prefix)
                byte(p, prefix);
        if (rex != 0x40)
                byte(p, rex);
        if (opcode > 0xff)
                byte(p, opcode >> 8);
        byte(p, opcode & 0xff);
        if (o->base == RIP_BASE) {
                byte(p, 5 | (reg & 7) << 3);
        } else {
                byte(p, (o->base == NONE ? 0 : 0x80) | (reg & 7) << 3 | 4);
                byte(p, (unsigned)o->scale << 6 | (index & 7) << 3 | (base & 7));
        }
        bytes(p, (u32)o->disp, 4);
}

static void reg_op(struct program *p, unsigned opcode, bool wide, unsigned reg, unsigned rm)
{
        const unsigned rex = 0x40u | (unsigned)wide << 3 | (reg >> 3) << 2 | (rm >> 3);

        if (rex != 0x40)
                byte(p, rex);
        if (opcode > 0xff)
                byte(p, opcode >> 8);
        byte(p, opcode & 0xff);
        byte(p, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static void mov_imm(struct program *p, unsigned reg, u64 value)
{
        byte(p, 0x48 | reg >> 3);
        byte(p, 0xb8 | (reg & 7));
        bytes(p, value, 8);
}

/* ADD (0), SUB (5), CMP (7) of a constant. */
static void op_imm(struct program *p, unsigned op, bool wide, unsigned reg, s32 by)
{
        reg_op(p, 0x81, wide, op, reg);
        bytes(p, (u32)by, 4);
}

static void set_entry(struct program *p, unsigned region, unsigned page, u64 bits, u64 full_bits)
{
        const u64 frame = frame_of(region, page);

        p->entry[region][page] = bits ? frame | bits : 0;
        p->full[region][page] = full_bits ? frame | full_bits : 0;
}

/* The address in no range of the window of which the high range's bias makes one of the host's where something is: a guest that sees it is out. */
static u64 secret_in_high;

static u64 hostile_value(struct rng *rng)
{
        static const u64 values[] = {
                0x7ffffffff000, 0x7ffffffffff8, 0x800000000000, 0xffff800000000000, 0xffffffff80000000, 0x7ffffff8, 0x80000000, 0xfffffff8,
                0x100000000, 0x5500000000000000, 0x12347ffff7a00000, 0xffff7ffff7a00000, 0x54fffffff000, 0x3ffff8, 0x410000, 0xfffffffffffffff8, 0,
                0x1000, 0x8000555555554000,
        };
        const u64 pick = rng_below(rng, ARRAY_SIZE(values) + 2);

        if (pick < ARRAY_SIZE(values))
                return values[pick];
        return secret_in_high + (pick - ARRAY_SIZE(values)) * 8;
}

static u64 pointer(struct rng *rng, unsigned region)
{
        if (rng_chance(rng, 1, 12))
                return hostile_value(rng);
        return region_gva[region] + rng_below(rng, REGION_SIZE - PAGE_SIZE) + (rng_chance(rng, 2, 3) ? PAGE_SIZE : 0);
}

/* rcx counts rounds; the rest may be anything. */
static unsigned any_reg(struct rng *rng)
{
        static const u8 regs[] = { RAX, RDX, RBX, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

        return regs[rng_below(rng, ARRAY_SIZE(regs))];
}

struct loop_regs {
        unsigned base[2], index, counter, data[3];
};

static struct operand loop_operand(struct rng *rng, const struct program *p, const struct loop_regs *r)
{
        struct operand o = { .base = (u8)r->base[rng_below(rng, 2)], .index = NONE, .disp = (s32)rng_below(rng, 256) - 64 };

        if (rng_chance(rng, 1, 2)) {
                o.index = (u8)(rng_chance(rng, 5, 6) ? r->index : r->counter);
                o.scale = (u8)rng_below(rng, 4);
        }
        switch (rng_below(rng, 24)) {
        case 0:
                o.base = NONE;
                o.disp = (s32)(region_gva[LOW] + rng_below(rng, REGION_SIZE));
                break;
        case 1:
                o.base = RIP_BASE;
                o.index = NONE;
                o.disp = (s32)(PAGE_SIZE + rng_below(rng, 2 * PAGE_SIZE));
                break;
        case 2:
                o = (struct operand){ .base = NONE, .index = NONE, .fs = true, .disp = (s32)rng_below(rng, 2 * PAGE_SIZE) };
                break;
        case 3:
                o.base = RSP;
                break;
        case 4:
                o.disp = (s32)rng_next(rng);
                break;
        default:
                break;
        }
        return o;
}

static void emit_access(struct program *p, struct rng *rng, const struct loop_regs *r)
{
        static const struct { u8 prefix, wide; u16 opcode; } ops[] = {
                { 0, 1, 0x8b }, { 0, 0, 0x8b }, { 0, 1, 0x89 }, { 0, 0, 0x89 }, { 0, 1, 0x03 }, { 0, 1, 0x01 }, { 0, 1, 0x13 }, { 0, 0, 0x31 },
                { 0, 1, 0x3b }, { 0, 1, 0x0fb6 }, { 0, 1, 0x63 }, { 0xf0, 1, 0x0fc1 }, { 0, 1, 0x87 }, { 0, 0, 0x0fb1 }, { 0x66, 0, 0x89 },
        };
        static const struct { u8 prefix; u16 opcode; } vector_ops[] = { { 0, 0x0f10 }, { 0, 0x0f11 }, { 0xf3, 0x0f6f }, { 0x66, 0x0f6f }, { 0x66, 0x0fef } };
        const struct operand o = loop_operand(rng, p, r);
        const unsigned data = r->data[rng_below(rng, 3)];

        if (rng_chance(rng, 1, 4)) {
                const unsigned i = (unsigned)rng_below(rng, ARRAY_SIZE(vector_ops));

                mem_op(p, vector_ops[i].prefix, vector_ops[i].opcode, false, (unsigned)rng_below(rng, 4), &o);
        } else if (rng_chance(rng, 1, 10) && (o.base < 8 || o.base >= GPR_COUNT) && (o.index < 8 || o.index == NONE)) {
                mem_op(p, 0, rng_chance(rng, 1, 2) ? 0x8a : 0x02, false, 4 + (unsigned)rng_below(rng, 4), &o); /* AH..BH */
        } else {
                const unsigned i = (unsigned)rng_below(rng, ARRAY_SIZE(ops));

                mem_op(p, ops[i].prefix, ops[i].opcode, ops[i].wide, data, &o);
        }
}

/* What is not memory's: narrow registers, half-written ones, copies. */
static void emit_other(struct program *p, struct rng *rng, const struct loop_regs *r)
{
        const unsigned a = r->data[rng_below(rng, 3)], b = r->data[rng_below(rng, 3)];

        switch (rng_below(rng, 14)) {
        case 0: reg_op(p, 0x11, true, a, b); break;           /* adc */
        case 1: reg_op(p, 0x89, false, r->index, r->index); break; /* mov r32, r32 */
        case 2: reg_op(p, 0x63, true, r->index, r->index); break;  /* movsxd */
        case 3: reg_op(p, 0x0fb1, false, a, b); break;        /* cmpxchg */
        case 4: reg_op(p, 0x0fbc, false, r->index, a); break; /* bsf */
        case 5: reg_op(p, 0x0f45, false, r->index, a); break; /* cmovne */
        case 6: reg_op(p, 0x87, true, a, b); break;           /* xchg */
        case 7: reg_op(p, 0x89, true, r->base[0], a); break;  /* mov */
        case 8: op_imm(p, 0, rng_chance(rng, 1, 2), r->index, (s32)rng_below(rng, 64) - 8); break;
        case 9: op_imm(p, 5, true, r->base[1], (s32)rng_below(rng, 64) - 8); break;
        case 10: byte(p, 0x50 | RBX); byte(p, 0x58 | RBP); break; /* push, pop */
        case 11: byte(p, 0x9c); byte(p, 0x58 | RDX); break;   /* pushfq, pop */
        case 12: { /* wrfsbase of a base */
                byte(p, 0xf3); byte(p, 0x48 | r->base[0] >> 3); byte(p, 0x0f); byte(p, 0xae); byte(p, 0xd0 | (r->base[0] & 7));
                break;
        }
        default: reg_op(p, 0x31, true, a, b); break;
        }
}

static void emit_step(struct program *p, struct rng *rng, unsigned reg, bool wide)
{
        static const s32 by[] = { 1, 2, 4, 8, 16, 24, 32, 64, 256, 4096, 65536, 1 << 24 };
        const s32 step = by[rng_below(rng, rng_chance(rng, 1, 10) ? ARRAY_SIZE(by) : 9)];

        switch (rng_below(rng, 5)) {
        case 0:
        case 1: op_imm(p, 0, wide, reg, step); break;
        case 2: op_imm(p, 5, wide, reg, step); break;
        case 3: op_imm(p, 0, wide, reg, -step); break;
        default: mem_op(p, 0, 0x8d, wide, reg, &(struct operand){ .base = (u8)reg, .index = NONE, .disp = step }); break;
        }
}

/* A write to the immediate of an instruction ahead. */
static void emit_modification(struct program *p, struct rng *rng, const struct loop_regs *r)
{
        mem_op(p, 0, 0x89, false, r->data[0], &(struct operand){ .base = RIP_BASE, .index = NONE, .disp = 2 + (r->data[1] >= 8) });
        op_imm(p, 0, false, r->data[1], (s32)rng_next(rng));
}

static void emit_remap(struct program *p, struct rng *rng)
{
        static const u64 bits[] = { USER_BITS, USER_BITS | ACCESSED_DIRTY, READ_ONLY_BITS, 3 | ACCESSED_DIRTY, 0 };
        const unsigned region = (unsigned)rng_below(rng, REGIONS), page = 1 + (unsigned)rng_below(rng, REGION_PAGES - 1);

        mov_imm(p, RAX, table_entry(region, page));
        mov_imm(p, RDX, frame_of((unsigned)rng_below(rng, REGIONS), 1 + (unsigned)rng_below(rng, REGION_PAGES - 1)) | bits[rng_below(rng, ARRAY_SIZE(bits))]);
        mov_imm(p, RSI, region_gva[region] + page * PAGE_SIZE + rng_below(rng, PAGE_SIZE));
        bytes(p, 0x050f, 2); /* syscall */
}

/* The round goes on in another block: always, or unless @reg is 0, then behind what is emitted next; returns what jump_here wants, 0 if nothing. */
static unsigned emit_block_end(struct program *p, struct rng *rng, unsigned reg)
{
        if (rng_chance(rng, 1, 2)) {
                byte(p, 0xe9); /* jmp */
                bytes(p, 0, 4);
                return 0;
        }
        reg_op(p, 0x85, true, reg, reg); /* test */
        byte(p, 0x0f);
        byte(p, 0x84); /* je */
        bytes(p, 0, 4);
        return p->n;
}

static void jump_here(struct program *p, unsigned from)
{
        const u32 rel = p->n - from;

        memcpy(p->code + from - 4, &rel, 4);
}

static void emit_loop(struct program *p, struct rng *rng)
{
        struct loop_regs r = { .base = { any_reg(rng), any_reg(rng) }, .index = any_reg(rng), .counter = any_reg(rng) };
        const bool counted = rng_chance(rng, 2, 3), pure = rng_chance(rng, 1, 2);
        const bool blocks = rng_chance(rng, 1, 2);
        const unsigned n = 1 + (unsigned)rng_below(rng, 5) + (blocks ? 4 : 0);
        unsigned start, steps = 1 + (unsigned)rng_below(rng, 2), over = 0;

        for (unsigned i = 0; i < ARRAY_SIZE(r.data); i++)
                r.data[i] = any_reg(rng);
        mov_imm(p, r.base[0], pointer(rng, (unsigned)rng_below(rng, REGIONS)));
        mov_imm(p, r.base[1], pointer(rng, (unsigned)rng_below(rng, REGIONS)));
        mov_imm(p, r.index, rng_chance(rng, 1, 10) ? hostile_value(rng) : rng_below(rng, 512));
        mov_imm(p, RCX, 1 + rng_below(rng, rng_chance(rng, 1, 8) ? 3000 : 200));
        start = p->n;
        for (unsigned i = 0; i < n; i++) {
                if (blocks && !over && rng_chance(rng, 1, 2))
                        over = emit_block_end(p, rng, r.data[0]);
                if (rng_chance(rng, 3, 4))
                        emit_access(p, rng, &r);
                else if (!pure)
                        emit_other(p, rng, &r);
                if (over && rng_chance(rng, 1, 2)) {
                        jump_here(p, over);
                        over = 0;
                }
                if (steps && rng_chance(rng, 1, 3) && steps--)
                        emit_step(p, rng, rng_chance(rng, 1, 2) ? r.index : r.base[0], rng_chance(rng, 4, 5));
        }
        if (!pure && rng_chance(rng, 1, 8))
                emit_modification(p, rng, &r);
        if (steps)
                emit_step(p, rng, rng_chance(rng, 1, 2) ? r.index : r.base[0], rng_chance(rng, 4, 5));
        if (over)
                jump_here(p, over);
        if (counted) {
                op_imm(p, 5, true, RCX, 1);
        } else {
                op_imm(p, 0, false, RCX, -1);
                reg_op(p, 0x85, false, RCX, RCX); /* test */
        }
        byte(p, 0x0f);
        byte(p, 0x85); /* jne */
        bytes(p, (u32)start - (p->n + 4), 4);
}

static void program_make(struct program *p, u64 seed)
{
        struct rng rng = { seed };

        *p = (struct program){ .seed = seed, .region = rng_chance(&rng, 1, 2) ? LOW : MIDDLE, .kicks = rng_chance(&rng, 1, 2) };
        for (unsigned i = 0; i < GPR_COUNT; i++)
                p->gpr[i] = rng_chance(&rng, 1, 3) ? pointer(&rng, (unsigned)rng_below(&rng, REGIONS)) : rng_below(&rng, 1000);
        p->gpr[RSP] = region_gva[rng_chance(&rng, 1, 6) ? LOW : HIGH] + REGION_SIZE - 0x808;
        p->fs_base = region_gva[rng_below(&rng, REGIONS)] + 0x2000;
        for (unsigned region = 0; region < REGIONS; region++) {
                for (unsigned page = 0; page < REGION_PAGES; page++) {
                        const u64 kind = page ? rng_below(&rng, 12) : 11;

                        if (kind == 0)
                                set_entry(p, region, page, 0, USER_BITS);
                        else if (kind == 1)
                                set_entry(p, region, page, READ_ONLY_BITS, USER_BITS);
                        else if (kind == 2)
                                set_entry(p, region, page, 3 | ACCESSED_DIRTY, USER_BITS);
                        else if (kind == 3 && rng_chance(&rng, 1, 4))
                                set_entry(p, region, page, rng_chance(&rng, 1, 2) ? 0 : READ_ONLY_BITS, 0);
                        else
                                set_entry(p, region, page, USER_BITS | (rng_chance(&rng, 2, 3) ? ACCESSED_DIRTY : 0), USER_BITS);
                }
        }
        for (unsigned loops = 1 + (unsigned)rng_below(&rng, 6); loops && p->n < CODE_MAX - 600; loops--) {
                emit_loop(p, &rng);
                if (rng_chance(&rng, 1, 2))
                        emit_remap(p, &rng);
        }
        bytes(p, 0xc031, 2);   /* xor eax, eax */
        bytes(p, 0x050f, 2);   /* syscall */
}

/* ---- running it ---- */

static void cpu_prepare(struct cpu_guest *g, const struct program *p)
{
        struct cpu_state *cpu = &g->vcpu.state;

        cpu_guest_user(g, SYSCALL_AT);
        cpu->rflags &= ~RFLAGS_IF;
        cpu->seg[SEG_CS].selector = 0x23;
        cpu->seg[SEG_SS].selector = 0x1b;
        put64(g, GUEST_GDT_AT + 0x18, 0x00cff3000000ffff);
        put64(g, GUEST_GDT_AT + 0x20, 0x00affb000000ffff);
        cpu->gdtr.limit = 39;
        cpu->star = 0x13ULL << 48 | 8ULL << 32;
        cpu->tr = (struct seg){ .selector = 0x28, .base = TSS_AT, .limit = 0x67, .attr = 0x8b };
        put64(g, TSS_AT + 4, GUEST_STACK_AT);
        cpu->paging.cr4 |= CR4_FSGSBASE;
        cpu->seg[SEG_FS].base = p->fs_base;
        memcpy(cpu->gpr, p->gpr, sizeof(p->gpr));
        cpu->rip = region_gva[p->region];
}

/* Only the regions are the user's. */
static void tables_prepare(struct cpu_guest *g, const struct program *p)
{
        const u64 more = TABLES_AT + REGIONS * PAGE_SIZE;
        const u64 pd = GUEST_PML4_AT + 0x2000;

        for (u64 i = 0; i < 512; i++) {
                put64(g, pd + i * 8, i << 21 | 0x83);
                put64(g, pd + 0x1000 + i * 8, (0xc0000000 + (i << 21)) | 0x83);
        }
        put64(g, pd + (region_gva[LOW] >> 21) * 8, (TABLES_AT + LOW * PAGE_SIZE) | USER_BITS);
        for (unsigned region = HIGH; region < REGIONS; region++) {
                const u64 pdpt = more + (region - HIGH) * 2 * PAGE_SIZE, gva = region_gva[region];

                put64(g, GUEST_PML4_AT + (gva >> 39) * 8, pdpt | USER_BITS);
                put64(g, pdpt + (gva >> 30 & 511) * 8, (pdpt + PAGE_SIZE) | USER_BITS);
                put64(g, pdpt + PAGE_SIZE + (gva >> 21 & 511) * 8, (TABLES_AT + region * PAGE_SIZE) | USER_BITS);
        }
        for (unsigned region = 0; region < REGIONS; region++) {
                put64(g, FIX_AT + region * 24, region_gva[region]);
                put64(g, FIX_AT + region * 24 + 8, table_entry(region, 0));
                put64(g, FIX_AT + region * 24 + 16, FULL_AT + region * REGION_PAGES * 8);
                for (unsigned page = 0; page < REGION_PAGES; page++) {
                        put64(g, table_entry(region, page), p->entry[region][page]);
                        put64(g, FULL_AT + (region * REGION_PAGES + page) * 8, p->full[region][page]);
                }
        }
        put64(g, LOG_AT, LOG_AT + 8);
}

static void start(struct cpu_guest *g, const struct cpu_engine *engine, const struct program *p)
{
        struct rng rng = { p->seed + 1 };

        cpu_guest_init_shadow(g, engine, RAM, SHADOW_ALWAYS);
        cpu_guest_long(g, guest_shadow_kernel, guest_shadow_kernel_end);
        for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
                cpu_guest_gate(g, vectors[i], i * 16);
        cpu_prepare(g, p);
        tables_prepare(g, p);
        for (u64 at = 0; at < REGIONS * REGION_SIZE; at += 8)
                put64(g, FRAMES_AT + at, rng_chance(&rng, 1, 2) ? rng_below(&rng, 256) : rng_next(&rng));
        put(g, frame_of(p->region, 0), p->code, p->n);
        if (engine->state_changed)
                engine->state_changed(&g->vcpu);
}

struct kicker {
        struct cpu_guest *g;
        unsigned pause_us; /* 0: each time another one */
        bool stop;
};

static void *kick(void *arg)
{
        struct kicker *k = arg;

        for (unsigned i = 0; !__atomic_load_n(&k->stop, __ATOMIC_ACQUIRE); i++) {
                usleep(k->pause_us ? k->pause_us : 20 + i * 7 % 100);
                vcpu_post_work(&k->g->vcpu, VCPU_WORK_STOP);
        }
        return NULL;
}

#define TRIES 200u /* of 10 ms: programs that have written to their own code may have no end */

/* False when it did not end although it was let run for long, which is for the model alone to find out. */
static bool run_to_end(struct cpu_guest *g, bool is_model, bool kicks)
{
        struct kicker k = { .g = g, .pause_us = is_model ? 10000 : 0 };
        unsigned kicked = 0;
        pthread_t thread;
        bool ended;

        if (is_model || kicks)
                assert_int_equal(pthread_create(&thread, NULL, kick, &k), 0);
        while (!(ended = __atomic_load_n(&g->vcpu.machine_stopping, __ATOMIC_ACQUIRE)) && !(is_model && kicked > TRIES)) {
                const enum exit_reason reason = cpu_guest_run(g);

                kicked++;
                __atomic_fetch_and(&g->vcpu.work, ~VCPU_WORK_STOP, __ATOMIC_ACQ_REL);
                if (reason != EXIT_KICKED && reason != EXIT_MACHINE_STOP)
                        fail_msg("run returned %s", exit_name(reason));
        }
        __atomic_store_n(&k.stop, true, __ATOMIC_RELEASE);
        if (is_model || kicks)
                pthread_join(thread, NULL);
        return ended;
}

static const u8 *ram(const struct cpu_guest *g, u64 gpa)
{
        return guest_memory_hva(g->memory, gpa, PAGE_SIZE);
}

static bool same(const struct cpu_guest *g, const struct cpu_guest *model, u64 gpa, u64 size, const char *what)
{
        for (u64 at = gpa; at < gpa + size; at += 8) {
                u64 is, should;

                memcpy(&is, ram(g, at & PAGE_MASK) + (at & (PAGE_SIZE - 1)), 8);
                memcpy(&should, ram(model, at & PAGE_MASK) + (at & (PAGE_SIZE - 1)), 8);
                if (is != should) {
                        print_error("%s: 0x%lx, qword %lu: 0x%lx, should be 0x%lx\n", what, (unsigned long)at, (unsigned long)(at - gpa) / 8, (unsigned long)is,
                                    (unsigned long)should);
                        return false;
                }
        }
        return true;
}

static bool same_state(const struct cpu_guest *g, const struct cpu_guest *model)
{
        bool ok = true;

        for (unsigned i = 0; i < GPR_COUNT; i++) {
                if (g->vcpu.state.gpr[i] != model->vcpu.state.gpr[i]) {
                        print_error("%s: 0x%lx, should be 0x%lx\n", gpr_names[i], (unsigned long)g->vcpu.state.gpr[i],
                                    (unsigned long)model->vcpu.state.gpr[i]);
                        ok = false;
                }
        }
        if (memcmp(g->vcpu.state.xsave + XMM_OFFSET, model->vcpu.state.xsave + XMM_OFFSET, 64) != 0) {
                print_error("vector registers differ\n");
                ok = false;
        }
        return ok;
}

struct tally {
        u64 faults, shown, syncs, endless;
};

/* The host's memory below the window of @g. */
static u8 *secret_put(const struct cpu_guest *g)
{
        const struct interp *in = g->vcpu.engine_data;
        const struct shadow *s = in->translate->shadow;
        u8 *secret = MAP_FAILED;

        assert_non_null(s);
        for (u64 below = GIB; secret == MAP_FAILED && below < 256 * GIB; below += GIB)
                secret = mmap((u8 *)s->region[SHADOW_HIGH] - below, PAGE_SIZE, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        assert_ptr_not_equal(secret, MAP_FAILED);
        memset(secret, 0x5e, PAGE_SIZE);
        secret_in_high = (uintptr_t)secret - s->bias[SHADOW_HIGH];
        return secret;
}

static bool secret_is_intact(const u8 *secret)
{
        for (unsigned i = 0; i < PAGE_SIZE; i++) {
                if (secret[i] != 0x5e) {
                        print_error("memory of the host was written\n");
                        return false;
                }
        }
        return true;
}

static void set_reg(struct cpu_guest *g, unsigned reg, u64 value)
{
        g->vcpu.state.gpr[reg] = value;
        if (g->vcpu.engine->state_changed)
                g->vcpu.engine->state_changed(&g->vcpu);
}

/* @to_secret: the register that becomes what, added to rdi, would be the secret's address; GPR_COUNT: none. */
static void check(const struct program *p, unsigned to_secret, struct tally *tally)
{
        struct cpu_guest g, model;
        bool ended, ok;
        u8 *secret;

        start(&g, &translate_engine, p);
        start(&model, &interp_engine, p);
        secret = secret_put(&g);
        if (to_secret < GPR_COUNT) {
                set_reg(&g, to_secret, secret_in_high - p->gpr[RDI]);
                set_reg(&model, to_secret, secret_in_high - p->gpr[RDI]);
        }
        ended = run_to_end(&model, true, false);
        if (ended) {
                run_to_end(&g, false, p->kicks);
                tally->faults += (*(const u64 *)(const void *)ram(&model, LOG_AT) - LOG_AT - 8) / LOG_ENTRY;
                tally->shown += g.vcpu.counters.value[COUNTER_SHADOW_FAULTS];
                tally->syncs += g.vcpu.counters.value[COUNTER_SHADOW_SYNCS];
        }
        tally->endless += !ended;
        ok = !ended || (same(&g, &model, LOG_AT, 8 + LOG_MAX * LOG_ENTRY, "log") & same(&g, &model, FRAMES_AT, REGIONS * REGION_SIZE, "memory") &
             same(&g, &model, TABLES_AT, REGIONS * PAGE_SIZE, "page tables") & same_state(&g, &model) &
             secret_is_intact(secret));
        munmap(secret, PAGE_SIZE);
        cpu_guest_free(&g);
        cpu_guest_free(&model);
        if (!ok)
                fail_msg("seed %lu%s", (unsigned long)p->seed, p->kicks ? ", kicked" : "");
}

static u64 number_from(const char *name, u64 otherwise)
{
        const char *text = getenv(name);

        return text ? strtoull(text, NULL, 0) : otherwise;
}

static void random_loops_do_what_the_interpreter_does(void **state)
{
        const u64 only = number_from("SHADOW_SEED", 0), seeds = number_from("SHADOW_SEEDS", SEEDS);
        struct program *p = malloc(sizeof(*p));
        struct tally tally = { 0 };

        assert_non_null(p);
        for (u64 seed = only ? only : 1; seed <= (only ? only : seeds); seed++) {
                program_make(p, seed);
                check(p, GPR_COUNT, &tally);
        }
        print_message("guest faults %lu, shadow faults %lu, syncs %lu; %lu programs without an end were left out\n", (unsigned long)tally.faults,
                      (unsigned long)tally.shown, (unsigned long)tally.syncs, (unsigned long)tally.endless);
        if (!only) {
                assert_true(tally.faults > seeds);
                assert_true(tally.shown > seeds);
                assert_true(tally.syncs > seeds / 2);
                assert_true(tally.endless < seeds / 50 + 2);
        }
        free(p);
}

/* ---- what once went wrong ---- */

/* A program whose pages are all there. */
static void check_code(const u8 *code, const u8 *end, unsigned to_secret)
{
        struct program *p = calloc(1, sizeof(*p));
        struct tally tally = { 0 };

        assert_non_null(p);
        p->region = MIDDLE;
        p->fs_base = region_gva[HIGH];
        for (unsigned region = 0; region < REGIONS; region++)
                for (unsigned page = 0; page < REGION_PAGES; page++)
                        set_entry(p, region, page, USER_BITS | ACCESSED_DIRTY, USER_BITS);
        p->gpr[RSP] = p->gpr[RDI] = region_gva[HIGH] + 0x4000;
        p->n = (unsigned)(end - code);
        memcpy(p->code, code, p->n);
        check(p, to_secret, &tally);
        assert_int_equal(tally.endless, 0);
        free(p);
}

#define END "xor %eax, %eax\n syscall\n"

GUEST_CODE(moves_fs, 64, "mov %fs:0, %rbx\n add %rdi, %r8\n wrfsbase %r8\n mov %fs:0, %rbx\n" END);
static void an_fs_base_that_changes_is_compared_again(void **state)
{
        check_code(guest_moves_fs, guest_moves_fs_end, R8);
}

/* What is compared is equal, so nothing is written. */
GUEST_CODE(keeps_by_cmpxchg, 64, "mov (%rdi), %rbx\n mov %eax, %ecx\n cmpxchg %edx, %ecx\n mov (%rdi,%rax), %rbx\n" END);
GUEST_CODE(keeps_by_bsf, 64, "mov (%rdi), %rbx\n xor %ecx, %ecx\n bsf %ecx, %eax\n mov (%rdi,%rax), %rbx\n" END);
GUEST_CODE(keeps_by_bsr, 64, "mov (%rdi), %rbx\n xor %ecx, %ecx\n bsr %ecx, %eax\n mov (%rdi,%rax), %rbx\n" END);
static void a_write_of_32_bits_that_does_not_happen_makes_no_index(void **state)
{
        check_code(guest_keeps_by_cmpxchg, guest_keeps_by_cmpxchg_end, RAX);
        check_code(guest_keeps_by_bsf, guest_keeps_by_bsf_end, RAX);
        check_code(guest_keeps_by_bsr, guest_keeps_by_bsr_end, RAX);
}

/* Copies a loop to another page, which then changes itself in its first round. */
GUEST_CODE(changes_what_it_wrote, 64,
           "lea 3f(%rip), %rsi\n"
           "lea guest_changes_what_it_wrote+0x2000(%rip), %rbx\n"
           "mov %rbx, %rbp\n"
           "mov $4, %ecx\n"
           "1: mov (%rsi), %rax\n mov %rax, (%rbp)\n add $8, %rsi\n add $8, %rbp\n dec %ecx\n jnz 1b\n"
           "mov $5, %ecx\n mov $100, %r9d\n xor %edx, %edx\n"
           "jmp *%rbx\n"
           "3: .byte 0x81, 0xc2, 1, 0, 0, 0\n" /* add edx, 1 */
           "mov %r9d, 3b+2(%rip)\n"
           "dec %ecx\n"
           "jnz 3b\n" END ".skip 8\n");
static void code_on_a_page_that_was_just_written_sees_itself_change(void **state)
{
        check_code(guest_changes_what_it_wrote, guest_changes_what_it_wrote_end, GPR_COUNT);
}

/* In the last round its register is what the block before it has not compared. Flags are in EFLAGS, so links need no more than that. */
GUEST_CODE(comes_with_another_base, 64,
           "lea (%rdi,%r8), %rdx\n mov %rdi, %rbx\n xor %ecx, %ecx\n add $5, %ecx\n"
           "1: jmp 2f\n"
           "2: mov (%rbx), %rax\n dec %ecx\n cmp $1, %ecx\n cmove %rdx, %rbx\n test %ecx, %ecx\n jnz 1b\n" END);
GUEST_CODE(comes_with_another_index, 64,
           "xor %ebx, %ebx\n xor %ecx, %ecx\n add $5, %ecx\n"
           "1: mov (%rdi), %rsi\n jmp 2f\n"
           "2: mov (%rdi,%rbx), %rax\n dec %ecx\n cmp $1, %ecx\n cmove %r8, %rbx\n test %ecx, %ecx\n jnz 1b\n" END);
static void a_link_leads_behind_no_comparison_of_something_else(void **state)
{
        check_code(guest_comes_with_another_base, guest_comes_with_another_base_end, R8);
        check_code(guest_comes_with_another_index, guest_comes_with_another_index_end, R8);
}

/* Base and index step against each other: the address stays, the base gets far. */
GUEST_CODE(steps_far_away, 64,
           "mov %r8, %rcx\n neg %rcx\n mov %rcx, %rdx\n and $0xfffff, %edx\n shr $20, %rcx\n"
           "mov %rdi, %rbx\n sub %rdx, %rbx\n shr $3, %rdx\n"
           "1: mov (%rbx,%rdx,8), %rax\n sub $0x100000, %rbx\n add $0x20000, %rdx\n dec %rcx\n jnz 1b\n"
           "mov (%rbx), %rax\n" END);
static void what_a_loop_stepped_is_compared_again_behind_it(void **state)
{
        check_code(guest_steps_far_away, guest_steps_far_away_end, R8);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(an_fs_base_that_changes_is_compared_again),
                cmocka_unit_test(a_write_of_32_bits_that_does_not_happen_makes_no_index),
                cmocka_unit_test(a_link_leads_behind_no_comparison_of_something_else),
                cmocka_unit_test(what_a_loop_stepped_is_compared_again_behind_it),
                cmocka_unit_test(code_on_a_page_that_was_just_written_sees_itself_change),
                cmocka_unit_test(random_loops_do_what_the_interpreter_does),
        };

        return cmocka_run_group_tests_name("translate_shadow", tests, NULL, NULL);
}
