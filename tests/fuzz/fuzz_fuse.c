/* The file server of virtio-fs: a sequence of requests, partly plausible, on a small directory. What must hold: nothing outside of it
 * changes, descriptors and inodes stay within their limits, an answer is never longer than its room, and what was saved loads. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/virtio/fs_internal.h"
#include "input.h"

enum { FDS = 64, INODES = 24, REQUEST_MAX = 2048, ANSWER_MAX = 8192 };

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

struct place {
        char dir[64];
        int fd;
};

/* dir/share: what the guest gets; beside it a file that it must not reach, and links to that. */
static void place_make(struct place *p)
{
        int fd;

        snprintf(p->dir, sizeof(p->dir), "/dev/shm/fuzz-fuse-%d", (int)getpid());
        require(mkdir(p->dir, 0700) == 0 || errno == EEXIST);
        p->fd = open(p->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        require(p->fd >= 0);
        require(mkdirat(p->fd, "share", 0755) == 0 && mkdirat(p->fd, "share/d", 0755) == 0);
        fd = openat(p->fd, "outside", O_CREAT | O_RDWR | O_CLOEXEC | O_TRUNC, 0600);
        require(fd >= 0 && write(fd, "secret", 6) == 6);
        close(fd);
        require(symlinkat("../outside", p->fd, "share/l") == 0 && symlinkat("..", p->fd, "share/up") == 0);
        fd = openat(p->fd, "share/f", O_CREAT | O_RDWR | O_CLOEXEC, 0644);
        require(fd >= 0 && write(fd, "file", 4) == 4);
        close(fd);
}

static void empty(int dir_fd, unsigned depth)
{
        DIR *dir = fdopendir(dir_fd);
        struct dirent *d;

        require(dir && depth < 200);
        while ((d = readdir(dir))) {
                if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
                        continue;
                if (unlinkat(dirfd(dir), d->d_name, 0) == 0)
                        continue;
                require(fchmodat(dirfd(dir), d->d_name, 0700, 0) == 0);
                empty(openat(dirfd(dir), d->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), depth + 1);
                require(unlinkat(dirfd(dir), d->d_name, AT_REMOVEDIR) == 0);
        }
        closedir(dir);
}

/* The outside is as it was. */
static void place_check_and_remove(struct place *p)
{
        struct stat st;
        char text[8];
        const int fd = openat(p->fd, "outside", O_RDONLY | O_CLOEXEC);
        unsigned names = 0;
        DIR *dir = opendir(p->dir);

        require(fd >= 0 && read(fd, text, sizeof(text)) == 6 && memcmp(text, "secret", 6) == 0);
        require(fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0600 && st.st_uid == geteuid() && st.st_nlink == 1);
        close(fd);
        while (dir && readdir(dir))
                names++;
        require(dir && names == 4);
        closedir(dir);
        require(fstatat(p->fd, "share", &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode));
        empty(openat(p->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0);
        close(p->fd);
        rmdir(p->dir);
}

/* Something like a structure: small numbers at places where they matter more often than noise. */
static size_t fill(u8 *to, struct input *in)
{
        static const char *const names[] = { "f", "d", "l", "up", "..", ".", "a", "b", "", "d/x", "user.x" };
        const size_t words = take(in, 1) % 13;
        size_t n = 0;

        for (size_t i = 0; i < words; i++, n += 4) {
                const u32 word = (u32)take(in, 1) << (take(in, 1) % 4 ? 0 : 10);

                memcpy(to + n, &word, 4);
        }
        for (u64 i = take(in, 1) % 3; i; i--) {
                const char *name = names[take(in, 1) % ARRAY_SIZE(names)];

                memcpy(to + n, name, strlen(name) + 1);
                n += strlen(name) + 1;
        }
        for (u64 i = take(in, 1) % 64; i; i--)
                to[n++] = (u8)take(in, 1);
        return n;
}

static void request(struct fuse_server *s, struct fuse_scratch *scratch, struct input *in)
{
        static u8 out_bytes[REQUEST_MAX], in_bytes[ANSWER_MAX];
        struct fuse_in_header header = { .opcode = (u32)take(in, 1) % 64, .unique = 1, .nodeid = take(in, 1) % 16 };
        const size_t n = sizeof(header) + fill(out_bytes + sizeof(header), in);
        const size_t room = take(in, 1) & 3 ? ANSWER_MAX : take(in, 2) % ANSWER_MAX, cut = take(in, 1);
        const struct iovec out[] = { { out_bytes, MIN(cut, n) }, { out_bytes + MIN(cut, n), n - MIN(cut, n) } };
        const struct iovec back[] = { { in_bytes, MIN(cut, room) }, { in_bytes + MIN(cut, room), room - MIN(cut, room) } };
        const struct fuse_message message = { out, back, 2, 2 };
        u32 written;

        /* It would write back all of the host's disks, time and again. */
        if (header.opcode == FUSE_SYNCFS)
                return;
        header.len = (u32)(n + (take(in, 1) & 15 ? 0 : take(in, 1)));
        memcpy(out_bytes, &header, sizeof(header));
        if (!(take(in, 1) & 1) || !fuse_server_handle_quick(s, scratch, &message, &written))
                written = fuse_server_handle(s, scratch, &message);
        require(written <= room);
        require(s->n_inodes <= INODES && s->n_handles <= FDS / 2 && s->n_cached_fds <= FDS / 4 + 2 && s->n_kept_fds <= FDS / 8);
}

static void save_and_load(struct fuse_server *s, u64 flip)
{
        struct state_out out;
        struct state_in state = { 0 };

        state_out_init(&out);
        fuse_server_save(s, &out);
        require(state_out_finish(&out, NULL) == 0);
        state.data = out.data;
        state.len = state.section_end = out.len;
        require(fuse_server_load(s, &state, NULL) == 0);
        if (flip) {
                out.data[(flip >> 3) % out.len] ^= (u8)(1u << (flip & 7));
                state.pos = 0;
                fuse_server_load(s, &state, NULL);
        }
        state_out_free(&out);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        static struct fuse_scratch scratch;
        static int before = -1; /* where the fuzzer itself stands */
        struct input in = { data, len };
        struct fuse_server *s = NULL;
        struct place place;
        char path[80];
        const struct fuse_server_config config = { .path = path, .read_only = take(&in, 1) % 8 == 0, .fds = FDS, .inodes = INODES };

        place_make(&place);
        snprintf(path, sizeof(path), "%s/share", place.dir);
        require(fuse_server_new(&config, &s, NULL) == 0);
        if (before < 0) {
                const struct rlimit size = { 1 << 20, 1 << 20 };

                /* Requests would like to have large files. */
                signal(SIGXFSZ, SIG_IGN);
                setrlimit(RLIMIT_FSIZE, &size);
                before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
                require(before >= 0 && fuse_thread_enter(s) == 0);
        }
        require(fchdir(s->proc_fd) == 0);
        for (unsigned i = 0; i < 100 && in.left; i++) {
                if (take(&in, 1) % 32 == 0)
                        save_and_load(s, take(&in, 2));
                else
                        request(s, &scratch, &in);
        }
        require(fchdir(before) == 0);
        fuse_server_free(s);
        place_check_and_remove(&place);
        return 0;
}
