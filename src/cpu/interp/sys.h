/* The inside of the system half: what sys_*.c share.
 *
 * Words: a *descriptor* is 8 bytes (16 for system descriptors in IA-32e mode) of the GDT or LDT; a *gate* is a descriptor that names
 * another segment. Checks follow the order of the pseudo-code in SDM 2A-2C and 3A, chapters 5-7, because the first failing check decides
 * the exception. Nothing is changed before the last check that can fail, except where the architecture says so (task switches).
 *
 * @u is the instruction being executed, NULL while an event is delivered and after the commit point of a task switch. */
#pragma once

#include "ops.h"

/* Who spins, waits for another vCPU, whose thread may not have a CPU of the host at the moment. Every so many PAUSEs this thread gives way,
 * as KVM does after a pause-loop exit. */
#define PAUSES_PER_YIELD 64

#define TYPE_ACCESSED 1u
#define TYPE_WRITABLE 2u   /* of data */
#define TYPE_READABLE 2u   /* of code */
#define TYPE_EXPAND_DOWN 4u /* of data */
#define TYPE_CONFORMING 4u /* of code */
#define TYPE_CODE 8u
#define TYPE_TSS_BUSY 2u

struct descriptor {
        u16 selector;
        u16 attr;   /* as struct seg's */
        u32 limit;  /* in bytes */
        u64 base;
        u64 linear; /* where it lies */
        u64 raw, raw_high;
};

struct gate {
        u16 selector;
        u8 ist, params;
        u64 offset;
};

/* What a system descriptor's type means. SDM 3A, table 3-2. */
enum system_kind { SYSTEM_INVALID, SYSTEM_TSS, SYSTEM_LDT, SYSTEM_CALL_GATE, SYSTEM_TASK_GATE, SYSTEM_INT_GATE, SYSTEM_TRAP_GATE };
struct system_type {
        enum system_kind kind;
        u8 size;      /* of what it pushes or saves, bytes; in IA-32e mode the 4-byte ones are 8-byte ones */
        bool busy;
        bool long_ok; /* exists in IA-32e mode */
};

/* ---- descriptors (sys_segment.c) ---- */

static inline unsigned desc_dpl(u16 attr)
{
        return (attr & SEG_ATTR_DPL) >> 5;
}
static inline bool desc_present(u16 attr)
{
        return attr & SEG_ATTR_P;
}
static inline bool desc_is_code(u16 attr)
{
        return (attr & (SEG_ATTR_S | TYPE_CODE)) == (SEG_ATTR_S | TYPE_CODE);
}
static inline bool desc_is_conforming(u16 attr)
{
        return (attr & (SEG_ATTR_S | TYPE_CODE | TYPE_CONFORMING)) == (SEG_ATTR_S | TYPE_CODE | TYPE_CONFORMING);
}
static inline bool desc_is_writable_data(u16 attr)
{
        return (attr & (SEG_ATTR_S | TYPE_CODE | TYPE_WRITABLE)) == (SEG_ATTR_S | TYPE_WRITABLE);
}
static inline bool selector_is_null(u16 selector)
{
        return !(selector & ~3);
}

/* In virtual-8086 mode? (cpu_vm86 looks at cpu->rflags, which is stale while the interpreter runs.) */
static inline bool sys_vm86(const struct interp *in)
{
        return in->rflags & RFLAGS_VM;
}

const struct system_type *sys_system_type(const struct interp *in, u16 attr);
/* Reads the descriptor that @selector names; @bytes is 8 or 16. False when it lies beyond its table. */
bool sys_fetch_descriptor(struct interp *in, const struct uop *u, u16 selector, unsigned bytes, struct descriptor *ret);
/* Fills the fields from the raw bytes. SDM 3A, figure 3-8. */
static inline struct descriptor sys_parse_descriptor(u16 selector, u64 raw, u64 raw_high)
{
        struct descriptor d = {
                .selector = selector,
                .attr = (u16)((raw >> 40) & 0xf0ff),
                .limit = (u32)(bits(raw, 15, 0) | bits(raw, 51, 48) << 16),
                .base = bits(raw, 39, 16) | bits(raw, 63, 56) << 24 | bits(raw_high, 31, 0) << 32,
                .raw = raw,
                .raw_high = raw_high,
        };

        if (d.attr & SEG_ATTR_G)
                d.limit = d.limit << 12 | 0xfff;
        return d;
}

