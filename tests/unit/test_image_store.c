/* The store: what is added stays, what nobody refers to goes, whoever dies in between. */
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "image_util.h"

struct fixture {
        struct temp_dir dir;
        struct image_store *store;
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        f->dir = temp_dir_new();
        f->store = store_in(&f->dir);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        image_store_close(f->store);
        temp_dir_remove(&f->dir);
        free(f);
        return 0;
}

static void print_problem(void *opaque, const char *text)
{
        print_message("# %s\n", text);
}

static void is_whole(struct fixture *f)
{
        assert_int_equal(image_check(f->store, true, print_problem, NULL, NULL), 0);
}

static unsigned count_entries(struct fixture *f, const char *path)
{
        DIR *dir = fdopendir(openat(f->store->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        unsigned n = 0;

        while (readdir(dir))
                n++;
        closedir(dir);
        return n - 2;
}

static void an_image_is_found_by_name_and_id(void **state)
{
        struct fixture *f = *state;
        struct image *image = image_with_file(f->store, "one:1", "file", "x"), *found;
        char prefix[16];

        snprintf(prefix, sizeof(prefix), "%.12s", image_id(image) + 7);
        assert_int_equal(image_find(f->store, "docker.io/library/one:1", &found, NULL), 0);
        assert_string_equal(image_id(found), image_id(image));
        image_free(found);
        assert_int_equal(image_find(f->store, prefix, &found, NULL), 0);
        image_free(found);
        assert_int_equal(image_find(f->store, image_id(image), &found, NULL), 0);
        image_free(found);
        assert_int_equal(image_find(f->store, "one:2", &found, NULL), -ENOENT);
        assert_int_equal(image_find(f->store, "ffffff", &found, NULL), -ENOENT);
        image_free(image);
        is_whole(f);
}

static void the_last_name_takes_the_image_along(void **state)
{
        struct fixture *f = *state;

        image_free(image_with_file(f->store, "one", "file", "x"));
        assert_int_equal(image_tag(f->store, "one", "two", NULL), 0);
        assert_int_equal(image_remove(f->store, "one", false, NULL, NULL), 0);
        assert_int_equal(count_entries(f, DIR_LAYERS), 1);
        assert_int_equal(image_remove(f->store, "two", false, NULL, NULL), 0);
        assert_int_equal(count_entries(f, DIR_LAYERS), 0);
        assert_int_equal(count_entries(f, DIR_BLOBS), 0);
        assert_int_equal(count_entries(f, DIR_NAMES), 0);
        is_whole(f);
}

static void by_id_several_names_need_force(void **state)
{
        struct fixture *f = *state;
        struct image *image = image_with_file(f->store, "one", "file", "x");

        assert_int_equal(image_tag(f->store, "one", "two", NULL), 0);
        assert_int_equal(image_remove(f->store, image_id(image), false, NULL, NULL), -EBUSY);
        assert_int_equal(image_remove(f->store, image_id(image), true, NULL, NULL), 0);
        assert_int_equal(count_entries(f, DIR_BLOBS), 0);
        image_free(image);
}

static void shared_layers_stay(void **state)
{
        struct fixture *f = *state;
        const struct image_import_options options = { .name = "two", .comment = "another configuration" };
        struct image *one = image_with_file(f->store, "one", "file", "x"), *two;
        char *archive = image_layer_path(f->store, one, 0);
        struct bytes bytes = { 0 };
        int fd = openat(f->dir.fd, "archive", O_RDWR | O_CREAT, 0600);

        tar_add(&bytes, TAR_DIR, "./", NULL, NULL);
        tar_add(&bytes, TAR_FILE, "file", NULL, "x");
        tar_end(&bytes);
        assert_int_equal(io_write_all(fd, bytes.data, bytes.len), 0);
        lseek(fd, 0, SEEK_SET);
        assert_int_equal(image_import(f->store, fd, &options, &two, NULL), 0);
        close(fd);
        unlinkat(f->dir.fd, "archive", 0);
        assert_int_equal(count_entries(f, DIR_LAYERS), 1);
        assert_int_equal(image_remove(f->store, "one", false, NULL, NULL), 0);
        assert_int_equal(count_entries(f, DIR_LAYERS), 1);
        is_whole(f);
        image_free(one);
        image_free(two);
        free(archive);
        free(bytes.data);
}

static void a_moved_name_leaves_an_image_that_prune_takes(void **state)
{
        struct fixture *f = *state;
        u64 bytes;

        image_free(image_with_file(f->store, "one", "file", "x"));
        image_free(image_with_file(f->store, "one", "file", "y"));
        assert_int_equal(count_entries(f, DIR_LAYERS), 2);
        assert_int_equal(image_prune(f->store, NULL, &bytes, NULL), 0);
        assert_int_equal(count_entries(f, DIR_LAYERS), 1);
        is_whole(f);
}

static void a_lease_protects_what_has_no_name_yet(void **state)
{
        struct fixture *f = *state;
        struct lease *lease;
        struct digest digest;

        assert_int_equal(lease_open(f->store, &lease, NULL), 0);
        assert_int_equal(blob_put(lease, "blob", 4, &digest, NULL), 0);
        assert_int_equal(store_collect(f->store, NULL, NULL, NULL), 0);
        assert_true(blob_exists(f->store, &digest, NULL));
        lease_close(lease);
        assert_int_equal(store_collect(f->store, NULL, NULL, NULL), 0);
        assert_false(blob_exists(f->store, &digest, NULL));
}

static void what_a_dead_process_left_goes(void **state)
{
        struct fixture *f = *state;
        int ready[2];
        char byte;
        pid_t pid;

        assert_int_equal(pipe(ready), 0);
        pid = fork();
        if (pid == 0) {
                struct lease *lease;

                if (lease_open(f->store, &lease, NULL) == 0 && mkdirat(lease->tmp_fd, "half-made", 0700) == 0)
                        (void)!write(ready[1], "x", 1);
                pause();
                _exit(0);
        }
        assert_int_equal(read(ready[0], &byte, 1), 1);
        store_clean_up(f->store);
        assert_int_equal(count_entries(f, DIR_TMP), 1); /* it lives */
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        image_store_close(f->store);
        f->store = store_in(&f->dir);
        assert_int_equal(count_entries(f, DIR_TMP), 0);
        assert_int_equal(count_entries(f, DIR_LEASES), 0);
        close(ready[0]);
        close(ready[1]);
}

/* A layer that was unpacked before the machine went down may be half on the disk: it is made again from its blob. */
static void a_layer_of_another_boot_is_unpacked_again(void **state)
{
        struct fixture *f = *state;
        struct image *image = image_with_file(f->store, "one", "file", "x"), *again;
        char *path = image_layer_path(f->store, image, 0), file[256], *text;
        struct lease *lease;
        int fd;

        snprintf(file, sizeof(file), "%s/file", path);
        assert_int_equal(truncate(file, 0), 0);
        snprintf(file, sizeof(file), "%.*s/layer.json", (int)(strlen(path) - 5), path);
        fd = open(file, O_WRONLY | O_TRUNC);
        assert_int_equal(io_write_all(fd, "{\"boot\":\"another\"}", 18), 0);
        close(fd);
        assert_false(layer_exists(f->store, &image->config.diff_ids[0]));
        assert_int_equal(lease_open(f->store, &lease, NULL), 0);
        assert_int_equal(layer_ensure(lease, &image->manifest.layers[0], &image->config.diff_ids[0], NULL, NULL), 0);
        lease_close(lease);
        snprintf(file, sizeof(file), "%s/file", path);
        text = read_text(AT_FDCWD, file);
        assert_string_equal(text, "x");
        is_whole(f);
        assert_int_equal(image_find(f->store, "one", &again, NULL), 0);
        image_free(again);
        image_free(image);
        free(text);
        free(path);
}

/* Some time after it was unpacked a layer is proof against power failures. */
static void an_old_layer_is_synced(void **state)
{
        static const struct timespec old[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };
        struct fixture *f = *state;
        struct image *image = image_with_file(f->store, "one", "file", "x");
        char path[sizeof(DIR_LAYERS) + DIGEST_HEX + 16];

        layers_sync(f->store);
        assert_int_equal(count_entries(f, DIR_UNSYNCED), 1); /* too young */
        snprintf(path, sizeof(path), DIR_UNSYNCED "/%s", digest_hex(&image->config.diff_ids[0]));
        assert_int_equal(utimensat(f->store->fd, path, old, 0), 0);
        layers_sync(f->store);
        assert_int_equal(count_entries(f, DIR_UNSYNCED), 0);
        snprintf(path, sizeof(path), DIR_LAYERS "/%s/synced", digest_hex(&image->config.diff_ids[0]));
        assert_int_equal(faccessat(f->store->fd, path, F_OK, 0), 0);
        image_free(image);
}

static void damage_is_found(void **state)
{
        struct fixture *f = *state;
        struct image *image = image_with_file(f->store, "one", "file", "x");
        char path[256];
        int fd;

        snprintf(path, sizeof(path), DIR_BLOBS "/%s", digest_hex(&image->manifest.layers[0].digest));
        fd = openat(f->store->fd, path, O_WRONLY);
        assert_int_equal(pwrite(fd, "!", 1, 600), 1);
        close(fd);
        assert_int_equal(image_check(f->store, true, NULL, NULL, NULL), 1);
        assert_int_equal(unlinkat(f->store->fd, path, 0), 0);
        assert_int_equal(image_check(f->store, false, NULL, NULL, NULL), 1);
        image_free(image);
}

/* --- instances ------------------------------------------------------------------------------------------------------------- */

static int collect_change(void *opaque, char kind, const char *path)
{
        char *text = opaque;

        snprintf(text + strlen(text), 256 - strlen(text), "%c%s ", kind, path);
        return 0;
}

/* Mounts the instance's root, or skips the test where that is not possible. */
static char *attach(struct fixture *f, const char *id, unsigned flags)
{
        struct err *err = NULL;
        char *path = NULL;

        if (image_instance_attach(f->store, id, flags, &path, &err) < 0) {
                print_message("# %s\n", err_message(err));
                err_free(err);
                image_instance_remove(f->store, id, NULL);
                return NULL;
        }
        return path;
}

static void an_instance_pins_its_image(void **state)
{
        struct fixture *f = *state;
        struct image *image = image_with_file(f->store, "one", "file", "x");

        assert_int_equal(image_instance_create(f->store, image, "box", NULL), 0);
        assert_int_equal(image_instance_create(f->store, image, "box", NULL), -EEXIST);
        assert_int_equal(image_remove(f->store, "one", true, NULL, NULL), -EBUSY);
        assert_int_equal(image_instance_remove(f->store, "box", NULL), 0);
        assert_int_equal(image_instance_remove(f->store, "box", NULL), 0);
        assert_int_equal(image_remove(f->store, "one", false, NULL, NULL), 0);
        assert_int_equal(image_instance_create(f->store, image, "box", NULL), -ENOENT);
        assert_int_equal(image_instance_create(f->store, image, "../box", NULL), -EINVAL);
        image_free(image);
}

static void changes_become_a_layer(void **state)
{
        struct fixture *f = *state;
        const struct image_commit_options options = {
                .name = "two", .comment = "c", .changes = (const char *const[]){ "CMD [\"/x\"]", NULL }
        };
        struct image *image = image_with_file(f->store, "one", "file", "x"), *two;
        char changes[256] = "", path[300], *root, *text;
        int fd;

        assert_int_equal(image_instance_create(f->store, image, "box", NULL), 0);
        root = attach(f, "box", 0);
        if (!root) {
                image_free(image);
                skip();
        }
        snprintf(path, sizeof(path), "%s/file", root);
        text = read_text(AT_FDCWD, path);
        assert_string_equal(text, "x");
        free(text);
        assert_int_equal(unlink(path), 0);
        snprintf(path, sizeof(path), "%s/new", root);
        fd = open(path, O_WRONLY | O_CREAT, 0640);
        assert_int_equal(write(fd, "n", 1), 1);
        close(fd);
        assert_int_equal(image_instance_diff(f->store, "box", collect_change, changes, NULL), 0);
        assert_string_equal(changes, "D/file A/new ");
        assert_int_equal(image_instance_commit(f->store, "box", &options, &two, NULL), 0);
        assert_int_equal(image_layer_count(two), 2);
        assert_string_equal(image_get_config(two)->cmd[0], "/x");
        assert_int_equal(image_instance_remove(f->store, "box", NULL), 0);
        free(root);

        assert_int_equal(image_instance_create(f->store, two, "box2", NULL), 0);
        root = attach(f, "box2", IMAGE_MOUNT_READ_ONLY);
        assert_non_null(root);
        snprintf(path, sizeof(path), "%s/file", root);
        assert_int_not_equal(access(path, F_OK), 0);
        snprintf(path, sizeof(path), "%s/new", root);
        text = read_text(AT_FDCWD, path);
        assert_string_equal(text, "n");
        assert_int_equal(open(path, O_WRONLY), -1);
        free(text);
        assert_int_equal(image_instance_remove(f->store, "box2", NULL), 0);
        free(root);
        image_free(image);
        image_free(two);
        is_whole(f);
}

/* "tmp/file" alone must not turn /tmp with its sticky bit into a directory of the default kind. */
static void directories_that_a_layer_does_not_mention_keep_their_modes(void **state)
{
        struct fixture *f = *state;
        const struct tar_entry tmp = { .type = TAR_DIR, .path = (char *)"tmp", .mode = 01777 };
        struct image *one, *two;
        struct bytes lower = { 0 }, upper = { 0 };
        struct stat st;

        tar_add_entry(&lower, &tmp, NULL);
        tar_add(&lower, TAR_DIR, "tmp/sub", NULL, NULL);
        tar_end(&lower);
        tar_add(&upper, TAR_FILE, "tmp/sub/file", NULL, "x");
        tar_end(&upper);
        one = image_of_layers(f->store, "one", &lower, NULL);
        two = image_of_layers(f->store, "two", &lower, &upper);
        assert_int_equal(image_instance_create(f->store, one, "a", NULL), 0);
        assert_int_equal(image_instance_create(f->store, two, "b", NULL), 0);
        assert_int_not_equal(fstatat(f->store->fd, "instances/a/upper/tmp", &st, 0), 0);
        assert_int_equal(fstatat(f->store->fd, "instances/b/upper/tmp", &st, 0), 0);
        assert_int_equal(st.st_mode & 07777, 01777);
        assert_int_equal(fstatat(f->store->fd, "instances/b/upper/tmp/sub", &st, 0), 0);
        assert_int_equal(st.st_mode & 07777, 0755);
        image_instance_remove(f->store, "a", NULL);
        image_instance_remove(f->store, "b", NULL);
        image_free(one);
        image_free(two);
        free(lower.data);
        free(upper.data);
}

static void images_of_no_layer_and_of_the_same_layer_twice_are_mounted(void **state)
{
        struct fixture *f = *state;
        struct bytes tar = { 0 };
        struct image *images[2];
        char *root;

        tar_add(&tar, TAR_FILE, "file", NULL, "x");
        tar_end(&tar);
        images[0] = image_of_layers(f->store, "twice", &tar, &tar);
        images[1] = image_of_layers(f->store, "none", NULL, NULL);
        for (unsigned i = 0; i < 4; i++) {
                assert_int_equal(image_instance_create(f->store, images[i & 1], "box", NULL), 0);
                root = attach(f, "box", i & 2 ? IMAGE_MOUNT_READ_ONLY : 0);
                if (!root)
                        fail_msg("image %u is not mounted", i);
                free(root);
                assert_int_equal(image_instance_remove(f->store, "box", NULL), 0);
        }
        image_free(images[0]);
        image_free(images[1]);
        free(tar.data);
}

/* More layers than fit into a page of mount options by their paths. */
static void many_layers_are_mounted(void **state)
{
        struct fixture *f = *state;
        struct image *image = image_with_file(f->store, "many", "file0", "0");
        char path[300], *root = NULL;
        unsigned n;

        for (n = 1; n < 60; n++) {
                const struct image_commit_options options = { .name = "many" };
                struct image *next;
                int fd;

                assert_int_equal(image_instance_create(f->store, image, "box", NULL), 0);
                snprintf(path, sizeof(path), "%s/instances/box/upper/file%u", image_store_root(f->store), n);
                fd = open(path, O_WRONLY | O_CREAT, 0600);
                assert_int_equal(write(fd, "x", 1), 1);
                close(fd);
                assert_int_equal(image_instance_commit(f->store, "box", &options, &next, NULL), 0);
                assert_int_equal(image_instance_remove(f->store, "box", NULL), 0);
                image_free(image);
                image = next;
        }
        assert_int_equal(image_instance_create(f->store, image, "box", NULL), 0);
        root = attach(f, "box", 0);
        image_free(image);
        if (!root)
                skip();
        for (unsigned i = 0; i < n; i++) {
                snprintf(path, sizeof(path), "%s/file%u", root, i);
                assert_int_equal(access(path, F_OK), 0);
        }
        assert_int_equal(image_instance_remove(f->store, "box", NULL), 0);
        free(root);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(an_image_is_found_by_name_and_id),
                TEST(the_last_name_takes_the_image_along),
                TEST(by_id_several_names_need_force),
                TEST(shared_layers_stay),
                TEST(a_moved_name_leaves_an_image_that_prune_takes),
                TEST(a_lease_protects_what_has_no_name_yet),
                TEST(what_a_dead_process_left_goes),
                TEST(a_layer_of_another_boot_is_unpacked_again),
                TEST(an_old_layer_is_synced),
                TEST(damage_is_found),
                TEST(an_instance_pins_its_image),
                TEST(changes_become_a_layer),
                TEST(directories_that_a_layer_does_not_mention_keep_their_modes),
                TEST(images_of_no_layer_and_of_the_same_layer_twice_are_mounted),
                TEST(many_layers_are_mounted),
        };

        return cmocka_run_group_tests_name("image_store", tests, NULL, NULL);
}
