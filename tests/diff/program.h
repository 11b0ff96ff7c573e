/* Cases for comparing engines: one instruction with operands of every kind, or a program of some with branches, a loop and a subroutine, so that
 * what an engine carries from one instruction or block to the next (flags, registers, translations) is tested too. */
#pragma once

#include "forms.h"

/* Everything follows from @seed. False: no case comes of it. */
bool program_make(const struct forms *forms, u64 seed, struct machine_case *c);
