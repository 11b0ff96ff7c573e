/* The interpreter's inside. Reading order: this file, run.c (the outer loop), decode.c (guest bytes to uops), ops_*.c (handlers),
 * memory.c (guest memory access), block.c (decoded-block cache), host.c (instructions executed on the host CPU), sys_*.c (system half).
 *
 * Theory of operation.
 *
 * Guest code is decoded once into blocks: arrays of uops, one per instruction, that end at a branch, at an instruction that may
 * change the mode, or at a page end. A uop names its handler; a handler does the instruction and tail-calls the next uop's
 * (NEXT). At a block's end the next block is found in the jump cache, or NULL is returned to the outer loop, which looks it up
 * the slow way, takes interrupts, delivers exceptions and serves other threads.
 *
 * Arithmetic flags are kept as LAHF and SETO leave them (AH = SF:ZF:0:AF:0:PF:1:CF, AL = OF): the guest's ISA is the host's, so a
 * handler runs the very instruction and keeps its flags, which makes all of them exact, undefined ones included.
 *
 * Memory handlers come in two versions from one body: the fast one knows only 64-bit flat addressing and a soft-TLB hit; everything
 * else (a miss, MMIO, page crossings, segmentation, watched pages) tail-calls the slow version, which does it all by function calls.
 *
 * A fault leaves a handler by longjmp (interp_raise); no handler changes state before its last possible fault. String instructions
 * update their registers after every element, as the processor does. */
#pragma once

#include <setjmp.h>

#include "cpu/cpu.h"

struct interp;
struct uop;

/* Returns the uop to run next, NULL to go back to the outer loop with in->rip set. */
typedef const struct uop *uop_fn(struct interp *in, const struct uop *u);

#define REG_ZERO 16   /* register slot that always holds 0: absent base or index */
#define SEG_FLAT 6    /* seg_base slot that always holds 0 */

/* One decoded instruction. */
struct uop {
        uop_fn *fn;
        s64 disp;      /* of the memory operand; RIP-relative ones are absolute already (base = REG_ZERO) */
        u64 imm;       /* immediate, sign-extended to 64 bits; branches: target rip; host-executed: its thunk */
        u8 base, index, scale; /* memory operand: register slots and shift */
        u8 seg;        /* memory operand: enum segment or SEG_FLAT */
        u8 r1, r2;     /* register operands: byte offset into in->regs (AH..BH are odd), or a segment/control/debug register number */
        u8 off;        /* of the instruction from the block's start, bytes */
        u8 len;        /* of the instruction, bytes */
        u8 size;       /* operand size, bytes */
        u8 addr_size;  /* 2, 4 or 8 bytes */
        u8 flags;      /* UOP_* */
        u8 stack_size; /* push/pop/call/ret: size of the stack pointer, bytes */
        u16 mnemonic;  /* ZydisMnemonic */
        u16 aux;       /* meaning is the handler's */
};

enum {
        UOP_MEM = 1,   /* the explicit r/m operand is memory */
        UOP_REP = 2,   /* F3 on a string instruction (REP, REPE) */
        UOP_REPNE = 4,
        UOP_LOCK = 8,
};

struct block {
        u64 rip;             /* linear-ish: guest RIP of the first instruction (segment offset, not linear) */
        const u8 *hva;       /* of its first byte: identifies the guest-physical address */
        const u8 *hva2;      /* the second page, when an instruction crosses into it; else NULL */
        u32 mode;            /* enum mode bits it was decoded for */
        u16 n_uops;          /* instructions; a terminator follows them */
        u16 bytes;
        bool stale;          /* its code was overwritten */
        struct block *hash_next;  /* code_cache.hash */
        struct block *page_next[2]; /* code_cache.pages, of the first and the second page */
        struct uop uops[];
};

