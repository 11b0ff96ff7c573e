/* RAM that begins as files (a snapshot's): theory of operation.
 *
 * Each piece of the files is mapped privately at its place, so that the host's kernel does all the work: a page is the page cache's until it is
 * written, then a copy of our own. Pieces of zeros are anonymous memory. Host addresses never change, so nobody above need know.
 *
 * Which pages are copies is what a diff snapshot wants to know, and the kernel's page tables say so: /proc/self/pagemap tells pages of files from
 * anonymous ones. No tracking, no cost while the guest runs. The file is opened at the start, because a jail has no /proc.
 *
 * A discarded page must read as zeros and not as the file's: anonymous memory takes its place, and a bit says so, as there is nothing to see in the page
 * tables then.
 *
 * What cannot be done with private pages: show them a second time, as shadow windows do. */
#include "private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"

int private_init(struct guest_memory *mem, struct err **err)
{
        mem->discarded = calloc(((mem->ram_size >> PAGE_SHIFT) + 63) / 64, sizeof(u64));
        if (!mem->discarded)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for page flags");
        /* Without it (no /proc) everything works but diffs. */
        mem->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        return 0;
}

void private_free(struct guest_memory *mem)
{
        free(mem->discarded);
        if (mem->pagemap_fd >= 0)
                close(mem->pagemap_fd);
}

/* Memory of zeros at @at. One written page takes 4 KiB, whatever the host's policy of large pages is: clones are many and small. */
static void *map_zeros(void *at, u64 size, int flags)
{
        void *p = mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);

        if (p != MAP_FAILED)
                madvise(p, size, MADV_NOHUGEPAGE);
        return p;
}

void *private_map(struct private_pieces *list, u64 offset, u64 size)
{
        u8 *const base = map_zeros(NULL, size, 0);
        u64 done = 0;

        while (base != MAP_FAILED && done < size) {
                const struct guest_memory_piece *p = list->pieces;
                u64 n, skip;

                /* A piece may begin in the slot before this one. */
                if (!list->n || p->offset > offset + done || p->len <= offset + done - p->offset) {
                        munmap(base, size);
                        errno = EINVAL;
                        return MAP_FAILED;
                }
                skip = offset + done - p->offset;
                n = MIN(p->len - skip, size - done);
                if (p->fd >= 0 && mmap(base + done, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, p->fd,
                                       (off_t)(offset + done)) == MAP_FAILED) {
                        const int error = errno;

                        munmap(base, size);
                        errno = error;
                        return MAP_FAILED;
                }
                done += n;
                if (skip + n == p->len) {
                        list->pieces++;
                        list->n--;
                }
        }
        return base;
}

int private_discard(struct guest_memory *mem, const struct memory_slot *slot, u64 gpa, u64 len)
{
        const u64 first = (gpa - slot->gpa + slot->fd_offset) >> PAGE_SHIFT;

        if (map_zeros(slot->hva + (gpa - slot->gpa), len, MAP_FIXED) == MAP_FAILED)
                return -errno;
        for (u64 i = first; i < first + (len >> PAGE_SHIFT); i++)
                mem->discarded[i / 64] |= BIT(i % 64);
        return 0;
}

/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PRESENT BIT(63)
#define PAGEMAP_SWAPPED BIT(62)
#define PAGEMAP_OF_FILE BIT(61)

static int collect_slot(const struct guest_memory *mem, const struct memory_slot *slot, u64 *bitmap, struct err **err)
{
        const u64 n = slot->size >> PAGE_SHIFT, first = slot->fd_offset >> PAGE_SHIFT;
        u64 entries[1024];

        for (u64 at = 0; at < n;) {
                const u64 want = MIN(n - at, (u64)ARRAY_SIZE(entries));
                const ssize_t got = pread(mem->pagemap_fd, entries, want * sizeof(u64),
                                          (off_t)((((uintptr_t)slot->hva >> PAGE_SHIFT) + at) * sizeof(u64)));

                if (got < (ssize_t)sizeof(u64))
                        return err_sys(err, got < 0 ? errno : EIO, "looking which pages of guest memory were written");
                for (u64 i = 0; i < (u64)got / sizeof(u64); i++) {
                        const u64 page = first + at + i;

                        if (entries[i] & PAGEMAP_SWAPPED || (entries[i] & PAGEMAP_PRESENT && !(entries[i] & PAGEMAP_OF_FILE)))
                                bitmap[page / 64] |= BIT(page % 64);
                }
                at += (u64)got / sizeof(u64);
        }
        return 0;
}

int guest_memory_private_collect(const struct guest_memory *mem, u64 *bitmap, struct err **err)
{
        if (mem->pagemap_fd < 0)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "without /proc/self/pagemap nobody can say which pages of guest memory were written");
        for (size_t i = 0; i < mem->n_slots; i++) {
                const int r = collect_slot(mem, &mem->slots[i], bitmap, err);

                if (r < 0)
                        return r;
        }
        for (u64 i = 0; i < ((mem->ram_size >> PAGE_SHIFT) + 63) / 64; i++)
                bitmap[i] |= mem->discarded[i];
        return 0;
}
