/* virtio-fs: the file server by its requests, and the device. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include "base/cleanup.h"
#include "dev/virtio/fs_internal.h"
#include "virtio_driver.h"

enum { FDS = 128, INODES = 200 };

struct fixture {
        struct fuse_server *server;
        struct fuse_scratch *scratch;
        char dir[32]; /* with share/ and outside */
        bool quick;
        u8 in[1 << 17];
        u32 reply_len;
        union {
                u8 bytes[1 << 17];
                struct {
                        struct fuse_out_header header;
                        union {
                                struct fuse_entry_out entry;
                                struct fuse_attr_out attr;
                                struct fuse_open_out open;
                                struct fuse_write_out write;
                                struct fuse_init_out init;
                                struct {
                                        struct fuse_entry_out entry;
                                        struct fuse_open_out open;
                                } created;
                                char data[1 << 16];
                        };
                } _packed_;
        } reply;
};

static void shell(const struct fixture *f, const char *command)
{
        char text[512];

        snprintf(text, sizeof(text), "cd %s && %s", f->dir, command);
        assert_int_equal(system(text), 0);
}

static void server_new_from(struct fixture *f, struct fuse_server_config config)
{
        char path[64];

        snprintf(path, sizeof(path), "%s/share", f->dir);
        config.path = path;
        config.fds = FDS;
        config.inodes = INODES;
        fuse_server_free(f->server);
        assert_int_equal(fuse_server_new(&config, &f->server, NULL), 0);
}

