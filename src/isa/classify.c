/* Look-up of an instruction in the tables of sensitive.def and safe.def.
 *
 * A mnemonic leads to the first of its rows by one array access; a row names a form (far, segment register, ...) that
 * is told by the opcode bytes alone, so that callers need not decode operands. What has no row is looked up by Zydis's
 * ISA set and category in a matrix made of safe.def. */
#include "isa.h"

#include <stdio.h>

#define K(knob) (1u << ISA_KNOB_##knob)

/* --- sensitive.def --- */

#define C ISA_KIND_CONTROL
#define B ISA_KIND_BEHAVIOUR
#define CB (ISA_KIND_CONTROL | ISA_KIND_BEHAVIOUR)
#define LONG (1u << ISA_MODE_LONG)
#define PM (LONG | 1u << ISA_MODE_PROTECTED | 1u << ISA_MODE_COMPAT)
#define REALS (1u << ISA_MODE_REAL | 1u << ISA_MODE_VM86)
#define ALL (PM | REALS)
#define NOT_LONG (ALL & ~LONG)

enum {
#define ISA_ROW(mnemonic, form, ...) ROW_##mnemonic##_##form,
#define ISA_ROW_MORE ISA_ROW
#include "sensitive.def"
#undef ISA_ROW
#undef ISA_ROW_MORE
        ROW_COUNT
};

enum isa_trap {
#define ISA_TRAP(id, ...) TRAP_##id,
#include "traps.def"
#undef ISA_TRAP
        TRAP_COUNT
};

