/* What the disk tests share: a scratch directory, images made by qemu-img, and requests that are waited for. */
#pragma once

#include "dev/block/block.h"

struct block_test {
        char dir[64];
        pthread_mutex_t lock;
        struct loop *loop;
        struct counters counters;
};

/* Makes the scratch directory and an event loop that nobody runs: block_drain waits instead. The lock is held. */
void block_test_init(struct block_test *t);
void block_test_free(struct block_test *t);
/* The path of a file in the scratch directory; valid until the fourth call after this one. */
const char *block_test_path(struct block_test *t, const char *name);

/* Runs a shell command; returns its exit status. Its output is shown only when it is not the expected 0. */
int run(const char *fmt, ...) _printf_(1, 2);
bool have_qemu_img(void);

struct block_device *open_disk(struct block_test *t, const char *path, enum block_format format, enum block_aio aio);
/* The error's id when opening fails, ERR_ID_COUNT when it succeeds (the disk is closed again). Prints nothing. */
enum err_id open_fails(struct block_test *t, const struct block_options *options);

/* One request, to its end; returns its result. Reads and writes use a scatter list of odd pieces made from @seed. */
int disk_io(struct block_device *dev, enum block_op op, unsigned flags, u64 offset, void *buf, u64 bytes, u64 seed);

static inline u64 next_random(u64 *state)
{
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        return *state;
}
void fill_random(void *buf, u64 bytes, u64 seed);

struct random_run {
        u64 seed;
        unsigned ops;
        u64 max_bytes;   /* of one request */
        bool no_discard; /* after a discard contents are undefined, so it cannot be compared where the old ones may come back */
};
/* Random requests against @dev, compared with @reference (block_size bytes, updated). */
void random_requests(struct block_device *dev, u8 *reference, const struct random_run *run);
/* The whole disk equals @reference. */
void assert_disk_equals(struct block_device *dev, const u8 *reference);
/* The same through qemu-img: `qemu-img check` is clean (@leaks: but for leaked clusters), the raw conversion equals @reference. */
void assert_qemu_agrees(struct block_test *t, const char *path, const u8 *reference, u64 bytes, bool leaks);