static void server_new(struct fixture *f, bool read_only)
{
        server_new_from(f, (struct fuse_server_config){ .read_only = read_only });
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        f->scratch = calloc(1, sizeof(*f->scratch));
        snprintf(f->dir, sizeof(f->dir), "/tmp/fuse.XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        shell(f, "mkdir -p share/d/e && echo hello >share/file && echo secret >outside && ln -s ../outside share/link && "
                 "ln -s / share/root && chmod 777 .");
        server_new(f, false);
        assert_int_equal(fuse_thread_enter(f->server), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        char command[64];

        fuse_server_free(f->server);
        snprintf(command, sizeof(command), "rm -rf %s", f->dir);
        assert_int_equal(system(command), 0);
        free(f->scratch);
        free(f);
        return 0;
}

/* ---- requests ---- */

struct part {
        const void *data;
        size_t n;
};
#define PART(x) ((struct part){ &(x), sizeof(x) })
#define TEXT(s) ((struct part){ (s), strlen(s) + 1 })

static void serve(struct fixture *f, size_t len, size_t room)
{
        const struct iovec out[] = { { f->in, MIN(len, (size_t)50) }, { f->in + 50, len > 50 ? len - 50 : 0 } };
        const struct iovec in[] = { { f->reply.bytes, MIN(room, (size_t)20) }, { f->reply.bytes + 20, room > 20 ? room - 20 : 0 } };
        const struct fuse_message message = { out, in, len > 50 ? 2 : 1, room > 20 ? 2 : room ? 1 : 0 };

        memset(&f->reply, 0xee, sizeof(f->reply));
        if (!f->quick || !fuse_server_handle_quick(f->server, f->scratch, &message, &f->reply_len))
                f->reply_len = fuse_server_handle(f->server, f->scratch, &message);
}

static int ask_as(struct fixture *f, u32 uid, u32 gid, u32 opcode, u64 nodeid, size_t room, const struct part *parts, unsigned n)
{
        struct fuse_in_header header = { .opcode = opcode, .unique = 77, .nodeid = nodeid, .uid = uid, .gid = gid };
        size_t len = sizeof(header);

        for (unsigned i = 0; i < n; i++) {
                memcpy(f->in + len, parts[i].data, parts[i].n);
                len += parts[i].n;
        }
        header.len = (u32)len;
        memcpy(f->in, &header, sizeof(header));
        serve(f, len, room);
        if (!f->reply_len)
                return 0;
        assert_int_equal(f->reply.header.len, f->reply_len);
        assert_int_equal(f->reply.header.unique, 77);
        return f->reply.header.error;
}

#define ROOM 70000
#define ask(f, opcode, nodeid, ...)                                                                                    \
        ask_as(f, 0, 0, opcode, nodeid, ROOM, (const struct part[]){ __VA_ARGS__ },                                    \
               sizeof((const struct part[]){ __VA_ARGS__ }) / sizeof(struct part))
#define ask_plain(f, opcode, nodeid) ask_as(f, 0, 0, opcode, nodeid, ROOM, NULL, 0)

static u64 lookup(struct fixture *f, u64 parent, const char *name)
{
        assert_int_equal(ask(f, FUSE_LOOKUP, parent, TEXT(name)), 0);
        return f->reply.entry.nodeid;
}

static int getattr(struct fixture *f, u64 nodeid)
{
        const struct fuse_getattr_in in = { 0 };

        return ask(f, FUSE_GETATTR, nodeid, PART(in));
}

static int open_file(struct fixture *f, u64 nodeid, u32 flags)
{
        const struct fuse_open_in in = { .flags = flags };

        return ask(f, FUSE_OPEN, nodeid, PART(in));
}

static int create(struct fixture *f, u64 parent, const char *name, u32 flags, u32 mode)
{
        const struct fuse_create_in in = { .flags = flags | O_CREAT, .mode = S_IFREG | mode };

        return ask(f, FUSE_CREATE, parent, PART(in), TEXT(name));
}

static int read_file(struct fixture *f, u64 fh, u64 offset, u32 size)
{
        const struct fuse_read_in in = { .fh = fh, .offset = offset, .size = size };

        return ask(f, FUSE_READ, 0, PART(in));
}

static int write_file(struct fixture *f, u64 fh, u64 offset, const char *text, u32 flags)
{
        const struct fuse_write_in in = { .fh = fh, .offset = offset, .size = (u32)strlen(text), .write_flags = flags };

        return ask(f, FUSE_WRITE, 0, PART(in), { text, strlen(text) });
}

static void forget(struct fixture *f, u64 nodeid, u64 n)
{
        const struct fuse_forget_in in = { .nlookup = n };

        assert_int_equal(ask(f, FUSE_FORGET, nodeid, PART(in)), 0);
        assert_int_equal(f->reply_len, 0);
}

static unsigned open_fds(void)
{
        DIR *dir = opendir("/proc/self/fd");
        unsigned n = 0;

        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

/* ---- names ---- */

static void names_are_one_component(void **state)
{
        static const char *const names[] = { "", ".", "..", "/", "d/e", "../outside", "d/", "/etc" };
        struct fixture *f = *state;
        char long_name[300];
        const struct fuse_mkdir_in mkdir_in = { .mode = 0755 };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                assert_int_equal(ask(f, FUSE_LOOKUP, 1, TEXT(names[i])), -EINVAL);
                assert_int_equal(ask(f, FUSE_MKDIR, 1, PART(mkdir_in), TEXT(names[i])), -EINVAL);
                assert_int_equal(ask(f, FUSE_UNLINK, 1, TEXT(names[i])), -EINVAL);
        }
        memset(long_name, 'x', sizeof(long_name) - 1);
        long_name[sizeof(long_name) - 1] = '\0';
        assert_int_equal(ask(f, FUSE_LOOKUP, 1, TEXT(long_name)), -ENAMETOOLONG);
        assert_int_equal(ask(f, FUSE_LOOKUP, 1, { "no end", 6 }), -EINVAL);
        assert_int_equal(ask(f, FUSE_LOOKUP, 1, TEXT("nothing")), -ENOENT);
}

static void links_are_never_followed(void **state)
{
        struct fixture *f = *state;
        const u64 link = lookup(f, 1, "link");
        const u64 root = lookup(f, 1, "root");
        const struct fuse_setattr_in size = { .valid = FATTR_SIZE };
        const struct fuse_setattr_in mode = { .valid = FATTR_MODE, .mode = 0777 };
        const struct fuse_open_in dir = { 0 };

        assert_true(S_ISLNK(f->reply.entry.attr.mode));
        assert_int_equal(ask_plain(f, FUSE_READLINK, link), 0);
        assert_memory_equal(f->reply.data, "../outside", 10);
        assert_int_equal(open_file(f, link, O_RDONLY), -EACCES);
        assert_int_equal(ask(f, FUSE_SETATTR, link, PART(size)), -EACCES);
        assert_int_equal(ask(f, FUSE_SETATTR, link, PART(mode)), -EOPNOTSUPP);
        assert_int_equal(ask(f, FUSE_LOOKUP, root, TEXT("etc")), -ENOTDIR);
        assert_int_equal(ask(f, FUSE_OPENDIR, root, PART(dir)), -ENOTDIR);
        assert_int_equal(create(f, 1, "link", O_WRONLY | O_TRUNC, 0666), -EACCES);
        shell(f, "grep -q secret outside");
}

/* A directory that the host, or another request, replaces by a link while its number is in use. */
static void a_directory_that_became_a_link_is_stale(void **state)
{
        struct fixture *f = *state;
        const u64 d = lookup(f, 1, "d"), e = lookup(f, d, "e");

        f->server->cached_fds_max = 0;
        (void)lookup(f, 1, "file"); /* closes the others' descriptors */
        shell(f, "mv share/d share/old && mkdir outside-dir && mkdir outside-dir/e && ln -s ../outside-dir share/d");
        assert_int_equal(getattr(f, e), -ESTALE);
        assert_int_equal(getattr(f, d), -ESTALE);
        assert_int_equal(create(f, e, "x", O_RDWR, 0644), -ESTALE);
        shell(f, "test ! -e outside-dir/e/x");
}

static void devices_are_refused(void **state)
{
        struct fixture *f = *state;
        struct fuse_mknod_in in = { .mode = S_IFBLK | 0600, .rdev = 0x800 };

        assert_int_equal(ask(f, FUSE_MKNOD, 1, PART(in), TEXT("b")), -EPERM);
        in.mode = S_IFCHR | 0600;
        assert_int_equal(ask(f, FUSE_MKNOD, 1, PART(in), TEXT("c")), -EPERM);
        in.mode = S_IFIFO | 0600;
        assert_int_equal(ask(f, FUSE_MKNOD, 1, PART(in), TEXT("p")), 0);
        /* A fifo is there, but nobody opens it here, which might never end. */
        assert_int_equal(open_file(f, f->reply.entry.nodeid, O_RDONLY), -EACCES);
        in.mode = 0640;
        assert_int_equal(ask(f, FUSE_MKNOD, 1, PART(in), TEXT("r")), 0);
        assert_int_equal(f->reply.entry.attr.mode, S_IFREG | 0640);
        shell(f, "test ! -e share/b -a ! -e share/c -a -p share/p -a -f share/r");
}

static void links_renames_and_removals_reach_the_host(void **state)
{
        struct fixture *f = *state;
        const u64 file = lookup(f, 1, "file"), d = lookup(f, 1, "d");
        const struct fuse_link_in link = { .oldnodeid = file };
        struct fuse_rename2_in rename = { .newdir = d, .flags = RENAME_NOREPLACE };

        assert_int_equal(ask(f, FUSE_LINK, d, PART(link), TEXT("hard")), 0);
        assert_int_equal(f->reply.entry.nodeid, file);
        assert_int_equal(f->reply.entry.attr.nlink, 2);
        assert_int_equal(ask(f, FUSE_RENAME2, 1, PART(rename), TEXT("file"), TEXT("hard")), -EEXIST);
        rename.flags = 0x100;
        assert_int_equal(ask(f, FUSE_RENAME2, 1, PART(rename), TEXT("file"), TEXT("new")), -EINVAL);
        rename.flags = 0;
        assert_int_equal(ask(f, FUSE_RENAME2, 1, PART(rename), TEXT("file"), TEXT("new")), 0);
        assert_int_equal(ask(f, FUSE_SYMLINK, d, TEXT("sym"), TEXT("/any/where/../..")), 0);
        assert_int_equal(ask(f, FUSE_UNLINK, d, TEXT("hard")), 0);
        assert_int_equal(ask(f, FUSE_RMDIR, 1, TEXT("d")), -ENOTEMPTY);
        shell(f, "test ! -e share/file -a -f share/d/new -a ! -e share/d/hard -a \"$(readlink share/d/sym)\" = /any/where/../..");
}

/* ---- numbers ---- */

static void forgotten_numbers_are_stale(void **state)
{
        struct fixture *f = *state;
        const u64 d = lookup(f, 1, "d"), e = lookup(f, d, "e");

        assert_int_equal(lookup(f, 1, "d"), d);
        forget(f, d, 1);
        assert_int_equal(getattr(f, d), 0);
        forget(f, d, 1);
        assert_int_equal(getattr(f, e), 0);
        forget(f, e, 99);
        assert_int_equal(getattr(f, e), -ESTALE);
        assert_int_equal(getattr(f, d), -ESTALE);
        assert_int_equal(getattr(f, 12345), -ESTALE);
        forget(f, 1, ~0ULL); /* the root stays */
        assert_int_equal(getattr(f, 1), 0);
        assert_int_equal(f->server->n_inodes, 1);
}

static void files_and_descriptors_are_limited(void **state)
{
        struct fixture *f = *state;
        const unsigned before = open_fds();
        u64 nodes[INODES];
        char name[16];

        shell(f, "cd share/d && seq 250 | sed s/^/f/ | xargs touch");
        const u64 d = lookup(f, 1, "d");
        for (unsigned i = 0; i < INODES - 2; i++) {
                snprintf(name, sizeof(name), "f%u", i + 1);
                nodes[i] = lookup(f, d, name);
        }
        assert_int_equal(ask(f, FUSE_LOOKUP, d, TEXT("f249")), -ENFILE);
        assert_true(open_fds() <= before + FDS);
        for (unsigned i = 0; i < INODES - 2; i++)
                assert_int_equal(getattr(f, nodes[i]), 0);
        forget(f, nodes[0], 1);
        (void)lookup(f, d, "f249");
        for (unsigned i = 0; i < FDS / 2; i++)
                assert_int_equal(open_file(f, nodes[i + 1], O_RDONLY), 0);
        assert_int_equal(open_file(f, nodes[1], O_RDONLY), -ENFILE);
        assert_true(open_fds() <= before + FDS);
        assert_int_equal(ask_plain(f, FUSE_DESTROY, 0), 0);
        assert_int_equal(f->server->n_inodes, 1);
        assert_true(open_fds() <= before);
}

static void a_file_is_found_again_after_renames(void **state)
{
        struct fixture *f = *state;
        const u64 d = lookup(f, 1, "d"), e = lookup(f, d, "e"), file = lookup(f, 1, "file");
        const struct fuse_rename_in to_e = { .newdir = e }, to_root = { .newdir = 1 };

        f->server->cached_fds_max = 0;
        assert_int_equal(ask(f, FUSE_RENAME, 1, PART(to_e), TEXT("file"), TEXT("moved")), 0);
        assert_int_equal(ask(f, FUSE_RENAME, d, PART(to_root), TEXT("e"), TEXT("e2")), 0);
        (void)lookup(f, 1, "link");
        assert_int_equal(getattr(f, file), 0);
        assert_int_equal(f->reply.attr.attr.size, 6);
        /* Another file in its place is not it. */
        shell(f, "rm share/e2/moved && echo other >share/e2/moved");
        (void)lookup(f, 1, "link");
        assert_int_equal(getattr(f, file), -ESTALE);
}

static void a_removed_file_lives_as_long_as_it_is_known(void **state)
{
        struct fixture *f = *state;
        const u64 file = lookup(f, 1, "file");

        f->server->cached_fds_max = 0;
        assert_int_equal(ask(f, FUSE_UNLINK, 1, TEXT("file")), 0);
        (void)lookup(f, 1, "link");
        assert_int_equal(getattr(f, file), 0);
        assert_int_equal(f->reply.attr.attr.nlink, 0);
        assert_int_equal(open_file(f, file, O_RDONLY), 0);
        assert_int_equal(read_file(f, f->reply.open.fh, 0, 100), 0);
        assert_memory_equal(f->reply.data, "hello\n", 6);
        forget(f, file, 1);
        assert_int_equal(f->server->n_kept_fds, 1); /* the handle has it */
}

/* ---- data ---- */

static void what_is_written_is_read(void **state)
{
        struct fixture *f = *state;
        struct fuse_release_in release = { 0 };

        for (unsigned quick = 0; quick < 2; quick++) {
                u64 fh;

                f->quick = quick;
                assert_int_equal(create(f, 1, quick ? "a" : "b", O_RDWR | O_APPEND, 0640), 0);
                fh = release.fh = f->reply.created.open.fh;
                assert_int_equal(f->reply.created.entry.attr.mode, S_IFREG | 0640);
                assert_int_equal(write_file(f, fh, 3, "abc", 0), 0);
                assert_int_equal(f->reply.write.size, 3);
                assert_int_equal(write_file(f, fh, 0, "xyz", 0), 0); /* the offset counts, O_APPEND is the guest's */
                assert_int_equal(read_file(f, fh, 1, 100), 0);
                assert_int_equal(f->reply_len, sizeof(struct fuse_out_header) + 5);
                assert_memory_equal(f->reply.data, "yzabc", 5);
                assert_int_equal(read_file(f, fh, 1000, 100), 0);
                assert_int_equal(f->reply_len, sizeof(struct fuse_out_header));
                assert_int_equal(read_file(f, fh + 1, 0, 1), -EBADF);
                assert_int_equal(read_file(f, fh, 0, 2 << 20), -EINVAL);
                assert_int_equal(read_file(f, fh, ~0ULL, 1), -EINVAL);
                assert_int_equal(read_file(f, fh, 0, ROOM), -EINVAL); /* more than there is room for */
                assert_int_equal(ask(f, FUSE_RELEASE, 0, PART(release)), 0);
                assert_int_equal(read_file(f, fh, 0, 1), -EBADF);
        }
        assert_int_equal(create(f, 1, "a", O_RDWR | O_EXCL, 0640), -EEXIST);
        assert_int_equal(create(f, 1, "a", O_RDWR | O_TRUNC, 0640), 0);
        shell(f, "test -e share/a -a ! -s share/a");
}

/* Wherever the guest believes the end to be; what it writes back of mapped pages has its place. */
static void what_is_appended_goes_to_the_end(void **state)
{
        struct fixture *f = *state;
        const u64 file = lookup(f, 1, "file");
        struct fuse_write_in in = { .size = 3, .flags = O_APPEND };

        assert_int_equal(open_file(f, file, O_RDWR | O_APPEND), 0);
        in.fh = f->reply.open.fh;
        shell(f, "echo longer >>share/file");
        assert_int_equal(ask(f, FUSE_WRITE, 0, PART(in), (struct part){ "end", 3 }), 0);
        assert_int_equal(f->reply.write.size, 3);
        in.write_flags = FUSE_WRITE_CACHE;
        assert_int_equal(ask(f, FUSE_WRITE, 0, PART(in), (struct part){ "HEL", 3 }), 0);
        shell(f, "test \"$(cat share/file)\" = \"$(printf 'HELlo\\nlonger\\nend')\"");
}

static void a_write_takes_set_user_id_away(void **state)
{
        struct fixture *f = *state;
        u64 fh;

        assert_int_equal(create(f, 1, "s", O_RDWR, 04755), 0);
        assert_int_equal(f->reply.created.entry.attr.mode, S_IFREG | 04755);
        fh = f->reply.created.open.fh;
        assert_int_equal(write_file(f, fh, 0, "x", FUSE_WRITE_KILL_SUIDGID), 0);
        shell(f, "test $(stat -c %a share/s) = 755");
}

static void a_file_without_a_name_can_get_one(void **state)
{
        struct fixture *f = *state;
        const struct fuse_create_in in = { .flags = O_RDWR, .mode = 0600 };
        struct fuse_link_in link;
        u64 fh;

        assert_int_equal(ask(f, FUSE_TMPFILE, 1, PART(in)), 0);
        link.oldnodeid = f->reply.created.entry.nodeid;
        fh = f->reply.created.open.fh;
        assert_int_equal(write_file(f, fh, 0, "late", 0), 0);
        assert_int_equal(ask(f, FUSE_LINK, 1, PART(link), TEXT("named")), 0);
        assert_int_equal(f->reply.entry.nodeid, link.oldnodeid);
        shell(f, "test $(cat share/named) = late");
}

static void directories_are_listed_whole(void **state)
{
        struct fixture *f = *state;
        const struct fuse_open_in open_in = { 0 };
        struct fuse_read_in in = { .size = 1000 };
        bool seen[150] = { false };
        unsigned n = 0, dots = 0;
        u64 d;

        shell(f, "cd share/d && rmdir e && seq 0 149 | sed s/^/entry/ | xargs touch");
        d = lookup(f, 1, "d");
        assert_int_equal(ask(f, FUSE_OPENDIR, d, PART(open_in)), 0);
        in.fh = f->reply.open.fh;
        for (;;) {
                size_t at = 0, len;

                assert_int_equal(ask(f, FUSE_READDIRPLUS, d, PART(in)), 0);
                len = f->reply_len - sizeof(struct fuse_out_header);
                assert_true(len <= in.size);
                if (!len)
                        break;
                while (at < len) {
                        struct fuse_direntplus entry;
                        char name[32] = "";

                        memcpy(&entry, f->reply.data + at, sizeof(entry));
                        assert_in_range(entry.dirent.namelen, 1, sizeof(name) - 1);
                        memcpy(name, f->reply.data + at + FUSE_NAME_OFFSET_DIRENTPLUS, entry.dirent.namelen);
                        if (name[0] == '.') {
                                dots++;
                                assert_int_equal(entry.entry_out.nodeid, 0);
                                assert_int_equal(entry.dirent.ino, d);
                        } else {
                                const unsigned i = (unsigned)strtoul(name + 5, NULL, 10);

                                assert_in_range(i, 0, ARRAY_SIZE(seen) - 1);
                                assert_false(seen[i]);
                                seen[i] = true;
                                n++;
                                assert_int_not_equal(entry.entry_out.nodeid, 0);
                        }
                        in.offset = entry.dirent.off;
                        at += FUSE_DIRENTPLUS_SIZE(&entry);
                }
        }
        assert_int_equal(n, 150);
        assert_int_equal(dots, 2);
        in.offset = 0x1234567; /* from anywhere: no harm */
        ask(f, FUSE_READDIR, d, PART(in));
        assert_int_equal(ask(f, FUSE_READDIR, 1, PART(in)), -ENOTDIR); /* another file's handle */
}

/* ---- what the guest may keep ---- */

static void a_shared_directory_is_asked_again(void **state)
{
        struct fixture *f = *state;
        const struct fuse_open_in in = { 0 };

        assert_int_equal(ask(f, FUSE_LOOKUP, 1, TEXT("later")), -ENOENT);
        (void)lookup(f, 1, "file");
        assert_int_equal(f->reply.entry.entry_valid, 1);
        assert_int_equal(f->reply.entry.attr_valid, 1);
        assert_int_equal(ask(f, FUSE_OPENDIR, 1, PART(in)), 0);
        assert_int_equal(f->reply.open.open_flags, 0);
}

static void of_a_private_one_everything_is_kept(void **state)
{
        struct fixture *f = *state;
        const struct fuse_open_in in = { 0 };

        server_new_from(f, (struct fuse_server_config){ .is_private = true });
        (void)lookup(f, 1, "file");
        assert_in_range(f->reply.entry.entry_valid, 600, UINT32_MAX);
        assert_in_range(f->reply.entry.attr_valid, 600, UINT32_MAX);
        assert_int_equal(getattr(f, 1), 0);
        assert_in_range(f->reply.attr.attr_valid, 600, UINT32_MAX);
        assert_int_equal(lookup(f, 1, "later"), 0); /* that there is none, too */
        assert_in_range(f->reply.entry.entry_valid, 600, UINT32_MAX);
        assert_int_equal(ask(f, FUSE_OPENDIR, 1, PART(in)), 0);
        assert_int_equal(f->reply.open.open_flags, FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE);
        assert_int_equal(open_file(f, lookup(f, 1, "file"), O_RDONLY), 0);
        assert_int_equal(f->reply.open.open_flags, FOPEN_KEEP_CACHE);
        shell(f, "touch share/later"); /* a guest that forgot, and asks again */
        assert_int_not_equal(lookup(f, 1, "later"), 0);
        assert_int_equal(ask(f, FUSE_LOOKUP, 1, TEXT("../outside")), -EINVAL);
}

/* ---- rights ---- */

static void a_read_only_share_changes_nothing(void **state)
{
        struct fixture *f = *state;
        const struct fuse_setattr_in setattr = { .valid = FATTR_MODE };
        const struct fuse_mkdir_in mkdir_in = { .mode = 0755 };
        const struct fuse_rename_in rename = { .newdir = 1 };
        u64 file, fh;

        server_new(f, true);
        file = lookup(f, 1, "file");
        assert_int_equal(create(f, 1, "new", O_RDWR, 0644), -EROFS);
        assert_int_equal(open_file(f, file, O_RDWR), -EROFS);
        assert_int_equal(open_file(f, file, O_RDONLY | O_TRUNC), -EROFS);
        assert_int_equal(ask(f, FUSE_SETATTR, file, PART(setattr)), -EROFS);
        assert_int_equal(ask(f, FUSE_MKDIR, 1, PART(mkdir_in), TEXT("x")), -EROFS);
        assert_int_equal(ask(f, FUSE_UNLINK, 1, TEXT("file")), -EROFS);
        assert_int_equal(ask(f, FUSE_RENAME, 1, PART(rename), TEXT("file"), TEXT("y")), -EROFS);
        assert_int_equal(ask(f, FUSE_SYMLINK, 1, TEXT("x"), TEXT("y")), -EROFS);
        assert_int_equal(open_file(f, file, O_RDONLY), 0);
        fh = f->reply.open.fh;
        assert_int_equal(write_file(f, fh, 0, "x", 0), -EROFS);
        assert_int_equal(read_file(f, fh, 0, 5), 0);
}

static void new_files_belong_to_who_made_them(void **state)
{
        struct fixture *f = *state;
        const struct fuse_mkdir_in in = { .mode = 0750 };

        if (geteuid() != 0)
                skip();
        assert_int_equal(ask_as(f, 5, 6, FUSE_MKDIR, 1, ROOM, (const struct part[]){ PART(in), TEXT("x") }, 2), 0);
        assert_int_equal(f->reply.entry.attr.uid, 5);
        assert_int_equal(f->reply.entry.attr.gid, 6);
        assert_int_equal(f->reply.entry.attr.mode, S_IFDIR | 0750);
        shell(f, "mkdir share/g && chgrp 99 share/g && chmod 2775 share/g");
        assert_int_equal(ask_as(f, 5, 6, FUSE_MKDIR, lookup(f, 1, "g"), ROOM, (const struct part[]){ PART(in), TEXT("x") }, 2), 0);
        assert_int_equal(f->reply.entry.attr.gid, 99);
        assert_int_equal(f->reply.entry.attr.mode, S_IFDIR | 02750);
}

static void set_cap_chown(bool on)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

        assert_int_equal(syscall(SYS_capget, &header, data), 0);
        data[0].effective = on ? data[0].effective | 1U << CAP_CHOWN : data[0].effective & ~(1U << CAP_CHOWN);
        assert_int_equal(syscall(SYS_capset, &header, data), 0);
}

