/* A unix socket that listens at a path of the file system, for its owner only. */
#pragma once

#include "err.h"

struct unix_listener {
        int fd; /* does not block, closed on exec */
        char *path;
        u64 dev, ino; /* of the file, which is removed only while it is still ours */
        /* Set when this process cannot reach the path any more: somebody outside connects for it, and removes the file. */
        int (*connect_outside)(const struct unix_listener *listener, u32 number);
        void *outside;
        u32 outside_index;
};

/* A socket file that nobody listens at any more is replaced; anything else at @path is an error. The path must leave room for
 * @suffix more bytes in a socket address. */
int unix_listener_new(const char *path, size_t suffix, struct unix_listener **ret, struct err **err);
/* Removes the file too. NULL is fine. Returns NULL. */
struct unix_listener *unix_listener_free(struct unix_listener *listener);
/* Connects to the socket beside it whose path is the same with _@number behind, as unix_connect does. For that the suffix of
 * unix_listener_new must have room. */
int unix_listener_connect(const struct unix_listener *listener, u32 number);
/* Removes the file at @path if it is the socket that these say. */
void unix_listener_remove(const char *path, u64 dev, u64 ino);
/* Connects to the socket at @path, which must not be longer than an address allows, without waiting: a descriptor, or -errno. */
int unix_connect(const char *path);
