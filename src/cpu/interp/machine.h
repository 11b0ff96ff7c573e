/* What the vCPUs of one machine share, and the mailboxes by which they tell each other of overwritten code.
 *
 * Theory of operation. Decoded blocks are private to a vCPU; the page flag PAGE_CODE and, below it, one bit for each 64 bytes with code are common. A write
 * to such a chunk puts it into every vCPU's mailbox and clears its bit (interp_code_written); each drops its blocks that overlap it at its
 * next block boundary, or at once when it was the writer. A page without a bit loses the flag. That order is what x86 promises for cross-modifying code: the writer's later stores or IPIs are seen by another
 * vCPU no earlier than the mailbox message, because the message is posted before the writing instruction ends.
 *
 * A vCPU that decodes from a page that was not flagged must be sure that no other vCPU can still write there unseen through its soft TLB.
 * It flags the page, posts a "drop your write entries" message to all others and waits until each has served it or is not running guest code
 * (interp_code_claim). While it waits it serves its own mailbox, so two vCPUs may claim at once. */
#pragma once

#include "internal.h"

#define MAILBOX_SIZE 64

struct translator;

struct interp_machine {
        struct guest_memory *memory;
        pthread_mutex_t lock;     /* of the members list and all mailboxes */
        pthread_cond_t served;    /* a mailbox was emptied or a vCPU left guest code */
        pthread_mutex_t bus_lock; /* LOCKed accesses across pages or to devices */
        struct interp *members;
        struct translator *translator; /* translate/runtime.h; NULL: the engine is the interpreter */
};

struct mailbox {
        struct { u64 gpa, len; } written[MAILBOX_SIZE]; /* code that is stale */
        unsigned n_written;
        bool all_written;          /* overflow: everything is */
        u64 drop[MAILBOX_SIZE];    /* pages that became code */
        unsigned n_drop;
        bool drop_all;
        bool in_guest;             /* the vCPU is between run's entry and exit and not halted */
        u64 posted, answered;      /* messages */
        struct interp *next;       /* member list */
};

/* guest_memory.on_code_write; any thread. */
void interp_code_written(void *machine, u64 gpa, u64 len);
/* Flags [gpa, gpa + len) of one page as code; returns when no vCPU can write to it unseen. On @in's thread, at a block boundary. */
void interp_code_claim(struct interp *in, u64 gpa, u64 len);
/* Flags more of a page that is claimed. False: it is no longer. Waits for nobody. */
bool interp_code_extend(struct interp *in, u64 gpa, u64 len);
/* Serves this vCPU's mailbox. */
void interp_mailbox_drain(struct interp *in);
void interp_enter_guest(struct interp *in);
void interp_leave_guest(struct interp *in);

/* run.c: executes @block; the outer loop's business is done otherwise. Leaves by longjmp as handlers do. */
void interp_run_block(struct interp *in, struct block *block);

/* block.c */
int code_cache_new(struct code_cache **ret, struct err **err);
void code_cache_free(struct code_cache *cache);
/* The block for in->rip, decoded if need be; fills the jump cache. Raises #PF, #GP on fetch. Outer loop only. */
struct block *code_lookup(struct interp *in);
/* The host address of the code at @linear. Raises #PF; #UD where there is no RAM. Outer loop only. */
const u8 *code_fetch(struct interp *in, u64 linear);
/* Drops the blocks that overlap a range of one page / all. */
void code_drop_range(struct interp *in, u64 gpa, u64 len);
void code_drop_all(struct interp *in);
void jump_cache_clear(struct interp *in);

/* decode.c: decodes instructions at @code (@n_bytes readable, from in->rip) into @uops, at most @max, and a terminator behind them. Returns the
 * number of instructions and the bytes consumed. 0: the first instruction needs more bytes than there are. */
unsigned decode_block(struct interp *in, u64 rip, const u8 *code, unsigned n_bytes, bool page_end, struct uop *uops,
                      unsigned max, unsigned *ret_bytes);

/* host.c */
int host_exec_new(struct interp *in, struct err **err);
void host_exec_free(struct interp *in);
/* Loads and stores the guest's x87 and MXCSR around a run. */
void host_fpu_enter(struct interp *in);
void host_fpu_leave(struct interp *in);

/* run.c: the engine's functions, for the translator, whose vCPU is an interpreter's with a part of its own. */
int interp_machine_create(struct guest_memory *memory, unsigned n_vcpus, void **ret_machine, struct err **err);
void interp_machine_destroy(void *machine);
int interp_vcpu_create(struct vcpu *vcpu, struct err **err);
void interp_vcpu_destroy(struct vcpu *vcpu);
enum exit_reason interp_run(struct vcpu *vcpu);
void interp_state_changed(struct vcpu *vcpu);