static void without_the_right_to_chown_all_is_one_user_s(void **state)
{
        struct fixture *f = *state;
        const struct fuse_init_in init = { .major = 7, .minor = 37, .flags = ~0U };
        const struct fuse_setattr_in other = { .valid = FATTR_UID, .uid = 5 }, own = { .valid = FATTR_UID, .uid = 0 };

        set_cap_chown(false);
        assert_int_equal(ask(f, FUSE_INIT, 0, PART(init)), 0);
        assert_false(f->reply.init.flags & FUSE_WRITEBACK_CACHE);
        assert_int_equal(create(f, 1, "x", O_RDWR, 0644), 0);
        assert_int_equal(f->reply.created.entry.attr.uid, 0);
        assert_int_equal(ask(f, FUSE_SETATTR, f->reply.created.entry.nodeid, PART(other)), -EPERM);
        assert_int_equal(ask(f, FUSE_SETATTR, lookup(f, 1, "x"), PART(own)), 0);
        set_cap_chown(geteuid() == 0);
}

static void only_some_extended_attributes_pass(void **state)
{
        struct fixture *f = *state;
        const u64 file = lookup(f, 1, "file");
        const u32 set[2] = { 5, 0 };
        const struct fuse_getxattr_in get = { .size = 100 }, ask_size = { 0 };

        if (ask(f, FUSE_SETXATTR, file, PART(set), TEXT("user.colour"), { "green", 5 }) == -EOPNOTSUPP)
                skip(); /* the file system of /tmp has none */
        assert_int_equal(ask(f, FUSE_SETXATTR, file, PART(set), TEXT("trusted.overlay.opaque"), { "yyyyy", 5 }), -EOPNOTSUPP);
        assert_int_equal(ask(f, FUSE_SETXATTR, file, PART(set), TEXT("security.selinux"), { "yyyyy", 5 }), -EOPNOTSUPP);
        assert_int_equal(ask(f, FUSE_SETXATTR, file, PART(set), TEXT("user.short"), { "gree", 4 }), -EINVAL);
        assert_int_equal(ask(f, FUSE_GETXATTR, file, PART(get), TEXT("user.colour")), 0);
        assert_memory_equal(f->reply.data, "green", 5);
        assert_int_equal(ask(f, FUSE_GETXATTR, file, PART(get), TEXT("trusted.x")), -ENODATA);
        assert_int_equal(ask(f, FUSE_LISTXATTR, file, PART(ask_size)), 0);
        assert_int_equal(((struct fuse_getxattr_out *)f->reply.data)->size, strlen("user.colour") + 1);
        assert_int_equal(ask(f, FUSE_REMOVEXATTR, file, TEXT("user.colour")), 0);
        assert_int_equal(ask(f, FUSE_GETXATTR, file, PART(get), TEXT("user.colour")), -ENODATA);
}

