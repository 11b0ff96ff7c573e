/* Linux by its 64-bit entry.
 *
 * The decompressor is skipped: the ELF vmlinux goes where it is linked to, so nothing has to be relocated (KASLR
 * is the decompressor's work), and startup_64 is entered with what the decompressor would have left: %rsi =
 * boot_params, identity-mapped memory, flat segments. Source: Documentation/arch/x86/boot.rst, "64-bit Boot
 * Protocol"; zero-page.rst; arch/x86/include/uapi/asm/bootparam.h. */
#include <errno.h>
#include <string.h>

#include "boot.h"
#include "elf_image.h"

/* Offsets in boot_params. */
enum {
        BP_ACPI_RSDP_ADDR = 0x070,
        BP_EXT_RAMDISK_IMAGE = 0x0c0,
        BP_EXT_RAMDISK_SIZE = 0x0c4,
        BP_E820_ENTRIES = 0x1e8,
        BP_HDR = 0x1f1,
        BP_BOOT_FLAG = 0x1fe,
        BP_HEADER = 0x202,
        BP_VERSION = 0x206,
        BP_TYPE_OF_LOADER = 0x210,
        BP_LOADFLAGS = 0x211,
        BP_CODE32_START = 0x214,
        BP_RAMDISK_IMAGE = 0x218,
        BP_RAMDISK_SIZE = 0x21c,
        BP_HEAP_END_PTR = 0x224,
        BP_CMD_LINE_PTR = 0x228,
        BP_INITRD_ADDR_MAX = 0x22c,
        BP_KERNEL_ALIGNMENT = 0x230,
        BP_CMDLINE_SIZE = 0x238,
        BP_E820_TABLE = 0x2d0,
        BP_SIZE = 0x1000,
};
#define LOADER_UNDEFINED 0xff
#define LOADED_HIGH      1
#define E820_ENTRY_SIZE  20

/* What is assumed of a vmlinux without a setup header: true for every 64-bit kernel. */
#define DEFAULT_INITRD_MAX  0x7fffffffu
#define DEFAULT_CMDLINE_MAX 2047u

static void put(u8 *p, unsigned offset, u64 v, unsigned size)
{
        memcpy(p + offset, &v, size);
}

static u32 get32(const u8 *p, unsigned offset)
{
        u32 v;

        memcpy(&v, p + offset, sizeof(v));
        return v;
}

/* The kernel's own header, or one as it would be for a bare vmlinux. */
static int fill_header(struct boot_load *load, u8 *bp, struct err **err)
{
        if (kernel_image_kind(load->kernel.data, load->kernel.len) == KERNEL_BZIMAGE)
                return kernel_image_setup_header(load->kernel.data, load->kernel.len, bp + BP_HDR, err);
        put(bp, BP_BOOT_FLAG, 0xaa55, 2);
        memcpy(bp + BP_HEADER, "HdrS", 4);
        put(bp, BP_VERSION, 0x20f, 2);
        put(bp, BP_KERNEL_ALIGNMENT, 0x200000, 4);
        put(bp, BP_INITRD_ADDR_MAX, DEFAULT_INITRD_MAX, 4);
        put(bp, BP_CMDLINE_SIZE, DEFAULT_CMDLINE_MAX, 4);
        return 0;
}

static void fill_memory_map(const struct boot_load *load, u8 *bp)
{
        for (size_t i = 0; i < load->n_map; i++) {
                u8 *e = bp + BP_E820_TABLE + i * E820_ENTRY_SIZE;

                put(e, 0, load->map[i].base, 8);
                put(e, 8, load->map[i].size, 8);
                put(e, 16, load->map[i].type, 4);
        }
        bp[BP_E820_ENTRIES] = (u8)load->n_map;
}

int boot_linux64(struct boot_load *load, const void *elf, size_t elf_len, struct err **err)
{
        u8 bp[BP_SIZE] = { 0 };
        struct elf_image image;
        u64 initrd, initrd_max;
        int r;

        r = elf_image_parse(elf, elf_len, &image, err);
        if (r < 0)
                return r;
        if (!image.is_64)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "a 32-bit kernel has no 64-bit entry");
        if (image.entry < image.load_start || image.entry >= image.load_end)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the kernel's entry 0x%llx is outside of it",
                        (unsigned long long)image.entry);
        r = fill_header(load, bp, err);
        if (r < 0)
                return r;
        r = boot_load_segments(load, elf, &image, MIB, err);
        if (r < 0)
                return r;
        initrd_max = (u64)get32(bp, BP_INITRD_ADDR_MAX) + 1;
        r = boot_place_initrd(load, image.load_end, initrd_max, &initrd, err);
        if (r < 0)
                return r;
        r = boot_write_cmdline(load, MIN(get32(bp, BP_CMDLINE_SIZE), (u32)(BOOT_LOW_END - BOOT_CMDLINE - 1)), err);
        if (r < 0)
                return r;

        bp[BP_TYPE_OF_LOADER] = LOADER_UNDEFINED;
        bp[BP_LOADFLAGS] |= LOADED_HIGH;
        put(bp, BP_CMD_LINE_PTR, BOOT_CMDLINE, 4);
        put(bp, BP_RAMDISK_IMAGE, initrd, 4);
        put(bp, BP_RAMDISK_SIZE, initrd ? load->initrd.len : 0, 4);
        put(bp, BP_ACPI_RSDP_ADDR, load->config->rsdp, 8);
        fill_memory_map(load, bp);
        r = boot_write(load, BOOT_INFO, bp, sizeof(bp), err);
        if (r < 0)
                return r;
        load->bsp->gpr[RSI] = BOOT_INFO;
        return boot_enter_64(load, image.entry, err);
}
