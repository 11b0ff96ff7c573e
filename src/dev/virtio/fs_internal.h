/* The file server of virtio-fs: FUSE requests (Linux, include/uapi/linux/fuse.h, version 7.31 and later) answered from a directory.
 *
 *   fs.c         the virtio device and its threads       fs_name.c   operations on names
 *   fs_server.c  requests, the table of operations       fs_file.c   operations on open files
 *   fs_inode.c   the files that the guest knows          fs_attr.c   attributes, extended ones too
 *   fs_handle.c  the files that the guest has open       fs_state.c  saved state
 *
 * Nothing leaves the directory: a name is one component without '/', never "." or "..", and is looked up by openat2 beneath a
 * descriptor of its directory; symbolic links are opened as what they are and never followed. Files are then used by descriptor
 * only. Where a system call wants a path (open, chmod, extended attributes), it is the number of the descriptor: threads that
 * serve requests stand in /proc/self/fd (fuse_thread_enter).
 *
 * Threads: requests may be served by several threads at once. server->lock guards both tables; under it there is no system call
 * that reads or writes data. What a call uses it has got (users > 0) and puts back. */
#pragma once

#include <limits.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sys/stat.h>

#include "dev/virtio/fs.h"
#include "dev/virtio/virtio.h"

#define FUSE_BUCKETS (1U << 15)
#define FUSE_NAME_MAX 255U
/* How long the guest may use what it was told without asking again: the host may change files too. */
#define FUSE_VALID_SECONDS 1U
/* When nobody else changes them, or tells the guest to forget what it knows. */
#define FUSE_VALID_PRIVATE_SECONDS 3600U
/* The largest read or write, and pages of 4 KiB that make it. */
#define FUSE_TRANSFER_MAX (1U << 20)
#define FUSE_TRANSFER_PAGES (FUSE_TRANSFER_MAX / 4096)
#define FUSE_XATTR_MAX 65536U

/* Room for a request without the data of a write, and for an answer without the data of a read. */
#define FUSE_IN_MAX (FUSE_XATTR_MAX + 2 * 4096U)
#define FUSE_REPLY_MAX (128U * 1024)
#define FUSE_DENTS_MAX (32U * 1024)

/* What was true of a file when the guest opened it: if it still is, what the guest has cached is good. */
struct fuse_mark {
        u64 size;
        s64 mtime_ns, ctime_ns;
        bool settled; /* the file had not changed for a while: changes since then have other times */
};

struct fuse_inode {
        u64 nodeid;
        u64 nlookup;               /* times that the guest was told about it and did not forget */
        u32 refs;                  /* inodes below it that were found by it, and handles */
        u32 users;                 /* calls that use it now */
        struct fuse_inode *parent; /* one way to find it again; NULL: the root, or none left */
        char *name;
        int fd;                    /* O_PATH; -1: to be opened again when it is needed */
        bool keep_fd;              /* there is no way to open it again */
        mode_t type;               /* S_IFMT */
        u64 dev, ino;
        s64 born_ns;               /* an inode number that is used again belongs to a younger file */
        bool restored;             /* from a saved state: the path says which file it is, not the inode number */
        bool judged;               /* fs_state.c knows whether @restored is true of it */
        struct fuse_mark mark;
        struct fuse_inode *next_by_id, *next_by_file;
        bool hashed_by_file;
        struct fuse_inode *newer, *older; /* those with a descriptor that may be closed, by last use */
};

struct fuse_handle {
        u64 fh;
        u32 users;
        bool closed;      /* by the guest; freed with the last user */
        int fd;
        u32 flags;        /* O_*, with which it was opened */
        struct fuse_inode *inode;
        pthread_mutex_t position; /* of a directory: seeking and reading belong together */
};

struct fuse_server {
        int root_fd; /* O_PATH */
        int proc_fd; /* /proc/self/fd */
        bool read_only;
        bool is_private;
        u64 valid; /* seconds: FUSE_VALID_* */
        bool squash; /* without the right to give files away: our own user and group are the guest's root */
        unsigned inodes_max, cached_fds_max, kept_fds_max, handles_max;
        pthread_mutex_t lock; /* innermost; of what follows */
        struct fuse_inode *root;
        struct fuse_inode **by_id, **by_file;
        struct fuse_inode *newest, *oldest;
        unsigned n_inodes, n_cached_fds, n_kept_fds;
        u64 next_nodeid;
        struct fuse_handle **handles; /* by slot: fh % handles_max */
        unsigned n_handles;
        u64 next_fh;
        u64 restored_fh_end; /* lower ones were given before the restore */
};

