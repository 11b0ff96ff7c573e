/* What an archive can do to the directory that it is unpacked into, and to everything around it. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "image/unpack.h"
#include "image_util.h"

/* A tree and, beside it, what must not be touched. */
struct fixture {
        struct temp_dir dir;
        int root;
        struct bytes tar;
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        int fd;

        f->dir = temp_dir_new();
        assert_int_equal(mkdirat(f->dir.fd, "root", 0755), 0);
        assert_int_equal(mkdirat(f->dir.fd, "outside", 0755), 0);
        fd = openat(f->dir.fd, "outside/secret", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, "secret", 6), 6);
        close(fd);
        f->root = openat(f->dir.fd, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        close(f->root);
        temp_dir_remove(&f->dir);
        free(f->tar.data);
        free(f);
        return 0;
}

static int unpack(struct fixture *f)
{
        struct err *err = NULL;
        int r;

        tar_end(&f->tar);
        r = unpack_bytes(&f->tar, f->root, &err);
        if (r < 0)
                print_message("# %s\n", err_message(err));
        err_free(err);
        return r;
}

static void outside_is_untouched(struct fixture *f)
{
        char *text = read_text(f->dir.fd, "outside/secret");
        struct stat st;

        assert_string_equal(text, "secret");
        free(text);
        assert_int_equal(fstatat(f->dir.fd, "outside/secret", &st, 0), 0);
        assert_int_equal(st.st_nlink, 1);
        assert_int_not_equal(faccessat(f->dir.fd, "outside/new", F_OK, 0), 0);
        assert_int_not_equal(faccessat(f->dir.fd, "new", F_OK, 0), 0);
}

static struct stat stat_of(struct fixture *f, const char *path)
{
        struct stat st = { 0 };

        fstatat(f->root, path, &st, AT_SYMLINK_NOFOLLOW);
        return st;
}

static void has_text(struct fixture *f, const char *path, const char *wanted)
{
        char *text = read_text(f->root, path);

        assert_non_null(text);
        assert_string_equal(text, wanted);
        free(text);
}

static void dotdot_is_refused(void **state)
{
        static const char *const paths[] = { "../new", "a/../../new", "/../new", "a/..", "..", "./../new" };

        for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
                struct fixture *f = *state;

                f->tar.len = 0;
                tar_add(&f->tar, TAR_FILE, paths[i], NULL, "x");
                assert_int_equal(unpack(f), -EBADMSG);
                outside_is_untouched(f);
        }
}

static void absolute_paths_begin_at_the_root(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_FILE, "/etc//./strata-test", NULL, "x");
        assert_int_equal(unpack(f), 0);
        has_text(f, "etc/strata-test", "x");
        assert_int_not_equal(access("/etc/strata-test", F_OK), 0);
}

static void links_on_the_way_stay_inside(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_SYMLINK, "up", "../outside", NULL);
        tar_add(&f->tar, TAR_FILE, "up/new", NULL, "x");
        unpack(f);
        outside_is_untouched(f);
}

static void absolute_links_on_the_way_stay_inside(void **state)
{
        struct fixture *f = *state;
        char target[128];

        snprintf(target, sizeof(target), "%s/outside", f->dir.path);
        tar_add(&f->tar, TAR_SYMLINK, "up", target, NULL);
        tar_add(&f->tar, TAR_FILE, "up/secret", NULL, "overwritten");
        tar_add(&f->tar, TAR_FILE, "up/new", NULL, "x");
        unpack(f);
        outside_is_untouched(f);
}

/* What an entry says of itself is said of a link, never of what the link leads to. */
static void a_link_changes_nothing_where_it_leads(void **state)
{
        struct fixture *f = *state;
        const struct tar_entry link = { .type = TAR_SYMLINK,
                .path = (char *)"link",
                .link = (char *)"../outside/secret",
                .mode = 0777,
                .uid = is_real_root(f->root) ? 1234 : 0,
                .gid = is_real_root(f->root) ? 1234 : 0,
                .mtime.tv_sec = 77 };
        struct stat before, after;

        assert_int_equal(fstatat(f->dir.fd, "outside/secret", &before, 0), 0);
        tar_add_entry(&f->tar, &link, NULL);
        assert_int_equal(unpack(f), 0);
        assert_int_equal(fstatat(f->dir.fd, "outside/secret", &after, 0), 0);
        assert_int_equal(after.st_mode, before.st_mode);
        assert_int_equal(after.st_uid, before.st_uid);
        assert_int_equal(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
        assert_int_equal(stat_of(f, "link").st_mtim.tv_sec, 77);
}

static void links_inside_are_followed(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_DIR, "usr/lib", NULL, NULL);
        tar_add(&f->tar, TAR_SYMLINK, "lib", "/usr/lib", NULL);
        tar_add(&f->tar, TAR_FILE, "lib/file", NULL, "x");
        assert_int_equal(unpack(f), 0);
        has_text(f, "usr/lib/file", "x");
}

