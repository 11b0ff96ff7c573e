/* The debugger's view of a CPU's registers, from gdb_regs.def. */
#pragma once

#include "cpu/cpu.h"

#define GDB_REG_BYTES_MAX 16

unsigned gdb_reg_count(void);
/* Bytes of register @n; it must be below gdb_reg_count(). */
size_t gdb_reg_size(unsigned n);
void gdb_reg_get(const struct cpu_state *cpu, unsigned n, u8 *dst);
/* False for registers that cannot be changed (segments' selectors, control registers), unless it is the same value. */
bool gdb_reg_set(struct cpu_state *cpu, unsigned n, const u8 *src);
/* The target description as XML; malloc'ed, NULL without memory. */
char *gdb_target_xml(void);
