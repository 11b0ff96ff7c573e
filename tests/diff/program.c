#include "program.h"

#include <string.h>

#include "base/cleanup.h"

#define SUBROUTINE_AT 640u
#define SUBROUTINE_ROOM 160u
#define MAIN_ROOM 480u /* of the code before it */
#define FORWARD_MAX 24u /* bytes that a program's branches jump over */

/* What is being built. Registers of a program: @keep are never written by its own instructions, so that addresses stay good. */
struct builder {
        const struct forms *forms;
        struct rng rng;
        struct machine_case *c;
        struct addressing addressing;
        u16 keep;
        bool program;
};

/* ---- operands ---- */

/* An address for an operand of @size bytes: mostly good, else everything that can go wrong. */
static u64 wanted_address(struct builder *b, unsigned size)
{
        struct rng *rng = &b->rng;
        const struct machine_case *c = b->c;
        const u64 data = case_data_gva(c), extra = case_extra_gva(c);
        u64 at;

        switch (rng_below(rng, 28)) {
        case 0: /* across pages that are both good */
                return data + (1 + rng_below(rng, 3)) * PAGE_SIZE - rng_below(rng, size + 1ULL);
        case 1:
        case 2: /* across or beside pages of any kind */
                return extra + rng_below(rng, EXTRA_PAGES + 1) * PAGE_SIZE - rng_below(rng, size + 1ULL);
        case 3:
        case 4:
                return extra + rng_below(rng, EXTRA_SIZE);
        case 5:
                return (extra + rng_below(rng, EXTRA_SIZE)) & ~31ULL;
        case 6: /* the code itself, from this instruction on */
                return c->rip + rng_below(rng, 48);
        case 7: /* the other privilege level's */
                return (c->kernel ? EXTRA_GVA : KERNEL_EXTRA_GVA) + rng_below(rng, PAGE_SIZE);
        case 8: /* the edges of the address space's halves */
                at = rng_chance(rng, 1, 2) ? 0x800000000000ULL : rng_chance(rng, 1, 2) ? 0xffff800000000000ULL : 0;
                return at - rng_below(rng, size + 9ULL);
        case 9:
                return rng_chance(rng, 1, 3) ? rng_next(rng) : VMM_ADDRESS + rng_below(rng, VMM_SIZE);
        default:
                at = data + PAGE_SIZE + rng_below(rng, 2 * PAGE_SIZE);
                return rng_chance(rng, 1, 2) ? at & ~63ULL : at;
        }
}

/* Where a branch should go: mostly the padding of the code pages, which is INT3. */
static u64 wanted_target(struct builder *b)
{
        struct rng *rng = &b->rng;
        const u64 code = case_code_gva(b->c);

        switch (rng_below(rng, 12)) {
        case 0:
                return rng_next(rng);
        case 1:
                return 0x800000000000ULL - rng_below(rng, 4);
        case 2:
                return case_data_gva(b->c) + rng_below(rng, DATA_SIZE); /* not executable */
        case 3:
                return b->c->kernel ? CODE_GVA + 64 : KERNEL_CODE_GVA + 64;
        default:
                return code + 0x1000 + rng_below(rng, 0x1000);
        }
}

static int gpr_of(ZydisRegister reg)
{
        switch (ZydisRegisterGetClass(reg)) {
        case ZYDIS_REGCLASS_GPR8:
                return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH ? (int)(reg - ZYDIS_REGISTER_AH)
                       : reg >= ZYDIS_REGISTER_SPL                          ? (int)(reg - ZYDIS_REGISTER_SPL) + 4
                                                                            : (int)(reg - ZYDIS_REGISTER_AL);
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
                return (int)ZydisRegisterGetId(reg);
        default:
                return -1;
        }
}

static u64 segment_base(const struct machine_case *c, const ZydisDecodedOperand *op)
{
        return op->mem.segment == ZYDIS_REGISTER_FS ? c->fs_base : op->mem.segment == ZYDIS_REGISTER_GS ? c->gs_base : 0;
}

