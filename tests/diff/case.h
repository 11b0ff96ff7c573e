/* A test case of the differential tests: code and the complete state it starts from. Everything follows from one seed. */
#pragma once

#include <Zydis/Zydis.h>

#include "cpu/cpu.h"

/* ---- random numbers: splitmix64, so that a seed names a case on any machine ---- */

struct rng {
        u64 state;
};

static inline u64 rng_next(struct rng *rng)
{
        u64 z = rng->state += 0x9e3779b97f4a7c15ULL;

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return z ^ (z >> 31);
}

static inline u64 rng_below(struct rng *rng, u64 n)
{
        return rng_next(rng) % n;
}

/* True in @n of @of cases. */
static inline bool rng_chance(struct rng *rng, u64 n, u64 of)
{
        return rng_below(rng, of) < n;
}

/* ---- where things are in the guest ---- */

#define CODE_GVA 0x10000000ULL
#define CODE_SIZE 0x2000ULL
#define DATA_GVA 0x20000000ULL
#define DATA_SIZE 0x4000ULL
/* Pages of every kind beside each other; see guest.c. */
#define EXTRA_GVA (DATA_GVA + 0x100000)
#define EXTRA_PAGES 12u
#define EXTRA_SIZE (EXTRA_PAGES * PAGE_SIZE)
/* The same for code at CPL 0: the same physical pages, in supervisor pages. */
#define KERNEL_GVA 0xffff800000000000ULL /* maps guest-physical 0 */
#define KERNEL_DATA_GVA (KERNEL_GVA + 0x200000)
#define KERNEL_EXTRA_GVA (KERNEL_DATA_GVA + 0x100000)
#define KERNEL_CODE_GVA (KERNEL_GVA + 0x400000)

/* Not mapped in the guest, but in this process: whoever reaches it has left the guest. */
#define VMM_ADDRESS 0x600000000000ULL
#define VMM_SIZE 0x10000ULL

#define XMM_OFFSET 160

#define CASE_CODE_MAX 1024u

struct machine_case {
        bool compat; /* 32-bit code */
        bool kernel; /* CPL 0 */
        bool code_after; /* the page holds INT3 around the code, else just the code's 16 bytes are written */
        u8 code[CASE_CODE_MAX];
        unsigned length;
        u64 rip;
        u64 gpr[16];
        u64 rflags;
        u64 fs_base, gs_base, kernel_gs_base;
        u64 cr4; /* more bits of it than the guest sets anyway */
        u8 xsave[XSAVE_SIZE];
        u8 data[DATA_SIZE];
        ZydisDecodedInstruction insn; /* the first */
};

/* The linear addresses that the case's code uses. */
static inline u64 case_code_gva(const struct machine_case *c)
{
        return c->kernel ? KERNEL_CODE_GVA : CODE_GVA;
}
static inline u64 case_data_gva(const struct machine_case *c)
{
        return c->kernel ? KERNEL_DATA_GVA : DATA_GVA;
}
static inline u64 case_extra_gva(const struct machine_case *c)
{
        return c->kernel ? KERNEL_EXTRA_GVA : EXTRA_GVA;
}

/* Fills registers, flags, vector and x87 state and data memory. c->compat and c->kernel are set. */
void case_random_state(struct rng *rng, struct machine_case *c);
void case_decoder(ZydisDecoder *decoder, bool compat);
/* One line per instruction, as TAP comments. */
void case_print_code(const struct machine_case *c);

extern const char *const gpr_names[GPR_COUNT];
