/* Snapshots on disk: the map of RAM, the state file against strangers, directories that are whole or not there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "vm/snapshot_files.h"

#define N_PAGES 64
#define RAM     (N_PAGES * 4096ULL)

static char directory[] = "/tmp/strata-snapshot.XXXXXX";

static const char *path_of(const char *name)
{
        static char path[128];

        snprintf(path, sizeof(path), "%s/%s", directory, name);
        return path;
}

/* ---- the map ---- */

static void map_of(const u8 *pages, u64 n, u8 top, struct snapshot_map *ret)
{
        assert_int_equal(snapshot_map_from_pages(pages, n, top, SNAPSHOT_RUNS_MAX, ret, NULL), 0);
        assert_true(snapshot_map_is_sound(ret, n, SNAPSHOT_LAYERS_MAX));
}

static void a_map_says_of_each_page_where_it_is(void **state)
{
        u8 pages[N_PAGES], again[N_PAGES];
        struct snapshot_map map;

        for (unsigned seed = 1; seed < 200; seed++) {
                srand(seed);
                for (unsigned i = 0; i < N_PAGES; i++)
                        pages[i] = rand() % 3 ? (i ? pages[i - 1] : 0) : rand() % 4 ? (u8)(rand() % 3) : SNAPSHOT_ZERO;
                map_of(pages, N_PAGES, 0, &map);
                snapshot_map_to_pages(&map, again);
                assert_memory_equal(pages, again, N_PAGES);
                snapshot_map_free(&map);
        }
}

static void small_gaps_are_written_too_and_ends_are_not(void **state)
{
        u8 pages[16] = { 0, 0, 1, 0, SNAPSHOT_ZERO, 1, 0, 0, 0, 0, 1, 0 };
        const u8 wanted[12] = { 0, 0, 1, SNAPSHOT_JOINED, SNAPSHOT_JOINED_ZERO, 1, 0, 0, 0, 0, 1, 0 };
        struct snapshot_map map;

        snapshot_pages_join(pages, 12, 1, 4);
        assert_memory_equal(pages, wanted, 12);
        map_of(pages, 12, 1, &map);
        assert_int_equal(map.n_runs, 5);
        assert_int_equal(map.runs[1].n, 4);
        snapshot_map_free(&map);
        snapshot_pages_join(pages, 12, 1, 5); /* what was joined counts */
        map_of(pages, 12, 1, &map);
        assert_int_equal(map.n_runs, 3);
        snapshot_map_free(&map);
}

static void too_many_runs_are_said(void **state)
{
        u8 pages[N_PAGES];
        struct snapshot_map map = { 0 };

        for (unsigned i = 0; i < N_PAGES; i++)
                pages[i] = i % 2;
        assert_int_equal(snapshot_map_from_pages(pages, N_PAGES, 0, N_PAGES - 1, &map, NULL), -E2BIG);
        assert_null(map.runs);
}

static void a_map_that_is_not_all_of_ram_is_refused(void **state)
{
        static const struct {
                struct snapshot_run runs[2];
                bool sound;
        } cases[] = {
                { { { 0, 32, 0 }, { 32, 32, 1 } }, true },
                { { { 0, 32, 0 }, { 32, 32, SNAPSHOT_ZERO } }, true },
                { { { 0, 32, 0 }, { 32, 31, 0 } }, false },                           /* too little */
                { { { 0, 32, 0 }, { 32, 33, 0 } }, false },                           /* too much */
                { { { 0, 32, 0 }, { 31, 33, 0 } }, false },                           /* overlap */
                { { { 0, 32, 0 }, { 33, 31, 0 } }, false },                           /* a hole */
                { { { 0, 64, 0 }, { 64, 0, 0 } }, false },                            /* nothing */
                { { { 0, 32, 0 }, { 32, 32, 2 } }, false },                           /* no such layer */
                { { { 0, 32, 0 }, { 32, 32, SNAPSHOT_JOINED } }, false },             /* not for files */
                { { { 0, 32, 0 }, { 32, 0xffffffffffffffe0ULL + 64, 0 } }, true },    /* = 32 */
                { { { 32, 32, 0 }, { 0, 32, 0 } }, false },                           /* order */
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const struct snapshot_map map = { .runs = (struct snapshot_run *)cases[i].runs, .n_runs = 2 };

                assert_int_equal(snapshot_map_is_sound(&map, N_PAGES, 2), cases[i].sound);
        }
}

/* ---- the state ---- */

/* A state of one layer, with a section "machine" that has @number; its map is @n_pages large. */
static void make_state(struct state_out *out, u64 ram, u32 n_layers, u32 number)
{
        struct snapshot_run run = { .first = 0, .n = ram >> 12, .layer = 0 };
        const struct snapshot_info info = { .ram_size = ram, .n_cpus = 1, .tsc_hz = 1000, .n_layers = n_layers, .map = { .runs = &run, .n_runs = 1 } };

        state_out_init(out);
        snapshot_info_save(&info, out);
        state_out_section_begin(out, "machine", 1);
        state_put_u32(out, number);
        state_out_section_end(out);
}

