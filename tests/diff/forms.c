#include "forms.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define FORMS_MAX 16384
#define INSTRUCTION_MAX 15

struct forms {
        ZydisDecoder decoder;
        struct form form[FORMS_MAX];
        u16 by_class[FORM_CLASSES][FORMS_MAX];
        size_t n, n_by_class[FORM_CLASSES];
};

/* What no two runs do alike, what would end the guest, and what the smallest guest has no model for (ports, MSRs, the APIC). */
static bool excluded(const struct decoded *d)
{
        static const u16 mnemonics[] = {
                ZYDIS_MNEMONIC_RDTSC,  ZYDIS_MNEMONIC_RDTSCP, ZYDIS_MNEMONIC_RDPMC,  ZYDIS_MNEMONIC_RDRAND, ZYDIS_MNEMONIC_RDSEED,
                ZYDIS_MNEMONIC_HLT,    ZYDIS_MNEMONIC_LGDT,   ZYDIS_MNEMONIC_LIDT,   ZYDIS_MNEMONIC_LLDT,   ZYDIS_MNEMONIC_LTR,
                ZYDIS_MNEMONIC_LMSW,   ZYDIS_MNEMONIC_RDMSR,  ZYDIS_MNEMONIC_WRMSR,  ZYDIS_MNEMONIC_XSETBV, ZYDIS_MNEMONIC_VMCALL,
                ZYDIS_MNEMONIC_VMMCALL, ZYDIS_MNEMONIC_UD0,   ZYDIS_MNEMONIC_UD1,    ZYDIS_MNEMONIC_CPUID,  ZYDIS_MNEMONIC_RDPID,
                ZYDIS_MNEMONIC_SENDUIPI, /* RDRAND to processors without user interrupts */
        };

        for (size_t i = 0; i < ARRAY_SIZE(mnemonics); i++)
                if (d->insn.mnemonic == mnemonics[i])
                        return true;
        if (d->insn.meta.isa_ext == ZYDIS_ISA_EXT_KNC || d->insn.meta.isa_ext == ZYDIS_ISA_EXT_KNCE ||
            d->insn.meta.isa_ext == ZYDIS_ISA_EXT_KNCV)
                return true; /* encodings of one accelerator, reserved elsewhere */
        if (d->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && d->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
                return true;
        if (d->insn.meta.category == ZYDIS_CATEGORY_IO || d->insn.meta.category == ZYDIS_CATEGORY_IOSTRINGOP)
                return true;
        for (unsigned i = 0; i < d->insn.operand_count; i++) {
                const ZydisDecodedOperand *op = &d->ops[i];
                const ZydisRegisterClass c = ZydisRegisterGetClass(op->reg.value);

                if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
                    (c == ZYDIS_REGCLASS_CONTROL || c == ZYDIS_REGCLASS_DEBUG || c == ZYDIS_REGCLASS_MASK || c == ZYDIS_REGCLASS_BOUND ||
                     c == ZYDIS_REGCLASS_TMM))
                        return true;
        }
        return false;
}

static bool has_register_class(const struct decoded *d, ZydisRegisterClass class)
{
        for (unsigned i = 0; i < d->insn.operand_count_visible; i++)
                if (d->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(d->ops[i].reg.value) == class)
                        return true;
        return false;
}

