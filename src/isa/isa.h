/* x86-64 seen by a virtual machine monitor: which instructions can be left to the CPU while a guest runs with less
 * privilege than it believes, and which cannot.
 *
 * The terms are Popek and Goldberg's ("Formal Requirements for Virtualizable Third Generation Architectures", 1974):
 *
 *   control-sensitive    changes resources or the mode of the processor: interrupt flag, descriptor and page tables,
 *                        I/O
 *   behaviour-sensitive  its effect depends on resources or on the mode: it shows the real tables, the real CPL, the
 *                        real clock
 *   privileged           sensitive, and faults at CPL 3, so that the monitor gets to emulate it
 *   safe                 none of these (their "innocuous"): does the same thing at every privilege level
 *
 * The facts are in sensitive.def, safe.def and traps.def; the code here only looks them up. An instruction is safe only
 * if safe.def says so: whatever a newer decoder may know and the tables do not is reported as behaviour-sensitive.
 *
 *         struct isa_context ctx = isa_machine(ISA_MACHINE_LINUX, ISA_MODE_LONG);
 *         struct isa_verdict verdict = isa_classify(&insn, &ctx);
 *         if (verdict.class == ISA_CLASS_SAFE) ... copy the instruction as it is
 *
 * Everything here is constant data and pure functions: any thread, no failure. */
#pragma once

#include <Zydis/Zydis.h>

#include "base/types.h"

enum isa_class {
        ISA_CLASS_SAFE,
        ISA_CLASS_PRIVILEGED,
        ISA_CLASS_CONTROL_SENSITIVE,   /* and does not fault at CPL 3 */
        ISA_CLASS_BEHAVIOUR_SENSITIVE, /* and does not fault at CPL 3 */
        ISA_CLASS_COUNT
};

enum isa_mode {
        ISA_MODE_REAL,
        ISA_MODE_VM86,
        ISA_MODE_PROTECTED,
        ISA_MODE_COMPAT,
        ISA_MODE_LONG,
        ISA_MODE_COUNT
};

enum isa_knob {
#define ISA_KNOB(id, name, text) ISA_KNOB_##id,
#include "knobs.def"
#undef ISA_KNOB
        ISA_KNOB_COUNT
};

enum isa_machine_id {
#define ISA_MACHINE(id, name, knobs, text) ISA_MACHINE_##id,
#include "machines.def"
#undef ISA_MACHINE
        ISA_MACHINE_COUNT
};

/* Where the instruction is executed: the real CPU, not what the guest believes. */
struct isa_context {
        enum isa_mode mode;
        u8 cpl;    /* ignored in real mode (0) and virtual-8086 mode (3) */
        u8 iopl;   /* EFLAGS.IOPL */
        u32 knobs; /* BIT(enum isa_knob) */
};

enum isa_outcome {
        ISA_OUTCOME_RUNS,   /* completes; nobody notices */
        ISA_OUTCOME_FAULTS, /* raises #GP, #UD or #NM */
        ISA_OUTCOME_ENTERS, /* is itself an entry to CPL 0 or to a hypervisor: int n, syscall, vmcall */
        ISA_OUTCOME_COUNT
};

enum isa_fault { ISA_FAULT_NONE, ISA_FAULT_UD, ISA_FAULT_NM, ISA_FAULT_GP };

#define ISA_KIND_CONTROL 1
#define ISA_KIND_BEHAVIOUR 2

/* Which encodings of a mnemonic a row is about. */
enum isa_form {
#define ISA_FORM(id, suffix) ISA_FORM_##id,
#include "forms.def"
#undef ISA_FORM
        ISA_FORM_COUNT
};