static u8 *state_bytes(size_t *ret_len)
{
        struct state_out out;
        FILE *file = tmpfile();
        u8 *data;

        assert_non_null(file);
        make_state(&out, RAM, 1, 42);
        assert_int_equal(snapshot_state_write(fileno(file), &out, NULL), 0);
        state_out_free(&out);
        *ret_len = (size_t)lseek(fileno(file), 0, SEEK_END);
        data = malloc(*ret_len);
        assert_int_equal(pread(fileno(file), data, *ret_len, 0), *ret_len);
        fclose(file);
        return data;
}

static void a_state_is_read_as_it_was_written(void **state)
{
        struct snapshot_state s;
        size_t len;
        u8 *data = state_bytes(&len);

        assert_int_equal(snapshot_state_parse(data, len, &s, NULL), 0);
        assert_int_equal(s.info.ram_size, RAM);
        assert_int_equal(s.info.map.n_runs, 1);
        assert_int_equal(s.machine_len, STATE_NAME_MAX + 8 + 4);
        assert_string_equal(s.machine, "machine");
        snapshot_state_free(&s);
}

static void any_damage_to_a_state_is_noticed(void **state)
{
        struct snapshot_state s;
        size_t len;
        u8 *data = state_bytes(&len);

        for (size_t i = 0; i < len; i++) {
                u8 *copy = malloc(len);

                memcpy(copy, data, len);
                copy[i] ^= 0x10;
                assert_true(snapshot_state_parse(copy, len, &s, NULL) < 0);
                copy = malloc(len);
                memcpy(copy, data, i);
                assert_true(snapshot_state_parse(copy, i, &s, NULL) < 0);
        }
        free(data);
}

/* ---- directories ---- */

/* A snapshot whose memory and state say @number. */
static int write_snapshot(const char *path, u32 number, const int *below, unsigned n_below, struct err **err)
{
        _cleanup_(snapshot_writer_freep) struct snapshot_writer *w = NULL;
        struct state_out out;
        u32 *memory;
        int r = snapshot_writer_new(path, &w, err);

        if (r < 0)
                return r;
        r = snapshot_writer_set_layers(w, below, n_below, err);
        if (r < 0)
                return r;
        memory = malloc(RAM);
        for (size_t i = 0; i < RAM / sizeof(u32); i++)
                memory[i] = number;
        assert_int_equal(pwrite(snapshot_writer_memory_fd(w), memory, RAM, 0), RAM);
        free(memory);
        make_state(&out, RAM, n_below + 1, number);
        r = snapshot_state_write(snapshot_writer_state_fd(w), &out, err);
        state_out_free(&out);
        return r < 0 ? r : snapshot_writer_commit(w, err);
}

/* What it says, the same everywhere. */
static u32 read_snapshot(const char *path)
{
        struct err *err = NULL;
        struct snapshot *s = NULL;
        struct state_in in;
        char name[STATE_NAME_MAX];
        u32 version, number, *memory = malloc(RAM);

        if (snapshot_open(path, &s, &err) < 0)
                fail_msg("%s", err_message(err));
        state_in_init(&in, s->state.machine, s->state.machine_len);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        number = state_get_u32(&in);
        assert_int_equal(pread(s->layers[s->state.info.n_layers - 1], memory, RAM, 0), RAM);
        for (size_t i = 0; i < RAM / sizeof(u32); i++)
                assert_int_equal(memory[i], number);
        free(memory);
        snapshot_close(s);
        return number;
}

static unsigned entries(const char *path)
{
        DIR *dir = opendir(path);
        const struct dirent *entry;
        unsigned n = 0;

        assert_non_null(dir);
        while ((entry = readdir(dir)))
                n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
        closedir(dir);
        return n;
}

static void a_snapshot_is_made_replaced_and_removed(void **state)
{
        const char *path = path_of("one");

        assert_int_equal(write_snapshot(path, 1, NULL, 0, NULL), 0);
        assert_int_equal(read_snapshot(path), 1);
        assert_int_equal(write_snapshot(path, 2, NULL, 0, NULL), 0);
        assert_int_equal(read_snapshot(path), 2);
        assert_int_equal(entries(directory), 1);
        assert_int_equal(snapshot_remove(path, NULL), 0);
        assert_int_equal(entries(directory), 0);
}

static void what_is_no_snapshot_is_left_alone(void **state)
{
        const char *path = path_of("mine");
        char file[160];
        int fd;

        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(file, sizeof(file), "%s/memory.0", path);
        fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        close(fd);
        assert_int_equal(write_snapshot(path, 1, NULL, 0, NULL), -EEXIST);
        assert_int_equal(snapshot_remove(path, NULL), -EINVAL);
        assert_int_equal(access(file, F_OK), 0);
        assert_int_equal(entries(directory), 1);
        unlink(file);
        rmdir(path);
}

static void one_that_is_given_up_leaves_nothing(void **state)
{
        struct snapshot_writer *w = NULL;

        assert_int_equal(snapshot_writer_new(path_of("never"), &w, NULL), 0);
        assert_int_equal(entries(directory), 1);
        snapshot_writer_free(w);
        assert_int_equal(entries(directory), 0);
}

