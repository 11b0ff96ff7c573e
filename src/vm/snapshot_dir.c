/* Making, replacing and removing the directory of a snapshot; snapshot_files.h tells how. */
#include "snapshot_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define PARTIAL      ".partial"
#define PARTIAL_SIZE (NAME_MAX + 1)
/* So that ".NAME.XXXXXXXX.partial" is a name too. */
#define NAME_LENGTH_MAX 200

struct snapshot_writer {
        int parent, directory, state, memory, code;
        char name[NAME_LENGTH_MAX + 1];
        char partial[PARTIAL_SIZE];
        bool made; /* @partial is there */
};

void snapshot_layer_name(unsigned layer, char ret[SNAPSHOT_NAME_SIZE])
{
        snprintf(ret, SNAPSHOT_NAME_SIZE, "memory.%u", layer % 1000);
}

/* ---- paths ---- */

/* "dir/name" to a descriptor of dir, and name. */
static int split(const char *path, char name[NAME_LENGTH_MAX + 1], struct err **err)
{
        _cleanup_free_ char *parent = strdup(path);
        size_t len = strlen(path);
        char *slash;
        const char *last;
        int fd;

        if (!parent)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a path");
        while (len > 1 && parent[len - 1] == '/')
                parent[--len] = '\0';
        slash = strrchr(parent, '/');
        last = slash ? slash + 1 : parent;
        if (!*last || strcmp(last, ".") == 0 || strcmp(last, "..") == 0 || strlen(last) > NAME_LENGTH_MAX)
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no name for a snapshot's directory", path);
        snprintf(name, NAME_LENGTH_MAX + 1, "%s", last);
        if (slash)
                slash[slash == parent] = '\0';
        fd = open(slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? err_sys(err, errno, "opening the directory for the snapshot '%s'", path) : fd;
}

static bool partial_name(const char *name, char ret[PARTIAL_SIZE])
{
        u32 number;

        if (getrandom(&number, sizeof(number), 0) != sizeof(number))
                return false;
        snprintf(ret, PARTIAL_SIZE, ".%s.%08x" PARTIAL, name, number);
        return true;
}

static bool is_partial_of(const char *entry, const char *name)
{
        const size_t len = strlen(name);

        return entry[0] == '.' && strncmp(entry + 1, name, len) == 0 && entry[len + 1] == '.' &&
               strspn(entry + len + 2, "0123456789abcdef") == 8 && strcmp(entry + len + 10, PARTIAL) == 0;
}

/* ---- removing ---- */

/* The files that a snapshot has, and the directory if that was all. */
static int remove_files(int parent, const char *name, int directory)
{
        unlinkat(directory, SNAPSHOT_STATE, 0);
        unlinkat(directory, SNAPSHOT_CODE, 0);
        unlinkat(directory, SNAPSHOT_MEMORY_NEW, 0);
        for (unsigned i = 0; i < SNAPSHOT_LAYERS_MAX; i++) {
                char layer[SNAPSHOT_NAME_SIZE];

                snapshot_layer_name(i, layer);
                unlinkat(directory, layer, 0);
        }
        return unlinkat(parent, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

/* What makers of @name that were killed left behind. */
static void remove_partials(int parent, const char *name)
{
        const int fd = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        const struct dirent *entry;

        if (!dir) {
                if (fd >= 0)
                        close(fd);
                return;
        }
        while ((entry = readdir(dir))) {
                _cleanup_close_ int partial = is_partial_of(entry->d_name, name) ?
                                                      openat(parent, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) :
                                                      -1;

                if (partial >= 0 && flock(partial, LOCK_EX | LOCK_NB) == 0)
                        remove_files(parent, entry->d_name, partial);
        }
        closedir(dir);
}

int snapshot_remove(const char *path, struct err **err)
{
        char name[NAME_LENGTH_MAX + 1], partial[PARTIAL_SIZE];
        _cleanup_close_ int parent = split(path, name, err);
        _cleanup_close_ int directory = -1;

        if (parent < 0)
                return parent;
        directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (directory < 0)
                return err_sys(err, errno, "opening the snapshot '%s'", path);
        if (!snapshot_is_at(directory))
                return err_set(err, ERR_BAD_STATE, EINVAL, "'%s' is not a snapshot", path);
        /* Nobody sees a half of one. */
        if (flock(directory, LOCK_EX | LOCK_NB) < 0 || !partial_name(name, partial) || renameat(parent, name, parent, partial) < 0)
                return err_sys(err, errno, "removing the snapshot '%s'", path);
        if (remove_files(parent, partial, directory) < 0)
                return err_sys(err, errno, "removing the snapshot '%s'", path);
        fsync(parent);
        return 0;
}

/* ---- making ---- */

/* What is at the name may be replaced: nothing, or a snapshot. */
static int check_replaceable(const struct snapshot_writer *w, const char *path, struct err **err)
{
        _cleanup_close_ int old = openat(w->parent, w->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if ((old < 0 && errno == ENOENT) || (old >= 0 && snapshot_is_at(old)))
                return 0;
        return err_set(err, ERR_BUSY, EEXIST, "'%s' exists and is not a snapshot", path);
}

/* A directory of its own, locked. */
static int make_partial(struct snapshot_writer *w)
{
        for (;;) {
                struct stat st;

                if (!partial_name(w->name, w->partial))
                        return -EIO;
                if (mkdirat(w->parent, w->partial, 0700) < 0) {
                        if (errno == EEXIST)
                                continue;
                        return -errno;
                }
                w->made = true;
                w->directory = openat(w->parent, w->partial, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                /* Somebody who cleans up may have been here before the lock. */
                if (w->directory >= 0 && flock(w->directory, LOCK_EX) == 0 && fstat(w->directory, &st) == 0 && st.st_nlink)
                        return 0;
                if (w->directory < 0 && errno != ENOENT)
                        return -errno;
                if (w->directory >= 0)
                        close(TAKE_FD(w->directory));
                w->made = false;
        }
}

static int make_files(struct snapshot_writer *w)
{
        w->state = openat(w->directory, SNAPSHOT_STATE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        w->memory = openat(w->directory, SNAPSHOT_MEMORY_NEW, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        w->code = openat(w->directory, SNAPSHOT_CODE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        return w->state < 0 || w->memory < 0 || w->code < 0 ? -errno : 0;
}

int snapshot_writer_new(const char *path, struct snapshot_writer **ret, struct err **err)
{
        _cleanup_(snapshot_writer_freep) struct snapshot_writer *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a snapshot");
        w->directory = w->state = w->memory = w->code = -1;
        w->parent = split(path, w->name, err);
        if (w->parent < 0)
                return w->parent;
        r = check_replaceable(w, path, err);
        if (r < 0)
                return r;
        remove_partials(w->parent, w->name);
        r = make_partial(w);
        if (r == 0)
                r = make_files(w);
        if (r < 0)
                return err_sys(err, -r, "making files for the snapshot '%s'", path);
        *ret = TAKE_PTR(w);
        return 0;
}

int snapshot_writer_state_fd(const struct snapshot_writer *w)
{
        return w->state;
}

int snapshot_writer_memory_fd(const struct snapshot_writer *w)
{
        return w->memory;
}

int snapshot_writer_code_fd(const struct snapshot_writer *w)
{
        return w->code;
}

/* Another name for an open file. The first way needs a capability with old kernels, the second /proc. */
static int link_fd(int fd, int directory, const char *name)
{
        char path[32];

        if (linkat(fd, "", directory, name, AT_EMPTY_PATH) == 0)
                return 0;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        return linkat(AT_FDCWD, path, directory, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

int snapshot_writer_set_layers(struct snapshot_writer *w, const int *fds, unsigned n, struct err **err)
{
        char name[SNAPSHOT_NAME_SIZE];

        for (unsigned i = 0; i < n; i++) {
                int r;

                snapshot_layer_name(i, name);
                r = link_fd(fds[i], w->directory, name);
                if (r < 0) {
                        r = err_sys(err, -r, "linking to the files of the snapshot before this one");
                        return err_hint(err, r, "a diff needs them, on the same file system; take a full snapshot");
                }
        }
        snapshot_layer_name(n, name);
        if (renameat(w->directory, SNAPSHOT_MEMORY_NEW, w->directory, name) < 0)
                return err_sys(err, errno, "naming the snapshot's memory");
        return 0;
}

/* The old one, which has our temporary name now. */
static void remove_replaced(struct snapshot_writer *w)
{
        _cleanup_close_ int old = openat(w->parent, w->partial, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if (old >= 0)
                remove_files(w->parent, w->partial, old);
}

int snapshot_writer_commit(struct snapshot_writer *w, struct err **err)
{
        bool replaced = false;

        if (fsync(w->memory) < 0 || fsync(w->code) < 0 || fsync(w->state) < 0 || fsync(w->directory) < 0)
                return err_sys(err, errno, "writing the snapshot '%s'", w->name);
        if (renameat2(w->parent, w->partial, w->parent, w->name, RENAME_NOREPLACE) < 0) {
                if (errno != EEXIST || renameat2(w->parent, w->partial, w->parent, w->name, RENAME_EXCHANGE) < 0)
                        return err_sys(err, errno, "giving the snapshot '%s' its name", w->name);
                replaced = true;
        }
        w->made = false;
        if (fsync(w->parent) < 0)
                return err_sys(err, errno, "writing the directory of the snapshot '%s'", w->name);
        if (replaced)
                remove_replaced(w);
        return 0;
}

struct snapshot_writer *snapshot_writer_free(struct snapshot_writer *w)
{
        if (!w)
                return NULL;
        if (w->made && w->directory >= 0)
                remove_files(w->parent, w->partial, w->directory);
        for (size_t i = 0; i < 5; i++) {
                const int fd = (const int[]){ w->memory, w->code, w->state, w->directory, w->parent }[i];

                if (fd >= 0)
                        close(fd);
        }
        free(w);
        return NULL;
}
