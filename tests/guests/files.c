/* A random test of a file system against another one as the model: every operation is done in both directories, and result, error
 * and all that can be seen afterwards must be the same. Static; runs anywhere.
 *
 *   files check DIR MODEL SEED STEPS
 *   files many DIR N          makes N files in directories of 100, walks, stats and reads them all three times, removes them
 *   files race DIR SECONDS    swaps a directory with a symbolic link to / as fast as it can while walking through it
 *   files read FILE MIB BLOCK random|sequential|direct   reads and says how fast */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NAMES 12
#define DEPTH 2
#define OPEN_FILES 6
#define FILE_MAX (96 * 1024)

static uint64_t random_state;

static unsigned roll(unsigned n)
{
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return (unsigned)(random_state >> 20) % n;
}

static const char *sides[2];
static unsigned long step;
static char what[600];

static void differ(const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        printf("files: step %lu: %s: ", step, what);
        vprintf(fmt, ap);
        printf("\n");
        va_end(ap);
        exit(1);
}

struct path {
        char text[256];
};

/* A random path, the same for both sides. */
static struct path any_path(void)
{
        struct path p;
        size_t n = 0;
        const unsigned depth = 1 + roll(DEPTH);

        for (unsigned i = 0; i < depth; i++)
                n += (size_t)snprintf(p.text + n, sizeof(p.text) - n, "/%c%u", i + 1 < depth ? 'd' : 'n', roll(i + 1 < depth ? 3 : NAMES));
        return p;
}

static struct path on(int side, const struct path *p)
{
        struct path full;

        snprintf(full.text, sizeof(full.text), "%s%s", sides[side], p->text);
        return full;
}

static struct {
        int fd[2];
} files[OPEN_FILES];

/* One call on both sides must end alike. */
#define BOTH(result, call)                                                                                             \
        do {                                                                                                           \
                long _r[2];                                                                                            \
                int _e[2];                                                                                             \
                for (int side = 0; side < 2; side++) {                                                                 \
                        errno = 0;                                                                                     \
                        _r[side] = (long)(call);                                                                       \
                        _e[side] = _r[side] < 0 ? errno : 0;                                                           \
                }                                                                                                      \
                if (_r[0] != _r[1] || _e[0] != _e[1])                                                                  \
                        differ("%ld (%s), the model %ld (%s)", _r[0], strerror(_e[0]), _r[1], strerror(_e[1]));        \
                (result) = _r[0];                                                                                      \
        } while (0)

static unsigned char data[2][FILE_MAX * 2];

static void fill(size_t n)
{
        for (size_t i = 0; i < n; i++)
                data[0][i] = data[1][i] = (unsigned char)roll(256);
}

static void do_open(void)
{
        static const int flags[] = { O_RDWR | O_CREAT, O_RDWR, O_RDWR | O_CREAT | O_EXCL, O_RDWR | O_TRUNC, O_RDWR | O_APPEND, O_RDWR | O_CREAT | O_TRUNC };
        const struct path p = any_path();
        const int f = flags[roll(6)], slot = (int)roll(OPEN_FILES);
        long r;

        snprintf(what, sizeof(what), "open %s 0%o", p.text, f);
        for (int side = 0; side < 2; side++)
                if (files[slot].fd[side] >= 0)
                        close(files[slot].fd[side]);
        BOTH(r, (files[slot].fd[side] = open(on(side, &p).text, f, 0640)) < 0 ? -1 : 0);
        (void)r;
}

static void do_tmpfile(void)
{
        const int slot = (int)roll(OPEN_FILES);
        long r;

        snprintf(what, sizeof(what), "tmpfile");
        for (int side = 0; side < 2; side++)
                if (files[slot].fd[side] >= 0)
                        close(files[slot].fd[side]);
        BOTH(r, (files[slot].fd[side] = open(sides[side], O_TMPFILE | O_RDWR, 0600)) < 0 ? -1 : 0);
        (void)r;
}

static void do_write(void)
{
        const int slot = (int)roll(OPEN_FILES);
        const off_t at = roll(FILE_MAX);
        const size_t n = roll(roll(4) ? 300 : FILE_MAX);
        long r;

        snprintf(what, sizeof(what), "write %d at %ld, %zu", slot, (long)at, n);
        fill(n);
        BOTH(r, pwrite(files[slot].fd[side], data[side], n, at));
        (void)r;
}

static void do_read(void)
{
        const int slot = (int)roll(OPEN_FILES);
        const off_t at = roll(FILE_MAX);
        const size_t n = roll(FILE_MAX);
        long r;

        snprintf(what, sizeof(what), "read %d at %ld, %zu", slot, (long)at, n);
        BOTH(r, pread(files[slot].fd[side], data[side], n, at));
        if (r > 0 && memcmp(data[0], data[1], (size_t)r) != 0)
                differ("other content");
}

