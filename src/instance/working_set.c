#include "working_set.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "snapshot_internal.h"
#include "vm/snapshot_dir.h"

#define RUNS_MAX  4096U
#define LINE_SIZE 48U /* the most that one takes */
#define PAGE      4096U
/* So many at the beginning are looked at to see whether memory is cold. */
#define WARM_RUNS 8U
/* Pages between two runs that are read too: one request is cheaper than two. */
#define GAP (16U * PAGE)
/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PRESENT BIT(63)
#define PAGEMAP_OF_FILE BIT(61)

/* In place of a layer: pages of which the machine has copies, wherever they came from. */
#define WRITTEN UINT_MAX

struct run {
        unsigned layer;
        u64 offset, len;
};

static int open_layer(int machine, unsigned layer)
{
        char name[SNAPSHOT_NAME_SIZE];

        snapshot_layer_name(layer, name);
        return openat(machine, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

/* --- writing it down --------------------------------------------------------------------------------------------- */

struct record_of {
        int machine, pagemap;
        struct stat layers[SNAPSHOT_LAYERS_MAX];
        unsigned n_layers;
        struct runs {
                struct run last;
                unsigned n;
                u64 gap;
                FILE *out;
        } read, written;
};

static void put_run(struct runs *runs)
{
        const struct run *last = &runs->last;

        if (last->len && runs->n++ < RUNS_MAX && last->layer == WRITTEN)
                fprintf(runs->out, "w %" PRIx64 " %" PRIx64 "\n", last->offset, last->len);
        else if (last->len && runs->n <= RUNS_MAX)
                fprintf(runs->out, "%x %" PRIx64 " %" PRIx64 "\n", last->layer, last->offset, last->len);
        runs->last.len = 0;
}

static void put_page(struct runs *runs, unsigned layer, u64 offset)
{
        struct run *last = &runs->last;

        if (last->len && last->layer == layer && offset >= last->offset && offset <= last->offset + last->len + runs->gap) {
                last->len = MAX(last->len, offset + PAGE - last->offset);
                return;
        }
        put_run(runs);
        *last = (struct run){ layer, offset, PAGE };
}

/* A mapping of a layer's: pages that are there, its own copies too. */
static void look_at(struct record_of *rec, unsigned layer, u64 start, u64 end, u64 offset)
{
        u64 entries[512];

        while (start < end) {
                const size_t want = (size_t)MIN((end - start) / PAGE, (u64)ARRAY_SIZE(entries));
                const ssize_t got = pread(rec->pagemap, entries, want * sizeof(u64), (off_t)(start / PAGE * sizeof(u64)));
                const size_t n = got > 0 ? (size_t)got / sizeof(u64) : 0;

                if (!n)
                        return;
                for (size_t i = 0; i < n; i++) {
                        if (entries[i] & PAGEMAP_PRESENT)
                                put_page(&rec->read, layer, offset + i * PAGE);
                        if (entries[i] & PAGEMAP_PRESENT && !(entries[i] & PAGEMAP_OF_FILE))
                                put_page(&rec->written, WRITTEN, offset + i * PAGE);
                }
                start += n * PAGE;
                offset += n * PAGE;
        }
}

/* proc_pid_maps(5). */
static void look_at_line(struct record_of *rec, const char *line)
{
        u64 start, end, offset, inode;
        unsigned dev_major, dev_minor;

        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %x:%x %" SCNu64, &start, &end, &offset, &dev_major, &dev_minor, &inode) != 6)
                return;
        for (unsigned i = 0; i < rec->n_layers; i++)
                if (rec->layers[i].st_ino == inode && rec->layers[i].st_dev == makedev(dev_major, dev_minor))
                        look_at(rec, i, start, end, offset);
}

static void look_at_process(struct record_of *rec, pid_t pid)
{
        char path[40], line[512];
        FILE *maps;

        snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
        rec->pagemap = open(path, O_RDONLY | O_CLOEXEC);
        snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
        maps = rec->pagemap < 0 ? NULL : fopen(path, "re");
        while (maps && fgets(line, sizeof(line), maps))
                look_at_line(rec, line);
        if (maps)
                fclose(maps);
        closep(&rec->pagemap);
}

static unsigned stat_layers(int machine, struct stat *ret)
{
        unsigned n = 0;

        while (n < SNAPSHOT_LAYERS_MAX) {
                const int fd = open_layer(machine, n);
                const bool found = fd >= 0 && fstat(fd, &ret[n]) == 0;

                closep(&fd);
                if (!found)
                        break;
                n++;
        }
        return n;
}

/* What is read first: who reads ahead looks no further. */
static int make_text(struct record_of *rec, pid_t pid, char **ret, size_t *ret_len)
{
        _cleanup_free_ char *written = NULL;
        size_t n = 0;
        int r = -ENOMEM;

        rec->read.out = open_memstream(ret, ret_len);
        rec->written.out = open_memstream(&written, &n);
        if (rec->read.out && rec->written.out) {
                look_at_process(rec, pid);
                put_run(&rec->read);
                put_run(&rec->written);
                fflush(rec->written.out);
                fwrite(written, 1, n, rec->read.out);
                r = 0;
        }
        if (rec->written.out)
                fclose(rec->written.out);
        if (rec->read.out && fclose(rec->read.out) != 0)
                r = -ENOMEM;
        return r == 0 && *ret_len ? 0 : -ENOMEM;
}

void working_set_record(const char *path, pid_t pid)
{
        _cleanup_close_ int machine = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_close_ int directory = machine < 0 ? -1 : openat(machine, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct record_of rec = { .machine = machine, .read.gap = GAP };
        _cleanup_free_ char *text = NULL;
        char tmp[64];
        size_t len;

        if (directory < 0 || faccessat(directory, SNAPSHOT_WORKING_SET, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
                return;
        rec.n_layers = stat_layers(machine, rec.layers);
        snprintf(tmp, sizeof(tmp), SNAPSHOT_WORKING_SET ".%d", (int)getpid());
        if (make_text(&rec, pid, &text, &len) == 0)
                file_replace(directory, tmp, SNAPSHOT_WORKING_SET, text, len, false, NULL);
}

bool working_set_exists(const char *path, char ret[static PATH_MAX])
{
        return snprintf(ret, PATH_MAX, "%s/../" SNAPSHOT_WORKING_SET, path) < PATH_MAX && access(ret, R_OK) == 0;
}

/* --- reading ahead ------------------------------------------------------------------------------------------------ */

static bool is_cached(int fd, u64 offset)
{
        char byte;
        const struct iovec iov = { &byte, 1 };

        return preadv2(fd, &iov, 1, (off_t)offset, RWF_NOWAIT) == 1;
}

static const char *next_run(const char *text, struct run *ret)
{
        int n = 0;

        if (sscanf(text, "%x %" SCNx64 " %" SCNx64 "\n%n", &ret->layer, &ret->offset, &ret->len, &n) != 3 || !n || ret->layer >= SNAPSHOT_LAYERS_MAX ||
            ret->offset > INT64_MAX || ret->len > INT64_MAX)
                return NULL;
        return text + n;
}

void working_set_prefetch(int directory)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int machine = -1;
        int fds[SNAPSHOT_LAYERS_MAX];
        unsigned n_read = 0, n_looked = 0;
        struct run run;

        if (io_read_file(directory, SNAPSHOT_WORKING_SET, 2 * RUNS_MAX * LINE_SIZE, &text, NULL, NULL) < 0)
                return;
        machine = openat(directory, SNAPSHOT_MACHINE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        memset(fds, -1, sizeof(fds));
        /* With the first ones there, all are: the kernel drops what was not used for long, which these were not. */
        for (const char *at = text; (at = next_run(at, &run)) && (n_read || n_looked < WARM_RUNS);) {
                int *fd = &fds[run.layer];

                if (*fd < 0)
                        *fd = open_layer(machine, run.layer);
                n_looked++;
                if (*fd < 0 || is_cached(*fd, run.offset))
                        continue;
                posix_fadvise(*fd, (off_t)run.offset, (off_t)run.len, POSIX_FADV_WILLNEED);
                n_read++;
        }
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                closep(&fds[i]);
}