static void the_last_link_is_replaced(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_SYMLINK, "file", "../outside/secret", NULL);
        tar_add(&f->tar, TAR_FILE, "file", NULL, "mine");
        assert_int_equal(unpack(f), 0);
        has_text(f, "file", "mine");
        outside_is_untouched(f);
}

static void a_dir_over_a_link_replaces_it(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_SYMLINK, "dir", "../outside", NULL);
        tar_add(&f->tar, TAR_DIR, "dir", NULL, NULL);
        tar_add(&f->tar, TAR_FILE, "dir/new", NULL, "x");
        assert_int_equal(unpack(f), 0);
        has_text(f, "dir/new", "x");
        outside_is_untouched(f);
}

/* The directory cache must not remember what the link has replaced. */
static void a_link_over_a_dir_in_use(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_DIR, "dir", NULL, NULL);
        tar_add(&f->tar, TAR_FILE, "dir/one", NULL, "1");
        tar_add(&f->tar, TAR_DIR, "other", NULL, NULL);
        tar_add(&f->tar, TAR_SYMLINK, "dir", "other", NULL);
        tar_add(&f->tar, TAR_FILE, "dir/two", NULL, "2");
        assert_int_equal(unpack(f), 0);
        has_text(f, "other/two", "2");
        assert_true(S_ISLNK(stat_of(f, "dir").st_mode));
}

static void hardlinks_out_are_refused(void **state)
{
        static const char *const targets[] = { "../outside/secret", "/../outside/secret", "up/secret", "nothing", "",
                "dir" };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
                f->tar.len = 0;
                tar_add(&f->tar, TAR_DIR, "dir", NULL, NULL);
                tar_add(&f->tar, TAR_SYMLINK, "up", "../outside", NULL);
                tar_add(&f->tar, TAR_HARDLINK, "link", targets[i], NULL);
                assert_int_equal(unpack(f), -EBADMSG);
                outside_is_untouched(f);
        }
}

static void a_hardlink_to_a_link_is_the_link(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_SYMLINK, "link", "../outside/secret", NULL);
        tar_add(&f->tar, TAR_HARDLINK, "again", "link", NULL);
        assert_int_equal(unpack(f), 0);
        assert_true(S_ISLNK(stat_of(f, "again").st_mode));
        outside_is_untouched(f);
        f->tar.len = 0;
        tar_add(&f->tar, TAR_FILE, "again", NULL, "mine");
        assert_int_equal(unpack(f), 0);
        has_text(f, "again", "mine");
        outside_is_untouched(f);
}

static void hardlinks_share_the_file(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_FILE, "a/one", NULL, "x");
        tar_add(&f->tar, TAR_HARDLINK, "b/two", "/a/one", NULL);
        tar_add(&f->tar, TAR_HARDLINK, "b/two", "a/one", NULL);
        assert_int_equal(unpack(f), 0);
        assert_int_equal(stat_of(f, "a/one").st_ino, stat_of(f, "b/two").st_ino);
        assert_int_equal(stat_of(f, "a/one").st_nlink, 2);
}

static void whiteouts_become_devices(void **state)
{
        struct fixture *f = *state;
        struct stat st;

        tar_add(&f->tar, TAR_FILE, "dir/.wh.gone", NULL, "");
        assert_int_equal(unpack(f), 0);
        st = stat_of(f, "dir/gone");
        assert_true(S_ISCHR(st.st_mode));
        assert_int_equal(st.st_rdev, 0);
        assert_int_not_equal(faccessat(f->root, "dir/.wh.gone", F_OK, 0), 0);
}

static void whiteouts_through_links_stay_inside(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_SYMLINK, "up", "../outside", NULL);
        tar_add(&f->tar, TAR_FILE, "up/.wh.secret", NULL, "");
        tar_add(&f->tar, TAR_FILE, "up/.wh..wh..opq", NULL, "");
        unpack(f);
        outside_is_untouched(f);
}