static const struct isa_row rows[ROW_COUNT] = {
#define ISA_ROW(mnemonic, form, kinds, user, trap, modes, unless, reason, source)                                      \
        { ZYDIS_MNEMONIC_##mnemonic, ISA_FORM_##form, kinds, user, TRAP_##trap, modes, unless, reason, source },
#define ISA_ROW_MORE ISA_ROW
#include "sensitive.def"
#undef ISA_ROW
#undef ISA_ROW_MORE
};

/* First row of a mnemonic, plus 1; 0 where there is none. */
static const u8 first_row[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define ISA_ROW(mnemonic, form, ...) [ZYDIS_MNEMONIC_##mnemonic] = ROW_##mnemonic##_##form + 1,
#define ISA_ROW_MORE(...)
#include "sensitive.def"
#undef ISA_ROW
#undef ISA_ROW_MORE
};
_Static_assert(ROW_COUNT < 256, "first_row needs a wider type");

/* --- traps.def --- */

enum trap_rule { PLAIN, IOPL, IO, VM86, GATE, ENTRY };

#define ANYWAY (1u << 31) /* a knob that is always set: struct isa_context's own bits stay below it */
_Static_assert(ISA_KNOB_COUNT < 31, "ANYWAY must not be a knob");

static const struct trap {
        u8 above0;
        u32 above0_if_set, above0_if_clear, needs, blocked_by;
        u8 undefined_in;
        u8 rule;
        const char *text;
} traps[TRAP_COUNT] = {
#define ISA_TRAP(id, above0, above0_if_set, above0_if_clear, needs, blocked_by, undefined_in, rule, text)             \
        { ISA_FAULT_##above0, above0_if_set, above0_if_clear, needs, blocked_by, undefined_in, rule, text },
#include "traps.def"
#undef ISA_TRAP
};

/* --- safe.def --- */

enum {
#define ISA_SAFE_REASON(id, text)
#define ISA_SAFE_SET(set, reason) SAFE_##set##_ANY,
#define ISA_SAFE(set, category, reason) SAFE_##set##_##category,
#include "safe.def"
#undef ISA_SAFE_REASON
#undef ISA_SAFE_SET
#undef ISA_SAFE
        SAFE_COUNT
};

#define ISA_SAFE_REASON(id, text) static const char safe_reason_##id[] = text;
#define ISA_SAFE_SET(set, reason)
#define ISA_SAFE(set, category, reason)
#include "safe.def"
#undef ISA_SAFE_REASON
#undef ISA_SAFE_SET
#undef ISA_SAFE

static const struct isa_safe_row safe_rows[SAFE_COUNT] = {
#define ISA_SAFE_REASON(id, text)
#define ISA_SAFE_SET(set, reason) { ZYDIS_ISA_SET_##set, -1, safe_reason_##reason },
#define ISA_SAFE(set, category, reason) { ZYDIS_ISA_SET_##set, ZYDIS_CATEGORY_##category, safe_reason_##reason },
#include "safe.def"
#undef ISA_SAFE_SET
#undef ISA_SAFE
};

/* Index into safe_rows plus 1, by set and category; 0 where safe.def says nothing. */
static const u8 safe_index[ZYDIS_ISA_SET_MAX_VALUE + 1][ZYDIS_CATEGORY_MAX_VALUE + 1] = {
#define ISA_SAFE_SET(set, reason)                                                                                      \
        [ZYDIS_ISA_SET_##set] = { [0 ... ZYDIS_CATEGORY_MAX_VALUE] = SAFE_##set##_ANY + 1 },
#define ISA_SAFE(set, category, reason) [ZYDIS_ISA_SET_##set][ZYDIS_CATEGORY_##category] = SAFE_##set##_##category + 1,
#include "safe.def"
#undef ISA_SAFE_REASON
#undef ISA_SAFE_SET
#undef ISA_SAFE
};
_Static_assert(SAFE_COUNT < 256, "safe_index needs a wider type");

/* --- Which form an instruction has --- */

static bool is_cr(const ZydisDecodedInstruction *insn)
{
        return insn->opcode_map == ZYDIS_OPCODE_MAP_0F && (insn->opcode == 0x20 || insn->opcode == 0x22);
}

static bool is_dr(const ZydisDecodedInstruction *insn)
{
        return insn->opcode_map == ZYDIS_OPCODE_MAP_0F && (insn->opcode == 0x21 || insn->opcode == 0x23);
}

static bool is_mov_from_sreg(const ZydisDecodedInstruction *insn)
{
        return insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && insn->opcode == 0x8c;
}

static bool is_mov_to_sreg(const ZydisDecodedInstruction *insn)
{
        return insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && insn->opcode == 0x8e;
}

/* push and pop: 06, 07, 0E, 16, 17, 1E, 1F (ES, CS, SS, DS), 0F A0, A1, A8, A9 (FS, GS). */
static bool is_sreg(const ZydisDecodedInstruction *insn)
{
        if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F)
                return (insn->opcode & 0xf6) == 0xa0;
        return insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && insn->opcode < 0x20;
}

static bool is_far(const ZydisDecodedInstruction *insn)
{
        return insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

static bool is_any(const ZydisDecodedInstruction *insn)
{
        return true;
}

static bool (*const form_fits[ISA_FORM_COUNT])(const ZydisDecodedInstruction *insn) = {
        [ISA_FORM_ANY] = is_any,
        [ISA_FORM_CR] = is_cr,
        [ISA_FORM_DR] = is_dr,
        [ISA_FORM_FROM_SREG] = is_mov_from_sreg,
        [ISA_FORM_TO_SREG] = is_mov_to_sreg,
        [ISA_FORM_SREG] = is_sreg,
        [ISA_FORM_FAR] = is_far,
};

const struct isa_row *isa_find(const ZydisDecodedInstruction *insn)
{
        for (size_t i = first_row[insn->mnemonic]; i > 0 && i <= ROW_COUNT; i++) {
                const struct isa_row *row = &rows[i - 1];

                if (row->mnemonic != insn->mnemonic)
                        break;
                if (form_fits[row->form](insn))
                        return row;
        }
        return NULL;
}

const struct isa_safe_row *isa_find_safe(const ZydisDecodedInstruction *insn)
{
        u8 i = safe_index[insn->meta.isa_set][insn->meta.category];

        return i > 0 ? &safe_rows[i - 1] : NULL;
}

/* --- Verdicts --- */

/* cli and sti. Source: SDM 2, CLI, table of the action by mode. */
static bool iopl_faults(const struct isa_context *ctx, unsigned cpl)
{
        if (cpl <= ctx->iopl)
                return false;
        if (ctx->mode == ISA_MODE_VM86)
                return !(ctx->knobs & K(VME));
        return !(cpl == 3 && (ctx->knobs & K(PVI)));
}

/* pushf, popf, iret, int n. Source: SDM 3, 8086 emulation. */
static bool vm86_faults(const struct isa_context *ctx)
{
        return ctx->mode == ISA_MODE_VM86 && ctx->iopl < 3 && !(ctx->knobs & K(VME));
}

enum isa_fault isa_fault(const struct isa_row *row, const struct isa_context *ctx)
{
        const struct trap *trap = &traps[row->trap];
        u32 knobs = ctx->knobs | ANYWAY;
        unsigned cpl = ctx->cpl;
        bool faults = false;

        if (ctx->mode == ISA_MODE_REAL)
                cpl = 0;
        else if (ctx->mode == ISA_MODE_VM86)
                cpl = 3;

        if ((trap->undefined_in & BIT(ctx->mode)) || (trap->needs & ~knobs))
                return ISA_FAULT_UD;
        if (cpl > 0 && ((trap->above0_if_set & knobs) || (trap->above0_if_clear & ~knobs)))
                return trap->above0;
        if (trap->blocked_by & knobs)
                return ISA_FAULT_NM;

        switch ((enum trap_rule)trap->rule) {
        case PLAIN:
        case ENTRY:
                break;
        case IOPL:
                faults = iopl_faults(ctx, cpl);
                break;
        case IO:
                faults = cpl > ctx->iopl || ctx->mode == ISA_MODE_VM86;
                break;
        case VM86:
        case GATE:
                faults = vm86_faults(ctx);
                break;
        }
        return faults ? trap->above0 : ISA_FAULT_NONE;
}

enum isa_outcome isa_outcome(const struct isa_row *row, const struct isa_context *ctx)
{
        u8 rule = traps[row->trap].rule;

        if (isa_fault(row, ctx) != ISA_FAULT_NONE)
                return ISA_OUTCOME_FAULTS;
        return rule == GATE || rule == ENTRY ? ISA_OUTCOME_ENTERS : ISA_OUTCOME_RUNS;
}

struct isa_verdict isa_judge(const struct isa_row *row, const struct isa_context *ctx)
{
        struct isa_context deprivileged = *ctx;
        struct isa_verdict v = { .row = row, .reason = row->reason, .source = row->source };

        deprivileged.cpl = 3;
        if (ctx->mode == ISA_MODE_REAL)
                deprivileged.mode = ISA_MODE_VM86;
        v.outcome = isa_outcome(row, ctx);
        v.outcome_cpl3 = isa_outcome(row, &deprivileged);
        v.traps_at_cpl3 = v.outcome_cpl3 != ISA_OUTCOME_RUNS;
        v.sensitive = row->kinds && (row->modes & BIT(ctx->mode)) && !(row->unless & ctx->knobs);
        /* With an IOPL of 3 user code reaches the real interrupt flag. */
        v.user_sensitive = v.sensitive && (row->user || (traps[row->trap].rule == VM86 && ctx->iopl == 3));
        if (row->kinds && !v.sensitive)
                v.reason = row->unless & ctx->knobs ? "sensitive elsewhere, but this machine's settings make it safe"
                                                    : "sensitive in other modes only";
        if (!v.sensitive)
                v.class = ISA_CLASS_SAFE;
        else if (v.outcome_cpl3 == ISA_OUTCOME_FAULTS)
                v.class = ISA_CLASS_PRIVILEGED;
        else
                v.class = row->kinds & ISA_KIND_CONTROL ? ISA_CLASS_CONTROL_SENSITIVE : ISA_CLASS_BEHAVIOUR_SENSITIVE;
        return v;
}

struct isa_verdict isa_classify(const ZydisDecodedInstruction *insn, const struct isa_context *ctx)
{
        const struct isa_row *row = isa_find(insn);
        const struct isa_safe_row *safe;

        if (row)
                return isa_judge(row, ctx);
        safe = isa_find_safe(insn);
        if (safe)
                return (struct isa_verdict){ .class = ISA_CLASS_SAFE, .reason = safe->reason, .source = "safe.def" };
        return (struct isa_verdict){
                .class = ISA_CLASS_BEHAVIOUR_SENSITIVE,
                .sensitive = true,
                .user_sensitive = true,
                .reason = "the tables do not know this instruction yet, so nothing is promised",
                .source = "none",
        };
}

size_t isa_row_count(void)
{
        return ROW_COUNT;
}

const struct isa_row *isa_row_at(size_t i)
{
        return i < ROW_COUNT ? &rows[i] : NULL;
}

size_t isa_row_index(const struct isa_row *row)
{
        return (size_t)(row - rows);
}

size_t isa_safe_row_count(void)
{
        return SAFE_COUNT;
}

const struct isa_safe_row *isa_safe_row_at(size_t i)
{
        return i < SAFE_COUNT ? &safe_rows[i] : NULL;
}

const char *isa_trap_text(const struct isa_row *row)
{
        return traps[row->trap].text;
}

const char *isa_row_name(const struct isa_row *row, char buf[ISA_ROW_NAME_MAX])
{
        static const char *const suffix[ISA_FORM_COUNT] = {
#define ISA_FORM(id, text) [ISA_FORM_##id] = (text),
#include "forms.def"
#undef ISA_FORM
        };

        snprintf(buf, ISA_ROW_NAME_MAX, "%s%s", ZydisMnemonicGetString(row->mnemonic), suffix[row->form]);
        return buf;
}