static void two_makers_of_one_name_do_not_meet(void **state)
{
        const char *path = path_of("both");
        struct snapshot_writer *w = NULL;

        assert_int_equal(snapshot_writer_new(path, &w, NULL), 0);
        assert_int_equal(write_snapshot(path, 3, NULL, 0, NULL), 0);
        assert_int_equal(entries(directory), 2); /* the first one's is still there */
        snapshot_writer_free(w);
        assert_int_equal(read_snapshot(path), 3);
        assert_int_equal(snapshot_remove(path, NULL), 0);
}

static void a_diff_lives_on_without_what_it_began_with(void **state)
{
        char base[128];
        struct snapshot *s = NULL;

        snprintf(base, sizeof(base), "%s", path_of("base"));
        assert_int_equal(write_snapshot(base, 4, NULL, 0, NULL), 0);
        assert_int_equal(snapshot_open(base, &s, NULL), 0);
        assert_int_equal(write_snapshot(path_of("diff"), 5, s->layers, 1, NULL), 0);
        snapshot_close(s);
        assert_int_equal(snapshot_remove(base, NULL), 0);
        assert_int_equal(read_snapshot(path_of("diff")), 5);
        assert_int_equal(snapshot_open(path_of("diff"), &s, NULL), 0);
        assert_int_equal(s->state.info.n_layers, 2);
        /* A file that has no name any more cannot get one: the diff is refused. */
        assert_int_equal(snapshot_remove(path_of("diff"), NULL), 0);
        assert_true(write_snapshot(path_of("late"), 6, s->layers, 2, NULL) < 0);
        snapshot_close(s);
        assert_int_equal(entries(directory), 0);
}

static void files_of_another_size_or_kind_are_refused(void **state)
{
        const char *path = path_of("bad");
        struct snapshot *s = NULL;
        char file[160];

        assert_int_equal(write_snapshot(path, 7, NULL, 0, NULL), 0);
        snprintf(file, sizeof(file), "%s/memory.0", path);
        assert_int_equal(truncate(file, RAM - 1), 0);
        assert_int_equal(snapshot_open(path, &s, NULL), -EINVAL);
        assert_int_equal(unlink(file), 0);
        assert_int_equal(mkfifo(file, 0600), 0);
        assert_int_equal(snapshot_open(path, &s, NULL), -EINVAL);
        assert_int_equal(unlink(file), 0);
        assert_int_equal(symlink("/dev/zero", file), 0);
        assert_true(snapshot_open(path, &s, NULL) < 0);
        assert_int_equal(snapshot_remove(path, NULL), 0);
}

static void who_is_killed_at_any_moment_leaves_a_whole_snapshot(void **state)
{
        const char *path = path_of("killed");
        const char *rounds = getenv("SNAPSHOT_KILLS");
        u32 last = 1, replaced = 0;

        assert_int_equal(write_snapshot(path, last, NULL, 0, NULL), 0);
        for (unsigned i = 0; i < (rounds ? strtoul(rounds, NULL, 0) : 40); i++) {
                const pid_t child = fork();
                u32 now;

                if (child == 0)
                        for (u32 number = last + 1;; number++)
                                if (write_snapshot(path, number, NULL, 0, NULL) < 0)
                                        _exit(1);
                assert_true(child > 0);
                usleep((unsigned)(rand() % 20000));
                kill(child, SIGKILL);
                waitpid(child, NULL, 0);
                now = read_snapshot(path);
                assert_true(now >= last);
                replaced += now > last;
                last = now;
        }
        print_message("# it was a newer one in %u rounds\n", replaced);
        /* What they left behind goes with the next one. */
        assert_int_equal(write_snapshot(path, last + 1, NULL, 0, NULL), 0);
        assert_int_equal(entries(directory), 1);
        assert_int_equal(snapshot_remove(path, NULL), 0);
}

static int make_directory(void **state)
{
        return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
        return rmdir(directory);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_map_says_of_each_page_where_it_is),
                cmocka_unit_test(small_gaps_are_written_too_and_ends_are_not),
                cmocka_unit_test(too_many_runs_are_said),
                cmocka_unit_test(a_map_that_is_not_all_of_ram_is_refused),
                cmocka_unit_test(a_state_is_read_as_it_was_written),
                cmocka_unit_test(any_damage_to_a_state_is_noticed),
                cmocka_unit_test(a_snapshot_is_made_replaced_and_removed),
                cmocka_unit_test(what_is_no_snapshot_is_left_alone),
                cmocka_unit_test(one_that_is_given_up_leaves_nothing),
                cmocka_unit_test(two_makers_of_one_name_do_not_meet),
                cmocka_unit_test(a_diff_lives_on_without_what_it_began_with),
                cmocka_unit_test(files_of_another_size_or_kind_are_refused),
                cmocka_unit_test(who_is_killed_at_any_moment_leaves_a_whole_snapshot),
        };

        return cmocka_run_group_tests_name("snapshot", tests, make_directory, remove_directory);
}