static void whiteouts_of_nothing_are_refused(void **state)
{
        static const char *const names[] = { "a/.wh.", "a/.wh..", "a/.wh..." };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                f->tar.len = 0;
                tar_add(&f->tar, TAR_FILE, names[i], NULL, "");
                assert_int_equal(unpack(f), -EBADMSG);
        }
}

static bool is_opaque(struct fixture *f, const char *path)
{
        const int fd = openat(f->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        char value[4] = "";
        ssize_t n = fgetxattr(fd, "trusted.overlay.opaque", value, sizeof(value));

        if (n < 0)
                n = fgetxattr(fd, "user.overlay.opaque", value, sizeof(value));
        close(fd);
        return n == 1 && value[0] == 'y';
}

static void opaque_marks_the_directory(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_DIR, "dir", NULL, NULL);
        tar_add(&f->tar, TAR_FILE, "dir/.wh..wh..opq", NULL, "");
        tar_add(&f->tar, TAR_FILE, "dir/mine", NULL, "x");
        assert_int_equal(unpack(f), 0);
        assert_true(is_opaque(f, "dir"));
        has_text(f, "dir/mine", "x");
}

/* In whichever order they come, a whiteout is about lower layers only. */
static void a_whiteout_spares_its_own_layer(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_FILE, "first", NULL, "x");
        tar_add(&f->tar, TAR_FILE, ".wh.first", NULL, "");
        tar_add(&f->tar, TAR_FILE, ".wh.second", NULL, "");
        tar_add(&f->tar, TAR_FILE, "second", NULL, "y");
        tar_add(&f->tar, TAR_FILE, ".wh.dir", NULL, "");
        tar_add(&f->tar, TAR_DIR, "dir", NULL, NULL);
        assert_int_equal(unpack(f), 0);
        has_text(f, "first", "x");
        has_text(f, "second", "y");
        assert_true(is_opaque(f, "dir"));
}

static void xattr_entry(struct fixture *f, const char *path, const char *name)
{
        struct tar_xattr x = { .name = (char *)name, .value = (u8 *)"y", .len = 1 };
        const struct tar_entry e = { .type = TAR_DIR, .path = (char *)path, .mode = 0755, .xattrs = &x, .n_xattrs = 1 };

        tar_add_entry(&f->tar, &e, NULL);
}

static void overlay_marks_of_the_archive_are_dropped(void **state)
{
        struct fixture *f = *state;

        xattr_entry(f, "a", "trusted.overlay.opaque");
        xattr_entry(f, "b", "user.overlay.opaque");
        xattr_entry(f, "c", "security.selinux");
        assert_int_equal(unpack(f), 0);
        assert_false(is_opaque(f, "a"));
        assert_false(is_opaque(f, "b"));
}