/* SDM 3A, figures 5-8, 5-9, 6-2 and 6-8. */
static inline struct gate sys_parse_gate(const struct descriptor *d, bool long_mode)
{
        struct gate g = {
                .selector = (u16)bits(d->raw, 31, 16),
                .ist = (u8)bits(d->raw, 34, 32),
                .params = (u8)bits(d->raw, 36, 32),
                .offset = bits(d->raw, 15, 0) | bits(d->raw, 63, 48) << 16,
        };

        if (long_mode)
                g.offset |= bits(d->raw_high, 31, 0) << 32;
        else if (!(d->attr & 8)) /* a 16-bit gate */
                g.offset &= 0xffff;
        return g;
}

/* Sets the accessed bit in memory if it is clear, and in @d. */
void sys_mark_accessed(struct interp *in, const struct uop *u, struct descriptor *d);
static inline struct seg sys_seg_from(const struct descriptor *d, u16 selector)
{
        return (struct seg){ .selector = selector, .attr = d->attr, .limit = d->limit, .base = d->base };
}

/* A segment register in real or virtual-8086 mode. */
void sys_seg_real(struct seg *seg, u16 selector, bool vm86);
/* Does [offset, offset + size) lie inside the segment (legacy limit rules)? */
bool sys_seg_covers(const struct seg *seg, u64 offset, unsigned size);
/* Raises unless @d is a writable data segment fit for SS at privilege @cpl. @vector: #GP, or #TS while a stack comes from a TSS. */
void sys_check_stack_segment(struct interp *in, const struct uop *u, const struct descriptor *d, unsigned cpl,
                             enum exception vector);