static void do_map(void)
{
        const int slot = (int)roll(OPEN_FILES);
        const unsigned at = roll(4096), value = roll(256);
        struct stat st;

        snprintf(what, sizeof(what), "map %d", slot);
        for (int side = 0; side < 2; side++) {
                unsigned char *p;

                if (fstat(files[slot].fd[side], &st) < 0 || st.st_size < 4096)
                        continue;
                p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, files[slot].fd[side], 0);
                if (p == MAP_FAILED)
                        differ("mmap: %s", strerror(errno));
                p[at] = (unsigned char)value;
                munmap(p, 4096);
        }
}

static void do_truncate(void)
{
        const struct path p = any_path();
        const int slot = (int)roll(OPEN_FILES);
        const off_t n = roll(FILE_MAX);
        long r;

        snprintf(what, sizeof(what), "truncate %s or %d to %ld", p.text, slot, (long)n);
        if (roll(2))
                BOTH(r, truncate(on(side, &p).text, n));
        else
                BOTH(r, ftruncate(files[slot].fd[side], n));
        (void)r;
}

static void do_fallocate(void)
{
        static const int modes[] = { 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };
        const int slot = (int)roll(OPEN_FILES), mode = modes[roll(3)];
        const off_t at = roll(FILE_MAX), n = 1 + roll(FILE_MAX / 2);
        long r;

        snprintf(what, sizeof(what), "fallocate %d mode %d at %ld, %ld", slot, mode, (long)at, (long)n);
        BOTH(r, fallocate(files[slot].fd[side], mode, at, n));
        (void)r;
}

static void do_copy(void)
{
        const int from = (int)roll(OPEN_FILES), to = (int)roll(OPEN_FILES);
        const off_t a = roll(FILE_MAX), b = roll(FILE_MAX);
        const size_t n = roll(8192);
        unsigned char buffer[8192];
        long r;

        if (from == to)
                return;
        snprintf(what, sizeof(what), "copy %d at %ld to %d at %ld, %zu", from, (long)a, to, (long)b, n);
        /* The model's file system may not have it: there by hand. */
        for (int side = 0; side < 2; side++) {
                off_t in = a, out = b;

                r = side == 0 ? copy_file_range(files[from].fd[0], &in, files[to].fd[0], &out, n, 0) : -1;
                if (r < 0) {
                        r = pread(files[from].fd[side], buffer, n, a);
                        if (r > 0)
                                r = pwrite(files[to].fd[side], buffer, (size_t)r, b);
                }
        }
}

static void do_names(void)
{
        const struct path p = any_path(), q = any_path();
        const unsigned op = roll(12);
        struct stat st[2];
        char text[2][256] = { "", "" };
        long r;

        snprintf(what, sizeof(what), "operation %u on %s, %s", op, p.text, q.text);
        switch (op) {
        case 0:
                BOTH(r, unlink(on(side, &p).text));
                break;
        case 1:
                BOTH(r, rename(on(side, &p).text, on(side, &q).text));
                break;
        case 2:
                BOTH(r, link(on(side, &p).text, on(side, &q).text));
                break;
        case 3:
                BOTH(r, symlink(q.text + 1, on(side, &p).text));
                break;
        case 4:
                BOTH(r, readlink(on(side, &p).text, text[side], 255));
                if (strcmp(text[0], text[1]) != 0)
                        differ("'%s', the model '%s'", text[0], text[1]);
                break;
        case 5:
        case 6: {
                struct path d = { "" };

                snprintf(d.text, sizeof(d.text), "/d%u", roll(3));
                snprintf(what, sizeof(what), "mkdir or rmdir %s", d.text);
                if (roll(3))
                        BOTH(r, mkdir(on(side, &d).text, 0755));
                else
                        BOTH(r, rmdir(on(side, &d).text));
                break;
        }
        case 7: {
                const mode_t mode = roll(2) ? 0600 : 0755;

                BOTH(r, chmod(on(side, &p).text, mode));
                break;
        }
        case 8:
                BOTH(r, renameat2(AT_FDCWD, on(side, &p).text, AT_FDCWD, on(side, &q).text, RENAME_EXCHANGE));
                break;
        case 9:
                BOTH(r, renameat2(AT_FDCWD, on(side, &p).text, AT_FDCWD, on(side, &q).text, RENAME_NOREPLACE));
                break;
        default:
                BOTH(r, lstat(on(side, &p).text, &st[side]));
                if (r == 0 && (st[0].st_mode != st[1].st_mode || (!S_ISDIR(st[0].st_mode) && st[0].st_nlink != st[1].st_nlink) ||
                               (S_ISREG(st[0].st_mode) && st[0].st_size != st[1].st_size)))
                        differ("mode %o links %lu size %ld, the model %o %lu %ld", st[0].st_mode, (unsigned long)st[0].st_nlink,
                               (long)st[0].st_size, st[1].st_mode, (unsigned long)st[1].st_nlink, (long)st[1].st_size);
        }
        (void)r;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
        return strcmp((*a)->d_name, (*b)->d_name);
}