static void user_attributes_are_kept(void **state)
{
        struct fixture *f = *state;
        char value[4];
        int fd;

        xattr_entry(f, "a", "user.strata");
        assert_int_equal(unpack(f), 0);
        fd = openat(f->root, "a", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(fgetxattr(fd, "user.strata", value, sizeof(value)), 1);
        close(fd);
}

static void modes_owners_and_times_arrive(void **state)
{
        struct fixture *f = *state;
        const struct tar_entry file = { .type = TAR_FILE,
                .path = (char *)"dir/file",
                .mode = 06755,
                .uid = 1234,
                .gid = 4321,
                .mtime.tv_sec = 77 };
        const struct tar_entry dir = {
                .type = TAR_DIR, .path = (char *)"dir", .mode = 01555, .uid = 1, .gid = 2, .mtime.tv_sec = 88
        };
        struct stat st;

        if (!is_real_root(f->root))
                skip();
        tar_add_entry(&f->tar, &dir, NULL);
        tar_add_entry(&f->tar, &file, NULL);
        assert_int_equal(unpack(f), 0);
        st = stat_of(f, "dir/file");
        assert_int_equal(st.st_mode & 07777, 06755);
        assert_int_equal(st.st_uid, 1234);
        assert_int_equal(st.st_gid, 4321);
        assert_int_equal(st.st_mtim.tv_sec, 77);
        st = stat_of(f, "dir");
        assert_int_equal(st.st_mode & 07777, 01555);
        assert_int_equal(st.st_uid, 1);
        assert_int_equal(st.st_mtim.tv_sec, 88);
}

static void a_giant_file_is_refused(void **state)
{
        struct fixture *f = *state;
        const struct tar_entry giant = { .type = TAR_FILE, .path = (char *)"giant", .mode = 0644, .size = 1ULL << 60 };

        tar_add_entry(&f->tar, &giant, NULL);
        assert_int_equal(unpack(f), -EFBIG);
        assert_int_equal(stat_of(f, "giant").st_size, 0);
}

/* A pax header of these records (POSIX.1-2017, pax, "pax Extended Header"): a file whose type is 'x'. */
static void add_pax(struct fixture *f, const char *const *records)
{
        char text[512] = "";
        unsigned sum = 0;
        size_t at, len = 0;
        u8 *header;

        for (; *records; records++) { /* "LENGTH key=value\n", two digits of length here */
                assert_true(strlen(*records) + 4 >= 10 && strlen(*records) + 4 < 100);
                len += (size_t)snprintf(text + len, sizeof(text) - len, "%zu %s\n", strlen(*records) + 4, *records);
        }
        at = f->tar.len;
        tar_add(&f->tar, TAR_FILE, "pax", NULL, text);
        header = f->tar.data + at;
        header[156] = 'x';
        memset(header + 148, ' ', 8);
        for (size_t i = 0; i < TAR_BLOCK; i++)
                sum += header[i];
        snprintf((char *)header + 148, 8, "%06o", sum);
}

static void maps_of_sparse_files_must_make_sense(void **state)
{
        static const struct {
                const char *map, *size;
                int result;
        } cases[] = {
                { "0,2,10,2", "20", 0 },
                { "10,2,0,2", "20", -EBADMSG },              /* backwards */
                { "0,2,1,2", "20", -EBADMSG },               /* over each other */
                { "0,2,10,2", "11", -EBADMSG },              /* over the end */
                { "0,2,10,20", "40", -EBADMSG },             /* more than there is */
                { "4611686018427387900,4", "20", -EBADMSG }, /* sums that would overflow */
                { "0,4,9223372036854775807,0", "20", -EBADMSG },
                { "0,2,10", "20", -EBADMSG },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct fixture *f = *state;
                char map[80], size[80];
                const char *const records[] = { map, size, NULL };

                snprintf(map, sizeof(map), "GNU.sparse.map=%s", cases[i].map);
                snprintf(size, sizeof(size), "GNU.sparse.size=%s", cases[i].size);
                f->tar.len = 0;
                add_pax(f, records);
                tar_add(&f->tar, TAR_FILE, "sparse", NULL, "data");
                assert_int_equal(unpack(f), cases[i].result);
        }
}

/* An archive whose beginning is written out and that then goes on with @rest more of nothing, which costs no memory: what a
 * compressed bomb looks like to the reader. */
struct endless {
        const struct bytes *head;
        u64 rest;
        u8 *zeros;
        bool begun;
};

#define ZEROS (1 * GIB)

static int next_endless(void *opaque, const u8 **ret_data, size_t *ret_len, struct err **err)
{
        struct endless *e = opaque;

        *ret_data = e->begun ? e->zeros : e->head->data;
        *ret_len = e->begun ? (size_t)MIN(e->rest, (u64)ZEROS) : e->head->len;
        if (e->begun)
                e->rest -= *ret_len;
        e->begun = true;
        return 0;
}

static int unpack_endless(struct fixture *f, u64 rest)
{
        struct endless e = { .head = &f->tar, .rest = rest };
        const struct unpack_options options = { .squash_owners = !is_real_root(f->root) };
        struct unpack_result result = { 0 };
        struct tar_reader *tar;
        struct err *err = NULL;
        int r;

        e.zeros = mmap(NULL, ZEROS, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        assert_ptr_not_equal(e.zeros, MAP_FAILED);
        assert_int_equal(tar_reader_new(&(struct byte_source){ next_endless, &e }, &tar, NULL), 0);
        r = unpack_layer(f->root, tar, &options, &result, &err);
        if (r < 0)
                print_message("# %s\n", err_message(err));
        err_free(err);
        json_decref(result.implied);
        tar_reader_free(tar);
        munmap(e.zeros, ZEROS);
        return r;
}

static void a_bomb_behind_the_end_is_refused(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_FILE, "file", NULL, "x");
        tar_end(&f->tar);
        assert_int_equal(unpack_endless(f, 1 * MIB), 0); /* the padding of a writer with large blocks */
        assert_int_equal(unpack_endless(f, 1ULL << 50), -EFBIG);
}

/* Everything counts, also headers that no file follows: thousands of them are a bomb without a single file. */
static void what_an_archive_may_have_is_limited(void **state)
{
        struct fixture *f = *state;
        struct bytes_source source = { .bytes = &f->tar, .piece = 512 };
        const struct byte_source bytes = bytes_source(&source);
        const struct tar_entry *entry;
        struct tar_reader *tar;
        int r;

        for (unsigned i = 0; i < 4096; i++)
                tar_add(&f->tar, TAR_FILE, "empty", NULL, "");
        assert_int_equal(tar_reader_new(&bytes, &tar, NULL), 0);
        tar_reader_limit(tar, 1 * MIB, "the test");
        while ((r = tar_reader_next(tar, &entry, NULL)) > 0)
                ;
        assert_int_equal(r, -EFBIG);
        tar_reader_free(tar);
}

/* Each path makes sixteen directories with names as long as names may be: what is remembered of them must not be all memory. */
static void a_bomb_of_directories_is_refused(void **state)
{
        struct fixture *f = *state;
        char path[TAR_PATH_MAX + 1];

        for (unsigned i = 0; i < 400; i++) {
                char *p = path + sprintf(path, "%0250u", i);

                for (unsigned depth = 1; depth < 16; depth++)
                        p += sprintf(p, "/%0250u", depth);
                tar_add(&f->tar, TAR_FILE, path, NULL, "");
        }
        assert_int_equal(unpack(f), -EFBIG);
}

static void what_ends_early_is_damaged(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_FILE, "file", NULL, "some data that is cut");
        f->tar.len = TAR_BLOCK + 5;
        assert_int_equal(unpack_bytes(&f->tar, f->root, NULL), -EBADMSG);
        f->tar.len = TAR_BLOCK - 1;
        assert_int_equal(unpack_bytes(&f->tar, f->root, NULL), -EBADMSG);
}

