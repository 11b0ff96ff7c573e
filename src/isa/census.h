/* Counting: what a piece of machine code asks of a virtual machine monitor.
 *
 * A linear sweep: decoding starts at the first byte of each range; where no instruction can be decoded, one byte is
 * skipped. Two or more bytes CC (int3) in a row are padding between functions and not counted as instructions. Other
 * data between instructions (jump tables, constants) is counted as code, and after it the sweep needs a few
 * instructions to fall into step again. The counts are an upper bound for what is there and no statement about what is
 * executed.
 *
 *         struct isa_census census;
 *         isa_census_init(&census, &ctx, 0);
 *         isa_census_add(&census, text, text_len, text_address, on_finding, &list);
 *         ... isa_census_strict(&census)
 *
 * One owner; no failure. */
#pragma once

#include "isa.h"

#define ISA_CENSUS_ROWS_MAX 256

struct isa_census {
        struct isa_context ctx;
        unsigned bits; /* as for isa_decoder_init */
        u64 bytes, bad_bytes, padding_bytes, instructions;
        u64 by_class[ISA_CLASS_COUNT];
        u64 by_row[ISA_CENSUS_ROWS_MAX]; /* by isa_row_index */
        u64 safe_by_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* what is in no row */
        u64 violations;      /* sensitive and does not trap */
        u64 user_violations; /* of these, sensitive in user mode too */
};

/* An instruction that violates the first theorem. */
struct isa_finding {
        u64 address;
        const struct isa_row *row; /* NULL for an instruction unknown to the tables */
        struct isa_verdict verdict;
};

typedef void isa_on_finding(const struct isa_finding *finding, void *opaque);

void isa_census_init(struct isa_census *census, const struct isa_context *ctx, unsigned bits);
/* Counts the @len bytes at @code, which the guest has at @address. @on_finding may be NULL. */
void isa_census_add(struct isa_census *census, const void *code, size_t len, u64 address, isa_on_finding *on_finding,
                    void *opaque);
/* The same in pieces: counts the instructions that begin in [from, MIN(to, len)), returns where the next one begins. */
size_t isa_census_part(struct isa_census *census, const void *code, size_t len, size_t from, size_t to, u64 address,
                       isa_on_finding *on_finding, void *opaque);

/* First theorem: nothing in this code is sensitive without trapping. */
static inline bool isa_census_strict(const struct isa_census *census)
{
        return census->violations == 0;
}

/* Third theorem: nothing in it is sensitive in user mode without trapping. */
static inline bool isa_census_hybrid(const struct isa_census *census)
{
        return census->user_violations == 0;
}
