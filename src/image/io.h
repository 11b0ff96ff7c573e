/* Files of the store: whole small files, atomic replacement, trees that go away. All paths are relative to directory
 * descriptors, and no link is followed below them. */
#pragma once

#include <stdarg.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/io.h"

/* Fills @data as far as the file goes. Returns the number of bytes, or -errno. */
ssize_t io_read_full(int fd, void *data, size_t len);

/* A whole file of at most @max bytes, with a NUL behind it. @ret_len may be NULL. */
int io_read_file(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len, struct err **err);
/* Everything that @fd yields, at most @max bytes, with a NUL behind it. */
int io_read_stream(int fd, size_t max, char **ret, size_t *ret_len, struct err **err);

/* The file @path has @data afterwards, or what it had before: written beside as @tmp (a name in @tmp_dirfd), synced, renamed. */
int io_replace_file(
        int tmp_dirfd, const char *tmp, int dirfd, const char *path, const void *data, size_t len, struct err **err);

/* Makes a directory; fine when it is there. */
int io_make_dir(int dirfd, const char *path, mode_t mode, struct err **err);
/* mkdir -p of a path as the user wrote it. */
int io_make_path(const char *path, mode_t mode, struct err **err);
int io_open_dir(int dirfd, const char *path, int *ret, struct err **err);

/* Removes @name and everything below it, on this file system and however deep. Fine when it is not there. */
int io_remove_tree(int dirfd, const char *name, struct err **err);

/* Calls @fn for each name in the directory @path but "." and "..". 0, what @fn returned other than 0, or -errno with
 * @err filled by whichever failed. A directory that is not there is empty. */
int io_list_dir(int dirfd, const char *path, int (*fn)(void *opaque, int dirfd, const char *name, struct err **err),
        void *opaque, struct err **err);

/* "/proc/self/fd/N" */
struct io_fd_path {
        char text[32];
};
struct io_fd_path io_fd_path(int fd);
