/* Instances without running any: records, times, detach keys, configurations and their merging, names, states, logs, rights. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <linux/capability.h>

#include <cmocka.h>

#include "image_util.h"
#include "instance/internal.h"
#include "instance/keys.h"
#include "instance/rights.h"
#include "instance/supervise/text.h"
#include "instance/userns.h"

struct fixture {
        struct temp_dir dir;
        struct instance_host *host;
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct err *err = NULL;

        f->dir = temp_dir_new();
        setenv("STRATA_IMAGE_ROOT", "", 1);
        if (instance_host_open(&(struct instance_host_options){ .root = f->dir.path }, &f->host, &err) < 0) {
                err_print(err, "setup");
                return -1;
        }
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        instance_host_close(f->host);
        temp_dir_remove(&f->dir);
        free(f);
        return 0;
}

/* --- records ---------------------------------------------------------------------------------------------------- */

static void record_returns_what_was_put(void **state)
{
        struct record r = { "" };
        char text[16];

        assert_true(record_put(&r, "status", "running"));
        assert_true(record_put(&r, "stat", "x\ny"));
        assert_true(record_put_number(&r, "exit", -7));
        assert_true(record_get(&r, "status", text, sizeof(text)));
        assert_string_equal(text, "running");
        assert_true(record_get(&r, "stat", text, sizeof(text)));
        assert_string_equal(text, "x y"); /* no value can make a line of its own */
        assert_int_equal(record_number(&r, "exit", 0), -7);
        assert_int_equal(record_number(&r, "exi", 5), 5);
        assert_false(record_get(&r, "tatus", text, sizeof(text)));
}

static void record_refuses_what_does_not_fit(void **state)
{
        struct record r = { "" };
        char long_value[RECORD_SIZE];
        char text[4];

        memset(long_value, 'v', sizeof(long_value) - 1);
        long_value[sizeof(long_value) - 1] = '\0';
        assert_true(record_put(&r, "a", "before"));
        assert_false(record_put(&r, "b", long_value));
        assert_false(record_get(&r, "b", text, sizeof(text)));
        assert_true(record_get(&r, "a", text, sizeof(text)));
        assert_string_equal(text, "bef");
}

static void time_text_is_the_calendars(void **state)
{
        for (s64 t = 0; t < 9000000000; t += 86399 * 37 + 11) {
                const time_t seconds = (time_t)t;
                char expected[40], text[40] = "";
                struct tm tm;

                gmtime_r(&seconds, &tm);
                strftime(expected, sizeof(expected), "%Y-%m-%dT%H:%M:%S.000000042Z", &tm);
                *text_time(text, t * 1000000000 + 42) = '\0';
                assert_string_equal(text, expected);
        }
}

/* --- detach keys ------------------------------------------------------------------------------------------------ */

static bool type(struct detach_keys *keys, const char *typed, char *out)
{
        size_t n = 0;
        const bool detached = keys_filter(keys, (const u8 *)typed, strlen(typed), (u8 *)out, &n);

        out[n] = '\0';
        return detached;
}

static void keys_are_found_across_reads_and_nothing_is_lost(void **state)
{
        struct detach_keys keys;
        char out[64];

        assert_int_equal(keys_parse(&keys, NULL, NULL), 0);
        assert_false(type(&keys, "abc\x10", out));
        assert_string_equal(out, "abc");
        assert_false(type(&keys, "d", out));
        assert_string_equal(out, "\x10"
                                 "d");
        assert_false(type(&keys, "\x10\x10", out));
        assert_string_equal(out, "\x10");
        assert_true(type(&keys, "\x11", out));
}

static void keys_that_cannot_be_are_refused(void **state)
{
        struct detach_keys keys;

        assert_int_equal(keys_parse(&keys, "ctrl-", NULL), -EINVAL);
        assert_int_equal(keys_parse(&keys, "abc", NULL), -EINVAL);
        assert_int_equal(keys_parse(&keys, "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a", NULL), -EINVAL);
        assert_int_equal(keys_parse(&keys, "", NULL), 0);
        assert_int_equal(keys.n, 0);
}

/* --- configurations --------------------------------------------------------------------------------------------- */

static const char *const none[] = { NULL };
static const struct image_pair no_labels[] = { { NULL, NULL } };