/* A thread's working space. */
struct fuse_scratch {
        u8 in[FUSE_IN_MAX];
        u8 reply[FUSE_REPLY_MAX];
        u8 dents[FUSE_DENTS_MAX] __attribute__((aligned(8)));
        struct iovec iov[VIRTIO_SEGMENTS_MAX];
};

/* One request. */
struct fuse_call {
        struct fuse_server *server;
        struct fuse_scratch *scratch;
        struct fuse_in_header header;
        const void *arg;              /* the operation's structure, at least as long as the table says */
        const char *names[2];         /* those of the table, checked */
        const u8 *rest;               /* what follows them */
        size_t rest_len;
        int refusal;                  /* -errno: what is answered, whatever it is; 0: nothing like that */
        bool quick;                   /* do it only if it need not wait: -EAGAIN otherwise */
        struct iovec *data;           /* of a write: what follows the structure. Of a read: where it goes. Room to change it */
        unsigned n_data;
        u8 *reply;                    /* FUSE_REPLY_MAX bytes */
        size_t reply_max;             /* what the guest has room for */
        size_t reply_len;             /* set by the operation */
        size_t direct_len;            /* set by a read: bytes that are already in their place */
        struct fuse_inode *inode;     /* header.nodeid, in use */
        int fd;                       /* its O_PATH descriptor */
};

typedef int fuse_op_fn(struct fuse_call *c); /* 0 or -errno */

/* ---- fs_server.c ---- */

/* One request, in the guest's memory; not changed. */
struct fuse_message {
        const struct iovec *out, *in;
        unsigned n_out, n_in;
};

/* Serves a request; returns how many bytes of its in[] were written, 0 when it is one that gets no answer. On a thread that has
 * entered. */
u32 fuse_server_handle(struct fuse_server *s, struct fuse_scratch *scratch, const struct fuse_message *message);
/* The same without doing it: @error (-errno) is the answer. On any thread. */
u32 fuse_server_refuse(struct fuse_server *s, const struct fuse_message *message, int error);
/* fuse_server_handle on any thread, if it needs to wait for no disk: frequent operations on what the host has in memory. False: nothing was
 * done. */
bool fuse_server_handle_quick(struct fuse_server *s, struct fuse_scratch *scratch, const struct fuse_message *message,
                              u32 *ret_written);
/* Makes this thread one that serves requests: /proc/self/fd is its own current directory, and it masks no modes. */
int fuse_thread_enter(const struct fuse_server *s);
bool fuse_name_is_component(const char *name);
/* Whether files can be given to other users now. */
void fuse_server_see_rights(struct fuse_server *s);
/* The guest forgets everything. Calls that are being served end well. */
void fuse_server_forget_all(struct fuse_server *s);

/* ---- fs_inode.c ---- */