static void refused_attributes_are_answered_at_once(void **state)
{
        struct fixture *f = *state;
        const u64 file = lookup(f, 1, "file");
        const struct fuse_getxattr_in get = { .size = 100 };
        static const struct {
                const char *name;
                bool at_once;
        } cases[] = { { "system.posix_acl_access", true }, { "security.selinux", true }, { "security.capability", false }, { "user.x", false } };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const size_t name_len = strlen(cases[i].name) + 1;
                const struct fuse_in_header header = { .opcode = FUSE_GETXATTR, .unique = 77, .nodeid = file,
                                                       .len = (u32)(sizeof(header) + sizeof(get) + name_len) };
                const struct iovec out = { f->in, header.len }, in = { f->reply.bytes, ROOM };
                const struct fuse_message message = { &out, &in, 1, 1 };

                memcpy(f->in, &header, sizeof(header));
                memcpy(f->in + sizeof(header), &get, sizeof(get));
                memcpy(f->in + sizeof(header) + sizeof(get), cases[i].name, name_len);
                assert_int_equal(fuse_server_handle_quick(f->server, f->scratch, &message, &f->reply_len), cases[i].at_once);
                if (cases[i].at_once)
                        assert_int_equal(f->reply.header.error, -ENODATA);
        }
}

/* ---- requests that are none ---- */

