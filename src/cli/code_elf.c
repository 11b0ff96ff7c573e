/* Both ELF classes are read into one set of structs; every offset is checked against the file before it is used.
 * Source: System V ABI, chapter 4 (object files) and 5 (program loading). */
#include "code_elf.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct header {
        bool is_64;
        u16 type, machine, phentsize, shentsize;
        u32 phnum, shnum;
        u64 phoff, shoff;
};

struct section {
        u32 type, link;
        u64 flags, address, offset, size, entsize;
};

bool code_elf_is(const u8 *data, size_t len)
{
        return len >= SELFMAG && memcmp(data, ELFMAG, SELFMAG) == 0;
}

/* Copies @n bytes at @offset, if the file has them. */
static bool get(const struct code_file *file, u64 offset, void *to, size_t n)
{
        if (offset > file->len || n > file->len - offset)
                return false;
        memcpy(to, file->data + offset, n);
        return true;
}

static bool inside(const struct code_file *file, u64 offset, u64 n)
{
        return offset <= file->len && n <= file->len - offset;
}

static int truncated(struct err **err, const char *what)
{
        return err_set(err, ERR_BAD_IMAGE, ENOEXEC, "%s lie outside the ELF file, which is truncated or damaged", what);
}

#define READ_EHDR(bits)                                        \
        do {                                                   \
                Elf##bits##_Ehdr e;                            \
                if (!get(file, 0, &e, sizeof(e)))              \
                        return truncated(err, "the headers");  \
                *ret = (struct header){ .is_64 = (bits) == 64, \
                        .type = e.e_type,                      \
                        .machine = e.e_machine,                \
                        .phentsize = e.e_phentsize,            \
                        .shentsize = e.e_shentsize,            \
                        .phnum = e.e_phnum,                    \
                        .shnum = e.e_shnum,                    \
                        .phoff = e.e_phoff,                    \
                        .shoff = e.e_shoff };                  \
        } while (0)

static int read_header(const struct code_file *file, struct header *ret, struct err **err)
{
        unsigned char ident[EI_NIDENT];
        size_t want_ph, want_sh;

        if (!get(file, 0, ident, sizeof(ident)))
                return truncated(err, "the headers");
        if (ident[EI_DATA] != ELFDATA2LSB || (ident[EI_CLASS] != ELFCLASS32 && ident[EI_CLASS] != ELFCLASS64))
                return err_set(err, ERR_BAD_IMAGE, ENOEXEC, "it is ELF, but not little-endian of 32 or 64 bits");
        if (ident[EI_CLASS] == ELFCLASS64)
                READ_EHDR(64);
        else
                READ_EHDR(32);
        if (ret->machine != EM_X86_64 && ret->machine != EM_386)
                return err_set(err, ERR_BAD_IMAGE, ENOEXEC, "it is ELF for machine type %u, not for x86", ret->machine);
        want_ph = ret->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
        want_sh = ret->is_64 ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr);
        if ((ret->phnum && ret->phentsize != want_ph) || (ret->shnum && ret->shentsize != want_sh))
                return err_set(err, ERR_BAD_IMAGE, ENOEXEC, "its ELF headers have an unknown size");
        return 0;
}

#define FILL_SECTION(s)                                \
        (*ret = (struct section){ .type = (s).sh_type, \
                 .link = (s).sh_link,                  \
                 .flags = (s).sh_flags,                \
                 .address = (s).sh_addr,               \
                 .offset = (s).sh_offset,              \
                 .size = (s).sh_size,                  \
                 .entsize = (s).sh_entsize })

static bool read_section(const struct code_file *file, const struct header *h, u32 i, struct section *ret)
{
        Elf64_Shdr as_64;
        Elf32_Shdr as_32;

        if (h->shoff > file->len)
                return false;
        if (h->is_64 ? !get(file, h->shoff + (u64)i * sizeof(as_64), &as_64, sizeof(as_64))
                     : !get(file, h->shoff + (u64)i * sizeof(as_32), &as_32, sizeof(as_32)))
                return false;
        if (h->is_64)
                FILL_SECTION(as_64);
        else
                FILL_SECTION(as_32);
        return true;
}

/* Adds a range unless it is empty. All of them together must fit in the file: they do not overlap in honest files, and
 * dishonest ones could make the sweep endless. */
static int add_range(struct code_file *file, u64 offset, u64 size, u64 address, u32 section, struct err **err)
{
        struct code_range *larger;

        if (size == 0)
                return 0;
        if (!inside(file, offset, size))
                return truncated(err, "sections or segments with code");
        file->code_bytes += size;
        if (file->code_bytes > file->len)
                return err_set(err, ERR_BAD_IMAGE, ENOEXEC, "its code sections overlap");
        larger = reallocarray(file->ranges, file->n_ranges + 1, sizeof(*larger));
        if (!larger)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory");
        file->ranges = larger;
        file->ranges[file->n_ranges++] = (struct code_range){ file->data + offset, size, address, section };
        return 0;
}

