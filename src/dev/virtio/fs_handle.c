/* The files that the guest has open: a table of slots. A handle's number is its slot plus a multiple of the table's size that is
 * never used again, so a number that the guest made up or closed is found out. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/virtio/fs_internal.h"

static struct fuse_handle **slot_of(const struct fuse_server *s, u64 fh)
{
        return &s->handles[fh % s->handles_max];
}

/* Closing may take its time. */
static void handle_free(struct fuse_handle *handle)
{
        if (!handle)
                return;
        close(handle->fd);
        pthread_mutex_destroy(&handle->position);
        free(handle);
}

/* Makes a handle and places it: at @fh, or at the next free number when that is 0. */
static int place(struct fuse_server *s, struct fuse_inode *inode, int fd, u32 flags, u64 *fh)
{
        struct fuse_handle *handle = calloc(1, sizeof(*handle));
        bool room;

        if (handle) {
                *handle = (struct fuse_handle){ .fd = fd, .flags = flags, .inode = inode };
                pthread_mutex_init(&handle->position, NULL);
        }
        pthread_mutex_lock(&s->lock);
        room = handle && s->n_handles < s->handles_max;
        if (room && !*fh) {
                while (*slot_of(s, s->next_fh))
                        s->next_fh++;
                *fh = s->next_fh;
        }
        room = room && !*slot_of(s, *fh);
        if (room) {
                handle->fh = *fh;
                *slot_of(s, *fh) = handle;
                inode->refs++;
                s->n_handles++;
                s->next_fh = MAX(s->next_fh, *fh + 1);
        }
        pthread_mutex_unlock(&s->lock);
        if (room)
                return 0;
        handle_free(handle);
        if (!handle)
                close(fd);
        return -ENFILE;
}

int fuse_handle_add(struct fuse_server *s, struct fuse_inode *inode, int fd, u32 flags, u64 *ret_fh)
{
        u64 fh = 0;
        int r = place(s, inode, fd, flags, &fh);

        if (r == 0)
                *ret_fh = fh;
        return r;
}

int fuse_handle_add_as(struct fuse_server *s, struct fuse_inode *inode, int fd, u32 flags, u64 fh)
{
        return place(s, inode, fd, flags, &fh);
}

int fuse_handle_get(struct fuse_server *s, u64 fh, struct fuse_handle **ret)
{
        struct fuse_handle *handle;

        pthread_mutex_lock(&s->lock);
        handle = *slot_of(s, fh);
        if (handle && handle->fh == fh)
                handle->users++;
        else
                handle = NULL;
        pthread_mutex_unlock(&s->lock);
        if (!handle)
                return fh && fh < s->restored_fh_end ? -ESTALE : -EBADF;
        *ret = handle;
        return 0;
}

/* Lock held; returns what the caller has to free without it. */
static struct fuse_handle *unused(struct fuse_server *s, struct fuse_handle *handle)
{
        if (!handle->closed || handle->users)
                return NULL;
        handle->inode->refs--;
        fuse_inode_release(s, handle->inode);
        return handle;
}

void fuse_handle_put(struct fuse_server *s, struct fuse_handle *handle)
{
        pthread_mutex_lock(&s->lock);
        handle->users--;
        handle = unused(s, handle);
        pthread_mutex_unlock(&s->lock);
        handle_free(handle);
}

static void close_slot(struct fuse_server *s, struct fuse_handle **slot)
{
        struct fuse_handle *handle = TAKE_PTR(*slot);

        s->n_handles--;
        handle->closed = true;
        handle = unused(s, handle);
        pthread_mutex_unlock(&s->lock);
        handle_free(handle);
        pthread_mutex_lock(&s->lock);
}

void fuse_handle_close(struct fuse_server *s, u64 fh)
{
        struct fuse_handle **slot = slot_of(s, fh);

        pthread_mutex_lock(&s->lock);
        if (*slot && (*slot)->fh == fh)
                close_slot(s, slot);
        pthread_mutex_unlock(&s->lock);
}

void fuse_handles_close_all(struct fuse_server *s)
{
        pthread_mutex_lock(&s->lock);
        for (unsigned i = 0; i < s->handles_max; i++)
                if (s->handles[i])
                        close_slot(s, &s->handles[i]);
        pthread_mutex_unlock(&s->lock);
}
