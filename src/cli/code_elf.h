/* Code ranges and symbols of an ELF file, 32 or 64 bits, for x86. */
#pragma once

#include "code_file.h"

bool code_elf_is(const u8 *data, size_t len);
/* Fills kind, mode, ranges and symbols of @file from its data. */
int code_elf_read(struct code_file *file, struct err **err);
