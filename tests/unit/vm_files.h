/* Kernel files made in memory, for the tests of src/vm. */
#pragma once

#include "base/types.h"

struct vm_file {
        u8 data[512 * 1024];
        size_t len;
};

/* An ELF64 kernel: one segment of @code at @paddr (linked to the upper half), entry at its start, a PVH note if
 * @pvh_entry. */
void vm_file_elf64(struct vm_file *file, u64 paddr, const void *code, size_t code_len, u32 pvh_entry);
/* A bzImage whose payload is @payload (already compressed); @size is appended as the unpacked size unless 0. */
void vm_file_bzimage(struct vm_file *file, const void *payload, size_t len, u32 size);
/* A multiboot kernel with load addresses: header, then @code as the entry, at @load_address. */
void vm_file_multiboot(struct vm_file *file, u32 load_address, const void *code, size_t code_len);
/* Writes it to a new temporary file; the caller unlinks. */
void vm_file_write(const struct vm_file *file, char ret_path[64]);