/* What the decoding of an instruction depends on; part of the jump-cache key. */
enum mode {
        MODE_LONG64 = 1,     /* CS.L in long mode */
        MODE_CODE32 = 2,     /* CS.D */
        MODE_STACK32 = 4,    /* SS.B */
        MODE_PROTECTED = 8,  /* CR0.PE and not VM86 */
        MODE_USER = 16,      /* CPL 3 */
        MODE_NO_FPU = 32,    /* CR0.EM or CR0.TS: x87 raises #NM */
        MODE_NO_SSE = 64,    /* CR0.EM set or CR4.OSFXSR clear: SSE raises #UD */
        MODE_NM_SSE = 128,   /* CR0.TS: SSE/AVX raises #NM */
        MODE_NO_AVX = 256,   /* CR4.OSXSAVE clear or XCR0 without AVX: AVX raises #UD */
        MODE_SINGLE = 512,   /* one instruction a block, never in the jump cache: TF, debugger, breakpoints, shadows */
        MODE_VM86 = 1024,
        MODE_LONG = 2048,    /* EFER.LMA (64-bit or compatibility) */
        MODE_RING12 = 4096,  /* CPL 1 or 2 */
};
#define MODE_BITS 16 /* room for them */

#define JUMP_CACHE_PAGE_BITS 7
#define JUMP_CACHE_OFFSET_BITS 7
#define JUMP_CACHE_SIZE (1u << (JUMP_CACHE_PAGE_BITS + JUMP_CACHE_OFFSET_BITS))

#define NO_KEY (~0ULL) /* matches no entry */

struct jump_entry {
        u64 rip;
        u64 key; /* mode | generation of the TLB's table << MODE_BITS; 0 is never current */
        struct block *block;
};

struct code_cache; /* block.c */

/* How an event reaches the guest. */
enum event_kind {
        EVENT_FAULT,     /* exception: may push an error code; RIP of the instruction (or after it, for traps) */
        EVENT_SOFT_INT,  /* INT n, INT3, INTO: DPL of the gate is checked */
        EVENT_EXTERNAL,  /* hardware interrupt */
        EVENT_NMI,
        EVENT_ICEBP,     /* INT1: like a soft interrupt without the DPL check */
};

/* An exception in flight from where it was raised to the outer loop. */
struct pending_event {
        enum event_kind kind;
        u8 vector;
        bool has_error;
        u32 error;
        u64 rip;  /* to be pushed */
        u64 cr2;  /* for #PF */
        u64 dr6;  /* for #DB: bits to set */
        u8 length; /* EVENT_SOFT_INT: of the instruction; a fault while delivering points back at it (rip - length) */
        bool trap; /* a #DB that follows an instruction: RF is not set in the pushed image */
};

struct interp {
        /* Hot: the guest's registers while the interpreter runs. cpu->gpr, cpu->rip and cpu->rflags are stale meanwhile. */
        u64 scratch2;          /* translated code: SCRATCH2 while a fast function runs */
        u32 shadow_mode;       /* translated code: MODE_SHADOW* of user blocks by the shadow window */
        u64 shadow_low, shadow_high; /* biases of the ranges of the shadow window (mmu/shadow.h) */
        u64 page_va;           /* translated code: linear address of the page of the user-mode block that runs (translate/internal.h) */
        u64 flags_image;       /* translated code: where PUSHFQ saves the arithmetic flags; stays right below regs, the host's rsp there */
        u64 regs[17];          /* enum gpr; [REG_ZERO] stays 0 */
        u64 rip;               /* valid at block boundaries */
        u16 flags;             /* arithmetic flags, LAHF/SETO form */
        u32 mode;              /* enum mode */
        u64 key;               /* of the jump cache: mode | generation << MODE_BITS */
        u64 rflags;            /* all but the arithmetic flags */
        u64 seg_base[8];       /* by enum segment as 64-bit or legacy code sees them; [SEG_FLAT] stays 0 */
        struct block *block;   /* being executed */
        struct cpu_state *cpu; /* = &vcpu->state: segments, control registers, MSRs, cpl, FPU... are always current there */
        struct vcpu *vcpu;
        u64 instructions;
        u32 pauses;            /* PAUSE instructions executed */
        enum tlb_mode tlb_mode; /* for ordinary accesses */
        const struct tlb_entry *tlb_entries; /* of the table that most of them go to */
        bool irq_waiting;      /* an interrupt is pending but IF (or a shadow) holds it: STI, POPF, IRET must leave the block */
        bool block_stale;      /* the block being executed was overwritten: leave it after this instruction */
        bool halted_now;       /* HLT executed: outer loop returns EXIT_HALTED */
        bool vectors_live;     /* translated code: XMM/YMM 0-15 of the guest are in the host's registers, cpu->xsave is stale */
        u32 kicked;            /* atomic; translated code must be left: set by a kick, cleared by the outer loop */
        u32 in_code;           /* atomic; in translated code or what it calls: a kick must send a signal */
        u64 host_rsp;          /* translated code: the C stack to return to */
        const void *site;      /* translated code: struct site of the miss that is being looked up */
        u8 bounce[3][64] __attribute__((aligned(64))); /* translated code: [1] is an operand of two pages, put together (translate/fast_split.c) */
        struct translate_cpu *translate; /* translate/runtime.h; NULL: the engine is the interpreter */
        struct trial *trial;   /* translate/check.h; NULL: what is executed is meant */
        u32 irq_distance, irq_wait, irq_left; /* check mode, see interrupts_wait in run.c */
        bool failed;           /* vcpu->error says why: the outer loop returns EXIT_FAILED */
        u32 code_generation;   /* another number when decoded code was dropped as a whole, and the thunks with it */

