/* The machine code in a file: executable sections of an ELF file, of the vmlinux inside a bzImage, or the whole of it.
 *
 * The bytes are not trusted. A code_file owns everything that its ranges point to. */
#pragma once

#include "base/err.h"
#include "isa/isa.h"

struct code_range {
        const u8 *data;
        size_t len;
        u64 address;
        u32 section; /* ELF section index, 0 for segments and raw files */
};

struct code_symbol {
        u64 address;
        u32 section;
        const char *name;
};

struct code_file {
        const char *kind; /* "ELF executable", "bzImage", ... */
        enum isa_mode mode;
        bool relocatable; /* addresses are offsets in their section */
        struct code_range *ranges;
        size_t n_ranges;
        u64 code_bytes; /* of all ranges */
        struct code_symbol *symbols; /* sorted by section and address */
        size_t n_symbols;
        u8 *data; /* what ranges and names point into */
        size_t len;
};

#define CODE_FILE_MAX (1 * GIB)

struct code_file_options {
        bool raw; /* no format: everything is code, at @base */
        u64 base;
};

/* ERR_NOT_FOUND and so on from the system; ERR_BAD_IMAGE when the file is foreign, truncated or has no code. */
int code_file_open(const char *path, const struct code_file_options *options, struct code_file **ret, struct err **err);
/* As code_file_open for bytes in memory; takes over @data, which was malloc'ed, on failure too. */
int code_file_parse(u8 *data, size_t len, const struct code_file_options *options, struct code_file **ret,
                    struct err **err);
/* The symbol at or before @address in the section of @range; NULL when there is none. */
const struct code_symbol *code_file_symbol(const struct code_file *file, const struct code_range *range, u64 address);
/* NULL is fine. Returns NULL. */
struct code_file *code_file_free(struct code_file *file);
static inline void code_file_freep(struct code_file **file)
{
        code_file_free(*file);
}