static struct image_config image_config(void)
{
        return (struct image_config){ .user = "",
                .working_dir = "",
                .stop_signal = "",
                .env = none,
                .entrypoint = none,
                .cmd = none,
                .shell = none,
                .onbuild = none,
                .volumes = none,
                .exposed_ports = none,
                .labels = no_labels };
}

static struct instance_strings strings(const char **item)
{
        struct instance_strings list = { item, 0 };

        while (item[list.n])
                list.n++;
        return list;
}

static const char *joined(char *buf, const struct instance_strings *list)
{
        buf[0] = '\0';
        for (size_t i = 0; i < list->n; i++)
                strcat(strcat(buf, i ? " " : ""), list->item[i]);
        return buf;
}

static void command_and_entrypoint_go_together_as_dockers(void **state)
{
        static const char *const image_entry[] = { "/entry", NULL }, *const image_cmd[] = { "default", NULL };
        static const struct {
                const char *entrypoint[3], *command[3], *expected;
        } cases[] = {
                { { NULL }, { NULL }, "/entry default" },
                { { NULL }, { "given", NULL }, "/entry given" },
                { { "/other", NULL }, { NULL }, "/other" },
                { { "/other", "-x", NULL }, { "given", NULL }, "/other -x given" },
                { { "", NULL }, { "given", NULL }, "given" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct image_config image = image_config();
                struct instance_config config = INSTANCE_CONFIG_EMPTY;
                struct instance_strings argv;
                struct arena arena = { 0 };
                char text[200];

                image.entrypoint = image_entry;
                image.cmd = image_cmd;
                config.entrypoint = strings((const char **)cases[i].entrypoint);
                config.command = strings((const char **)cases[i].command);
                assert_int_equal(config_merge(&arena, &config, &image, NULL), 0);
                assert_int_equal(config_argv(&arena, &config, &argv, NULL), 0);
                assert_string_equal(joined(text, &argv), cases[i].expected);
                arena_release(&arena);
        }
}

static void variables_given_win_and_a_name_alone_takes_away(void **state)
{
        static const char *const image_env[] = { "PATH=/image", "KEEP=1", "GONE=1", "AB=1", NULL };
        static const char *given[] = { "PATH=/first", "GONE", "A=2", "PATH=/last", NULL }, *command[] = { "x", NULL };
        struct image_config image = image_config();
        struct instance_config config = INSTANCE_CONFIG_EMPTY;
        struct arena arena = { 0 };
        char text[200];

        image.env = image_env;
        config.env = strings(given);
        config.command = strings(command);
        assert_int_equal(config_merge(&arena, &config, &image, NULL), 0);
        assert_string_equal(joined(text, &config.env), "KEEP=1 AB=1 A=2 PATH=/last");
        arena_release(&arena);
}

static void volumes_of_the_image_are_mounted_unless_something_is(void **state)
{
        static const char *const volumes[] = { "/data", "/other", NULL };
        static const char *command[] = { "x", NULL };
        struct instance_mount mine = { .type = "tmpfs", .target = "/data" };
        struct image_config image = image_config();
        struct instance_config config = INSTANCE_CONFIG_EMPTY;
        struct arena arena = { 0 };

        image.volumes = volumes;
        config.command = strings(command);
        config.mounts.item = &mine;
        config.mounts.n = 1;
        assert_int_equal(config_merge(&arena, &config, &image, NULL), 0);
        assert_int_equal(config.mounts.n, 2);
        assert_string_equal(config.mounts.item[0].type, "tmpfs");
        assert_string_equal(config.mounts.item[1].target, "/other");
        assert_null(config.mounts.item[1].source);
        arena_release(&arena);
}

static void what_cannot_be_is_refused_before_anything_is_made(void **state)
{
        static const char *command[] = { "x", NULL };
        struct instance_mount twice[] = { { .type = "tmpfs", .target = "/a" }, { .type = "tmpfs", .target = "/a" } };
        struct instance_mount root = { .type = "bind", .source = "/", .target = "/" };
        struct instance_config bad[9];
        const struct image_config image = image_config();

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                bad[i] = (struct instance_config)INSTANCE_CONFIG_EMPTY;
                bad[i].command = strings(command);
        }
        bad[0].command.n = 0;
        bad[1].auto_remove = true;
        bad[1].restart = INSTANCE_RESTART_ALWAYS;
        bad[2].resources.memory = 4096;
        bad[3].mounts.item = twice;
        bad[3].mounts.n = 2;
        bad[4].mounts.item = &root;
        bad[4].mounts.n = 1;
        bad[5].stop_signal = "SIGNOTHING";
        bad[6].pid_mode = "some";
        bad[7].working_dir = "relative";
        bad[8].resources.nano_cpus = 1;
        bad[8].resources.cpu_quota = 1;
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct arena arena = { 0 };
                struct err *err = NULL;

                assert_true(config_merge(&arena, &bad[i], &image, &err) < 0);
                assert_non_null(err);
                err_free(err);
                arena_release(&arena);
        }
}

