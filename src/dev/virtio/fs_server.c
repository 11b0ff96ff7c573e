/* Requests: what is read from the guest's memory is read once, then checked, then used. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/virtio/fs_internal.h"

/* Descriptors that are for one purpose each, of those that the server may use. */
#define FDS_CACHED(n) ((n) / 4)
#define FDS_KEPT(n) ((n) / 8)
#define FDS_HANDLES(n) ((n) / 2)

/* ---- the session ---- */

/* Large transfers, lists of names with their attributes, several lookups at a time; set-user-ID is taken away by us, in the same step
 * as the write that makes it necessary. Nothing that would let the guest keep what it wrote. */
#define FEATURES                                                                                                       \
        (FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA | FUSE_DO_READDIRPLUS |        \
         FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS |        \
         FUSE_HANDLE_KILLPRIV_V2)
/* The oldest minor version of the protocol whose structures are those of today. */
#define MINOR_MIN 31

void fuse_server_see_rights(struct fuse_server *s)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

        s->squash = syscall(SYS_capget, &header, data) < 0 || !(data[0].effective & 1U << CAP_CHOWN);
}

static int fuse_init(struct fuse_call *c)
{
        const struct fuse_init_in *in = c->arg;
        struct fuse_init_out *out = (struct fuse_init_out *)c->reply;

        *out = (struct fuse_init_out){ .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION };
        c->reply_len = sizeof(*out);
        if (in->major > FUSE_KERNEL_VERSION)
                return 0; /* the guest comes back with our major version */
        if (in->major < FUSE_KERNEL_VERSION || in->minor < MINOR_MIN)
                return -EPROTO;
        fuse_server_forget_all(c->server);
        fuse_server_see_rights(c->server);
        out->minor = MIN(in->minor, (u32)FUSE_KERNEL_MINOR_VERSION);
        out->max_readahead = in->max_readahead;
        out->flags = in->flags & FEATURES;
        out->max_write = FUSE_TRANSFER_MAX;
        out->max_pages = FUSE_TRANSFER_PAGES;
        out->max_background = 64;
        out->congestion_threshold = 48;
        out->time_gran = 1;
        return 0;
}

static int fuse_destroy(struct fuse_call *c)
{
        fuse_server_forget_all(c->server);
        return 0;
}

static int fuse_forget(struct fuse_call *c)
{
        const struct fuse_forget_in *in = c->arg;

        fuse_inode_forget(c->server, c->header.nodeid, in->nlookup);
        return 0;
}

static int fuse_batch_forget(struct fuse_call *c)
{
        const struct fuse_batch_forget_in *in = c->arg;
        struct fuse_forget_one one;

        for (size_t i = 0; i < in->count && (i + 1) * sizeof(one) <= c->rest_len; i++) {
                memcpy(&one, c->rest + i * sizeof(one), sizeof(one));
                fuse_inode_forget(c->server, one.nodeid, one.nlookup);
        }
        return 0;
}

static int fuse_nothing(struct fuse_call *c)
{
        (void)c;
        return 0;
}

/* ---- the operations ---- */

enum {
        OP_FILE = 1,     /* header.nodeid is a file that the operation uses */
        OP_MODIFIES = 2, /* not on a read-only share */
        OP_SILENT = 4,   /* gets no answer */
        OP_READS = 8,    /* data goes straight into the guest's memory */
        OP_WRITES = 16,  /* data comes straight from there */
        OP_QUICK = 32,   /* can be served at once when the host has in memory what it takes */
};

#define SETXATTR_IN_SIZE 8 /* without SETXATTR_EXT */