static int read_code_sections(struct code_file *file, const struct header *h, struct err **err)
{
        for (u32 i = 0; i < h->shnum; i++) {
                struct section s;
                int r;

                if (!read_section(file, h, i, &s))
                        return truncated(err, "the section headers");
                if (!(s.flags & SHF_EXECINSTR) || s.type != SHT_PROGBITS)
                        continue;
                r = add_range(file, s.offset, s.size, s.address, i, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int read_code_segments(struct code_file *file, const struct header *h, struct err **err)
{
        for (u32 i = 0; i < h->phnum; i++) {
                Elf64_Phdr p = { 0 };
                Elf32_Phdr p32 = { 0 };
                int r;

                if (h->phoff > file->len || (h->is_64 ? !get(file, h->phoff + (u64)i * sizeof(p), &p, sizeof(p))
                                                      : !get(file, h->phoff + (u64)i * sizeof(p32), &p32, sizeof(p32))))
                        return truncated(err, "the program headers");
                if (!h->is_64) {
                        p.p_type = p32.p_type;
                        p.p_flags = p32.p_flags;
                        p.p_offset = p32.p_offset;
                        p.p_filesz = p32.p_filesz;
                        p.p_vaddr = p32.p_vaddr;
                }
                if (p.p_type != PT_LOAD || !(p.p_flags & PF_X))
                        continue;
                r = add_range(file, p.p_offset, p.p_filesz, p.p_vaddr, 0, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int compare_symbols(const void *a, const void *b)
{
        const struct code_symbol *x = a, *y = b;

        if (x->section != y->section)
                return x->section < y->section ? -1 : 1;
        return x->address < y->address ? -1 : x->address > y->address;
}

static bool is_code_section(const struct code_file *file, u32 section)
{
        size_t low = 0, high = file->n_ranges; /* in the order of the section headers */

        while (low < high) {
                size_t mid = low + (high - low) / 2;

                if (file->ranges[mid].section == section)
                        return true;
                if (file->ranges[mid].section < section)
                        low = mid + 1;
                else
                        high = mid;
        }
        return false;
}

static bool read_symbol(
        const struct code_file *file, const struct header *h, const struct section *table, u64 i, Elf64_Sym *ret)
{
        Elf32_Sym as_32;

        if (h->is_64)
                return get(file, table->offset + i * sizeof(*ret), ret, sizeof(*ret));
        if (!get(file, table->offset + i * sizeof(as_32), &as_32, sizeof(as_32)))
                return false;
        *ret = (Elf64_Sym){ .st_name = as_32.st_name,
                .st_info = as_32.st_info,
                .st_shndx = as_32.st_shndx,
                .st_value = as_32.st_value };
        return true;
}

/* Names are a convenience: whatever is wrong with them is passed over. */
static void read_symbols(struct code_file *file, const struct header *h, const struct section *table)
{
        u64 n = table->size / (h->is_64 ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym));
        struct section names;

        if (!inside(file, table->offset, table->size) || table->link >= h->shnum ||
                !read_section(file, h, table->link, &names) || !inside(file, names.offset, names.size) ||
                names.size == 0 || file->data[names.offset + names.size - 1] != '\0')
                return;
        file->symbols = calloc(n, sizeof(*file->symbols));
        if (!file->symbols)
                return;
        for (u64 i = 0; i < n; i++) {
                Elf64_Sym s;
                unsigned type;

                if (!read_symbol(file, h, table, i, &s))
                        break;
                type = ELF64_ST_TYPE(s.st_info);
                if ((type != STT_FUNC && type != STT_NOTYPE) || s.st_name == 0 || s.st_name >= names.size ||
                        !is_code_section(file, s.st_shndx))
                        continue;
                file->symbols[file->n_symbols++] = (struct code_symbol){ s.st_value, s.st_shndx,
                        (const char *)file->data + names.offset + s.st_name };
        }
        qsort(file->symbols, file->n_symbols, sizeof(*file->symbols), compare_symbols);
}

/* The full table, or else the one for dynamic linking; only the first of each kind, as the ABI has it. */
static void find_symbols(struct code_file *file, const struct header *h)
{
        static const u32 types[] = { SHT_SYMTAB, SHT_DYNSYM };

        for (size_t t = 0; t < ARRAY_SIZE(types); t++) {
                struct section s = { 0 };
                u32 i = 0;

                while (i < h->shnum && read_section(file, h, i, &s) && s.type != types[t])
                        i++;
                if (i < h->shnum && s.type == types[t])
                        read_symbols(file, h, &s);
                if (file->n_symbols > 0)
                        return;
                free(file->symbols);
                file->symbols = NULL;
        }
}

static const char *kind_of(u16 type)
{
        switch (type) {
        case ET_EXEC:
                return "ELF executable";
        case ET_DYN:
                return "ELF executable or shared object";
        case ET_REL:
                return "ELF object file";
        default:
                return "ELF file";
        }
}

int code_elf_read(struct code_file *file, struct err **err)
{
        struct header h = { 0 };
        int r;

        r = read_header(file, &h, err);
        if (r < 0)
                return r;
        file->kind = kind_of(h.type);
        file->relocatable = h.type == ET_REL;
        file->mode = h.machine == EM_X86_64 ? ISA_MODE_LONG : ISA_MODE_COMPAT;
        r = read_code_sections(file, &h, err);
        if (r == 0 && file->n_ranges == 0)
                r = read_code_segments(file, &h, err);
        if (r < 0)
                return r;
        if (file->n_ranges == 0)
                return err_set(err, ERR_BAD_IMAGE, ENOEXEC, "the ELF file has no executable section or segment");
        find_symbols(file, &h);
        return 0;
}