static void configuration_survives_its_file(void **state)
{
        static const char *command[] = { "sh", "-c", "true", NULL };
        struct instance_port port = { .host_ip = "127.0.0.1", .host_port = 65535, .port = 80, .protocol = "udp" };
        struct instance_mount mount = { .type = "bind", .source = "/a", .target = "/b", .read_only = true };
        struct instance_pair label = { "key", "value" };
        struct instance_config config = INSTANCE_CONFIG_EMPTY;
        struct instance inst = { 0 };
        json_t *json;

        config.name = "web";
        config.command = strings(command);
        config.ports.item = &port;
        config.ports.n = 1;
        config.mounts.item = &mount;
        config.mounts.n = 1;
        config.labels = (struct instance_pairs){ &label, 1 };
        config.resources.memory = 1LL << 40;
        config.stop_timeout = -1;
        config.tty = true;
        json = config_to_json(&config);
        assert_int_equal(config_adopt(&inst, json, NULL), 0);
        assert_string_equal(inst.config.name, "web");
        assert_string_equal(inst.config.command.item[2], "true");
        assert_null(inst.config.command.item[3]);
        assert_int_equal(inst.config.ports.item[0].host_port, 65535);
        assert_string_equal(inst.config.ports.item[0].protocol, "udp");
        assert_true(inst.config.mounts.item[0].read_only);
        assert_string_equal(inst.config.labels.item[0].value, "value");
        assert_int_equal(inst.config.resources.memory, 1LL << 40);
        assert_int_equal(inst.config.resources.memory_swappiness, -1);
        assert_int_equal(inst.config.stop_timeout, -1);
        assert_true(inst.config.tty);
        assert_false(inst.config.privileged);
        arena_release(&inst.arena);
        json_decref(inst.config_source);
}

static void signals_have_names_and_numbers(void **state)
{
        assert_int_equal(instance_signal_parse("", NULL), SIGTERM);
        assert_int_equal(instance_signal_parse("SIGKILL", NULL), SIGKILL);
        assert_int_equal(instance_signal_parse("hup", NULL), SIGHUP);
        assert_int_equal(instance_signal_parse("15", NULL), SIGTERM);
        assert_int_equal(instance_signal_parse("SIGRTMIN+3", NULL), SIGRTMIN + 3);
        assert_int_equal(instance_signal_parse("0", NULL), -EINVAL);
        assert_int_equal(instance_signal_parse("SIGRTMAX+1", NULL), -EINVAL);
        assert_int_equal(instance_signal_parse("999", NULL), -EINVAL);
}

/* --- names and directories -------------------------------------------------------------------------------------- */

/* A directory as instance_create makes it, with or without its configuration. */
static void make_instance(struct fixture *f, char digit, bool complete, char id[ID_LEN + 1])
{
        char path[512], text[300];
        int fd;

        memset(id, digit, ID_LEN);
        id[ID_LEN] = '\0';
        snprintf(path, sizeof(path), "%s/instances/%s", f->dir.path, id);
        assert_int_equal(mkdir(path, 0700), 0);
        if (!complete)
                return;
        strcat(path, "/config.json");
        snprintf(text, sizeof(text), "{\"id\": \"%s\", \"name\": \"n%c\", \"created\": \"%c\"}", id, digit, digit);
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
        close(fd);
}

static void a_name_is_one_instances(void **state)
{
        struct fixture *f = *state;
        char a[ID_LEN + 1], b[ID_LEN + 1], half[ID_LEN + 1];

        make_instance(f, 'a', true, a);
        make_instance(f, 'b', true, b);
        make_instance(f, 'c', false, half);
        assert_int_equal(name_take(f->host, "web", a, NULL), 0);
        assert_int_equal(name_take(f->host, "web", b, NULL), -EEXIST);
        name_drop(f->host, "web", b); /* not its own */
        assert_int_equal(name_take(f->host, "web", b, NULL), -EEXIST);
        name_drop(f->host, "web", a);
        assert_int_equal(name_take(f->host, "web", b, NULL), 0);
        /* One that was never completed, whose maker is dead, keeps nothing. */
        assert_int_equal(name_take(f->host, "db", half, NULL), 0);
        assert_int_equal(name_take(f->host, "db", a, NULL), 0);
}