static enum form_class class_of(const struct decoded *d)
{
        if (d->insn.meta.isa_ext == ZYDIS_ISA_EXT_X87)
                return FORM_X87;
        if (d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
                return has_register_class(d, ZYDIS_REGCLASS_XMM) || has_register_class(d, ZYDIS_REGCLASS_YMM) ? FORM_AVX : FORM_BMI;
        if (has_register_class(d, ZYDIS_REGCLASS_MMX))
                return FORM_MMX;
        if (has_register_class(d, ZYDIS_REGCLASS_XMM) || d->insn.mnemonic == ZYDIS_MNEMONIC_LDMXCSR)
                return FORM_SSE;
        switch (d->insn.meta.category) {
        case ZYDIS_CATEGORY_CALL:
        case ZYDIS_CATEGORY_RET:
        case ZYDIS_CATEGORY_COND_BR:
        case ZYDIS_CATEGORY_UNCOND_BR:
                return d->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? FORM_SYSTEM : FORM_BRANCH;
        case ZYDIS_CATEGORY_PUSH:
        case ZYDIS_CATEGORY_POP:
                return FORM_STACK;
        case ZYDIS_CATEGORY_STRINGOP:
                return FORM_STRING;
        case ZYDIS_CATEGORY_BITBYTE:
        case ZYDIS_CATEGORY_BINARY:
        case ZYDIS_CATEGORY_LOGICAL:
        case ZYDIS_CATEGORY_SHIFT:
        case ZYDIS_CATEGORY_ROTATE:
        case ZYDIS_CATEGORY_DATAXFER:
        case ZYDIS_CATEGORY_CMOV:
        case ZYDIS_CATEGORY_SETCC:
        case ZYDIS_CATEGORY_SEMAPHORE:
        case ZYDIS_CATEGORY_CONVERT:
        case ZYDIS_CATEGORY_FLAGOP:
        case ZYDIS_CATEGORY_NOP:
        case ZYDIS_CATEGORY_WIDENOP:
        case ZYDIS_CATEGORY_MISC:
        case ZYDIS_CATEGORY_BMI1:
        case ZYDIS_CATEGORY_BMI2:
        case ZYDIS_CATEGORY_ADOX_ADCX:
                return has_register_class(d, ZYDIS_REGCLASS_SEGMENT) ? FORM_SYSTEM : FORM_INTEGER;
        default:
                return FORM_SYSTEM;
        }
}

/* The bytes before ModRM. @rex: its four low bits, or -1; @vvvv as it is in the instruction. Returns their number. */
static unsigned write_opcode(const struct form *form, int rex, unsigned vvvv, bool l, u8 *code)
{
        static const u8 pp_of[] = { 0x00, 0x66, 0xf3, 0xf2 };
        unsigned n = 0, pp = 0;

        if (form->vex) {
                const unsigned bits = rex < 0 ? 0 : (unsigned)rex;

                while (pp_of[pp] != form->prefix)
                        pp++;
                code[n++] = 0xc4;
                code[n++] = (u8)((~bits & 7) << 5 | form->map);
                code[n++] = (u8)((bits & 8) << 4 | vvvv << 3 | (unsigned)l << 2 | pp);
        } else {
                if (form->prefix)
                        code[n++] = form->prefix;
                if (rex >= 0)
                        code[n++] = (u8)(0x40 | rex);
                if (form->map)
                        code[n++] = 0x0f;
                if (form->map > 1)
                        code[n++] = form->map == 2 ? 0x38 : 0x3a;
        }
        code[n++] = form->opcode;
        return n;
}

static bool decode(const struct forms *forms, const u8 *code, struct decoded *ret)
{
        return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&forms->decoder, code, INSTRUCTION_MAX, &ret->insn, ret->ops));
}