        struct pending_event event;
        bool delivering;       /* inside interp_deliver: faults escalate */
        u8 delivering_vector;
        bool triple_fault;
        u64 pending_dr6;       /* data breakpoints hit by the instruction so far */
        bool no_step_trap;     /* SYSCALL, SYSRET: RFLAGS.TF before the instruction counts for nothing; they looked at TF after it */
        bool debug_stop;       /* vcpu->debug hit something (its hit_* are filled): the outer loop returns EXIT_DEBUG */
        jmp_buf unwind;

        bool jump_cache_used; /* it is not all zeros: the translator hardly uses it, and clearing it takes memory */
        struct jump_entry jump_cache[JUMP_CACHE_SIZE];
        struct soft_tlb tlb;
        struct code_cache *code;
        struct interp_machine *machine;
        struct mailbox *mailbox; /* machine.h */
        bool has_event;        /* event is to be delivered */
        bool second_nmi;       /* arrived together with the one in cpu->nmi_pending: the first runs, this one waits for its IRET */
        u64 code_base;         /* seg_base[SEG_CS] for which the jump cache is valid */
        void *host_exec;       /* host.c */
        u64 fpu_ip, fpu_dp;    /* x87 last-instruction pointers as the guest sees them */
        u64 x87_dp;            /* translated code: the latter, of the instruction being executed */
        u8 host_fpu[512] __attribute__((aligned(16))); /* the thread's own x87 and MXCSR while the guest's are loaded */
};

static inline struct interp *interp_of(const struct vcpu *vcpu)
{
        return vcpu->engine_data;
}

/* ---- raising ---- */

#define NO_ERROR_CODE (-1)
/* Leaves the current instruction with a fault at it; @error is NO_ERROR_CODE or the code. Here and in mem_*, @u is NULL while an event
 * is being delivered and after a task switch: then the fault is at in->rip. */
_noreturn_ void interp_raise(struct interp *in, const struct uop *u, enum exception vector, s64 error);
_noreturn_ void interp_raise_pf(struct interp *in, const struct uop *u, u64 gva, u32 error);
/* An event raised from system code with everything filled in (INT n, traps). */
_noreturn_ void interp_raise_event(struct interp *in, const struct pending_event *event);
/* RIP of the instruction @u of the current block, and of the one after it (truncated to the code size). */
static inline u64 interp_uop_rip(const struct interp *in, const struct uop *u)
{
        const u64 rip = in->block->rip + u->off;

        return in->mode & MODE_LONG64 ? rip : (u32)rip;
}
static inline u64 interp_next_rip(const struct interp *in, const struct uop *u)
{
        u64 rip = in->block->rip + u->off + u->len;

        return in->mode & MODE_LONG64 ? rip : (u32)rip;
}

/* ---- guest memory by linear address (memory.c) ----
 * Fault as the guest must see it (longjmp). MMIO, page crossing, watchpoints, code pages all handled. */
u64 mem_read(struct interp *in, const struct uop *u, u64 linear, unsigned size);
void mem_write(struct interp *in, const struct uop *u, u64 linear, u64 value, unsigned size);
void mem_read_bytes(struct interp *in, const struct uop *u, u64 linear, void *dst, unsigned size);       /* up to 4096 bytes */
void mem_write_bytes(struct interp *in, const struct uop *u, u64 linear, const void *src, unsigned size); /* all or nothing */
/* Implicit supervisor accesses: descriptor tables, TSS, interrupt stacks (SDM 3A, 4.6.1). */
u64 mem_read_system(struct interp *in, const struct uop *u, u64 linear, unsigned size);
void mem_write_system(struct interp *in, const struct uop *u, u64 linear, u64 value, unsigned size);
/* As mem_read/mem_write but as CPL 3 when @user (used while switching rings). */
u64 mem_read_as(struct interp *in, const struct uop *u, u64 linear, unsigned size, bool user);
void mem_write_as(struct interp *in, const struct uop *u, u64 linear, u64 value, unsigned size, bool user);
/* Raises what a write of @size bytes there would raise, without writing. */
void mem_probe_write(struct interp *in, const struct uop *u, u64 linear, unsigned size);
/* A naturally atomic read-modify-write for system code: sets @bits_set in the byte at @linear. */
void mem_or_byte_system(struct interp *in, const struct uop *u, u64 linear, u8 bits_set);

