/* Arbitrary bytes as an ELF file, a bzImage or plain code: the census ends, its sums are right, and nothing is read
 * outside. The first byte chooses the machine, mode and format. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "cli/code_file.h"
#include "isa/census.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct isa_census census;

static void on_finding(const struct isa_finding *finding, void *opaque)
{
        const struct code_file *file = opaque;
        const struct code_symbol *symbol;
        char name[ISA_ROW_NAME_MAX];

        if (finding->row && strlen(isa_row_name(finding->row, name)) == 0)
                abort();
        symbol = code_file_symbol(file, &file->ranges[0], finding->address);
        if (symbol && strlen(symbol->name) > file->len)
                abort();
}

static void sweep(const struct code_file *file, const struct isa_context *ctx)
{
        u64 sum = 0;

        isa_census_init(&census, ctx, 0);
        for (size_t i = 0; i < file->n_ranges; i++)
                isa_census_add(&census, file->ranges[i].data, file->ranges[i].len, file->ranges[i].address, on_finding,
                        (void *)file);
        for (int c = 0; c < ISA_CLASS_COUNT; c++)
                sum += census.by_class[c];
        if (sum != census.instructions || census.bytes != file->code_bytes ||
                census.instructions + census.bad_bytes + census.padding_bytes > census.bytes ||
                census.user_violations > census.violations)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct code_file_options options = { 0 };
        struct code_file *file = NULL;
        struct isa_context ctx;
        struct err *err = NULL;
        u8 *copy;

        if (size < 1)
                return 0;
        ctx = isa_machine(data[0] % ISA_MACHINE_COUNT, (data[0] >> 2) % ISA_MODE_COUNT);
        options.raw = data[0] & 0x80;
        copy = malloc(size);
        if (!copy)
                return 0;
        memcpy(copy, data + 1, size - 1);
        if (code_file_parse(copy, size - 1, &options, &file, &err) == 0)
                sweep(file, &ctx);
        else if (!err || err_message(err)[0] == '\0')
                abort();
        err_free(err);
        code_file_free(file);
        return 0;
}
