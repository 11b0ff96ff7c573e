/* A snapshot on disk: a directory that never changes once it has its name.
 *
 *         state        what the machine was, but for its RAM: a header with a check sum, then sections (base/statebuf.h), the first of which,
 *                      "snapshot", is struct snapshot_info
 *         memory.0     RAM: a sparse file, byte n of it is byte n of the memfd
 *         memory.1...  only in diffs: what changed since memory.0, and so on. All but the last are hard links to the files of the snapshots that came
 *                      before, which can therefore be removed
 *
 *         translations what the engine had made of the guest's code (cpu_engine.code_save); may be missing. Host code: only for those who trust the
 *                      snapshot's maker
 *
 * Making one: everything is written to a directory beside, ".NAME.XXXXXX.partial", synced, and then gets the name by one rename, which exchanges it with what had it before.
 * So whatever happens at any moment, NAME is a whole snapshot or none. Who makes one holds a lock on the directory; ones that nobody holds are removed by the
 * next who makes one of that name.
 *
 * Needs only base: for the command too. */
#pragma once

#include "base/statebuf.h"
#include "snapshot_map.h"

#define SNAPSHOT_ENGINE_MAX 16

struct snapshot_info {
        char engine[SNAPSHOT_ENGINE_MAX]; /* that ran it; any other can go on */
        u64 id; /* random; its translations have the same */
        u64 ram_size;
        u32 n_cpus;
        u64 tsc_hz;
        u32 n_layers;
        struct snapshot_map map;
};

/* ---- the state's bytes ---- */

/* The section "snapshot", to be put before a machine's own. */
void snapshot_info_save(const struct snapshot_info *info, struct state_out *out);
/* Writes header and @out's bytes to @fd, an empty file. */
int snapshot_state_write(int fd, const struct state_out *out, struct err **err);

/* What is in a snapshot's state. Checked: sizes, that the map is all of RAM. */
struct snapshot_state {
        struct snapshot_info info;
        u8 *data; /* the file */
        const u8 *machine; /* the sections behind "snapshot", in data */
        size_t machine_len;
};

/* From any bytes; takes @data over (malloc), also when it fails. */
int snapshot_state_parse(u8 *data, size_t len, struct snapshot_state *ret, struct err **err);
void snapshot_state_free(struct snapshot_state *state);

/* ---- reading ---- */

struct snapshot {
        struct snapshot_state state;
        int layers[SNAPSHOT_LAYERS_MAX]; /* open for reading; state.info.n_layers of them */
        int code; /* its translations; -1: there are none */
        int directory;
};

int snapshot_open(const char *path, struct snapshot **ret, struct err **err);
struct snapshot *snapshot_close(struct snapshot *snapshot);
static inline void snapshot_closep(struct snapshot **snapshot)
{
        snapshot_close(*snapshot);
}
/* Removes the snapshot at @path. -EINVAL when the directory is none: then it is left alone. */
int snapshot_remove(const char *path, struct err **err);

/* ---- making ---- */

struct snapshot_writer;

/* @path: the directory to be, or the snapshot to be replaced. */
int snapshot_writer_new(const char *path, struct snapshot_writer **ret, struct err **err);
int snapshot_writer_state_fd(const struct snapshot_writer *w);
int snapshot_writer_memory_fd(const struct snapshot_writer *w);
int snapshot_writer_code_fd(const struct snapshot_writer *w);
/* The new memory is layer @n, above these @n files. */
int snapshot_writer_set_layers(struct snapshot_writer *w, const int *fds, unsigned n, struct err **err);
/* Syncs, gives it its name. After this or a failure only _free can follow. */
int snapshot_writer_commit(struct snapshot_writer *w, struct err **err);
/* What was not committed is gone. NULL is fine. Returns NULL. */
struct snapshot_writer *snapshot_writer_free(struct snapshot_writer *w);
static inline void snapshot_writer_freep(struct snapshot_writer **w)
{
        snapshot_writer_free(*w);
}