static void malformed_requests_are_answered(void **state)
{
        struct fixture *f = *state;
        struct fuse_in_header header = { .unique = 1 };

        for (u32 opcode = 0; opcode < 60; opcode++) {
                for (u32 len = 0; len < 120; len++) {
                        memset(f->in, 0, 120);
                        header.opcode = opcode;
                        header.len = len;
                        header.nodeid = 1;
                        memcpy(f->in, &header, sizeof(header));
                        serve(f, 100, 200);
                        if (len < sizeof(header) || len > 100)
                                assert_int_equal(f->reply.header.error, -EINVAL);
                        assert_true(f->reply_len <= 200);
                }
        }
        serve(f, 10, 200); /* half a header */
        assert_int_equal(f->reply.header.error, -EINVAL);
        header.len = sizeof(header);
        header.opcode = FUSE_STATFS;
        memcpy(f->in, &header, sizeof(header));
        serve(f, sizeof(header), 15); /* no room for an answer */
        assert_int_equal(f->reply_len, 0);
        serve(f, sizeof(header), 50); /* not enough */
        assert_int_equal(f->reply.header.error, -ERANGE);
        assert_int_equal(f->reply_len, 16);
}

/* ---- saved state ---- */

static void save(struct fixture *f, struct state_out *out)
{
        state_out_init(out);
        fuse_server_save(f->server, out);
        assert_int_equal(state_out_finish(out, NULL), 0);
}