static void instances_are_found_by_name_and_beginning_of_id(void **state)
{
        struct fixture *f = *state;
        char a[ID_LEN + 1], b[ID_LEN + 1];
        struct instance *inst;

        make_instance(f, 'a', true, a);
        make_instance(f, 'b', true, b);
        name_take(f->host, "na", a, NULL);
        assert_int_equal(instance_find(f->host, "na", &inst, NULL), 0);
        assert_string_equal(instance_id(inst), a);
        instance_free(inst);
        assert_int_equal(instance_find(f->host, "bbb", &inst, NULL), 0);
        assert_string_equal(instance_id(inst), b);
        instance_free(inst);
        assert_int_equal(instance_find(f->host, "../a", &inst, NULL), -ENOENT);
        assert_int_equal(instance_find(f->host, "", &inst, NULL), -ENOENT);
        assert_int_equal(instance_find(f->host, "c", &inst, NULL), -ENOENT);
}

static int count(void *opaque, struct instance *inst)
{
        ++*(int *)opaque;
        return 0;
}

static void listing_takes_away_what_is_half_made(void **state)
{
        struct fixture *f = *state;
        char a[ID_LEN + 1], half[ID_LEN + 1], path[512];
        int n = 0;

        make_instance(f, 'a', true, a);
        make_instance(f, 'c', false, half);
        name_take(f->host, "lost", half, NULL);
        assert_int_equal(instance_list(f->host, count, &n, NULL), 0);
        assert_int_equal(n, 1);
        snprintf(path, sizeof(path), "%s/instances/%s", f->dir.path, half);
        assert_int_equal(access(path, F_OK), -1);
        snprintf(path, sizeof(path), "%s/names/lost", f->dir.path);
        assert_int_equal(faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW), -1);
}

/* --- states ----------------------------------------------------------------------------------------------------- */

static enum instance_status status_with(struct fixture *f, const char *id, const char *text, struct instance_state *ret)
{
        const struct instance_state *s;
        struct instance *inst;
        struct record r = { "" };

        assert_int_equal(instance_find(f->host, id, &inst, NULL), 0);
        snprintf(r.text, sizeof(r.text), "%s", text);
        assert_int_equal(record_store(inst, FILE_STATE, &r, NULL), 0);
        assert_int_equal(instance_get_state(inst, &s, NULL), 0);
        *ret = *s;
        ret->error = ret->health = NULL;
        instance_free(inst);
        return ret->status;
}

static void running_without_a_supervisor_is_exited(void **state)
{
        struct fixture *f = *state;
        struct instance_state s;
        char id[ID_LEN + 1];

        make_instance(f, 'a', true, id);
        assert_int_equal(status_with(f, id, "status=running\nstarted=5\npid=1\n", &s), INSTANCE_EXITED);
        assert_int_equal(s.exit_code, 137);
        assert_int_equal(s.pid, 0);
        assert_true(s.finished_ns > 0);
        /* How it ended was known already. */
        assert_int_equal(status_with(f, id, "status=exiting\nstarted=5\nfinished=9\nexit=3\n", &s), INSTANCE_EXITED);
        assert_int_equal(s.exit_code, 3);
        assert_int_equal(s.finished_ns, 9);
        assert_int_equal(status_with(f, id, "status=exited\nstarted=5\nexit=4\n", &s), INSTANCE_EXITED);
        assert_int_equal(s.exit_code, 4);
        assert_int_equal(status_with(f, id, "status=exited\nexit=127\n", &s), INSTANCE_CREATED);
}

/* --- logs ------------------------------------------------------------------------------------------------------- */

struct heard {
        char text[400];
};

static int hear(void *opaque, int stream, s64 time_ns, const char *data, size_t len)
{
        struct heard *h = opaque;

        snprintf(h->text + strlen(h->text), sizeof(h->text) - strlen(h->text), "%d:%.*s;", stream, (int)len, data);
        return 0;
}

