/* Kernel files: whatever the bytes are, the readers say what is wrong with them and stay inside. */
#include <stdlib.h>

#include "vm/elf_image.h"
#include "vm/kernel_image.h"
#include "vm/multiboot.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

/* What a parser promises about a file that it accepted. */
static void check_elf(const void *data, size_t len)
{
        struct elf_image image;
        size_t i;

        if (elf_image_parse(data, len, &image, NULL) < 0)
                return;
        if (image.n_segments > ELF_SEGMENTS_MAX)
                abort();
        for (i = 0; i < image.n_segments; i++) {
                const struct elf_segment *segment = &image.segments[i];

                if (segment->offset > len || segment->file_size > len - segment->offset)
                        abort();
                if (segment->memory_size < segment->file_size || segment->paddr + segment->memory_size < segment->paddr)
                        abort();
        }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        struct multiboot_load load;
        u8 header[SETUP_HEADER_MAX];
        void *elf = NULL;
        size_t elf_len = 0;

        kernel_image_kind(data, len);
        kernel_image_setup_header(data, len, header, NULL);
        if (kernel_image_unpack(data, len, &elf, &elf_len, NULL) >= 0) {
                if (elf_len > KERNEL_UNPACKED_MAX)
                        abort();
                check_elf(elf, elf_len);
                free(elf);
        }
        check_elf(data, len);
        if (multiboot_parse(data, len, &load, NULL) >= 0) {
                if (load.end < load.start)
                        abort();
                if (!load.from_elf && (load.offset > len || load.size > len - load.offset))
                        abort();
        }
        return 0;
}
