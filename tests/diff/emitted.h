/* What must hold of the code of every translated block, whatever the guest's bytes are. */
#pragma once

#include "cpu/translate/internal.h"

/* Translates @code, of which @room bytes lie in the page, with buffers of exactly the size that is promised. NULL when all is well or nothing is
 * translated, else what is wrong; @ret_translated says which. @regs: the guest's, as hints; may be NULL. */
const char *emitted_check(const u8 *code, unsigned room, u64 rip, u32 mode, bool no_chains, const u64 *regs, bool *ret_translated);