static int load(struct fixture *f, const struct state_out *saved, size_t len)
{
        struct state_in in = { .data = saved->data, .len = len, .section_end = len };

        return fuse_server_load(f->server, &in, NULL);
}

static void a_restored_guest_goes_on_with_its_files(void **state)
{
        struct fixture *f = *state;
        const u64 d = lookup(f, 1, "d"), e = lookup(f, d, "e"), file = lookup(f, 1, "file");
        struct state_out saved;
        u64 fh, gone;

        assert_int_equal(open_file(f, file, O_RDWR), 0);
        fh = f->reply.open.fh;
        assert_int_equal(create(f, e, "gone", O_RDWR, 0600), 0);
        gone = f->reply.created.entry.nodeid;
        assert_int_equal(ask(f, FUSE_UNLINK, e, TEXT("gone")), 0);
        save(f, &saved);
        /* Another process, another copy of the directory: other inode numbers. */
        shell(f, "cp -a share copy && rm -r share && mv copy share");
        server_new(f, false);
        assert_int_equal(load(f, &saved, saved.len), 0);
        assert_int_equal(getattr(f, e), 0);
        assert_int_equal(read_file(f, fh, 0, 5), 0);
        assert_memory_equal(f->reply.data, "hello", 5);
        assert_int_equal(getattr(f, gone), -ESTALE);
        assert_true(lookup(f, 1, "link") > gone);
        assert_int_equal(lookup(f, 1, "d"), d);
        state_out_free(&saved);
}

