/* Multiboot 1: the header in a kernel file and the information structure handed over.
 * Source: Multiboot Specification 0.6.96. */
#pragma once

#include "base/err.h"

#define MULTIBOOT_HEADER_MAGIC     0x1badb002u
#define MULTIBOOT_BOOTLOADER_MAGIC 0x2badb002u
#define MULTIBOOT_SEARCH           8192

enum {
        MULTIBOOT_PAGE_ALIGN = 1, /* modules on page boundaries */
        MULTIBOOT_MEMORY_INFO = 2,
        MULTIBOOT_VIDEO_MODE = 4,
        MULTIBOOT_LOAD_ADDRESSES = 1 << 16,  /* the "a.out kludge": addresses in the header, not in an ELF header */
        MULTIBOOT_UNKNOWN_REQUIRED = 0xfff8, /* bits 3-15 that no loader may ignore */
};

/* As in the file. */
struct multiboot_header {
        u32 magic, flags, checksum;
        u32 header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr; /* with MULTIBOOT_LOAD_ADDRESSES */
} _packed_;

enum {
        MULTIBOOT_INFO_MEMORY = 1,
        MULTIBOOT_INFO_CMDLINE = 4,
        MULTIBOOT_INFO_MODULES = 8,
        MULTIBOOT_INFO_MMAP = 64,
        MULTIBOOT_INFO_LOADER_NAME = 512,
};

struct multiboot_info {
        u32 flags;
        u32 mem_lower, mem_upper; /* KiB */
        u32 boot_device;
        u32 cmdline;
        u32 mods_count, mods_addr;
        u32 syms[4];
        u32 mmap_length, mmap_addr;
        u32 drives_length, drives_addr;
        u32 config_table;
        u32 boot_loader_name;
        u32 apm_table;
        u32 vbe[4];
} _packed_;

struct multiboot_module {
        u32 start, end, string, reserved;
} _packed_;

struct multiboot_mmap {
        u32 size; /* of what follows */
        u64 base, length;
        u32 type;
} _packed_;

/* Where one part of the kernel file goes. */
struct multiboot_load {
        u64 entry;
        u64 start, end; /* physical, all of it, with bss */
        bool from_elf;  /* load the ELF segments; otherwise [offset, offset + size) to start */
        u64 offset, size;
};

/* The header in @data, NULL when there is none (or an ELF64 file, which multiboot 1 cannot load). Points into
 * @data and is not aligned. */
const struct multiboot_header *multiboot_header_find(const void *data, size_t len);
int multiboot_parse(const void *data, size_t len, struct multiboot_load *ret, struct err **err);