/* Writes the displacement of the instruction at @at so that it adds @by. */
static void add_displacement(struct builder *b, unsigned at, struct decoded *d, u64 by)
{
        s64 v = d->insn.raw.disp.value + (s64)by;

        if (d->insn.raw.disp.size < 32 || (d->insn.raw.disp.size == 32 && v != (s32)v))
                return;
        memcpy(b->c->code + at + d->insn.raw.disp.offset, &v, d->insn.raw.disp.size / 8);
}

/* What a memory operand without a register to choose would reach, made to reach @want. */
static void aim_displacement(struct builder *b, unsigned at, struct decoded *d, const ZydisDecodedOperand *op, u64 want)
{
        u64 now = (u64)op->mem.disp.value + segment_base(b->c, op);

        if (op->mem.base == ZYDIS_REGISTER_RIP)
                now += b->c->rip + at + d->insn.length;
        else if (op->mem.base != ZYDIS_REGISTER_NONE)
                return;
        if (op->mem.index != ZYDIS_REGISTER_NONE && gpr_of(op->mem.index) >= 0)
                now += b->c->gpr[gpr_of(op->mem.index)] * op->mem.scale;
        add_displacement(b, at, d, want - now);
}

/* Chooses the base register's value so that the operand lies at @want. */
static void aim_base(struct builder *b, const ZydisDecodedOperand *op, u64 want)
{
        struct machine_case *c = b->c;
        const int base = gpr_of(op->mem.base), index = gpr_of(op->mem.index);
        u64 rest = want - segment_base(c, op) - (op->mem.disp.has_displacement ? (u64)op->mem.disp.value : 0);

        if (index >= 0 && index != base)
                rest -= c->gpr[index] * op->mem.scale;
        if (index == base && op->mem.scale == 1)
                rest /= 2;
        if (ZydisRegisterGetClass(op->mem.base) == ZYDIS_REGCLASS_GPR32)
                rest = (u32)rest | (rng_next(&b->rng) & ~0xffffffffULL);
        c->gpr[base] = rest;
}

static void poke_data(struct machine_case *c, u64 gva, const void *src, unsigned size)
{
        const u64 at = gva - case_data_gva(c);

        if (at < DATA_SIZE && DATA_SIZE - at >= size)
                memcpy(c->data + at, src, size);
}

/* A compare-and-exchange that succeeds: what it compares with is in memory. */
static void maybe_equal(struct builder *b, const struct decoded *d, u64 gva)
{
        struct machine_case *c = b->c;
        const u64 at = gva - case_data_gva(c);

        if (at >= DATA_SIZE - 16 || rng_chance(&b->rng, 1, 2))
                return;
        switch (d->insn.mnemonic) {
        case ZYDIS_MNEMONIC_CMPXCHG:
                memcpy(&c->gpr[RAX], c->data + at, 8);
                break;
        case ZYDIS_MNEMONIC_CMPXCHG8B:
                c->gpr[RAX] = c->gpr[RDX] = 0;
                memcpy(&c->gpr[RAX], c->data + at, 4);
                memcpy(&c->gpr[RDX], c->data + at + 4, 4);
                break;
        case ZYDIS_MNEMONIC_CMPXCHG16B:
                memcpy(&c->gpr[RAX], c->data + at, 8);
                memcpy(&c->gpr[RDX], c->data + at + 8, 8);
                break;
        default:
                break;
        }
}

/* IRETQ's frame, at @gva. */
static void interrupt_frame(struct builder *b, u64 gva)
{
        struct rng *rng = &b->rng;
        const bool user = rng_chance(rng, 1, 2);
        const u64 frame[5] = {
                user ? CODE_GVA + 0x1800 : KERNEL_CODE_GVA + 0x1800,
                rng_chance(rng, 1, 8) ? rng_below(rng, 0x40) : user ? 0x23 : 0x08,
                (rng_next(rng) & (RFLAGS_ARITH | RFLAGS_DF | RFLAGS_IF | RFLAGS_AC)) | RFLAGS_FIXED,
                wanted_address(b, 8),
                rng_chance(rng, 1, 8) ? rng_below(rng, 0x40) : user ? 0x1b : 0x10,
        };

        poke_data(b->c, gva, frame, sizeof(frame));
}

static bool has_hidden_rsp(const ZydisDecodedOperand *op)
{
        return op->mem.base == ZYDIS_REGISTER_RSP && op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT;
}