/* Everything below both directories is the same. */
static void compare(const char *below)
{
        struct dirent **list[2];
        int n[2];

        snprintf(what, sizeof(what), "all of '%s'", below);
        for (int side = 0; side < 2; side++) {
                struct path p;

                snprintf(p.text, sizeof(p.text), "%s%.128s", sides[side], below);
                n[side] = scandir(p.text, &list[side], NULL, by_name);
        }
        if (n[0] != n[1])
                differ("%d names, the model has %d", n[0], n[1]);
        for (int i = 0; i < n[0]; i++) {
                const char *name = list[0][i]->d_name;
                struct path p;
                struct stat st;

                if (strcmp(name, list[1][i]->d_name) != 0)
                        differ("'%s', the model '%s'", name, list[1][i]->d_name);
                snprintf(p.text, sizeof(p.text), "%.100s/%.100s", below, name);
                if (name[0] == 'd')
                        compare(p.text);
                else if (name[0] == 'n' && lstat(on(1, &p).text, &st) == 0 && S_ISREG(st.st_mode)) {
                        long r;

                        snprintf(what, sizeof(what), "content of %s", p.text);
                        for (int side = 0; side < 2; side++)
                                chmod(on(side, &p).text, 0644);
                        BOTH(r, ({
                                     int fd = open(on(side, &p).text, O_RDONLY);
                                     long got = fd < 0 ? -1 : read(fd, data[side], sizeof(data[side]));

                                     if (fd >= 0)
                                             close(fd);
                                     got;
                             }));
                        if (r > 0 && memcmp(data[0], data[1], (size_t)r) != 0)
                                differ("other content");
                }
                for (int side = 0; side < 2; side++)
                        free(list[side][i]);
        }
        for (int side = 0; side < 2; side++)
                free(list[side]);
}

static int check(const char *dir, const char *model, unsigned long seed, unsigned long steps)
{
        static void (*const operations[])(void) = { do_open, do_open, do_write, do_write, do_write, do_read, do_read, do_map, do_truncate,
                                                    do_fallocate, do_copy, do_names, do_names, do_names, do_names, do_names, do_tmpfile };

        sides[0] = dir;
        sides[1] = model;
        random_state = seed * 0x9e3779b97f4a7c15ULL + 1;
        for (int i = 0; i < OPEN_FILES; i++)
                files[i].fd[0] = files[i].fd[1] = -1;
        for (step = 0; step < steps; step++) {
                operations[roll(sizeof(operations) / sizeof(operations[0]))]();
                if (step % 500 == 499)
                        compare("");
        }
        compare("");
        printf("files: %lu steps from seed %lu agree\n", steps, seed);
        return 0;
}

/* ---- many ---- */

static void many_path(char *path, size_t size, const char *dir, unsigned i, int file)
{
        if (file)
                snprintf(path, size, "%s/m%u/f%u", dir, i / 100, i);
        else
                snprintf(path, size, "%s/m%u", dir, i / 100);
}

static int many(const char *dir, unsigned n)
{
        char path[256], text[32], back[32];
        unsigned bad = 0;
        struct stat st;
        int fd, held;

        for (unsigned i = 0; i < n; i++) {
                many_path(path, sizeof(path), dir, i, 0);
                if (i % 100 == 0 && mkdir(path, 0755) < 0)
                        bad++;
                many_path(path, sizeof(path), dir, i, 1);
                fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
                bad += fd < 0 || write(fd, text, (size_t)snprintf(text, sizeof(text), "file %u", i)) < 0;
                close(fd);
        }
        for (unsigned round = 0; round < 3; round++)
                for (unsigned i = 0; i < n; i++) {
                        const unsigned k = (unsigned)((i * 7919ULL) % n);
                        ssize_t got;

                        many_path(path, sizeof(path), dir, k, 1);
                        snprintf(text, sizeof(text), "file %u", k);
                        if (stat(path, &st) < 0 || st.st_size != (off_t)strlen(text)) {
                                bad++;
                                continue;
                        }
                        fd = open(path, O_RDONLY);
                        got = read(fd, back, sizeof(back));
                        bad += got != (ssize_t)strlen(text) || memcmp(text, back, strlen(text)) != 0;
                        close(fd);
                }
        /* A file that is removed while open is still there for who has it. */
        many_path(path, sizeof(path), dir, 0, 1);
        held = open(path, O_RDWR);
        for (unsigned i = 0; i < n; i++) {
                many_path(path, sizeof(path), dir, i, 1);
                bad += unlink(path) < 0;
                many_path(path, sizeof(path), dir, i, 0);
                if (i % 100 == 99 || i == n - 1)
                        bad += rmdir(path) < 0;
        }
        bad += pread(held, back, sizeof(back), 0) != 6 || memcmp(back, "file 0", 6) != 0 || fstat(held, &st) < 0 || st.st_nlink != 0;
        printf("many: %u files, %u bad\n", n, bad);
        return bad != 0;
}