/* A trial (translate/check.h): before memory is written; before what cannot be undone, which ends it at @u. */
void trial_note_write(struct interp *in, const struct uop *u, void *hva, unsigned size);
_noreturn_ void trial_end(struct interp *in, const struct uop *u);

/* The linear address of @u's memory operand for an access of @size bytes; segment checks (#GP, #SS) in any mode. */
u64 ea_linear(struct interp *in, const struct uop *u, unsigned size, enum mmu_access access);
/* The same @extra bytes further on. */
u64 ea_linear_plus(struct interp *in, const struct uop *u, s64 extra, unsigned size, enum mmu_access access);
/* The same for @offset in segment @seg. */
u64 seg_linear(struct interp *in, const struct uop *u, unsigned seg, u64 offset, unsigned size, enum mmu_access access);
/* The operand's offset without segment base and checks (LEA, invlpg, far pointers). */
u64 ea_offset(const struct interp *in, const struct uop *u);

/* ---- registers and flags ---- */

static inline u64 reg_read(const struct interp *in, unsigned byte_offset, unsigned size)
{
        u64 v = 0;

        __builtin_memcpy(&v, (const u8 *)in->regs + byte_offset, size);
        return v;
}
/* 32-bit writes zero the upper half. */
static inline void reg_write(struct interp *in, unsigned byte_offset, u64 value, unsigned size)
{
        if (size == 4) {
                value = (u32)value;
                size = 8;
        }
        __builtin_memcpy((u8 *)in->regs + byte_offset, &value, size);
}

/* RFLAGS arithmetic bits from and to the LAHF/SETO form. */
static inline u64 flags_to_rflags(u16 f)
{
        return (u64)((f >> 8) & (RFLAGS_ARITH & 0xff)) | ((f & 1) ? RFLAGS_OF : 0);
}
static inline u16 flags_from_rflags(u64 r)
{
        return (u16)(((r & (RFLAGS_ARITH & 0xff)) << 8) | 0x0200 | ((r & RFLAGS_OF) ? 1 : 0));
}
static inline u64 interp_rflags(const struct interp *in)
{
        return in->rflags | flags_to_rflags(in->flags);
}
static inline void interp_set_rflags(struct interp *in, u64 v)
{
        in->rflags = (v & ~RFLAGS_ARITH) | RFLAGS_FIXED;
        in->flags = flags_from_rflags(v);
}

/* ---- state changes that the fast paths depend on (run.c) ---- */

/* Recomputes in->mode, key, seg_base, tlb_mode. After any change of CS, SS, other segments' bases, CPL, CR0, CR4, EFER, XCR0, RFLAGS.VM/AC/TF, DR7. */
void interp_mode_changed(struct interp *in);
/* The fast half of it, for RFLAGS.AC in kernel code. With AC the fast path looks for user memory only; the slow one knows where else to look. */
static inline void interp_set_tlb_mode(struct interp *in, enum tlb_mode mode)
{
        in->tlb_mode = mode;
        if (likely(!in->trial))
                in->tlb_entries = tlb_table_of(&in->tlb, mode, 0)->entries;
}
/* Flushes translations; each also takes care of the jump cache. */
void interp_flush_tlb(struct interp *in);              /* everything */
void interp_flush_tlb_non_global(struct interp *in);   /* everything but global supervisor pages */
void interp_flush_tlb_page(struct interp *in, u64 gva); /* INVLPG */
void interp_flush_tlb_context(struct interp *in);      /* MOV to CR3 without PCIDs */
void interp_switch_pcid(struct interp *in, u16 pcid, bool keep);