/* 0 and the inode with its descriptor, to be put back; -ESTALE. */
int fuse_inode_get(struct fuse_server *s, u64 nodeid, struct fuse_inode **ret, int *ret_fd);
void fuse_inode_put(struct fuse_server *s, struct fuse_inode *inode);
/* The file @name of the call's directory as an answer: opens it and counts a lookup. Fills @ret. */
int fuse_inode_lookup(struct fuse_call *c, const char *name, struct fuse_entry_out *ret);
/* A file without a name: @fd is copied. */
int fuse_inode_nameless(struct fuse_server *s, int fd, struct fuse_entry_out *ret, struct fuse_inode **ret_inode);
void fuse_inode_forget(struct fuse_server *s, u64 nodeid, u64 n);
/* Before @name goes away: what the guest knows by it, if it does, with its descriptor open; in use, or NULL. */
struct fuse_inode *fuse_inode_before_unlink(struct fuse_server *s, const struct fuse_inode *dir, int dir_fd, const char *name);
/* After it went (@gone) or did not. NULL is fine. */
void fuse_inode_after_unlink(struct fuse_server *s, struct fuse_inode *inode, bool gone);
/* @name of @dir is another file than before, one that may be known by an older name. */
void fuse_inode_moved(struct fuse_server *s, struct fuse_inode *dir, int dir_fd, const char *name);
void fuse_inodes_forget_all(struct fuse_server *s);
/* With the lock held: */
struct fuse_inode *fuse_inode_find(const struct fuse_server *s, u64 nodeid);
void fuse_inode_release(struct fuse_server *s, struct fuse_inode *inode);
/* A new one that the table has, not counted as looked up, with neither descriptor nor name. NULL: no memory or too many. */
struct fuse_inode *fuse_inode_add(struct fuse_server *s, u64 nodeid, mode_t type);
/* Its way to be found again; takes @name over. */
void fuse_inode_link(struct fuse_server *s, struct fuse_inode *inode, struct fuse_inode *parent, char *name);
void fuse_inode_identify(struct fuse_server *s, struct fuse_inode *inode, const struct statx *st);
/* Opens it again when it has no descriptor. */
int fuse_inode_reopen(struct fuse_server *s, struct fuse_inode *inode);

/* ---- fs_handle.c ---- */

/* Takes @fd over, also on failure. */
int fuse_handle_add(struct fuse_server *s, struct fuse_inode *inode, int fd, u32 flags, u64 *ret_fh);
/* 0 and the handle, to be put back; -EBADF; -ESTALE: the file was lost on the way to a restored machine. */
int fuse_handle_get(struct fuse_server *s, u64 fh, struct fuse_handle **ret);
void fuse_handle_put(struct fuse_server *s, struct fuse_handle *handle);
void fuse_handle_close(struct fuse_server *s, u64 fh);
void fuse_handles_close_all(struct fuse_server *s);
/* The same with the number that it had before a restore. */
int fuse_handle_add_as(struct fuse_server *s, struct fuse_inode *inode, int fd, u32 flags, u64 fh);

/* ---- fs_attr.c ---- */

int fuse_statx(int fd, struct statx *ret);
s64 fuse_time_ns(const struct statx_timestamp *t);
void fuse_attr_fill(const struct fuse_server *s, const struct statx *st, struct fuse_attr *ret);
void fuse_entry_fill(const struct fuse_server *s, u64 nodeid, const struct statx *st, struct fuse_entry_out *ret);
/* What a thread that stands in /proc/self/fd calls @fd. */
struct fuse_fd_path {
        char text[16];
};
struct fuse_fd_path fuse_fd_path(int fd);
/* The host's user and group for those of the guest; -EPERM. */
int fuse_owner(const struct fuse_server *s, u32 *uid, u32 *gid);
/* Takes set-user-ID and set-group-ID away from an open file. */
int fuse_kill_suidgid(int fd);
fuse_op_fn fuse_getattr, fuse_setattr, fuse_statfs, fuse_setxattr, fuse_getxattr, fuse_listxattr, fuse_removexattr;

/* ---- fs_name.c ---- */

fuse_op_fn fuse_lookup, fuse_readlink, fuse_symlink, fuse_mknod, fuse_mkdir, fuse_unlink, fuse_rmdir, fuse_rename, fuse_rename2,
        fuse_link, fuse_create, fuse_tmpfile;

/* ---- fs_file.c ---- */

/* What of the guest's open flags is for the host. */
int fuse_open_flags(u32 flags);
/* Opens a regular file that is in use: a descriptor or -errno. */
int fuse_reopen(const struct fuse_server *s, const struct fuse_inode *inode, int path_fd, int flags);
fuse_op_fn fuse_open, fuse_read, fuse_write, fuse_release, fuse_fsync, fuse_opendir, fuse_readdir, fuse_readdirplus,
        fuse_fallocate, fuse_lseek, fuse_copy_file_range, fuse_syncfs;

/* ---- fs_state.c ---- */

void fuse_server_save(struct fuse_server *s, struct state_out *out);
/* On failure nothing changed. Files that are not where they were, or not the same, are gone for the guest (ESTALE). */
int fuse_server_load(struct fuse_server *s, struct state_in *in, struct err **err);
