/* Translated blocks for people: each guest instruction, what became of it and why, and the host code. */
#pragma once

#include <stdio.h>

#include "internal.h"

/* Prints what translate_block made of @req, which had notes. */
void translate_dump(FILE *out, const struct translate_request *req, const struct translation *t);

/* What has been dumped so far, by class of instruction. */
struct translate_totals {
        u64 blocks, instructions[INSN_CALL_OUT + 1], guest_bytes, code_bytes;
};
void translate_totals_add(struct translate_totals *totals, const struct translate_request *req, const struct translation *t);
void translate_totals_print(FILE *out, const struct translate_totals *totals);
