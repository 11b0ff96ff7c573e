/* The smallest guest that shows what an engine does with user or kernel code: long mode, page tables, and a handler for every exception that
 * halts. Which one was reached, the error code and the frame tell the outcome. */
#pragma once

#include "case.h"

#define GUEST_STUB_SYSCALL 32u /* outcome.vector when SYSCALL's target was reached */
#define GUEST_STUB_NONE 0xffu  /* when something else happened: outcome.reason says what */
#define DEVICE_LOG 64

enum outcome_kind { DONE, FAULT };

struct outcome {
        enum outcome_kind kind; /* DONE: ended with #DB */
        enum exit_reason reason;
        unsigned vector;
        u64 error;   /* code, where the exception has one */
        u64 address; /* #PF */
        u64 gpr[16], rip, rflags;
        u64 cs, ss;  /* of the frame */
        u8 xsave[XSAVE_SIZE];
        const u8 *data;
};

struct guest {
        struct vcpu vcpu;
        struct guest_memory *memory;
        struct io_space ports;
        pthread_mutex_t lock;
        void *machine;
        u8 device[PAGE_SIZE];      /* the device page: memory that every access goes to by function */
        unsigned device_accesses;
        u64 device_log[DEVICE_LOG]; /* offset, size, direction and value, folded */
};

int guest_start(struct guest *g, const struct cpu_engine *engine, struct err **err);
void guest_stop(struct guest *g);
/* Puts memory, page tables and the processor into @c's state and runs until the guest stops. @warm: memory and registers only; page
 * tables and what the engine knows stay. Negative when the end is none that a case can have. */
int guest_run(struct guest *g, const struct machine_case *c, bool warm, struct outcome *o);

void guest_forgive_page_bits(struct guest *got, struct guest *want, bool faulted);

/* For comparing: the guest-physical memory that is in use. */
#define GUEST_RAM 0x42000ULL