static void logs_join_pieces_and_files(void **state)
{
        static const char older[] = "2026-01-01T00:00:01.000000000Z stdout F one\n"
                                    "2026-01-01T00:00:02.000000000Z stderr P tw\n",
                          newer[] = "2026-01-01T00:00:02.000000000Z stderr F o\n"
                                    "torn line\n"
                                    "2026-01-01T00:00:03.000000000Z stdout F \n"
                                    "2026-01-01T00:00:04.000000000Z stdout P four\n"
                                    "2026-01-01T00:00:05.000000000Z std";
        static const struct {
                struct instance_log_options options;
                const char *expected;
        } cases[] = {
                { { .tail = -1 }, "1:one\n;2:tw;2:o\n;1:\n;1:four;" },
                { { .tail = 2 }, "1:\n;1:four;" },
                { { .tail = 0 }, "" },
                { { .tail = -1, .since_ns = 1767225603000000000 }, "1:\n;1:four;" },
                { { .tail = -1, .until_ns = 1767225601000000000 }, "1:one\n;" },
        };
        struct fixture *f = *state;
        struct instance *inst;
        char id[ID_LEN + 1];

        make_instance(f, 'a', true, id);
        assert_int_equal(instance_find(f->host, id, &inst, NULL), 0);
        assert_int_equal(file_replace(inst->dir, "t", FILE_LOG ".1", older, sizeof(older) - 1, false, NULL), 0);
        assert_int_equal(file_replace(inst->dir, "t", FILE_LOG, newer, sizeof(newer) - 1, false, NULL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct heard h = { "" };

                assert_int_equal(instance_logs(inst, &cases[i].options, hear, &h, NULL), 0);
                assert_string_equal(h.text, cases[i].expected);
        }
        instance_free(inst);
}

/* --- rights ----------------------------------------------------------------------------------------------------- */

static void id_maps_are_read_whole_or_refused(void **state)
{
        static const char *const right[] = { "", "host", "auto", "auto:size=1", "auto:size=4194304", "0:1000:1",
                "0:0:1,1:100000:65535", "5:7:1,0:1:5", "0:4294967200:94" };
        static const char *const wrong[] = { "x", "auto:", "auto:size=0", "auto:size=4194305", "auto:size=1x", "automatic", "0",
                "0:1", "0:1:0", "0:1:2:3", "0:1:1,", ",0:1:1", "0:1:1;", "-1:0:1", "0:-1:1", " 0:1:1", "1:1:1", "0:5:2,1:9:1",
                "0:5:2,7:6:1", "0:4294967295:1", "0:4294967290:100", "4294967296:1:1", "99999999999999999999:1:1" };
        struct instance_config config = INSTANCE_CONFIG_EMPTY;

        for (size_t i = 0; i < ARRAY_SIZE(right); i++) {
                config.userns_mode = right[i];
                assert_int_equal(userns_check(&config, NULL), 0);
                assert_int_equal(userns_is_own(&config), i > 1);
        }
        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                struct err *err = NULL;

                config.userns_mode = wrong[i];
                assert_int_equal(userns_check(&config, &err), -EINVAL);
                assert_int_equal(err_get_id(err), ERR_USAGE);
                err_free(err);
        }
}

static void too_many_id_maps_are_refused(void **state)
{
        struct instance_config config = INSTANCE_CONFIG_EMPTY;
        char text[341 * 16] = "", *at = text;

        for (int i = 0; i < 341; i++) {
                if (i == 340) { /* as many as the kernel takes */
                        config.userns_mode = text;
                        assert_int_equal(userns_check(&config, NULL), 0);
                }
                at += sprintf(at, "%s%d:%d:1", i ? "," : "", i, 1000 + i);
        }
        assert_int_equal(userns_check(&config, NULL), -EINVAL);
}

/* Configurations of instances that have ranges, as they are on disk. */
static void no_two_instances_have_the_same_ids(void **state)
{
        struct fixture *f = *state;
        const char *given[3];

        for (int i = 0; i < 3; i++) {
                _cleanup_(instance_freep) struct instance *inst = NULL;
                char id[ID_LEN + 1];

                make_instance(f, (char)('1' + i), true, id);
                assert_int_equal(instance_open(f->host, id, &inst, NULL), 0);
                assert_int_equal(config_load(inst, NULL), 0);
                inst->config.userns_mode = i == 1 ? "auto:size=70000" : "auto";
                assert_int_equal(userns_choose(inst, NULL), 0);
                given[i] = strdup(inst->config.id_maps);
                assert_int_equal(config_save(inst, NULL), 0);
        }
        assert_string_equal(given[0], "0:1879048192:65536");
        assert_string_equal(given[1], "0:1879113728:70000");
        assert_string_equal(given[2], "0:1879244800:65536"); /* behind the two ranges that the second takes */
        for (int i = 0; i < 3; i++)
                free((char *)given[i]);
}

