/* PVH: a 32-bit entry named by an ELF note, %ebx = hvm_start_info. Source: Xen, docs/misc/pvh.pandoc;
 * public/arch-x86/hvm/start_info.h. */
#include <errno.h>
#include <string.h>

#include "boot.h"
#include "elf_image.h"

#define START_INFO_MAGIC 0x336ec578u /* "xEn3", bit 7 of the first byte set */

struct hvm_start_info {
        u32 magic, version, flags, n_modules;
        u64 module_list, cmdline, rsdp;
        u64 memory_map; /* version 1 */
        u32 memory_map_entries, reserved;
};

struct hvm_module {
        u64 address, size, cmdline, reserved;
};

struct hvm_memory_map_entry {
        u64 address, size;
        u32 type, reserved;
};

/* All in the page at BOOT_INFO. */
struct pvh_page {
        struct hvm_start_info info;
        struct hvm_module module;
        struct hvm_memory_map_entry map[BOOT_MAP_MAX];
};

int boot_pvh(struct boot_load *load, const void *elf, size_t elf_len, struct err **err)
{
        struct pvh_page page = { 0 };
        struct elf_image image;
        u64 initrd;
        int r;

        r = elf_image_parse(elf, elf_len, &image, err);
        if (r < 0)
                return r;
        if (!image.has_pvh_entry)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "the kernel has no PVH entry");
        if (image.pvh_entry < image.load_start || image.pvh_entry >= image.load_end)
                return err_set(
                        err, ERR_BAD_IMAGE, EINVAL, "the kernel's PVH entry 0x%x is outside of it", image.pvh_entry);
        r = boot_load_segments(load, elf, &image, MIB, err);
        if (r < 0)
                return r;
        r = boot_place_initrd(load, image.load_end, PCI_HOLE_START, &initrd, err);
        if (r < 0)
                return r;
        r = boot_write_cmdline(load, BOOT_LOW_END - BOOT_CMDLINE - 1, err);
        if (r < 0)
                return r;

        for (size_t i = 0; i < load->n_map; i++)
                page.map[i] =
                        (struct hvm_memory_map_entry){ load->map[i].base, load->map[i].size, load->map[i].type, 0 };
        page.info = (struct hvm_start_info){
                .magic = START_INFO_MAGIC,
                .version = 1,
                .cmdline = BOOT_CMDLINE,
                .rsdp = load->config->rsdp,
                .memory_map = BOOT_INFO + offsetof(struct pvh_page, map),
                .memory_map_entries = (u32)load->n_map,
        };
        if (initrd) {
                page.module = (struct hvm_module){ .address = initrd, .size = load->initrd.len };
                page.info.n_modules = 1;
                page.info.module_list = BOOT_INFO + offsetof(struct pvh_page, module);
        }
        r = boot_write(load, BOOT_INFO, &page, sizeof(page), err);
        if (r < 0)
                return r;
        load->bsp->gpr[RBX] = BOOT_INFO;
        return boot_enter_32(load, image.pvh_entry, err);
}
