/* The guest-physical map: RAM in memory slots, everything else in I/O regions.
 *
 * RAM is one memfd, mapped shared, laid out below the PCI hole and above 4 GiB; or, in a machine that begins as a snapshot, private
 * mappings of the snapshot's files (private.c). Each 4 KiB page has a flags byte: while any
 * flag is set no engine may write the page without calling guest_memory_written() afterwards. That one rule carries
 * self-modifying code detection (PAGE_CODE) and dirty tracking (PAGE_CLEAN).
 *
 * Threads: the map itself is fixed after creation, so look-ups need no lock. Flags are atomic bytes. I/O regions are
 * looked up and changed with the device lock held. */
#pragma once

#include <pthread.h>

#include "base/err.h"
#include "base/observe.h"

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096ULL
#define PAGE_MASK (~(PAGE_SIZE - 1))

/* RAM never reaches beyond this address below 4 GiB; ECAM, PCI windows, IOAPIC, HPET, LAPIC and ROM live there. */
#define PCI_HOLE_START 0xc0000000ULL
#define PCI_HOLE_END 0x100000000ULL

/* ---- I/O regions: ports and device memory ---- */

/* How a device answers. @offset is relative to the region, @size is 1, 2, 4 or 8 and the access never leaves the
 * region. Called with the device lock held. A NULL function reads as all ones / ignores writes. */
struct io_ops {
        u64 (*read)(void *opaque, u64 offset, unsigned size);
        void (*write)(void *opaque, u64 offset, u64 value, unsigned size);
        unsigned max_size; /* larger accesses are split; 0 means 8 */
};

struct io_region {
        u64 base, size;
        const struct io_ops *ops;
        void *opaque;
        const char *name;
};

/* A space of regions that do not overlap: the 64 KiB of ports, or guest-physical addresses that are not RAM. */
struct io_space {
        struct io_region *regions; /* sorted by base */
        size_t n, cap;
        size_t last_hit;
        pthread_mutex_t *lock;     /* the device lock: taken by io_read/io_write */
        struct counters *counters; /* under the lock; may be NULL */
        bool is_port;
};

void io_space_init(struct io_space *space, pthread_mutex_t *lock, struct counters *counters, bool is_port);
void io_space_free(struct io_space *space);
/* Claims [base, base + size). -EBUSY when it overlaps another region. Device lock held (or before threads exist). */
int io_space_add(struct io_space *space, u64 base, u64 size, const struct io_ops *ops, void *opaque, const char *name,
                 struct err **err);
/* Gives up the region that starts at @base and belongs to @opaque; nothing happens when there is none. */
void io_space_remove(struct io_space *space, u64 base, void *opaque);
/* One access of 1..8 bytes by a guest; takes the device lock. What nobody claims reads as all ones and ignores writes
 * and is counted; returns false then. */
bool io_read(struct io_space *space, u64 address, unsigned size, u64 *ret_value);
bool io_write(struct io_space *space, u64 address, u64 value, unsigned size);

/* ---- RAM ---- */

enum {
        PAGE_CODE = 1,  /* an engine holds decoded or translated code of this page */
        PAGE_CLEAN = 2, /* dirty tracking is on and the page has not been written since it was last collected */
        PAGE_WATCH = 4, /* somebody else asked to see writes (e.g. a debugger) */
};

struct memory_slot {
        u64 gpa, size;
        u8 *hva;
        u64 fd_offset; /* in the memfd */
        bool read_only;
};

#define MEMORY_SLOTS_MAX 8

struct guest_memory {
        int fd;                      /* the memfd; -1: RAM is private */
        u64 ram_size;                /* bytes of RAM */
        struct memory_slot slots[MEMORY_SLOTS_MAX];
        size_t n_slots;
        u8 *page_flags;              /* one byte a RAM page, in memfd order */
        u64 *code_chunks;            /* likewise; bit n: code of an engine lies in its 64 bytes from n * 64 on. Only under PAGE_CODE */
        struct io_space mmio;
        /* Called when chunks with code were written; from any thread. The range lies in one page. Chunks whose code is dropped then are unmarked
         * by who drops it. */
        void (*on_code_write)(void *opaque, u64 gpa, u64 len);
        void *on_code_write_opaque;
        bool dirty_tracking;
        /* Private RAM only: */
        int pagemap_fd;              /* says which pages are no longer the files' */
        u64 *discarded;              /* bit n: page n was discarded, so it is no longer the files' either */
};

static inline bool guest_memory_is_private(const struct guest_memory *mem)
{
        return mem->fd < 0;
}

/* @ram_size is rounded up to a page. @lock is the device lock. */
int guest_memory_new(u64 ram_size, pthread_mutex_t *lock, struct counters *device_counters, struct guest_memory **ret,
                     struct err **err);
/* Where a part of RAM's first contents is: @len bytes at @offset, in memfd order, are those of the file @fd at the same offset, zeros if @fd is -1. Whole
 * pages. */
struct guest_memory_piece {
        u64 offset, len;
        int fd; /* borrowed */
};
/* RAM that begins as the @pieces, which follow each other and are all of it. It is read from the files when it is touched and copied when it is written: the
 * files stay as they are, and machines that begin as the same files share what none of them writes. The files must not change or shrink. */
