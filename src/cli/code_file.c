#include "code_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "code_elf.h"
#include "vm/kernel_image.h"

/* The whole file, so that nobody can change or shorten it while it is parsed. */
static int read_all(const char *path, u8 **ret, size_t *ret_len, struct err **err)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        _cleanup_free_ u8 *data = NULL;
        size_t len = 0, cap = 0;
        struct stat st;

        if (fd < 0)
                return err_sys(err, errno, "opening '%s'", path);
        if (fstat(fd, &st) < 0)
                return err_sys(err, errno, "reading '%s'", path);
        if (S_ISREG(st.st_mode) && (u64)st.st_size < CODE_FILE_MAX)
                cap = (size_t)st.st_size;
        for (;;) {
                ssize_t n;
                u8 *larger;

                /* One byte more than is known to be there, to see the end. */
                if (len + 1 > cap || !data) {
                        cap = MAX(cap + 1, MIN(2 * len + 4096, CODE_FILE_MAX + 1));
                        larger = realloc(data, cap);
                        if (!larger)
                                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for '%s'", path);
                        data = larger;
                }
                n = read(fd, data + len, cap - len);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return err_sys(err, errno, "reading '%s'", path);
                if (n == 0)
                        break;
                len += (size_t)n;
                if (len > CODE_FILE_MAX)
                        return err_set(
                                err, ERR_TOO_LARGE, EFBIG, "'%s' is larger than %llu MiB", path, CODE_FILE_MAX / MIB);
        }
        *ret = TAKE_PTR(data);
        *ret_len = len;
        return 0;
}

static int take_raw(struct code_file *file, u64 base, struct err **err)
{
        file->kind = "raw";
        file->mode = ISA_MODE_LONG;
        file->ranges = calloc(1, sizeof(*file->ranges));
        if (!file->ranges)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory");
        file->ranges[0] = (struct code_range){ file->data, file->len, base, 0 };
        file->n_ranges = 1;
        file->code_bytes = file->len;
        return 0;
}

/* Replaces the file's bytes by the vmlinux inside. */
static int unpack(struct code_file *file, struct err **err)
{
        void *elf;
        size_t elf_len;
        int r;

        r = kernel_image_unpack(file->data, file->len, &elf, &elf_len, err);
        if (r < 0)
                return r;
        free(file->data);
        file->data = elf;
        file->len = elf_len;
        return 0;
}

static int take(struct code_file *file, const struct code_file_options *options, struct err **err)
{
        int r;

        if (file->len == 0)
                return err_set(err, ERR_BAD_IMAGE, EINVAL, "it is empty");
        if (options->raw)
                return take_raw(file, options->base, err);
        if (code_elf_is(file->data, file->len))
                return code_elf_read(file, err);
        if (kernel_image_kind(file->data, file->len) == KERNEL_BZIMAGE) {
                r = unpack(file, err);
                if (r < 0)
                        return err_wrap(err, r, "unpacking the bzImage");
                r = code_elf_read(file, err);
                file->kind = "bzImage";
                return r;
        }
        r = err_set(err, ERR_BAD_IMAGE, ENOEXEC, "it is neither ELF nor a bzImage");
        return err_hint(err, r, "--raw takes any file as plain machine code");
}

int code_file_parse(
        u8 *data, size_t len, const struct code_file_options *options, struct code_file **ret, struct err **err)
{
        _cleanup_(code_file_freep) struct code_file *file = calloc(1, sizeof(*file));
        int r;

        if (!file) {
                free(data);
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory");
        }
        file->data = data;
        file->len = len;
        r = take(file, options, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(file);
        return 0;
}

int code_file_open(const char *path, const struct code_file_options *options, struct code_file **ret, struct err **err)
{
        u8 *data = NULL;
        size_t len = 0;
        int r;

        r = read_all(path, &data, &len, err);
        if (r < 0)
                return r;
        r = code_file_parse(data, len, options, ret, err);
        if (r < 0)
                return err_wrap(err, r, "'%s'", path);
        return 0;
}

const struct code_symbol *code_file_symbol(const struct code_file *file, const struct code_range *range, u64 address)
{
        size_t low = 0, high = file->n_symbols;

        /* The first symbol after (section, address). */
        while (low < high) {
                size_t mid = low + (high - low) / 2;
                const struct code_symbol *s = &file->symbols[mid];

                if (s->section < range->section || (s->section == range->section && s->address <= address))
                        low = mid + 1;
                else
                        high = mid;
        }
        if (low == 0 || file->symbols[low - 1].section != range->section)
                return NULL;
        return &file->symbols[low - 1];
}

struct code_file *code_file_free(struct code_file *file)
{
        if (file) {
                free(file->ranges);
                free(file->symbols);
                free(file->data);
                free(file);
        }
        return NULL;
}