static void a_wrong_checksum_is_refused(void **state)
{
        struct fixture *f = *state;

        tar_add(&f->tar, TAR_FILE, "file", NULL, "x");
        f->tar.data[0] ^= 1;
        assert_int_equal(unpack(f), -EBADMSG);
}

static void a_tree_deeper_than_descriptors_is_removed(void **state)
{
        struct fixture *f = *state;
        char path[TAR_PATH_MAX + 1] = "";

        for (size_t i = 0; i < 1900; i++)
                strcat(path, "d/");
        tar_add(&f->tar, TAR_DIR, path, NULL, NULL);
        assert_int_equal(unpack(f), 0);
        f->tar.len = 0;
        tar_add(&f->tar, TAR_FILE, "d", NULL, "now a file");
        assert_int_equal(unpack(f), 0);
        has_text(f, "d", "now a file");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(dotdot_is_refused),
                TEST(absolute_paths_begin_at_the_root),
                TEST(links_on_the_way_stay_inside),
                TEST(absolute_links_on_the_way_stay_inside),
                TEST(a_link_changes_nothing_where_it_leads),
                TEST(links_inside_are_followed),
                TEST(the_last_link_is_replaced),
                TEST(a_dir_over_a_link_replaces_it),
                TEST(a_link_over_a_dir_in_use),
                TEST(hardlinks_out_are_refused),
                TEST(a_hardlink_to_a_link_is_the_link),
                TEST(hardlinks_share_the_file),
                TEST(whiteouts_become_devices),
                TEST(whiteouts_through_links_stay_inside),
                TEST(whiteouts_of_nothing_are_refused),
                TEST(opaque_marks_the_directory),
                TEST(a_whiteout_spares_its_own_layer),
                TEST(overlay_marks_of_the_archive_are_dropped),
                TEST(user_attributes_are_kept),
                TEST(modes_owners_and_times_arrive),
                TEST(a_giant_file_is_refused),
                TEST(maps_of_sparse_files_must_make_sense),
                TEST(a_bomb_behind_the_end_is_refused),
                TEST(what_an_archive_may_have_is_limited),
                TEST(a_bomb_of_directories_is_refused),
                TEST(what_ends_early_is_damaged),
                TEST(a_wrong_checksum_is_refused),
                TEST(a_tree_deeper_than_descriptors_is_removed),
        };

        return cmocka_run_group_tests_name("image_unpack", tests, NULL, NULL);
}