int guest_memory_new_private(u64 ram_size, const struct guest_memory_piece *pieces, size_t n, pthread_mutex_t *lock, struct counters *device_counters,
                             struct guest_memory **ret, struct err **err);
struct guest_memory *guest_memory_free(struct guest_memory *mem);
static inline void guest_memory_freep(struct guest_memory **mem)
{
        guest_memory_free(*mem);
}

/* The RAM slot that holds @gpa, or NULL. */
static inline const struct memory_slot *guest_memory_slot(const struct guest_memory *mem, u64 gpa)
{
        for (size_t i = 0; i < mem->n_slots; i++)
                if (gpa - mem->slots[i].gpa < mem->slots[i].size)
                        return &mem->slots[i];
        return NULL;
}
/* Host address of [gpa, gpa + len) when it lies in one RAM slot, NULL otherwise. Engine use: the caller obeys the page flags. */
static inline void *guest_memory_hva(const struct guest_memory *mem, u64 gpa, u64 len)
{
        const struct memory_slot *slot = guest_memory_slot(mem, gpa);

        return slot && len <= slot->size - (gpa - slot->gpa) ? slot->hva + (gpa - slot->gpa) : NULL;
}
/* The flags byte of the RAM page that holds @gpa, NULL when it is not RAM. */
static inline u8 *guest_memory_flags(const struct guest_memory *mem, u64 gpa)
{
        const struct memory_slot *slot = guest_memory_slot(mem, gpa);

        return slot ? &mem->page_flags[(gpa - slot->gpa + slot->fd_offset) >> PAGE_SHIFT] : NULL;
}
/* The guest-physical address of @hva, which is in RAM. */
static inline u64 guest_memory_gpa(const struct guest_memory *mem, const u8 *hva)
{
        for (size_t i = 0; i < mem->n_slots; i++)
                if ((u64)(hva - mem->slots[i].hva) < mem->slots[i].size)
                        return mem->slots[i].gpa + (u64)(hva - mem->slots[i].hva);
        return ~0ULL;
}
bool guest_memory_is_ram(const struct guest_memory *mem, u64 gpa, u64 len);

/* DMA by devices and loaders: plain RAM only, any length, may cross slots. 0, or -EFAULT when any byte is not RAM (then nothing
 * was copied). */
int guest_memory_read(const struct guest_memory *mem, u64 gpa, void *dst, u64 len);
int guest_memory_write(struct guest_memory *mem, u64 gpa, const void *src, u64 len);
/* For zero-copy DMA: the host address of a buffer, or NULL when not all RAM in one slot. After the device wrote to it,
 * it calls guest_memory_written. */
static inline void *guest_memory_dma(const struct guest_memory *mem, u64 gpa, u64 len)
{
        return guest_memory_hva(mem, gpa, len);
}
/* Tells the map that RAM in [gpa, gpa + len) was written: drops stale code and marks pages dirty. */
void guest_memory_written(struct guest_memory *mem, u64 gpa, u64 len);

/* Gives whole pages of RAM back to the host: they read as zeros, in this process and everywhere else, and take memory again when they are
 * touched. Host addresses stay good, so soft TLB entries and translated code need not know; for dirty tracking and stale code it is a
 * write. 0, -EFAULT when not all of it is writable RAM of one slot, -EINVAL when it is not whole pages, or what the host says:
 * then nothing changed. */
int guest_memory_discard(struct guest_memory *mem, u64 gpa, u64 len);

/* Says that there is code in [gpa, gpa + len), which lies in one page. True when PAGE_CODE was not set before: the caller must then make sure that
 * no vCPU still has a writable soft-TLB entry for the page before it reads the code bytes. Marking and unmarking take turns: by a lock of the
 * caller's. */
bool guest_memory_mark_code(struct guest_memory *mem, u64 gpa, u64 len);
/* Whether all of it is marked already. */
bool guest_memory_is_code(const struct guest_memory *mem, u64 gpa, u64 len);
/* The bits of the chunks that [gpa, gpa + len) touches; it lies in one page. */
#define CODE_CHUNK_SHIFT 6
static inline u64 guest_memory_chunks(u64 gpa, u64 len)
{
        const u64 first = (gpa & (PAGE_SIZE - 1)) >> CODE_CHUNK_SHIFT;
        const u64 last = ((gpa & (PAGE_SIZE - 1)) + len - 1) >> CODE_CHUNK_SHIFT;

        return bits(~0ULL, (unsigned)(last - first), 0) << first;
}
/* These chunks of the page have no code any more. Clears PAGE_CODE if none has. */
void guest_memory_unmark_code(struct guest_memory *mem, u64 gpa, u64 chunks);

/* Dirty tracking. Start and collect are to be called with all vCPUs stopped and their TLBs flushed afterwards. */
void guest_memory_dirty_start(struct guest_memory *mem);
void guest_memory_dirty_stop(struct guest_memory *mem);
/* Sets bit n of @bitmap (ram_size / 4096 bits) for each RAM page n, in memfd order, that was written since the last
 * call; returns how many. */
u64 guest_memory_dirty_collect(struct guest_memory *mem, u64 *bitmap);
/* Of private RAM: sets bit n of @bitmap for each page that may be no longer what its piece said (some that still are may be among them). Needs no tracking.
 * vCPUs and devices stopped. */
int guest_memory_private_collect(const struct guest_memory *mem, u64 *bitmap, struct err **err);