/* MOV to a segment register other than CS, with all checks. */
void sys_load_segment(struct interp *in, const struct uop *u, unsigned seg, u16 selector);
/* Return to an outer ring: data segments that the new CPL must not use become null. SDM 2A, IRET. */
static inline void sys_drop_inner_segments(struct interp *in)
{
        static const u8 data_segments[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
        struct cpu_state *cpu = in->cpu;

        for (size_t i = 0; i < ARRAY_SIZE(data_segments); i++) {
                struct seg *seg = &cpu->seg[data_segments[i]];

                if (selector_is_null(seg->selector)) {
                        seg->selector = 0;
                } else if (!seg->unusable && !desc_is_conforming(seg->attr) && desc_dpl(seg->attr) < cpu->cpl) {
                        /* The base stays: in 64-bit mode FS and GS keep working through it. */
                        seg->selector = 0;
                        seg->unusable = true;
                }
        }
}

/* CS of a flat 64-bit or 32-bit code segment and its SS, as SYSCALL and SYSENTER load them. */
static inline void sys_load_flat_cs_ss(struct cpu_state *cpu, u16 cs, u16 ss, unsigned cpl, bool long64)
{
        const u16 dpl = (u16)(cpl << 5);

        cpu->seg[SEG_CS] = (struct seg){
                .selector = cs,
                .limit = 0xffffffff,
                .attr = (u16)(SEG_ATTR_G | (long64 ? SEG_ATTR_L : SEG_ATTR_DB) | SEG_ATTR_P | SEG_ATTR_S | dpl |
                              TYPE_CODE | TYPE_READABLE | TYPE_ACCESSED),
        };
        cpu->seg[SEG_SS] = (struct seg){
                .selector = ss,
                .limit = 0xffffffff,
                .attr = (u16)(SEG_ATTR_G | SEG_ATTR_DB | SEG_ATTR_P | SEG_ATTR_S | dpl | TYPE_WRITABLE | TYPE_ACCESSED),
        };
        cpu->cpl = (u8)cpl;
}

/* ---- raising ---- */

/* The EXT bit: the fault happened while something other than a software interrupt was delivered. SDM 3A, 6.13. */
static inline u32 sys_ext(const struct interp *in)
{
        return in->delivering && in->event.kind != EVENT_SOFT_INT;
}
/* A fault whose error code names a segment (0: none). */
_noreturn_ static inline void sys_fault(struct interp *in, const struct uop *u, enum exception vector, u16 selector)
{
        interp_raise(in, u, vector, (selector & 0xfffc) | sys_ext(in));
}
_noreturn_ static inline void sys_gp0(struct interp *in, const struct uop *u)
{
        sys_fault(in, u, EXC_GP, 0);
}
_noreturn_ static inline void sys_ud(struct interp *in, const struct uop *u)
{
        interp_raise(in, u, EXC_UD, NO_ERROR_CODE);
}

/* A #DB trap at @rip, after the instruction. */
_noreturn_ void sys_raise_step_trap(struct interp *in, u64 rip, u64 dr6);
/* A fault or software interrupt was delivered: a debugger that steps has to stop at the handler, since no instruction ended. */
void sys_debug_delivered(struct interp *in);
/* I/O breakpoints (CR4.DE). */
void sys_io_breakpoint(struct interp *in, unsigned port, unsigned size);

/* ---- stacks ---- */

/* A stack being pushed to or popped from; nothing reaches the registers before sys_stack_commit. */
struct sys_stack {
        struct seg seg;
        u64 sp;
        u64 mask;   /* width of the stack pointer */
        bool flat;  /* 64-bit mode: no base, no limit, canonical addresses */
        bool user;  /* accesses are made as CPL 3 */
        u16 fault_selector; /* of #SS */
};

/* The current stack. */
struct sys_stack sys_stack_current(const struct interp *in);
/* The stack @seg:@sp as code of privilege @cpl uses it; @flat for 64-bit code. */
struct sys_stack sys_stack_make(const struct seg *seg, u64 sp, unsigned cpl, bool flat);
void sys_stack_push(struct interp *in, const struct uop *u, struct sys_stack *st, u64 value, unsigned size);
u64 sys_stack_pop(struct interp *in, const struct uop *u, struct sys_stack *st, unsigned size);
/* Loads RSP (its upper part stays when the stack pointer is 16 bits wide). SS is the caller's. */
void sys_stack_commit(struct interp *in, const struct sys_stack *st);

/* The stack that the TSS holds for privilege @cpl (or IST @ist, in IA-32e mode): SS checked, pointer not aligned. SDM 2A, INT n. */
struct sys_stack sys_stack_from_tss(struct interp *in, const struct uop *u, unsigned cpl, unsigned ist);

/* ---- transfers ---- */

/* Raises #GP(0) when @rip cannot be executed in the code segment @cs. */
void sys_check_rip(struct interp *in, const struct uop *u, const struct seg *cs, u64 rip);
/* True when @cs is a 64-bit code segment now. */
static inline bool sys_cs_is_long(const struct interp *in, const struct seg *cs)
{
        return cpu_long_mode(in->cpu) && (cs->attr & SEG_ATTR_L);
}

enum task_source { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };
/* Switches to the task of @tss (from sys_task_find), saving @next_rip and @rflags in the old one. Afterwards in->rip is the new
 * task's, and the caller must pass NULL for u: faults belong to the new task. SDM 3A, 7.3. */
void sys_task_switch(struct interp *in, const struct uop *u, struct descriptor *tss, enum task_source source,
                     u64 next_rip, u64 rflags);
/* After a switch by an instruction: the T flag's debug trap, the check of the entry point. */
void sys_task_enter(struct interp *in);
/* Finds the TSS for a task gate, CALL, JMP or IRET and checks its descriptor. */
struct descriptor sys_task_find(struct interp *in, const struct uop *u, u16 selector, enum task_source source);

/* ---- registers ---- */

/* Writes CR0 with all checks and their effects; used by MOV, LMSW and CLTS. */
void sys_write_cr0(struct interp *in, const struct uop *u, u64 value);

/* #GP for SMSW, SGDT, SIDT, SLDT and STR in user code under CR4.UMIP. SDM 3A, 2.5. */
static inline void sys_check_umip(struct interp *in, const struct uop *u)
{
        if (in->cpu->cpl != 0 && (in->cpu->paging.cr4 & CR4_UMIP))
                sys_gp0(in, u);
}

/* ---- handlers, named in sys_ops.def ----
 * A handler goes on to the next uop by a tail call, which compilers make only when no local variable's address has escaped: handlers that need
 * one do their work in a function of its own (SYS_BODY). Otherwise the stack would grow with every instruction run. */
#define SYS_BODY static _noinline_

#define SYS_OP(mnemonic, fn, flags, source) uop_fn fn;
#include "sys_ops.def"
#undef SYS_OP