static const struct fuse_op {
        u16 opcode, arg_len;
        u8 n_names;
        u8 flags;
        bool free_second; /* the second name is the text of a symbolic link */
        fuse_op_fn *run;
} ops[] = {
        { FUSE_INIT, sizeof(struct fuse_init_in), 0, 0, false, fuse_init },
        { FUSE_DESTROY, 0, 0, 0, false, fuse_destroy },
        { FUSE_FORGET, sizeof(struct fuse_forget_in), 0, OP_SILENT | OP_QUICK, false, fuse_forget },
        { FUSE_BATCH_FORGET, sizeof(struct fuse_batch_forget_in), 0, OP_SILENT | OP_QUICK, false, fuse_batch_forget },
        { FUSE_INTERRUPT, 0, 0, OP_SILENT | OP_QUICK, false, fuse_nothing }, /* nothing here waits for long */

        { FUSE_LOOKUP, 0, 1, OP_FILE | OP_QUICK, false, fuse_lookup },
        { FUSE_READLINK, 0, 0, OP_FILE | OP_QUICK, false, fuse_readlink },
        { FUSE_SYMLINK, 0, 2, OP_FILE | OP_MODIFIES, true, fuse_symlink },
        { FUSE_MKNOD, sizeof(struct fuse_mknod_in), 1, OP_FILE | OP_MODIFIES, false, fuse_mknod },
        { FUSE_MKDIR, sizeof(struct fuse_mkdir_in), 1, OP_FILE | OP_MODIFIES, false, fuse_mkdir },
        { FUSE_UNLINK, 0, 1, OP_FILE | OP_MODIFIES, false, fuse_unlink },
        { FUSE_RMDIR, 0, 1, OP_FILE | OP_MODIFIES, false, fuse_rmdir },
        { FUSE_RENAME, sizeof(struct fuse_rename_in), 2, OP_FILE | OP_MODIFIES, false, fuse_rename },
        { FUSE_RENAME2, sizeof(struct fuse_rename2_in), 2, OP_FILE | OP_MODIFIES, false, fuse_rename2 },
        { FUSE_LINK, sizeof(struct fuse_link_in), 1, OP_FILE | OP_MODIFIES, false, fuse_link },
        { FUSE_CREATE, sizeof(struct fuse_create_in), 1, OP_FILE | OP_MODIFIES, false, fuse_create },
        { FUSE_TMPFILE, sizeof(struct fuse_create_in), 0, OP_FILE | OP_MODIFIES, false, fuse_tmpfile },

        { FUSE_OPEN, sizeof(struct fuse_open_in), 0, OP_FILE | OP_QUICK, false, fuse_open },
        { FUSE_READ, sizeof(struct fuse_read_in), 0, OP_READS | OP_QUICK, false, fuse_read },
        { FUSE_WRITE, sizeof(struct fuse_write_in), 0, OP_WRITES | OP_MODIFIES, false, fuse_write },
        { FUSE_RELEASE, sizeof(struct fuse_release_in), 0, 0, false, fuse_release },
        { FUSE_FSYNC, sizeof(struct fuse_fsync_in), 0, 0, false, fuse_fsync },
        { FUSE_FALLOCATE, sizeof(struct fuse_fallocate_in), 0, OP_MODIFIES, false, fuse_fallocate },
        { FUSE_LSEEK, sizeof(struct fuse_lseek_in), 0, 0, false, fuse_lseek },
        { FUSE_COPY_FILE_RANGE, sizeof(struct fuse_copy_file_range_in), 0, OP_MODIFIES, false, fuse_copy_file_range },
        { FUSE_SYNCFS, 0, 0, 0, false, fuse_syncfs },

        { FUSE_OPENDIR, sizeof(struct fuse_open_in), 0, OP_FILE | OP_QUICK, false, fuse_opendir },
        { FUSE_READDIR, sizeof(struct fuse_read_in), 0, OP_FILE, false, fuse_readdir },
        { FUSE_READDIRPLUS, sizeof(struct fuse_read_in), 0, OP_FILE, false, fuse_readdirplus },
        { FUSE_RELEASEDIR, sizeof(struct fuse_release_in), 0, OP_QUICK, false, fuse_release },
        { FUSE_FSYNCDIR, sizeof(struct fuse_fsync_in), 0, 0, false, fuse_fsync },

        { FUSE_GETATTR, sizeof(struct fuse_getattr_in), 0, OP_FILE | OP_QUICK, false, fuse_getattr },
        { FUSE_SETATTR, sizeof(struct fuse_setattr_in), 0, OP_FILE | OP_MODIFIES, false, fuse_setattr },
        { FUSE_STATFS, 0, 0, OP_FILE | OP_QUICK, false, fuse_statfs },
        { FUSE_SETXATTR, SETXATTR_IN_SIZE, 1, OP_FILE | OP_MODIFIES, false, fuse_setxattr },
        { FUSE_GETXATTR, sizeof(struct fuse_getxattr_in), 1, OP_FILE | OP_QUICK, false, fuse_getxattr },
        { FUSE_LISTXATTR, sizeof(struct fuse_getxattr_in), 0, OP_FILE, false, fuse_listxattr },
        { FUSE_REMOVEXATTR, 0, 1, OP_FILE | OP_MODIFIES, false, fuse_removexattr },
        /* Everything else is ENOSYS, after which Linux does not ask again: it locks files by itself, checks access by the
         * attributes, and need not tell us of each close(2) (FLUSH). No DAX. */
};

static const struct fuse_op *find_op(u32 opcode)
{
        for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
                if (ops[i].opcode == opcode)
                        return &ops[i];
        return NULL;
}

/* ---- parsing ---- */