/* Ends an instruction that ended its block: continues at @rip in the jump cache when nothing is waiting, else returns NULL. */
const struct uop *interp_continue_at(struct interp *in, u64 rip);
/* The same at the next instruction. */
static inline const struct uop *interp_continue_after(struct interp *in, const struct uop *u)
{
        return interp_continue_at(in, interp_next_rip(in, u));
}

/* ---- the system half: sys_*.c ---- */

/* One system instruction (or group): how it decodes and what runs it. Looked up by ZydisMnemonic; see sys_ops.def.
 * A handler always ends with interp_continue_after/at when SYS_ENDS_BLOCK, else with NEXT(u). */
enum {
        SYS_ENDS_BLOCK = 1,
        SYS_CPL0 = 2,   /* #GP(0) at CPL > 0 (checked by the decoder's choice of handler); always legal in real mode */
        SYS_PROT = 4,   /* #UD in real and VM86 mode */
        SYS_LONG = 8,   /* #UD outside 64-bit mode */
        SYS_NO_LONG64 = 16, /* #UD in 64-bit mode */
};
struct sys_op {
        uop_fn *fn;
        u8 flags;
        bool present;
};
/* NULL when @mnemonic is not a system instruction. The decoder fills r1 = first explicit register operand (GPRs: byte offset; segment,
 * control, debug registers: number), r2 = second, imm (far pointers: offset in imm, selector in aux), the memory operand, size
 * = effective operand size of the instruction (2/4/8), UOP_MEM. Operand order is Intel's (destination first);
 * operands that are part of the opcode count too (IN AL, DX: r1, r2). */
const struct sys_op *sys_op_find(unsigned mnemonic);

/* Forms that share their mnemonic with ordinary instructions; the decoder chooses them by operand or opcode. All end the block but
 * sys_push_seg. MOV with a segment register: r1 is the first register operand (the segment register when the other operand
 * is memory, in either direction), r2 the second. POP of a segment register: r1 is its number. MOV CR/DR: size is 4 or 8. */
uop_fn sys_mov_to_seg, sys_mov_from_seg, sys_push_seg, sys_pop_seg;
uop_fn sys_mov_to_cr, sys_mov_from_cr, sys_mov_to_dr, sys_mov_from_dr;
/* UOP_MEM: a far pointer of size + 2 bytes in memory; else offset in imm, selector in aux. */
uop_fn sys_call_far, sys_jmp_far;
uop_fn sys_ret_far; /* imm: bytes to release */

/* Delivers in->event to the guest: IVT, 32-bit IDT, 64-bit IDT, task gates; escalates to #DF and triple fault. Called by the outer loop
 * with in->block possibly stale; may itself raise (the loop catches that and calls again). */
void interp_deliver(struct interp *in);
/* Merges a second fault raised while delivering the first into in->event (contributory classes, SDM 3A table 6-5); sets triple_fault. */
void interp_escalate(struct interp *in);
/* After each instruction in MODE_SINGLE: TF and breakpoint traps. May set in->event and return true: deliver it. @tf: RFLAGS.TF was set
 * when the instruction began. */
bool interp_step_trap(struct interp *in, bool tf);
/* Before an instruction at in->rip in MODE_SINGLE: instruction breakpoints (DR0-3); true: in->event is a #DB fault. */
bool interp_fetch_breakpoint(struct interp *in);
/* Data breakpoints in DR7: adds to in->pending_dr6. From mem_* for pages that hold a breakpoint. */
void interp_data_breakpoint(struct interp *in, u64 linear, unsigned size, bool write);
/* I/O breakpoints likewise (CR4.DE). */
/* Does any enabled data breakpoint (or debugger watchpoint) lie in the page of @gva? */
bool interp_page_has_breakpoint(const struct interp *in, u64 gva);
/* Loads INIT or SIPI state. */
void interp_init_signal(struct interp *in);
void interp_sipi(struct interp *in, u8 vector);

/* Port access with the TSS I/O bitmap check for @size bytes; raises #GP. */
void sys_check_io_permission(struct interp *in, const struct uop *u, unsigned port, unsigned size);

/* ---- dispatch ---- */

/* Without optimisation, or under sanitizers, tail calls are not certain: then handlers return to a loop instead. */
#if defined(__OPTIMIZE__) && !SANITIZED
#define INTERP_THREADED 1
#define NEXT(u) return (u)[1].fn(in, (u) + 1)
#else
#define INTERP_THREADED 0
#define NEXT(u) return (u) + 1
#endif