/* Gives the memory operands of the instruction at @at addresses worth trying. Registers only when it is the only instruction. */
static void aim(struct builder *b, unsigned at, struct decoded *d)
{
        for (unsigned i = 0; i < d->insn.operand_count; i++) {
                const ZydisDecodedOperand *op = &d->ops[i];
                const u64 want = op->type == ZYDIS_OPERAND_TYPE_MEMORY ? wanted_address(b, op->size / 8u) : 0;

                if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
                        continue;
                if (gpr_of(op->mem.base) < 0) {
                        aim_displacement(b, at, d, op, want);
                } else if (!b->program) {
                        /* The stack is good most of the time. */
                        if (has_hidden_rsp(op) && rng_chance(&b->rng, 2, 3)) {
                                poke_data(b->c, b->c->gpr[RSP], (const u64[]){ wanted_target(b) }, 8);
                                if (d->insn.meta.category == ZYDIS_CATEGORY_RET)
                                        interrupt_frame(b, b->c->gpr[RSP]);
                                continue;
                        }
                        aim_base(b, op, want);
                }
                maybe_equal(b, d, want);
                if (d->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
                        poke_data(b->c, want, (const u64[]){ wanted_target(b) }, 8);
        }
}

/* Registers that an instruction wants in some state to do something interesting. */
static void prepare_registers(struct builder *b, const struct decoded *d)
{
        struct rng *rng = &b->rng;
        u64 *gpr = b->c->gpr;

        switch (d->insn.meta.category) {
        case ZYDIS_CATEGORY_STRINGOP:
                gpr[RCX] = rng_chance(rng, 3, 4) ? rng_below(rng, 6) : rng_below(rng, 1200);
                break;
        case ZYDIS_CATEGORY_AVX2GATHER:
                for (unsigned i = 0; i < 512 && rng_chance(rng, 15, 16); i += 8) {
                        const u64 small = rng_below(rng, 64);

                        memcpy(b->c->xsave + (i < 256 ? XMM_OFFSET + i : XSAVE_YMM_OFFSET + i - 256), &small, 8);
                }
                break;
        case ZYDIS_CATEGORY_SYSRET:
                gpr[RCX] = rng_chance(rng, 7, 8) ? CODE_GVA + 0x1800 : rng_next(rng);
                gpr[R11] = (rng_next(rng) & (RFLAGS_ARITH | RFLAGS_DF | RFLAGS_AC)) | RFLAGS_IF;
                break;
        case ZYDIS_CATEGORY_RDWRFSGS:
                if (rng_chance(rng, 3, 4) && d->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_of(d->ops[0].reg.value) >= 0)
                        gpr[gpr_of(d->ops[0].reg.value)] = wanted_address(b, 8);
                break;
        default:
                break;
        }
        if ((d->insn.mnemonic == ZYDIS_MNEMONIC_DIV || d->insn.mnemonic == ZYDIS_MNEMONIC_IDIV) && rng_chance(rng, 2, 3))
                gpr[RDX] = rng_below(rng, 3);
        if (d->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && d->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            gpr_of(d->ops[0].reg.value) >= 0 && !b->program)
                gpr[gpr_of(d->ops[0].reg.value)] = wanted_target(b);
}

/* Sets a direct branch's displacement: into the padding, or for a program's conditional branches a little forward. */
static void aim_branch(struct builder *b, unsigned at, const struct decoded *d)
{
        const u64 next = b->c->rip + at + d->insn.length;
        u8 *imm = b->c->code + at + d->insn.raw.imm[0].offset;
        s64 v;

        if (!d->insn.raw.imm[0].is_relative)
                return;
        if (b->program)
                v = (s64)rng_below(&b->rng, FORWARD_MAX);
        else if (d->insn.raw.imm[0].size == 8)
                v = (s8)rng_next(&b->rng);
        else
                v = (s64)(rng_chance(&b->rng, 1, 8) ? rng_next(&b->rng) : wanted_target(b) - next);
        if (v < 0 && v >= -(s64)d->insn.length)
                v = 1; /* not into itself: that may loop for ever */
        memcpy(imm, &v, d->insn.raw.imm[0].size / 8);
}

/* ---- instructions ---- */

static enum form_class random_class(struct builder *b)
{
        static const struct {
                u8 weight, program;
        } weights[FORM_CLASSES] = {
                [FORM_INTEGER] = { 40, 54 }, [FORM_BRANCH] = { 8, 7 }, [FORM_STACK] = { 8, 8 }, [FORM_STRING] = { 6, 1 },
                [FORM_BMI] = { 6, 6 },       [FORM_X87] = { 6, 4 },    [FORM_MMX] = { 4, 2 },   [FORM_SSE] = { 10, 10 },
                [FORM_AVX] = { 8, 7 },       [FORM_SYSTEM] = { 4, 1 },
        };
        u64 n = rng_below(&b->rng, 100);

        for (unsigned i = 0; i < FORM_CLASSES; i++) {
                const unsigned weight = b->program ? weights[i].program : weights[i].weight;

                if (n < weight)
                        return (enum form_class)i;
                n -= weight;
        }
        return FORM_INTEGER;
}

static u16 written_gprs(const struct decoded *d)
{
        u16 mask = 0;

        for (unsigned i = 0; i < d->insn.operand_count; i++) {
                const ZydisDecodedOperand *op = &d->ops[i];
                const int gpr = op->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_of(op->reg.value) : -1;

                if (gpr >= 0 && op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
                    !(gpr == RSP && op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT))
                        mask |= (u16)BIT(gpr);
        }
        return mask;
}

/* Would a program's next instructions never be reached, or the stack be lost? */
static bool ends_program(const struct decoded *d)
{
        return (d->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && d->insn.meta.category != ZYDIS_CATEGORY_COND_BR &&
                !d->insn.raw.imm[0].is_relative) ||
               d->insn.meta.category == ZYDIS_CATEGORY_RET || d->insn.mnemonic == ZYDIS_MNEMONIC_LEAVE ||
               d->insn.mnemonic == ZYDIS_MNEMONIC_ENTER || d->insn.mnemonic == ZYDIS_MNEMONIC_CALL;
}

static unsigned add_bytes(struct machine_case *c, unsigned at, const u8 *bytes, unsigned n)
{
        memcpy(c->code + at, bytes, n);
        return n;
}

/* Leaves OF undefined, and different depending on where the register is kept. */
static bool leaves_of(const struct decoded *d)
{
        return (d->insn.mnemonic == ZYDIS_MNEMONIC_ROL || d->insn.mnemonic == ZYDIS_MNEMONIC_ROR) &&
               d->ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && d->insn.raw.imm[0].size;
}

/* Appends one instruction at @at; returns its length. */
static unsigned add_instruction(struct builder *b, unsigned at)
{
        struct decoded d;
        unsigned n;

        do {
                n = forms_random(b->forms, &b->rng, random_class(b), &b->addressing, b->c->code + at, &d);
        } while (b->program && (written_gprs(&d) & b->keep || (ends_program(&d) && !rng_chance(&b->rng, 1, 20))));
        if (!b->program)
                prepare_registers(b, &d);
        aim(b, at, &d);
        aim_branch(b, at, &d);
        if (at == 0)
                b->c->insn = d.insn;
        if (leaves_of(&d))
                n += add_bytes(b->c, at + n, (const u8[]){ 0x85, 0xc0 }, 2); /* test eax, eax */
        return n;
}

static u16 pick(struct builder *b, u16 taken)
{
        u16 reg;

        do {
                reg = (u16)BIT(rng_below(&b->rng, 16));
        } while (reg & taken);
        return reg;
}

static unsigned number(u16 reg)
{
        return (unsigned)__builtin_ctz(reg);
}

static unsigned add_call(struct builder *b, unsigned at)
{
        const s32 to = (s32)(SUBROUTINE_AT - (at + 5));
        u8 code[5] = { 0xe8 };

        memcpy(code + 1, &to, 4);
        return add_bytes(b->c, at, code, 5);
}

/* DEC counter; JNZ to the start. */
static unsigned add_loop(struct builder *b, unsigned at, unsigned counter)
{
        const u8 dec[] = { (u8)(0x48 | counter >> 3), 0xff, (u8)(0xc8 | (counter & 7)) };
        const s32 to = -(s32)(at + sizeof(dec) + 6);
        u8 jnz[6] = { 0x0f, 0x85 };

        memcpy(jnz + 2, &to, 4);
        at += add_bytes(b->c, at, dec, sizeof(dec));
        add_bytes(b->c, at, jnz, sizeof(jnz));
        return sizeof(dec) + sizeof(jnz);
}

static void make_program(struct builder *b)
{
        struct rng *rng = &b->rng;
        struct machine_case *c = b->c;
        const u16 one = pick(b, BIT(RSP)), two = pick(b, (u16)(one | BIT(RSP))), index = pick(b, (u16)(one | two | BIT(RSP)));
        const u16 counter = pick(b, (u16)(one | two | index | BIT(RSP)));
        const unsigned n_main = 1 + (unsigned)rng_below(rng, 14), n_sub = (unsigned)rng_below(rng, 5);
        unsigned at = 0;

        b->keep = (u16)(one | two | index | counter | BIT(RSP));
        b->addressing = (struct addressing){ .bases = (u16)(one | two | BIT(RSP)), .indexes = index };
        c->gpr[RSP] = case_data_gva(c) + DATA_SIZE / 2 + rng_below(rng, 256) * 8;
        c->gpr[number(one)] = case_data_gva(c) + PAGE_SIZE + (rng_below(rng, PAGE_SIZE) & (rng_chance(rng, 1, 2) ? ~63ULL : ~0ULL));
        c->gpr[number(two)] = rng_chance(rng, 1, 2) ? wanted_address(b, 8) : case_data_gva(c) + rng_below(rng, DATA_SIZE);
        c->gpr[number(index)] = rng_below(rng, 64);
        c->gpr[number(counter)] = rng_chance(rng, 1, 3) ? 1 + rng_below(rng, 60) : 1;
        for (unsigned i = 0; i < n_main && at < MAIN_ROOM - 32; i++)
                at += rng_chance(rng, 1, 12) ? add_call(b, at) : add_instruction(b, at);
        /* So that no branch jumps over the counting. */
        memset(c->code + at, 0x90, FORWARD_MAX);
        at += FORWARD_MAX;
        at += add_loop(b, at, number(counter));
        memset(c->code + at, 0xcc, SUBROUTINE_AT - at);
        at = SUBROUTINE_AT;
        for (unsigned i = 0; i < n_sub; i++)
                at += add_instruction(b, at);
        at += add_bytes(c, at, (const u8[]){ 0xc3 }, 1);
        c->length = at;
}

static void place_code(struct builder *b)
{
        struct rng *rng = &b->rng;
        const u64 code = case_code_gva(b->c);

        if (b->program)
                b->c->rip = code + (rng_chance(rng, 1, 4) ? PAGE_SIZE - rng_below(rng, 128) : 64 + rng_below(rng, 1024));
        else
                b->c->rip = code + (rng_chance(rng, 1, 8) ? PAGE_SIZE - rng_below(rng, 16) : 256 + rng_below(rng, 2048));
}

bool program_make(const struct forms *forms, u64 seed, struct machine_case *c)
{
        struct builder b = { .forms = forms, .rng = { seed }, .c = c, .addressing = { 0xffff, 0xffff & ~BIT(RSP) } };
        struct rng *rng = &b.rng;

        c->compat = false;
        c->code_after = true;
        c->kernel = rng_chance(rng, 1, 3);
        b.program = rng_chance(rng, 1, 2);
        case_random_state(rng, c);
        c->kernel_gs_base = case_data_gva(c) + rng_below(rng, 64) * 8;
        if (rng_chance(rng, 1, 16))
                c->fs_base = wanted_address(&b, 8);
        if (rng_chance(rng, 1, 16))
                c->gs_base = wanted_address(&b, 8);
        /* Code that modifies itself may become RDTSC: with TSD that faults, at CPL 3 at least. */
        c->cr4 = CR4_TSD | (rng_chance(rng, 1, 2) ? CR4_SMAP : 0) | (rng_chance(rng, 1, 2) ? CR4_SMEP : 0) |
                 (rng_chance(rng, 1, 8) ? CR4_UMIP : 0);
        if (c->kernel && rng_chance(rng, 1, 4))
                c->rflags |= RFLAGS_AC;
        place_code(&b);
        if (b.program)
                make_program(&b);
        else
                c->length = add_instruction(&b, 0);
        return true;
}
