#include "multiboot.h"

#include <errno.h>
#include <string.h>

#include "elf_image.h"

const struct multiboot_header *multiboot_header_find(const void *data, size_t len)
{
        const u8 *p = data;
        const size_t end = MIN(len, (size_t)MULTIBOOT_SEARCH);

        if (elf_image_is_elf64(data, len))
                return NULL;
        for (size_t i = 0; i + 12 <= end; i += 4) {
                u32 h[3];

                memcpy(h, p + i, sizeof(h));
                if (h[0] != MULTIBOOT_HEADER_MAGIC || h[0] + h[1] + h[2] != 0)
                        continue;
                /* Without addresses only an ELF header can say where to load. */
                if ((h[1] & MULTIBOOT_LOAD_ADDRESSES) ? i + sizeof(struct multiboot_header) <= len
                                                      : elf_image_is_elf32(data, len))
                        return (const struct multiboot_header *)(p + i);
        }
        return NULL;
}

/* Multiboot specification, 3.1.3: everything follows from the header's own address and its position in the file. */
static int parse_addresses(
        const struct multiboot_header *h, size_t position, size_t len, struct multiboot_load *ret, struct err **err)
{
        struct multiboot_load load = { .entry = h->entry_addr, .start = h->load_addr };

        if (h->header_addr < h->load_addr || h->header_addr - h->load_addr > position)
                return err_set(err, ERR_BAD_IMAGE, EINVAL,
                        "the multiboot header's load address 0x%x does not fit its position", h->load_addr);
        load.offset = position - (h->header_addr - h->load_addr);
        load.size = len - load.offset;
        if (h->load_end_addr) {
                if (h->load_end_addr < h->load_addr)
                        return err_set(err, ERR_BAD_IMAGE, EINVAL,
                                "the multiboot header's load end 0x%x is before its start", h->load_end_addr);
                if (h->load_end_addr - h->load_addr > load.size)
                        return err_set(err, ERR_BAD_IMAGE, EINVAL,
                                "the multiboot kernel is truncated: %u bytes wanted, %llu there",
                                h->load_end_addr - h->load_addr, (unsigned long long)load.size);
                load.size = h->load_end_addr - h->load_addr;
        }
        load.end = load.start + load.size;
        if (h->bss_end_addr) {
                if (h->bss_end_addr < load.end)
                        return err_set(err, ERR_BAD_IMAGE, EINVAL,
                                "the multiboot header's bss end 0x%x is inside its data", h->bss_end_addr);
                load.end = h->bss_end_addr;
        }
        *ret = load;
        return 0;
}

int multiboot_parse(const void *data, size_t len, struct multiboot_load *ret, struct err **err)
{
        const struct multiboot_header *found = multiboot_header_find(data, len);
        struct multiboot_header h = { 0 };
        struct elf_image elf;
        size_t position;
        int r;

        if (!found)
                return err_set(
                        err, ERR_BAD_IMAGE, EINVAL, "no multiboot header in the first %d bytes", MULTIBOOT_SEARCH);
        position = (size_t)((const u8 *)found - (const u8 *)data);
        memcpy(&h, found, MIN(sizeof(h), len - position));
        if (h.flags & MULTIBOOT_UNKNOWN_REQUIRED)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                        "the multiboot header asks for unknown features (flags 0x%x)", h.flags);
        if (h.flags & MULTIBOOT_VIDEO_MODE)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                        "the multiboot kernel wants a video mode and there is no display");
        if (h.flags & MULTIBOOT_LOAD_ADDRESSES)
                return parse_addresses(&h, position, len, ret, err);
        r = elf_image_parse(data, len, &elf, err);
        if (r < 0)
                return r;
        *ret = (struct multiboot_load){
                .entry = elf.entry,
                .start = elf.load_start,
                .end = elf.load_end,
                .from_elf = true,
        };
        return 0;
}
