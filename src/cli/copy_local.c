#include "copy_local.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "image/io.h"
#include "image/pack.h"
#include "image/unpack.h"

#define BUFFER_SIZE (256 * 1024)
#define DEPTH_MAX   2048 /* of directories that are merged */

/* --- packing ------------------------------------------------------------------------------------------------------- */

static int write_fd(void *opaque, const void *data, size_t len, struct err **err)
{
        const int r = io_write_all(*(const int *)opaque, data, len);

        return r < 0 ? err_sys(err, -r, "passing on files") : 0;
}

static int pack_one(struct pack *pack, const FTSENT *entry, const char *name, size_t top_len, struct err **err)
{
        const char *below = entry->fts_path + top_len;
        const bool follow = entry->fts_level == 0;
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = -1;
        struct stat st;

        while (*below == '/')
                below++;
        if (asprintf(&path, "%s%s%s", name, *below ? "/" : "", below) < 0) {
                path = NULL;
                return err_sys(err, ENOMEM, "copying files");
        }
        if (strlen(path) > TAR_PATH_MAX)
                return err_set(err, ERR_TOO_LARGE, ENAMETOOLONG, "'%.100s...' is too long for an archive", path);
        /* The top was followed, or not, by fts; others are taken as they are. */
        fd = open(entry->fts_accpath,
                O_PATH | O_CLOEXEC | (follow && !S_ISLNK(entry->fts_statp->st_mode) ? 0 : O_NOFOLLOW));
        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, errno, "opening '%s'", entry->fts_path);
        return MIN(pack_entry(pack, fd, path, &st, err), 0);
}

static int pack_tree(struct pack *pack, FTS *fts, const char *name, struct err **err)
{
        size_t top_len = 0;
        FTSENT *entry;
        int r = 0;

        while (r == 0 && (entry = fts_read(fts))) {
                if (entry->fts_level == 0)
                        top_len = entry->fts_pathlen;
                if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS)
                        return err_sys(err, entry->fts_errno, "reading '%s'", entry->fts_path);
                if (entry->fts_info != FTS_DP)
                        r = pack_one(pack, entry, name, top_len, err);
        }
        return r;
}

int copy_local_pack(const char *path, const char *name, bool follow, int fd, struct err **err)
{
        const struct byte_sink sink = { write_fd, &fd };
        char *const paths[] = { (char *)path, NULL };
        FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | (follow ? FTS_COMFOLLOW : 0), NULL);
        struct pack pack;
        int r;

        if (!fts)
                return err_sys(err, errno, "reading '%s'", path);
        r = pack_init(&pack, &sink, -1, err);
        if (r == 0) {
                r = pack_tree(&pack, fts, name ? name : ".", err);
                if (r == 0)
                        r = tar_write_end(&sink, err);
                pack_clear(&pack);
        }
        fts_close(fts);
        return r;
}

/* --- moving into place --------------------------------------------------------------------------------------------- */

static int move(int from, const char *name, int to, const char *new_name, unsigned depth, struct err **err);

struct merge {
        int to;
        unsigned depth;
};

static int move_below(void *opaque, int dirfd, const char *name, struct err **err)
{
        const struct merge *merge = opaque;

        return move(dirfd, name, merge->to, name, merge->depth, err);
}

static int merge_dir(int from, const char *name, int to, const char *new_name, unsigned depth, struct err **err)
{
        _cleanup_close_ int fd = openat(to, new_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        struct merge merge = { fd, depth + 1 };

        if (fd < 0)
                return err_sys(err, errno, "opening '%s'", new_name);
        if (depth > DEPTH_MAX)
                return err_set(err, ERR_TOO_LARGE, ELOOP, "directories are too deep");
        return io_list_dir(from, name, move_below, &merge, err);
}

/* @name in @from becomes @new_name in @to: files replace files, directories are merged. */
static int move(int from, const char *name, int to, const char *new_name, unsigned depth, struct err **err)
{
        struct stat have, there;

        if (fstatat(from, name, &have, AT_SYMLINK_NOFOLLOW) < 0)
                return err_sys(err, errno, "copying '%s'", name);
        if (fstatat(to, new_name, &there, AT_SYMLINK_NOFOLLOW) == 0) {
                if (S_ISDIR(have.st_mode) && S_ISDIR(there.st_mode))
                        return merge_dir(from, name, to, new_name, depth, err);
                if (S_ISDIR(have.st_mode) != S_ISDIR(there.st_mode))
                        return err_set(err, ERR_BUSY, EEXIST,
                                "'%s': a directory does not replace a file, nor the reverse", new_name);
        }
        return renameat(from, name, to, new_name) < 0 ? err_sys(err, errno, "making '%s'", new_name) : 0;
}

/* --- unpacking ----------------------------------------------------------------------------------------------------- */

struct reader {
        int fd;
        u8 *buf;
};

static int read_next(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct reader *reader = opaque;
        ssize_t n;

        do
                n = read(reader->fd, reader->buf, BUFFER_SIZE);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return err_sys(err, errno, "reading files");
        *ret_data = reader->buf;
        *ret_len = (size_t)n;
        return 0;
}

static int unpack_into(int dir, int fd, bool keep_owner, struct err **err)
{
        _cleanup_free_ u8 *buf = malloc(BUFFER_SIZE);
        struct reader reader = { fd, buf };
        const struct byte_source source = { read_next, &reader };
        const struct unpack_options options = { .plain = true, .squash_owners = !keep_owner };
        _cleanup_(tar_reader_freep) struct tar_reader *tar = NULL;
        struct unpack_result result;
        int r = buf ? tar_reader_new(&source, &tar, err) : err_sys(err, ENOMEM, "copying files");

        if (r == 0)
                r = unpack_layer(dir, tar, &options, &result, err);
        if (r == 0)
                json_decref(result.implied);
        return r;
}

struct single {
        const struct copy_local_target *target;
        int to;
        unsigned n;
};

static int move_top(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct single *single = opaque;
        const char *wanted = single->target->name;

        if (wanted && single->n++ > 0)
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "the container gave more than was asked for");
        return move(dirfd, name, single->to, wanted ? wanted : name, 0, err);
}

int copy_local_unpack(const struct copy_local_target *target, int fd, struct err **err)
{
        _cleanup_close_ int to = open(target->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fresh = -1;
        _cleanup_free_ char *path = NULL;
        struct single single = { target, to, 0 };
        const char *name;
        int r;

        if (to < 0)
                return err_sys(err, errno, "opening '%s'", target->dir);
        if (asprintf(&path, "%s/.strata-cp-XXXXXX", target->dir) < 0) {
                path = NULL;
                return err_sys(err, ENOMEM, "copying files");
        }
        if (!mkdtemp(path))
                return err_sys(err, errno, "making a directory in '%s'", target->dir);
        name = strrchr(path, '/') + 1;
        fresh = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        r = fresh < 0 ? err_sys(err, errno, "opening '%s'", path) : unpack_into(fresh, fd, target->keep_owner, err);
        if (r == 0)
                r = io_list_dir(to, name, move_top, &single, err);
        io_remove_tree(to, name, NULL);
        return r;
}
