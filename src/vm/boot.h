/* Boot: puts a kernel into memory and the first CPU at its entry, by one of three protocols.
 *
 * Which one, with VM_BOOT_AUTO: a bzImage by its 64-bit entry; a file with a multiboot header by multiboot; an
 * ELF64 file with a PVH entry note by that; another ELF64 file linked to the upper half as a Linux kernel at its
 * 64-bit entry.
 *
 * Low memory as handed over (the kernel itself lies above 1 MiB, a multiboot kernel anywhere that is free):
 *   0x00500  GDT
 *   0x07000  boot_params or hvm_start_info
 *   0x09000  page tables, 6 pages (64-bit entry: the first 4 GiB identity-mapped)
 *   0x20000  kernel command line
 *   0x90000  multiboot information and command line
 *   0xe0000  ACPI tables, generation ID (acpi.h) */
#pragma once

#include "cpu/cpu.h"
#include "kernel_image.h"
#include "vm.h"

#define BOOT_GDT           0x500ULL
#define BOOT_INFO          0x7000ULL
#define BOOT_PAGE_TABLES   0x9000ULL
#define BOOT_CMDLINE       0x20000ULL
#define BOOT_LOW_END       0x30000ULL
#define BOOT_MULTIBOOT     0x90000ULL
#define BOOT_MULTIBOOT_END 0x9f000ULL

/* The memory map as every protocol hands it over; types are those of E820. */
enum { BOOT_MAP_RAM = 1, BOOT_MAP_RESERVED = 2 };
struct boot_map_entry {
        u64 base, size;
        u32 type;
};
#define BOOT_MAP_MAX 8
/* Returns the number of entries, sorted by base. */
size_t boot_map_build(u64 ram_size, struct boot_map_entry map[BOOT_MAP_MAX]);

/* A file's contents in anonymous memory, so that changes to the file cannot hurt. */
struct boot_file {
        u8 *data;
        size_t len;
};
int boot_file_read(const char *path, const char *what, u64 max, struct boot_file *ret, struct err **err);
void boot_file_free(struct boot_file *file);

/* What is to be booted; strings borrowed. */
struct boot_config {
        const char *kernel_path, *initrd_path, *append; /* the last two may be NULL */
        enum vm_boot protocol;
        u64 rsdp; /* gpa */
};

struct boot_load {
        const struct boot_config *config;
        struct guest_memory *memory;
        struct cpu_state *bsp; /* reset state before, at the kernel's entry after */
        struct boot_file kernel;
        struct boot_file initrd; /* empty when there is none */
        struct boot_map_entry map[BOOT_MAP_MAX];
        size_t n_map;
        enum vm_boot protocol; /* the one taken */
};

/* Reads the files, checks them, loads and sets @bsp; says which protocol it was. Nothing needs undoing on failure
 * but the memory's contents. */
int boot_load(const struct boot_config *config, struct guest_memory *memory, struct cpu_state *bsp,
        enum vm_boot *ret_protocol, struct err **err);

/* ---- between the protocols' files ---- */

int boot_linux64(struct boot_load *load, const void *elf, size_t elf_len, struct err **err);
int boot_pvh(struct boot_load *load, const void *elf, size_t elf_len, struct err **err);
int boot_multiboot(struct boot_load *load, struct err **err);

struct elf_image;
/* Copies the segments to their physical addresses and clears what they leave open. Fails before it writes when
 * [load_start, load_end) is not RAM above @lowest. */
int boot_load_segments(
        struct boot_load *load, const void *elf, const struct elf_image *image, u64 lowest, struct err **err);
/* Puts the initrd as high as possible below @limit, above @floor. *ret is 0 when there is none. */
int boot_place_initrd(struct boot_load *load, u64 floor, u64 limit, u64 *ret, struct err **err);
/* Guest memory at @gpa, which must be RAM by construction of the memory map. */
int boot_write(struct boot_load *load, u64 gpa, const void *src, size_t len, struct err **err);
/* Copies the command line with its end, at most @max bytes. */
int boot_write_cmdline(struct boot_load *load, size_t max, struct err **err);

/* Entry states; segments as Linux's and Xen's protocols want them, with a GDT to match at BOOT_GDT. */
int boot_enter_64(struct boot_load *load, u64 rip, struct err **err);
int boot_enter_32(struct boot_load *load, u64 rip, struct err **err);
/* Real mode at a segment:offset, everything else as after reset: S3 wake-up (the AP start does it by itself). */
void boot_enter_real(struct cpu_state *cpu, u16 segment, u16 offset);
