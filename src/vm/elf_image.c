#include "elf_image.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

/* Source: Xen's public/elfnote.h; the descriptor is the physical address of the 32-bit entry. */
#define XEN_ELFNOTE_PHYS32_ENTRY 18

static bool is_class(const u8 *p, size_t len, u8 elf_class, size_t header)
{
        return len >= header && memcmp(p, ELFMAG, SELFMAG) == 0 && p[EI_CLASS] == elf_class &&
               p[EI_DATA] == ELFDATA2LSB;
}

bool elf_image_is_elf64(const void *data, size_t len)
{
        return is_class(data, len, ELFCLASS64, sizeof(Elf64_Ehdr));
}

bool elf_image_is_elf32(const void *data, size_t len)
{
        return is_class(data, len, ELFCLASS32, sizeof(Elf32_Ehdr));
}

/* Both classes in the form of the larger one. */
static void read_header(const u8 *p, bool is_64, Elf64_Ehdr *ret)
{
        Elf32_Ehdr h;

        if (is_64) {
                memcpy(ret, p, sizeof(*ret));
                return;
        }
        memcpy(&h, p, sizeof(h));
        *ret = (Elf64_Ehdr){ .e_type = h.e_type,
                .e_machine = h.e_machine,
                .e_entry = h.e_entry,
                .e_phoff = h.e_phoff,
                .e_phentsize = h.e_phentsize,
                .e_phnum = h.e_phnum };
}

static void read_program_header(const u8 *p, bool is_64, Elf64_Phdr *ret)
{
        Elf32_Phdr h;

        if (is_64) {
                memcpy(ret, p, sizeof(*ret));
                return;
        }
        memcpy(&h, p, sizeof(h));
        *ret = (Elf64_Phdr){ .p_type = h.p_type,
                .p_offset = h.p_offset,
                .p_paddr = h.p_paddr,
                .p_filesz = h.p_filesz,
                .p_memsz = h.p_memsz };
}

/* Looks for the PVH entry in a note segment. A malformed note ends the search: it is optional information. */
static void scan_notes(const u8 *p, size_t len, struct elf_image *image)
{
        size_t pos = 0;

        while (len - pos >= sizeof(Elf64_Nhdr)) {
                Elf64_Nhdr n;
                size_t name, desc;

                memcpy(&n, p + pos, sizeof(n));
                name = pos + sizeof(n);
                if (n.n_namesz > len - name || ALIGN_UP((size_t)n.n_namesz, 4) > len - name)
                        return;
                desc = name + ALIGN_UP((size_t)n.n_namesz, 4);
                if (n.n_descsz > len - desc)
                        return;
                if (n.n_type == XEN_ELFNOTE_PHYS32_ENTRY && n.n_namesz == 4 && memcmp(p + name, "Xen", 4) == 0 &&
                        n.n_descsz >= 4) {
                        memcpy(&image->pvh_entry, p + desc, 4);
                        image->has_pvh_entry = true;
                        return;
                }
                if (ALIGN_UP((size_t)n.n_descsz, 4) > len - desc)
                        return;
                pos = desc + ALIGN_UP((size_t)n.n_descsz, 4);
        }
}

static int add_segment(struct elf_image *image, const Elf64_Phdr *ph, size_t len, struct err **err)
{
        if (ph->p_memsz == 0)
                return 0;
        if (ph->p_offset > len || ph->p_filesz > len - ph->p_offset)
                return err_set(err, ERR_BAD_IMAGE, EINVAL,
                        "the ELF file is truncated: a segment ends at byte %llu, the file at %zu",
                        (unsigned long long)(ph->p_offset + ph->p_filesz), len);
        if (ph->p_filesz > ph->p_memsz || ph->p_paddr + ph->p_memsz < ph->p_paddr)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the ELF file has a segment of impossible size");
        if (image->n_segments == ELF_SEGMENTS_MAX)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the ELF file has more than %d segments", ELF_SEGMENTS_MAX);
        image->segments[image->n_segments++] = (struct elf_segment){
                .offset = ph->p_offset,
                .file_size = ph->p_filesz,
                .paddr = ph->p_paddr,
                .memory_size = ph->p_memsz,
        };
        image->load_start = MIN(image->load_start, ph->p_paddr);
        image->load_end = MAX(image->load_end, ph->p_paddr + ph->p_memsz);
        if (ph->p_vaddr >> 63)
                image->upper_half = true;
        return 0;
}

int elf_image_parse(const void *data, size_t len, struct elf_image *ret, struct err **err)
{
        struct elf_image image = { .is_64 = elf_image_is_elf64(data, len), .load_start = UINT64_MAX };
        const size_t entry_size = image.is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
        const u8 *p = data;
        Elf64_Ehdr h;
        int r;

        if (!image.is_64 && !elf_image_is_elf32(data, len))
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "not an ELF file");
        read_header(p, image.is_64, &h);
        if (h.e_machine != (image.is_64 ? EM_X86_64 : EM_386))
                return err_set(
                        err, ERR_BAD_IMAGE, EINVAL, "the ELF file is for another processor (machine %u)", h.e_machine);
        if (h.e_type != ET_EXEC && h.e_type != ET_DYN)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the ELF file is not an executable");
        if (h.e_phentsize != entry_size || h.e_phoff > len || h.e_phnum > (len - h.e_phoff) / entry_size)
                return err_set(
                        err, ERR_BAD_IMAGE, EINVAL, "the ELF file is truncated or its program headers are damaged");
        image.entry = h.e_entry;
        for (unsigned i = 0; i < h.e_phnum; i++) {
                Elf64_Phdr ph;

                read_program_header(p + h.e_phoff + i * entry_size, image.is_64, &ph);
                if (ph.p_type == PT_LOAD) {
                        r = add_segment(&image, &ph, len, err);
                        if (r < 0)
                                return r;
                } else if (ph.p_type == PT_NOTE && ph.p_offset <= len && ph.p_filesz <= len - ph.p_offset) {
                        scan_notes(p + ph.p_offset, ph.p_filesz, &image);
                }
        }
        if (image.n_segments == 0)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "the ELF file has nothing to load");
        *ret = image;
        return 0;
}
