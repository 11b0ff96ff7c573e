#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "internal.h"

struct choice {
        const char *text; /* what follows the comma */
        void (*apply)(struct block_options *options, int value);
        int value;
};

static void set_read_only(struct block_options *options, int value)
{
        options->read_only = value;
}

static void set_format(struct block_options *options, int value)
{
        options->format = (enum block_format)value;
}

static void set_aio(struct block_options *options, int value)
{
        options->aio = (enum block_aio)value;
}

static void set_no_backing(struct block_options *options, int value)
{
        options->no_backing = value;
}

static const struct choice choices[] = {
        { "ro", set_read_only, true },
        { "rw", set_read_only, false },
        { "format=auto", set_format, BLOCK_FORMAT_AUTO },
        { "format=raw", set_format, BLOCK_FORMAT_RAW },
        { "format=qcow2", set_format, BLOCK_FORMAT_QCOW2 },
        { "aio=auto", set_aio, BLOCK_AIO_AUTO },
        { "aio=uring", set_aio, BLOCK_AIO_URING },
        { "aio=threads", set_aio, BLOCK_AIO_THREADS },
        { "backing=on", set_no_backing, false },
        { "backing=off", set_no_backing, true },
};

/* Copies the file name up to the first single comma; returns what follows it. */
static const char *take_path(const char *argument, char *path)
{
        const char *p = argument;

        for (; *p; p++) {
                if (*p == ',') {
                        if (p[1] != ',')
                                break;
                        p++;
                }
                *path++ = *p;
        }
        *path = '\0';
        return p;
}

static const struct choice *find_choice(const char *text, size_t len)
{
        for (size_t i = 0; i < ARRAY_SIZE(choices); i++)
                if (strlen(choices[i].text) == len && memcmp(choices[i].text, text, len) == 0)
                        return &choices[i];
        return NULL;
}

int block_options_parse(const char *argument, struct block_options *ret, char **ret_path, struct err **err)
{
        _cleanup_free_ char *path = malloc(strlen(argument) + 1);
        struct block_options options = { 0 };
        const char *p;
        int r;

        if (!path)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a disk's options");
        p = take_path(argument, path);
        if (*path == '\0')
                return err_set(err, ERR_USAGE, EINVAL, "disk '%s' has no file name", argument);
        while (*p == ',') {
                const char *word = p + 1;
                const size_t len = strcspn(word, ",");
                const struct choice *choice = find_choice(word, len);

                if (!choice) {
                        r = err_set(err, ERR_USAGE, EINVAL, "disk '%s' has the unknown option '%.*s'", path, (int)len, word);
                        return err_hint(err, r, "options are ro, format=auto|raw|qcow2, aio=auto|uring|threads, backing=on|off; a "
                                                "comma in the file name is written twice");
                }
                choice->apply(&options, choice->value);
                p = word + len;
        }
        options.path = path;
        *ret = options;
        *ret_path = TAKE_PTR(path);
        return 0;
}