static u32 flags_of_open(struct fixture *f, u64 nodeid)
{
        assert_int_equal(open_file(f, nodeid, O_RDONLY), 0);
        return f->reply.open.open_flags;
}

static void a_restored_guest_keeps_what_it_has_cached(void **state)
{
        struct fixture *f = *state;
        struct state_out saved;
        u64 same, other;

        shell(f, "echo one >share/same; echo one >share/other; sleep 3.1"); /* times that have settled */
        same = lookup(f, 1, "same");
        other = lookup(f, 1, "other");
        assert_int_equal(flags_of_open(f, same), 0);
        assert_int_equal(flags_of_open(f, same), FOPEN_KEEP_CACHE);
        assert_int_equal(flags_of_open(f, other), 0);
        save(f, &saved);
        shell(f, "echo two >share/other");
        server_new(f, false);
        assert_int_equal(load(f, &saved, saved.len), 0);
        assert_int_equal(flags_of_open(f, same), FOPEN_KEEP_CACHE);
        assert_int_equal(flags_of_open(f, other), 0);
        state_out_free(&saved);
}

static void a_restored_path_does_not_lead_outside(void **state)
{
        struct fixture *f = *state;
        const u64 e = lookup(f, lookup(f, 1, "d"), "e");
        struct state_out saved;

        save(f, &saved);
        shell(f, "mv share/d share/old && mkdir -p outside-dir/e && ln -s ../outside-dir share/d");
        server_new(f, false);
        assert_int_equal(load(f, &saved, saved.len), 0);
        assert_int_equal(getattr(f, e), -ESTALE);
        state_out_free(&saved);
}

/* The directory is the same one: a name is not enough. */
static void a_replaced_file_is_lost(void **state)
{
        struct fixture *f = *state;
        const u64 d = lookup(f, 1, "d"), e = lookup(f, d, "e"), file = lookup(f, 1, "file"),
                  other = lookup(f, 1, "link");
        struct state_out saved;
        u64 fh;

        assert_int_equal(open_file(f, file, O_RDWR), 0);
        fh = f->reply.open.fh;
        save(f, &saved);
        shell(f, "echo other > share/new && mv share/new share/file && mkdir -p share/new/e && mv share/d share/old && "
                 "mv share/new share/d");
        server_new(f, false);
        assert_int_equal(load(f, &saved, saved.len), 0);
        assert_int_equal(getattr(f, file), -ESTALE);
        assert_int_equal(read_file(f, fh, 0, 5), -ESTALE);
        assert_int_equal(read_file(f, fh + 100, 0, 5), -EBADF);
        assert_int_equal(getattr(f, d), -ESTALE);
        assert_int_equal(getattr(f, e), -ESTALE);
        assert_int_equal(getattr(f, other), 0);
        assert_true(lookup(f, 1, "file") > other);
        assert_int_equal(lookup(f, 1, "old"), d); /* seen again: it is the one that the guest knows */
        assert_int_equal(getattr(f, e), 0);
        state_out_free(&saved);
}

/* Nobody else changes a private one, and on overlayfs inode numbers change by themselves. */
static void in_a_private_directory_names_decide(void **state)
{
        struct fixture *f = *state;
        const u64 file = lookup(f, 1, "file");
        struct state_out saved;

        save(f, &saved);
        shell(f, "cp share/file share/new && mv share/new share/file");
        server_new_from(f, (struct fuse_server_config){ .is_private = true });
        assert_int_equal(load(f, &saved, saved.len), 0);
        assert_int_equal(getattr(f, file), 0);
        state_out_free(&saved);
}

