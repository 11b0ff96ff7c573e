/* Archives made by strangers, plain or compressed, unpacked into a directory: nothing outside of it may change, and what was
 * unpacked can be removed again. A file beside the root stands for everything outside. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "image/compress.h"
#include "image/internal.h"
#include "image/unpack.h"
#include "input.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define PIECE 700U

struct stream {
        const u8 *p;
        size_t left;
        struct decompressor *decompressor;
        u8 buf[4096];
};

static int next_raw(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct stream *s = opaque;

        *ret_data = s->p;
        *ret_len = MIN(s->left, PIECE);
        s->p += *ret_len;
        s->left -= *ret_len;
        return 0;
}

static int next_plain(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct stream *s = opaque;

        *ret_data = s->buf;
        return decompressor_read(s->decompressor, s->buf, sizeof(s->buf), ret_len, err);
}

static int base_dir(void)
{
        static char path[] = "/dev/shm/fuzz-unpack-XXXXXX";
        static int fd = -1;

        if (fd < 0) {
                require(mkdtemp(path));
                fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                require(fd >= 0 && mkdirat(fd, "outside", 0755) == 0);
        }
        return fd;
}

/* The fuzzer finds headers, but not their checksums: those are put right. */
static void fix_checksums(u8 *p, size_t len)
{
        for (size_t block = 0; block + TAR_BLOCK <= len; block += TAR_BLOCK) {
                unsigned sum = 0;

                if (memcmp(p + block + 257, "ustar", 5) != 0)
                        continue;
                memset(p + block + 148, ' ', 8);
                for (size_t i = 0; i < TAR_BLOCK; i++)
                        sum += p[block + i];
                snprintf((char *)p + block + 148, 7, "%06o", sum);
        }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        const int base = base_dir();
        const struct unpack_options options = {
                .squash_owners = true, .user_xattr = true, .plain = len > 0 && data[0] == 'p'
        };
        struct stream s = { 0 };
        struct unpack_result result = { 0 };
        struct tar_reader *tar = NULL;
        struct stat before, after;
        u8 *copy = malloc(len + 1);
        int root;

        require(copy);
        memcpy(copy, data, len);
        fix_checksums(copy, len);
        s.p = copy;
        s.left = len;
        require(mkdirat(base, "root", 0755) == 0);
        root = openat(base, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        require(root >= 0 && fstatat(base, "outside", &before, 0) == 0);
        require(decompressor_new(&(struct byte_source){ next_raw, &s }, &s.decompressor, NULL) == 0);
        require(tar_reader_new(&(struct byte_source){ next_plain, &s }, &tar, NULL) == 0);
        if (unpack_layer(root, tar, &options, &result, NULL) == 0)
                json_decref(result.implied);
        require(fstatat(base, "outside", &after, 0) == 0);
        require(before.st_mtim.tv_nsec == after.st_mtim.tv_nsec && before.st_mode == after.st_mode &&
                after.st_nlink == 2);
        tar_reader_free(tar);
        decompressor_free(s.decompressor);
        close(root);
        require(io_remove_tree(base, "root", NULL) == 0);
        free(copy);
        return 0;
}