/* One line of sensitive.def. */
struct isa_row {
        u16 mnemonic; /* ZydisMnemonic */
        u8 form;      /* enum isa_form */
        u8 kinds;     /* ISA_KIND_*; 0 for an instruction that only looks sensitive */
        bool user;    /* sensitive also when the guest itself is in its user mode (third theorem) */
        u8 trap;      /* row of traps.def */
        u8 modes;     /* BIT(enum isa_mode) in which it is sensitive */
        u32 unless;   /* knobs that make it safe */
        const char *reason;
        const char *source;
};

/* One line of safe.def. */
struct isa_safe_row {
        u16 isa_set;  /* ZydisISASet */
        s16 category; /* ZydisInstructionCategory; -1 for the whole set */
        const char *reason;
};

struct isa_verdict {
        enum isa_class class;
        enum isa_outcome outcome;      /* at the context's own CPL */
        enum isa_outcome outcome_cpl3; /* what a deprivileged guest sees; in virtual-8086 mode when the mode is real */
        bool traps_at_cpl3;            /* outcome_cpl3 is not RUNS */
        bool sensitive;                /* also true for what is privileged */
        bool user_sensitive;
        const struct isa_row *row; /* NULL when safe by safe.def */
        const char *reason;        /* never NULL */
        const char *source;        /* manual and section; never NULL */
};

/* @insn must have been decoded with the machine mode that fits ctx->mode; operands are not needed. */
struct isa_verdict isa_classify(const ZydisDecodedInstruction *insn, const struct isa_context *ctx);

/* What executing an instruction of @row does under @ctx. */
enum isa_outcome isa_outcome(const struct isa_row *row, const struct isa_context *ctx);
/* The exception that it raises there because of privilege, mode or knobs. */
enum isa_fault isa_fault(const struct isa_row *row, const struct isa_context *ctx);
/* The verdict on a row in general, as isa_classify() would give it for an instruction of that row. */
struct isa_verdict isa_judge(const struct isa_row *row, const struct isa_context *ctx);
/* The row for @insn, or NULL when it is in none. */
const struct isa_row *isa_find(const ZydisDecodedInstruction *insn);
/* The line of safe.def that covers @insn, or NULL. */
const struct isa_safe_row *isa_find_safe(const ZydisDecodedInstruction *insn);

/* Popek and Goldberg's first theorem asks this of every instruction: is it sensitive without giving control to the
 * monitor? */
static inline bool isa_violates(const struct isa_verdict *verdict)
{
        return verdict->sensitive && !verdict->traps_at_cpl3;
}

/* The third theorem (hybrid monitors, which interpret the guest's kernel) asks it of user mode only. */
static inline bool isa_violates_user(const struct isa_verdict *verdict)
{
        return verdict->user_sensitive && !verdict->traps_at_cpl3;
}

/* A named machine at CPL 3, IOPL 0. */
struct isa_context isa_machine(enum isa_machine_id id, enum isa_mode mode);
const char *isa_machine_name(enum isa_machine_id id);
const char *isa_machine_text(enum isa_machine_id id);

const char *isa_class_name(enum isa_class class);
const char *isa_mode_name(enum isa_mode mode);
const char *isa_outcome_name(enum isa_outcome outcome);
const char *isa_knob_name(enum isa_knob knob);
const char *isa_knob_text(enum isa_knob knob);
/* When an instruction of the row traps, in words. */
const char *isa_trap_text(const struct isa_row *row);

#define ISA_ROW_NAME_MAX 32
/* "popf", "mov to cr", "call far". Returns @buf. */
const char *isa_row_name(const struct isa_row *row, char buf[ISA_ROW_NAME_MAX]);

size_t isa_row_count(void);
const struct isa_row *isa_row_at(size_t i);
/* Index of @row in the table. */
size_t isa_row_index(const struct isa_row *row);
size_t isa_safe_row_count(void);
const struct isa_safe_row *isa_safe_row_at(size_t i);

/* Sets up @decoder for @mode; @bits is the code segment's width, 16 or 32, and 0 for the mode's usual one. */
void isa_decoder_init(ZydisDecoder *decoder, enum isa_mode mode, unsigned bits);
