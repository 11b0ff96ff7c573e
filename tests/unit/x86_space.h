/* The x86 opcode space, walked: calls @visit for every instruction form that Zydis can decode in @machine_mode. */
#pragma once

#include <Zydis/Zydis.h>

#include "base/types.h"

typedef void x86_space_visit(const ZydisDecoder *decoder, const u8 *code, size_t len,
                             const ZydisDecodedInstruction *insn, void *opaque);

/* Forms differ in prefixes, opcode and ModRM as far as these can select another instruction (each with a register and
 * with a memory operand), not in registers or addresses. A form may be visited more than once. */
void x86_space_walk(ZydisMachineMode machine_mode, x86_space_visit *visit, void *opaque);
