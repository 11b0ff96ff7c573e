#include "cpio.h"

#include <string.h>
#include <sys/stat.h>

struct entry {
        mode_t mode;
        unsigned major, minor;
        const void *data;
        size_t len;
};

static void pad(struct cpio *cpio, size_t len)
{
        static const char zeros[4];

        fwrite(zeros, 1, ALIGN_UP(len, 4) - len, cpio->out);
}

static void put(struct cpio *cpio, const char *path, const struct entry *entry)
{
        enum { HEADER_LEN = 110 };
        const size_t name_size = strlen(path) + 1;

        cpio->inode++;
        fputs("070701", cpio->out);
        /* inode, mode, user, group, links, time, size, device, device of the node, length of the name, checksum */
        fprintf(cpio->out, "%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", cpio->inode, entry->mode, 0, 0, 1, 0,
                (unsigned)entry->len, 0, 0, entry->major, entry->minor, (unsigned)name_size, 0);
        fwrite(path, 1, name_size, cpio->out);
        pad(cpio, HEADER_LEN + name_size);
        if (entry->len)
                fwrite(entry->data, 1, entry->len, cpio->out);
        pad(cpio, entry->len);
}

void cpio_dir(struct cpio *cpio, const char *path)
{
        put(cpio, path, &(struct entry){ .mode = S_IFDIR | 0755 });
}

void cpio_char_device(struct cpio *cpio, const char *path, mode_t mode, unsigned major, unsigned minor)
{
        put(cpio, path, &(struct entry){ .mode = S_IFCHR | mode, .major = major, .minor = minor });
}

void cpio_file(struct cpio *cpio, const char *path, mode_t mode, const void *data, size_t len)
{
        put(cpio, path, &(struct entry){ .mode = S_IFREG | mode, .data = data, .len = len });
}

void cpio_end(struct cpio *cpio)
{
        put(cpio, "TRAILER!!!", &(struct entry){ .len = 0 });
}