static void a_saved_circle_of_directories_is_stale(void **state)
{
        enum { FIRST = 5 * 8 + 4, PARENT = 2 * 8 }; /* the first inode's record; its parent */
        struct fixture *f = *state;
        const u64 d = lookup(f, 1, "d"), e = lookup(f, d, "e");
        struct state_out saved;
        u64 nodeid;

        save(f, &saved);
        memcpy(&nodeid, saved.data + FIRST, sizeof(nodeid));
        assert_int_equal(nodeid, d);
        memcpy(saved.data + FIRST + PARENT, &e, sizeof(e));
        server_new(f, false);
        assert_int_equal(load(f, &saved, saved.len), 0);
        assert_int_equal(getattr(f, d), -ESTALE);
        assert_int_equal(getattr(f, e), -ESTALE);
        assert_int_equal(getattr(f, 1), 0);
        state_out_free(&saved);
}

static void damaged_states_are_refused(void **state)
{
        struct fixture *f = *state;
        const u64 d = lookup(f, 1, "d"), file = lookup(f, 1, "file");
        struct state_out saved;

        assert_int_equal(open_file(f, file, O_RDWR), 0);
        save(f, &saved);
        for (size_t len = 0; len < saved.len; len++) {
                assert_true(load(f, &saved, len) < 0);
                assert_int_equal(getattr(f, d), 0); /* nothing changed */
        }
        for (size_t i = 0; i < saved.len; i++) {
                saved.data[i] ^= 0x81;
                load(f, &saved, saved.len);
                getattr(f, d);
                saved.data[i] ^= 0x81;
        }
        assert_int_equal(load(f, &saved, saved.len), 0);
        assert_int_equal(getattr(f, d), 0);
        state_out_free(&saved);
}

/* ---- the device ---- */

#define REQUEST 0x400000ULL
#define ANSWER 0x500000ULL

static void the_device_serves_its_queues(void **state)
{
        struct fixture *f = *state;
        struct virtio_fs_config config = { .tag = "tag" };
        struct fake_machine *m = fake_machine_new();
        const struct fuse_in_header init = { .len = sizeof(init) + sizeof(struct fuse_init_in), .opcode = FUSE_INIT, .unique = 5 };
        const struct fuse_init_in init_in = { .major = 7, .minor = 37 };
        const struct fuse_in_header syncfs = { .len = sizeof(syncfs), .opcode = FUSE_SYNCFS, .unique = 6, .nodeid = 1 };
        struct fuse_out_header answer;
        struct driver d;
        u32 id, len;

        config.server = TAKE_PTR(f->server);
        assert_int_equal(virtio_fs_new(&m->f.env, m->bus, &config, NULL), 0);
        fake_machine_start(m);
        driver_probe(&d, m, 1);
        assert_int_equal(mmio_read(m, d.config, 4), 't' | 'a' << 8 | 'g' << 16);
        assert_int_equal(mmio_read(m, d.config + 36, 4), 1);
        driver_start(&d, 0, 2, 64);
        memcpy(ram(m, REQUEST), &init, sizeof(init));
        memcpy(ram(m, REQUEST + sizeof(init)), &init_in, sizeof(init_in));
        driver_add(&d, 1, (const struct driver_segment[]){ { REQUEST, init.len, false }, { ANSWER, 200, true } }, 2);
        driver_kick(&d, 1);
        wait_for(driver_used(&d, 1, &id, &len));
        memcpy(&answer, ram(m, ANSWER), sizeof(answer));
        assert_int_equal(answer.error, 0);
        assert_int_equal(answer.len, len);
        assert_int_equal(len, sizeof(answer) + sizeof(struct fuse_init_out));
        /* Many at once, on threads; a reset in between waits for them. */
        memcpy(ram(m, REQUEST), &syncfs, sizeof(syncfs));
        for (unsigned i = 0; i < 30; i++)
                driver_add(&d, 1, (const struct driver_segment[]){ { REQUEST, syncfs.len, false }, { ANSWER + 256 * i, 200, true } }, 2);
        driver_kick(&d, 1);
        assert_true(driver_negotiate(&d, BIT(VIRTIO_F_VERSION_1)));
        driver_start(&d, 0, 2, 64);
        fake_check_state(&m->f, fake_env_device(&m->f, "virtio-fs"));
        fake_machine_free(m);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(names_are_one_component),
                TEST(links_are_never_followed),
                TEST(a_directory_that_became_a_link_is_stale),
                TEST(devices_are_refused),
                TEST(links_renames_and_removals_reach_the_host),
                TEST(forgotten_numbers_are_stale),
                TEST(files_and_descriptors_are_limited),
                TEST(a_file_is_found_again_after_renames),
                TEST(a_removed_file_lives_as_long_as_it_is_known),
                TEST(what_is_written_is_read),
                TEST(what_is_appended_goes_to_the_end),
                TEST(a_write_takes_set_user_id_away),
                TEST(a_file_without_a_name_can_get_one),
                TEST(directories_are_listed_whole),
                TEST(a_shared_directory_is_asked_again),
                TEST(of_a_private_one_everything_is_kept),
                TEST(a_read_only_share_changes_nothing),
                TEST(new_files_belong_to_who_made_them),
                TEST(without_the_right_to_chown_all_is_one_user_s),
                TEST(only_some_extended_attributes_pass),
                TEST(refused_attributes_are_answered_at_once),
                TEST(malformed_requests_are_answered),
                TEST(a_restored_guest_goes_on_with_its_files),
                TEST(a_restored_guest_keeps_what_it_has_cached),
                TEST(a_restored_path_does_not_lead_outside),
                TEST(a_replaced_file_is_lost),
                TEST(in_a_private_directory_names_decide),
                TEST(a_saved_circle_of_directories_is_stale),
                TEST(damaged_states_are_refused),
                TEST(the_device_serves_its_queues),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
