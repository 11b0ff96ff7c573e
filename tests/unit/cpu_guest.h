/* A tiny machine for tests of CPU engines: RAM, one vCPU, a few ports and one page of device memory, no interrupt
 * controllers.
 *
 * Guest code is written in inline assembly, see GUEST_CODE; it talks through the ports below. A test's thread runs it. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/cpu.h"

/* Guest code as bytes between guest_NAME and guest_NAME_end; @mode is 16, 32 or 64. Position-independent. */
#define GUEST_CODE(name, mode, code)                                                                                \
        __asm__(".pushsection .rodata\n"                                                                            \
                ".global guest_" #name ", guest_" #name "_end\n"                                                    \
                ".code" #mode "\n"                                                                                  \
                ".balign 64\n"                                                                                      \
                "guest_" #name ":\n" code "\n"                                                                      \
                "guest_" #name "_end:\n"                                                                            \
                ".code64\n"                                                                                         \
                ".popsection\n");                                                                                   \
        extern const u8 guest_##name[], guest_##name##_end[]

#define GUEST_PORT_OUT 0x10  /* what is written is appended to out[] */
#define GUEST_PORT_IN 0x14   /* reads 0x11, 0x12, 0x13, ... */
#define GUEST_PORT_STOP 0x18 /* ends run() with EXIT_MACHINE_STOP */
#define GUEST_PORT_STOP_IN 0x1a /* likewise by a read, of which the guest gets 0x77 */
#define GUEST_MMIO 0xd0000000ULL /* reads as offset | 0xab000000..., writes go to out[] */
#define GUEST_OUT_MAX 256

#define GUEST_CODE_AT 0x8000u
#define GUEST_STACK_AT 0x80000u
#define GUEST_PML4_AT 0x1000u /* three tables for the first GiB, and one more for the last GiB below 4 GiB (device memory) */
#define GUEST_GDT_AT 0x6000u
#define GUEST_IDT_AT 0x7000u

struct cpu_guest {
        pthread_mutex_t lock;
        struct guest_memory *memory;
        struct io_space ports;
        struct counters device_counters;
        void *machine;
        struct vcpu vcpu;
        u64 out[GUEST_OUT_MAX];
        size_t n_out;
        u8 next_in;
};

/* Builds the machine and its vCPU in reset state under @engine. Fails the test when it cannot. */
void cpu_guest_init(struct cpu_guest *g, const struct cpu_engine *engine, u64 ram);
/* The same with a policy of shadow windows. */
void cpu_guest_init_shadow(struct cpu_guest *g, const struct cpu_engine *engine, u64 ram, enum shadow_policy shadow);
/* The same for a machine that will have @n_vcpus; the others are the test's to make. */
void cpu_guest_init_n(struct cpu_guest *g, const struct cpu_engine *engine, u64 ram, unsigned n_vcpus);
void cpu_guest_free(struct cpu_guest *g);
/* Puts code at GUEST_CODE_AT and the CPU there, with a stack, in a mode. */
void cpu_guest_real(struct cpu_guest *g, const u8 *code, const u8 *end);
void cpu_guest_protected(struct cpu_guest *g, const u8 *code, const u8 *end);
void cpu_guest_long(struct cpu_guest *g, const u8 *code, const u8 *end);
/* Makes a long-mode guest a user program (CPL 3) whose SYSCALL ends at @offset in the code. */
void cpu_guest_user(struct cpu_guest *g, u64 offset);
/* An interrupt gate for @vector in the long-mode guest's IDT; the handler is at @offset in the code. */
void cpu_guest_gate(struct cpu_guest *g, u8 vector, u64 offset);
/* Runs until the engine comes back; prints the error of EXIT_FAILED. */
enum exit_reason cpu_guest_run(struct cpu_guest *g);

/* Starts a thread that posts @work to the vCPU after @delay_us; join it. */
pthread_t cpu_guest_post_later(struct cpu_guest *g, u32 work, unsigned delay_us);
