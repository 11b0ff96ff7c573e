/* Lockstep checking: `--engine translate --check interp`.
 *
 * Theory of operation. With checking on, a block is one basic block without links (translate_request.no_chains). Before the translator's code runs,
 * the interpreter executes the same instructions from the same state as a *trial*: its writes go to memory, but the old bytes are noted before each
 * (in->trial: nothing goes past that, translations are those of the soft TLB, and what cannot be undone - a device, a page of code - ends the trial before
 * the instruction). Then memory and registers are put back, the translated block runs, and both outcomes are compared: rip, general
 * registers, all arithmetic and other flags, the rest of struct cpu_state, vector and x87 registers, and every byte the trial wrote.
 *
 * Translated code may stop earlier than the trial: an operand across pages, a write to code, a fault, a kick. The registers must then be those the
 * interpreter has at that very instruction (or, in a REP, after that iteration): the trial is repeated up to there and compared with.
 *
 * System instructions that fast functions do (fast_sys.def) end their block; for them all of struct cpu_state is compared. A page fault that translated code
 * delivers itself is compared after the delivery.
 *
 * The device lock is held from the trial to the comparison, so that no device sees a write that is undone or changes memory in between. And one vCPU at a
 * time runs guest code, in turns (check_turn.c). What still writes memory behind a vCPU's back is a vCPU thread that accounts for stolen time: a guest with
 * several CPUs should not look at it (Linux: no-steal-acc).
 *
 * Not compared: instructions that the translator leaves to the interpreter; time stamps and random numbers; blocks of which a single
 * instruction writes more than the notes hold (long REPs). x87 instruction and data pointers differ by design. */
#pragma once

#include <pthread.h>

#include "internal.h"

struct check;

/* Whose turn it is to run guest code, first come, first served. */
struct check_turns {
        pthread_mutex_t lock; /* a leaf */
        pthread_cond_t given;
        u64 next, now;        /* tickets */
};
void check_turns_init(struct check_turns *turns);
void check_turns_destroy(struct check_turns *turns);
void check_turn_take(struct check_turns *turns);
void check_turn_give(struct check_turns *turns);
/* At a block boundary of @in, which has the turn: gives it to who waits for it, every so many calls. */
void check_turn_pass(struct interp *in);

int check_new(struct interp *in, struct check **ret, struct err **err);
struct check *check_free(struct check *check);

/* Runs @block by @run, checked. False: the two differ; the report is in the log and in->vcpu->error says so. */
bool check_run(struct interp *in, const struct tblock *block, void (*run)(struct interp *in, const struct tblock *block));

/* ---- the rest is between check.c and check_report.c ---- */

/* Everything that an instruction of a block can change, but memory. */
struct moment {
        u64 regs[GPR_COUNT];
        u64 rip, rflags; /* without the arithmetic flags */
        u16 flags;       /* LAHF/SETO form */
        u8 xsave[XSAVE_SIZE];
        u8 fpu[512] __attribute__((aligned(16))); /* FXSAVE64 image: x87 and MXCSR; when the block uses them */
        bool system;
        struct cpu_state cpu;                     /* when @system */
};

/* A difference, for people. */
struct check_report {
        const struct tblock *block;
        const u8 *code;      /* the guest's bytes */
        const char *what;
        const struct moment *before, *want, *got;
        u64 gpa;             /* @what is memory: where, and what is there */
        u8 memory_want, memory_got;
};
void check_report(const struct check_report *report);