static void capabilities_are_added_and_dropped_as_dockers(void **state)
{
        static const char *add[] = { "sys_admin", NULL }, *drop[] = { "CAP_CHOWN", NULL }, *all[] = { "ALL", NULL },
                          *one[] = { "NET_ADMIN", NULL }, *unknown[] = { "NOTHING", NULL };
        struct instance_config config = INSTANCE_CONFIG_EMPTY;
        u64 set;

        assert_int_equal(rights_capabilities(&config, &set, NULL), 0);
        assert_true(set & BIT(CAP_CHOWN));
        assert_false(set & BIT(CAP_SYS_ADMIN));
        config.cap_add = strings(add);
        config.cap_drop = strings(drop);
        assert_int_equal(rights_capabilities(&config, &set, NULL), 0);
        assert_false(set & BIT(CAP_CHOWN));
        config.cap_drop = strings(all);
        config.cap_add = strings(one);
        assert_int_equal(rights_capabilities(&config, &set, NULL), 0);
        assert_int_equal(set & ~BIT(CAP_NET_ADMIN), 0);
        config.cap_add = strings(unknown);
        assert_int_equal(rights_capabilities(&config, &set, NULL), -EINVAL);
}

/* Whether the profile names @call in its unconditional list. */
static bool allows(const json_t *profile, const char *call)
{
        const json_t *names = json_object_get(json_array_get(json_object_get(profile, "syscalls"), 0), "names");

        for (size_t i = 0; i < json_array_size(names); i++)
                if (strcmp(json_string_value(json_array_get(names, i)), call) == 0)
                        return true;
        return false;
}

static void default_profile_opens_calls_by_capability(void **state)
{
        json_t *plain = seccomp_default_profile(BIT(CAP_CHOWN)), *admin = seccomp_default_profile(BIT(CAP_SYS_ADMIN));

        assert_true(allows(plain, "read"));
        assert_true(allows(plain, "execveat")); /* the runtime's last step */
        assert_false(allows(plain, "mount"));
        assert_false(allows(plain, "keyctl"));
        assert_false(allows(plain, "socket")); /* on a condition */
        assert_false(allows(plain, "bpf"));
        assert_true(allows(admin, "mount"));
        assert_true(allows(admin, "clone3"));
        assert_false(allows(admin, "keyctl"));
        assert_false(allows(admin, "init_module"));
        json_decref(plain);
        json_decref(admin);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(record_returns_what_was_put),
                cmocka_unit_test(record_refuses_what_does_not_fit),
                cmocka_unit_test(time_text_is_the_calendars),
                cmocka_unit_test(keys_are_found_across_reads_and_nothing_is_lost),
                cmocka_unit_test(keys_that_cannot_be_are_refused),
                cmocka_unit_test(command_and_entrypoint_go_together_as_dockers),
                cmocka_unit_test(variables_given_win_and_a_name_alone_takes_away),
                cmocka_unit_test(volumes_of_the_image_are_mounted_unless_something_is),
                cmocka_unit_test(what_cannot_be_is_refused_before_anything_is_made),
                cmocka_unit_test(configuration_survives_its_file),
                cmocka_unit_test(signals_have_names_and_numbers),
                cmocka_unit_test_setup_teardown(a_name_is_one_instances, setup, teardown),
                cmocka_unit_test_setup_teardown(instances_are_found_by_name_and_beginning_of_id, setup, teardown),
                cmocka_unit_test_setup_teardown(listing_takes_away_what_is_half_made, setup, teardown),
                cmocka_unit_test_setup_teardown(running_without_a_supervisor_is_exited, setup, teardown),
                cmocka_unit_test_setup_teardown(logs_join_pieces_and_files, setup, teardown),
                cmocka_unit_test(id_maps_are_read_whole_or_refused),
                cmocka_unit_test(too_many_id_maps_are_refused),
                cmocka_unit_test_setup_teardown(no_two_instances_have_the_same_ids, setup, teardown),
                cmocka_unit_test(capabilities_are_added_and_dropped_as_dockers),
                cmocka_unit_test(default_profile_opens_calls_by_capability),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