static void form_add(struct forms *forms, const struct form *form, const struct decoded *d, unsigned reg_rm)
{
        const enum form_class class = class_of(d);
        struct form *last;

        /* Of one opcode only the last few can be the same instruction. */
        for (size_t i = forms->n; i-- > 0 && i + 80 > forms->n;) {
                struct form *f = &forms->form[i];

                if (f->vex == form->vex && f->map == form->map && f->prefix == form->prefix && f->opcode == form->opcode &&
                    f->memory == form->memory && f->mnemonic == d->insn.mnemonic) {
                        f->reg_rm |= BIT(reg_rm);
                        return;
                }
        }
        if (forms->n == FORMS_MAX)
                return;
        last = &forms->form[forms->n];
        *last = *form;
        last->mnemonic = (u16)d->insn.mnemonic;
        last->modrm = d->insn.attributes & ZYDIS_ATTRIB_HAS_MODRM;
        last->reg_rm = BIT(reg_rm);
        for (unsigned i = 0; i < d->insn.operand_count_visible; i++)
                if (d->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY && d->ops[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
                        last->vsib = true;
        forms->by_class[class][forms->n_by_class[class]++] = (u16)forms->n++;
}

static void try_opcode(struct forms *forms, const struct form *form)
{
        const unsigned tries = form->memory ? 8 : 64;

        for (unsigned i = 0; i < tries; i++) {
                u8 code[INSTRUCTION_MAX + 1] = { 0 };
                unsigned n = write_opcode(form, -1, 15, false, code);
                struct decoded d;

                if (form->memory) {
                        code[n++] = (u8)(i << 3 | 4);
                        code[n] = 0x3b; /* [rbx + rdi] */
                } else {
                        code[n] = (u8)(0xc0 | i);
                }
                if (!decode(forms, code, &d) && form->vex) {
                        code[2] |= 4; /* only with VEX.L */
                        if (!decode(forms, code, &d))
                                continue;
                }
                if (d.insn.length && d.insn.opcode == form->opcode && d.insn.opcode_map == form->map && !excluded(&d)) {
                        const bool has_modrm = d.insn.attributes & ZYDIS_ATTRIB_HAS_MODRM;

                        if (!has_modrm && form->memory)
                                return;
                        form_add(forms, form, &d, form->memory ? i << 3 : i);
                        if (!has_modrm)
                                return;
                }
        }
}

struct forms *forms_new(void)
{
        static const u8 prefixes[] = { 0, 0x66, 0xf2, 0xf3 };
        struct forms *forms = calloc(1, sizeof(*forms));

        if (!forms)
                return NULL;
        case_decoder(&forms->decoder, false);
        for (u8 vex = 0; vex < 2; vex++)
                for (u8 map = vex; map < 4; map++)
                        for (unsigned p = 0; p < ARRAY_SIZE(prefixes); p++)
                                for (unsigned opcode = 0; opcode < 256; opcode++)
                                        for (unsigned memory = 0; memory < 2; memory++) {
                                                const struct form form = { .vex = vex, .map = map, .prefix = prefixes[p],
                                                                           .opcode = (u8)opcode, .memory = memory };

                                                try_opcode(forms, &form);
                                        }
        return forms;
}

size_t forms_count(const struct forms *forms)
{
        return forms->n;
}

static unsigned random_bit(struct rng *rng, u64 mask)
{
        unsigned n = (unsigned)rng_below(rng, (u64)__builtin_popcountll(mask));

        while (n--)
                mask &= mask - 1;
        return (unsigned)__builtin_ctzll(mask);
}

/* ModRM, SIB and displacement of a memory operand. Adds REX.X and REX.B to *@rex. Returns their length. */
static unsigned random_address(struct rng *rng, const struct form *form, const struct addressing *a, unsigned reg, int *rex, u8 *out)
{
        const unsigned base = random_bit(rng, a->bases), index = random_bit(rng, a->indexes ? a->indexes : 1);
        const bool no_base = rng_chance(rng, 1, 5), with_index = form->vsib || (a->indexes && rng_chance(rng, 2, 5) && index != RSP);
        const s64 disp = (s64)rng_below(rng, 512) - 256;
        unsigned mod = (unsigned)rng_below(rng, 3), n = 0;

        if (no_base && !with_index && rng_chance(rng, 3, 4)) { /* RIP-relative */
                out[n++] = (u8)(reg << 3 | 5);
                mod = 2;
        } else if (no_base) {
                out[n++] = (u8)(reg << 3 | 4);
                out[n++] = (u8)((with_index ? rng_below(rng, 4) << 6 | (index & 7) << 3 : 4 << 3) | 5);
                *rex |= with_index ? (int)(index >> 3) << 1 : 0;
                mod = 2;
        } else {
                if (mod == 0 && (base & 7) == RBP)
                        mod = 1;
                if (with_index || (base & 7) == RSP || rng_chance(rng, 1, 16)) {
                        out[n++] = (u8)(mod << 6 | reg << 3 | 4);
                        out[n++] = (u8)((with_index ? rng_below(rng, 4) << 6 | (index & 7) << 3 : 4 << 3) | (base & 7));
                        *rex |= with_index ? (int)(index >> 3) << 1 : 0;
                } else {
                        out[n++] = (u8)(mod << 6 | reg << 3 | (base & 7));
                }
                *rex |= (int)base >> 3;
        }
        if (mod) {
                const unsigned size = mod == 1 ? 1 : 4;

                memcpy(out + n, &disp, size);
                n += size;
        }
        return n;
}

static unsigned random_prefixes(struct rng *rng, const struct form *form, u8 *code)
{
        unsigned n = 0;

        if (form->memory && rng_chance(rng, 1, 8))
                code[n++] = rng_chance(rng, 1, 6) ? (u8)(0x26 | rng_below(rng, 4) << 3) : (u8)(0x64 | rng_below(rng, 2));
        if (rng_chance(rng, 1, 32))
                code[n++] = 0x67;
        if (form->vex)
                return n;
        if (form->memory && rng_chance(rng, 1, 8))
                code[n++] = 0xf0;
        if (form->prefix > 0x66 && rng_chance(rng, 1, 6))
                code[n++] = 0x66; /* operand size beside REP or a mandatory prefix */
        return n;
}

static bool try_random(const struct forms *forms, struct rng *rng, const struct form *form, const struct addressing *addressing,
                       u8 *code, struct decoded *ret)
{
        const unsigned reg_rm = random_bit(rng, form->reg_rm), reg = reg_rm >> 3;
        int rex = rng_chance(rng, 2, 3) || form->vex ? (int)(rng_next(rng) & 0xc) : -1;
        const unsigned vvvv = rng_chance(rng, 1, 3) ? 15 : (unsigned)rng_below(rng, 16);
        u8 bytes[32], address[8];
        unsigned n, n_address = 0;

        if (form->memory) {
                int more = 0;

                n_address = random_address(rng, form, addressing, reg, &more, address);
                rex = more ? (rex < 0 ? 0 : rex) | more : rex;
        } else if (form->modrm) {
                address[n_address++] = (u8)(0xc0 | reg_rm);
                rex = rex < 0 ? rex : rex | (int)rng_below(rng, 2);
        } else if (rex >= 0) {
                rex |= (int)rng_below(rng, 2);
        }
        for (unsigned i = 0; i < sizeof(bytes); i++)
                bytes[i] = (u8)rng_next(rng);
        n = random_prefixes(rng, form, bytes);
        n += write_opcode(form, rex, vvvv, rng_below(rng, 2), bytes + n);
        memcpy(bytes + n, address, n_address);
        memcpy(code, bytes, INSTRUCTION_MAX);
        return decode(forms, code, ret) && !excluded(ret) && ret->insn.length <= INSTRUCTION_MAX;
}

unsigned forms_random(const struct forms *forms, struct rng *rng, enum form_class class, const struct addressing *addressing,
                      u8 *code, struct decoded *ret)
{
        for (;;) {
                const struct form *form = &forms->form[forms->by_class[class][rng_below(rng, forms->n_by_class[class])]];

                for (unsigned i = 0; i < 8; i++)
                        if (try_random(forms, rng, form, addressing, code, ret))
                                return ret->insn.length;
        }
}