/* ---- race ---- */

static int race(const char *dir, unsigned seconds)
{
        char a[256], link[256], inside[256];
        const time_t end = time(NULL) + seconds;
        unsigned long walked = 0, outside = 0;
        pid_t swapper;

        snprintf(a, sizeof(a), "%s/real", dir);
        snprintf(link, sizeof(link), "%s/link", dir);
        snprintf(inside, sizeof(inside), "%s/real/etc/marker", dir);
        mkdir(a, 0755);
        snprintf(inside, sizeof(inside), "%s/real/etc", dir);
        mkdir(inside, 0755);
        if (symlink("/", link) < 0)
                return 1;
        swapper = fork();
        if (swapper == 0) {
                while (time(NULL) < end)
                        renameat2(AT_FDCWD, a, AT_FDCWD, link, RENAME_EXCHANGE);
                _exit(0);
        }
        snprintf(inside, sizeof(inside), "%s/real/etc/marker", dir);
        while (time(NULL) < end) {
                const int fd = open(inside, O_WRONLY | O_CREAT | O_NOFOLLOW, 0644);

                walked += fd >= 0;
                if (fd >= 0)
                        close(fd);
                unlink(inside);
                outside += access("/etc/marker", F_OK) == 0; /* this machine's own /etc: its kernel follows links, rightly */
                unlink("/etc/marker");
        }
        waitpid(swapper, NULL, 0);
        printf("race: %s\n", walked + outside ? "walked" : "never got through");
        return 0;
}

/* ---- read ---- */

static int read_speed(const char *file, unsigned mib, unsigned block, const char *how)
{
        const int direct = strcmp(how, "direct") == 0 ? O_DIRECT : 0;
        const uint64_t total = (uint64_t)mib << 20;
        const int fd = open(file, O_RDONLY | direct);
        struct timespec a, b;
        uint64_t done = 0, blocks;
        void *buffer = NULL;
        double seconds;

        if (fd < 0 || posix_memalign(&buffer, 4096, block)) {
                printf("read: %s: %s\n", file, strerror(errno));
                return 1;
        }
        blocks = (uint64_t)lseek(fd, 0, SEEK_END) / block;
        random_state = 88172645463325252ULL;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (uint64_t i = 0; done < total; i++) {
                const uint64_t at = strcmp(how, "sequential") == 0 ? i % blocks : (uint64_t)roll((unsigned)blocks);

                if (pread(fd, buffer, block, (off_t)(at * block)) != (ssize_t)block) {
                        printf("read: %s\n", strerror(errno));
                        return 1;
                }
                done += block;
        }
        clock_gettime(CLOCK_MONOTONIC, &b);
        seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
        printf("read: %s %u: %.1f MiB/s, %.0f a second\n", how, block, (double)mib / seconds, (double)(total / block) / seconds);
        return 0;
}

int main(int argc, char *argv[])
{
        setvbuf(stdout, NULL, _IOLBF, 0);
        if (argc == 6 && strcmp(argv[1], "check") == 0)
                return check(argv[2], argv[3], strtoul(argv[4], NULL, 10), strtoul(argv[5], NULL, 10));
        if (argc == 4 && strcmp(argv[1], "many") == 0)
                return many(argv[2], (unsigned)strtoul(argv[3], NULL, 10));
        if (argc == 4 && strcmp(argv[1], "race") == 0)
                return race(argv[2], (unsigned)strtoul(argv[3], NULL, 10));
        if (argc == 6 && strcmp(argv[1], "read") == 0)
                return read_speed(argv[2], (unsigned)strtoul(argv[3], NULL, 10), (unsigned)strtoul(argv[4], NULL, 10), argv[5]);
        fprintf(stderr, "files: bad usage\n");
        return 2;
}
