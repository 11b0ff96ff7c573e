/* Multiboot 1: a 32-bit entry with %eax = magic and %ebx = information structure. Source: Multiboot Specification
 * 0.6.96, 3.2-3.3. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "boot.h"
#include "elf_image.h"
#include "multiboot.h"

/* The page at BOOT_MULTIBOOT; the command line and the module's string follow on the next ones. */
struct multiboot_page {
        struct multiboot_info info;
        struct multiboot_module module;
        char loader_name[8];
        struct multiboot_mmap map[BOOT_MAP_MAX];
} _packed_;

#define CMDLINE_ADDR       (BOOT_MULTIBOOT + 0x1000)
#define MODULE_STRING_ADDR (BOOT_MULTIBOOT + 0xb000)

static int load_image(struct boot_load *load, const struct multiboot_load *mb, struct err **err)
{
        struct elf_image image;
        int r;

        /* The first page holds the real-mode vectors, and modules and strings have their own place. */
        if (mb->start < PAGE_SIZE || (mb->start < BOOT_MULTIBOOT_END && mb->end > BOOT_MULTIBOOT) ||
                (mb->start < MIB && mb->end > 0xe0000))
                return err_set(err, ERR_BAD_IMAGE, EINVAL,
                        "the kernel wants to be loaded at 0x%llx-0x%llx, over the boot information",
                        (unsigned long long)mb->start, (unsigned long long)mb->end);
        if (mb->from_elf) {
                r = elf_image_parse(load->kernel.data, load->kernel.len, &image, err);
                return r < 0 ? r : boot_load_segments(load, load->kernel.data, &image, PAGE_SIZE, err);
        }
        image = (struct elf_image){ .n_segments = 1, .load_start = mb->start, .load_end = mb->end };
        image.segments[0] = (struct elf_segment){
                .offset = mb->offset,
                .file_size = mb->size,
                .paddr = mb->start,
                .memory_size = mb->end - mb->start,
        };
        return boot_load_segments(load, load->kernel.data, &image, PAGE_SIZE, err);
}

/* "PATH APPEND", as QEMU hands it over: programs look for their arguments after the first word. */
static int write_strings(struct boot_load *load, struct err **err)
{
        _cleanup_free_ char *line = NULL;
        const char *append = load->config->append, *module = load->config->initrd_path;
        int n = asprintf(&line, "%s%s%s", load->config->kernel_path, append ? " " : "", append ? append : "");
        int r;

        if (n < 0)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the command line");
        if ((u64)n >= MODULE_STRING_ADDR - CMDLINE_ADDR)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "the command line has %d characters, at most %llu fit", n,
                        MODULE_STRING_ADDR - CMDLINE_ADDR - 1);
        r = boot_write(load, CMDLINE_ADDR, line, (size_t)n + 1, err);
        if (r < 0 || !module)
                return r;
        if (strlen(module) >= BOOT_MULTIBOOT_END - MODULE_STRING_ADDR)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "the initrd's name is too long");
        return boot_write(load, MODULE_STRING_ADDR, module, strlen(module) + 1, err);
}

static void fill_info(const struct boot_load *load, u64 module, struct multiboot_page *page)
{
        const u64 low_end = MIN(load->memory->ram_size, PCI_HOLE_START);

        page->info = (struct multiboot_info){
                .flags = MULTIBOOT_INFO_MEMORY | MULTIBOOT_INFO_CMDLINE | MULTIBOOT_INFO_MMAP |
                         MULTIBOOT_INFO_LOADER_NAME,
                .mem_lower = (u32)(load->map[0].size / KIB),
                .mem_upper = (u32)((low_end - MIB) / KIB),
                .cmdline = (u32)CMDLINE_ADDR,
                .mmap_length = (u32)(load->n_map * sizeof(struct multiboot_mmap)),
                .mmap_addr = (u32)(BOOT_MULTIBOOT + offsetof(struct multiboot_page, map)),
                .boot_loader_name = (u32)(BOOT_MULTIBOOT + offsetof(struct multiboot_page, loader_name)),
        };
        memcpy(page->loader_name, "strata", 7);
        for (size_t i = 0; i < load->n_map; i++)
                page->map[i] = (struct multiboot_mmap){
                        .size = sizeof(struct multiboot_mmap) - 4,
                        .base = load->map[i].base,
                        .length = load->map[i].size,
                        .type = load->map[i].type,
                };
        if (load->initrd.len) {
                page->module = (struct multiboot_module){
                        .start = (u32)module,
                        .end = (u32)(module + load->initrd.len),
                        .string = (u32)MODULE_STRING_ADDR,
                };
                page->info.flags |= MULTIBOOT_INFO_MODULES;
                page->info.mods_count = 1;
                page->info.mods_addr = (u32)(BOOT_MULTIBOOT + offsetof(struct multiboot_page, module));
        }
}

int boot_multiboot(struct boot_load *load, struct err **err)
{
        struct multiboot_page page = { 0 };
        struct multiboot_load mb;
        u64 module;
        int r;

        r = multiboot_parse(load->kernel.data, load->kernel.len, &mb, err);
        if (r < 0)
                return r;
        r = load_image(load, &mb, err);
        if (r < 0)
                return r;
        /* Right behind the kernel, where kernels of this protocol expect their modules. */
        module = ALIGN_UP(MAX(mb.end, MIB), PAGE_SIZE);
        if (load->initrd.len && !guest_memory_is_ram(load->memory, module, load->initrd.len)) {
                r = err_set(err, ERR_TOO_LARGE, ENOMEM, "the initrd does not fit behind the kernel at 0x%llx",
                        (unsigned long long)module);
                return err_hint(err, r, "give the machine more with --memory");
        }
        if (load->initrd.len) {
                r = boot_write(load, module, load->initrd.data, load->initrd.len, err);
                if (r < 0)
                        return r;
        }
        r = write_strings(load, err);
        if (r < 0)
                return r;
        fill_info(load, module, &page);
        r = boot_write(load, BOOT_MULTIBOOT, &page, sizeof(page), err);
        if (r < 0)
                return r;
        load->bsp->gpr[RAX] = MULTIBOOT_BOOTLOADER_MAGIC;
        load->bsp->gpr[RBX] = BOOT_MULTIBOOT;
        return boot_enter_32(load, mb.entry, err);
}
