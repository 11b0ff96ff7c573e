/* The parts of an ELF file that a boot loader needs, read from bytes that are not trusted. */
#pragma once

#include "base/err.h"

#define ELF_SEGMENTS_MAX 64

/* A PT_LOAD segment. [offset, offset + file_size) lies in the file, memory_size >= file_size, paddr + memory_size
 * does not wrap. */
struct elf_segment {
        u64 offset, file_size;
        u64 paddr, memory_size;
};

struct elf_image {
        bool is_64;
        u64 entry;
        size_t n_segments;
        struct elf_segment segments[ELF_SEGMENTS_MAX];
        u64 load_start, load_end; /* of all segments together, physical */
        bool upper_half;          /* linked to the upper half of the address space, as kernels are */
        bool has_pvh_entry;       /* XEN_ELFNOTE_PHYS32_ENTRY */
        u32 pvh_entry;
};

bool elf_image_is_elf64(const void *data, size_t len);
bool elf_image_is_elf32(const void *data, size_t len);
/* ELF32 i386 or ELF64 x86-64 executables. ERR_BAD_IMAGE for everything else. */
int elf_image_parse(const void *data, size_t len, struct elf_image *ret, struct err **err);
