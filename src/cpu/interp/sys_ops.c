/* The table of system instructions. */
#include <Zydis/Zydis.h>

#include "sys.h"

static const struct sys_op sys_ops[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define SYS_OP(mnemonic, function, op_flags, source)                                               \
        [ZYDIS_MNEMONIC_##mnemonic] = { .fn = function, .flags = op_flags, .present = true },
#include "sys_ops.def"
#undef SYS_OP
};

const struct sys_op *sys_op_find(unsigned mnemonic)
{
        if (mnemonic >= ARRAY_SIZE(sys_ops) || !sys_ops[mnemonic].present)
                return NULL;
        return &sys_ops[mnemonic];
}