bool fuse_name_is_component(const char *name)
{
        return *name && strlen(name) <= FUSE_NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Splits what follows the header: structure, names, rest. */
static int parse(struct fuse_call *c, const struct fuse_op *op, size_t len)
{
        const u8 *p = c->scratch->in, *end = p + len;

        if (len < op->arg_len)
                return -EINVAL;
        c->arg = p;
        p += op->arg_len;
        for (unsigned i = 0; i < op->n_names; i++) {
                const u8 *nul = memchr(p, '\0', (size_t)(end - p));

                if (!nul)
                        return -EINVAL;
                c->names[i] = (const char *)p;
                p = nul + 1;
                if (i == 1 && op->free_second ? !*c->names[i] : !fuse_name_is_component(c->names[i]))
                        return strlen(c->names[i]) > FUSE_NAME_MAX ? -ENAMETOOLONG : -EINVAL;
        }
        c->rest = p;
        c->rest_len = (size_t)(end - p);
        return 0;
}

static int forbidden(const struct fuse_call *c, const struct fuse_op *op)
{
        if (!c->server->read_only)
                return 0;
        if (op->flags & OP_MODIFIES)
                return -EROFS;
        if (op->run == fuse_open) {
                const u32 flags = ((const struct fuse_open_in *)c->arg)->flags;

                return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC ? -EROFS : 0;
        }
        return 0;
}

static int run(struct fuse_call *c, const struct fuse_op *op)
{
        int r = forbidden(c, op);

        if (r == 0 && op->flags & OP_FILE)
                r = fuse_inode_get(c->server, c->header.nodeid, &c->inode, &c->fd);
        if (r == 0)
                r = op->run(c);
        if (c->inode)
                fuse_inode_put(c->server, c->inode);
        return r;
}

/* What is behind the first @skip bytes, as iovecs of the call's own. */
static void point_at(struct fuse_call *c, const struct iovec *iov, unsigned n, size_t skip)
{
        c->data = c->scratch->iov;
        for (unsigned i = 0; i < n; i++) {
                const size_t here = MIN(skip, iov[i].iov_len);

                skip -= here;
                if (here < iov[i].iov_len)
                        c->data[c->n_data++] = (struct iovec){ (u8 *)iov[i].iov_base + here, iov[i].iov_len - here };
        }
}

/* Reads the request and runs it. */
static int serve(struct fuse_call *c, const struct fuse_op *op, const struct fuse_message *m)
{
        size_t len = c->header.len - sizeof(c->header);
        int r;

        if (op->flags & OP_WRITES)
                len = MIN(len, (size_t)op->arg_len);
        if (len > FUSE_IN_MAX)
                return -E2BIG;
        if (virtio_iov_read(m->out, m->n_out, sizeof(c->header), c->scratch->in, len) != len)
                return -EINVAL;
        r = parse(c, op, len);
        if (r < 0)
                return r;
        if (op->flags & OP_WRITES)
                point_at(c, m->out, m->n_out, sizeof(c->header) + len);
        else if (op->flags & OP_READS)
                point_at(c, m->in, m->n_in, sizeof(struct fuse_out_header));
        return run(c, op);
}

static u64 total(const struct iovec *iov, unsigned n)
{
        u64 bytes = 0;

        for (unsigned i = 0; i < n; i++)
                bytes += iov[i].iov_len;
        return bytes;
}

static bool header_read(struct fuse_call *c, const struct fuse_message *m)
{
        return virtio_iov_read(m->out, m->n_out, 0, &c->header, sizeof(c->header)) == sizeof(c->header) &&
               c->header.len >= sizeof(c->header) && c->header.len <= total(m->out, m->n_out);
}

/* -EAGAIN of a quick call: nothing was written. */
static int handle(struct fuse_call *c, const struct fuse_message *m, u32 *ret_written)
{
        const u64 room = total(m->in, m->n_in);
        struct fuse_out_header answer = { .len = sizeof(answer) };
        const struct fuse_op *op = NULL;
        int r = -EINVAL;

        if (c->scratch)
                c->reply = c->scratch->reply;
        c->fd = -1;
        if (room >= sizeof(answer))
                c->reply_max = MIN(room - sizeof(answer), (u64)FUSE_REPLY_MAX);
        if (header_read(c, m)) {
                op = find_op(c->header.opcode);
                if (c->quick && (!op || !(op->flags & OP_QUICK)))
                        return -EAGAIN;
                /* Without room for an answer only what is silent can be served. */
                if (op && (op->flags & OP_SILENT || room >= sizeof(answer)))
                        r = c->refusal ? c->refusal : serve(c, op, m);
                else
                        r = -ENOSYS;
        }
        if (c->quick && r == -EAGAIN)
                return r;
        trace(FUSE_REQUEST, c->header.opcode, c->header.nodeid, -r, c->reply_len + c->direct_len);
        *ret_written = 0;
        if (room < sizeof(answer) || (op && op->flags & OP_SILENT))
                return 0;
        if (r == 0 && c->reply_len > c->reply_max)
                r = -ERANGE;
        answer.unique = c->header.unique;
        answer.error = r;
        if (r == 0) {
                answer.len += (u32)(c->reply_len + c->direct_len);
                virtio_iov_write(m->in, m->n_in, sizeof(answer), c->reply, c->reply_len);
        }
        virtio_iov_write(m->in, m->n_in, 0, &answer, sizeof(answer));
        *ret_written = answer.len;
        return 0;
}

u32 fuse_server_handle(struct fuse_server *s, struct fuse_scratch *scratch, const struct fuse_message *message)
{
        struct fuse_call c = { .server = s, .scratch = scratch };
        u32 written;

        handle(&c, message, &written);
        return written;
}

u32 fuse_server_refuse(struct fuse_server *s, const struct fuse_message *message, int error)
{
        struct fuse_call c = { .server = s, .refusal = error };
        u32 written;

        handle(&c, message, &written);
        return written;
}

bool fuse_server_handle_quick(struct fuse_server *s, struct fuse_scratch *scratch, const struct fuse_message *message,
                              u32 *ret_written)
{
        struct fuse_call c = { .server = s, .scratch = scratch, .quick = true };

        return handle(&c, message, ret_written) == 0;
}

/* ---- life ---- */

int fuse_thread_enter(const struct fuse_server *s)
{
        /* Directory and mask are the thread's own from here on. */
        if (unshare(CLONE_FS) < 0 || fchdir(s->proc_fd) < 0)
                return -errno;
        umask(0);
        return 0;
}

void fuse_server_forget_all(struct fuse_server *s)
{
        fuse_handles_close_all(s);
        fuse_inodes_forget_all(s);
}

static int open_root(struct fuse_server *s, const char *path, struct err **err)
{
        struct statx st;

        s->root_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (s->root_fd < 0)
                return err_sys(err, errno, "opening the directory '%s'", path);
        s->proc_fd = open(FUSE_SERVER_FDS, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (s->proc_fd < 0)
                return err_sys(err, errno, "opening " FUSE_SERVER_FDS);
        s->next_nodeid = FUSE_ROOT_ID + 1;
        s->next_fh = 1;
        s->root = fuse_inode_add(s, FUSE_ROOT_ID, S_IFDIR);
        if (!s->root || fuse_statx(s->root_fd, &st) < 0)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to share '%s'", path);
        s->root->fd = s->root_fd;
        s->root->keep_fd = true; /* and not counted */
        fuse_inode_identify(s, s->root, &st);
        return 0;
}

void fuse_server_directories(const struct fuse_server *s, int *ret_root_fd, int *ret_fds_fd)
{
        *ret_root_fd = s->root_fd;
        *ret_fds_fd = s->proc_fd;
}

static void fuse_server_freep(struct fuse_server **s)
{
        fuse_server_free(*s);
}

int fuse_server_new(const struct fuse_server_config *config, struct fuse_server **ret, struct err **err)
{
        _cleanup_(fuse_server_freep) struct fuse_server *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to share '%s'", config->path);
        pthread_mutex_init(&s->lock, NULL);
        s->root_fd = s->proc_fd = -1;
        s->read_only = config->read_only;
        s->is_private = config->is_private;
        s->valid = config->is_private ? FUSE_VALID_PRIVATE_SECONDS : FUSE_VALID_SECONDS;
        s->cached_fds_max = FDS_CACHED(config->fds);
        s->kept_fds_max = FDS_KEPT(config->fds);
        s->handles_max = FDS_HANDLES(config->fds);
        s->inodes_max = config->inodes;
        s->by_id = calloc(FUSE_BUCKETS, sizeof(struct fuse_inode *));
        s->by_file = calloc(FUSE_BUCKETS, sizeof(struct fuse_inode *));
        s->handles = calloc(s->handles_max, sizeof(struct fuse_handle *));
        if (!s->by_id || !s->by_file || !s->handles)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to share '%s'", config->path);
        r = open_root(s, config->path, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

struct fuse_server *fuse_server_free(struct fuse_server *s)
{
        if (!s)
                return NULL;
        if (s->handles && s->by_id)
                fuse_server_forget_all(s);
        free(s->root);
        free(s->by_id);
        free(s->by_file);
        free(s->handles);
        if (s->root_fd >= 0)
                close(s->root_fd);
        if (s->proc_fd >= 0)
                close(s->proc_fd);
        pthread_mutex_destroy(&s->lock);
        free(s);
        return NULL;
}
