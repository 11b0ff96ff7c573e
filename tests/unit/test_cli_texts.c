/* What the texts behind docker's options mean: numbers, times, ports, mounts, environment, filters. */
#include "cli_util.h"

#include <signal.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/filter.h"
#include "cli/runspec.h"
#include "cli/values.h"

struct number_case {
        const char *text;
        s64 value; /* -EINVAL: refused */
};

static void numbers_are(cli_parse_fn *parse, const struct number_case *cases, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                s64 value = 4711;
                int r = parse(&value, cases[i].text, NULL);

                if (cases[i].value == -EINVAL) {
                        assert_true(r < 0);
                        assert_int_equal(value, 4711);
                } else {
                        assert_int_equal(r, 0);
                        assert_int_equal(value, cases[i].value);
                }
        }
}

static void sizes(void **state)
{
        static const struct number_case cases[] = { { "0", 0 }, { "1", 1 }, { "10b", 10 }, { "1k", 1024 },
                { "1K", 1024 }, { "1kb", 1024 }, { "1KiB", 1024 }, { "512m", 512 << 20 }, { "1.5g", 3LL << 29 },
                { "2T", 2LL << 40 }, { "1 m", 1 << 20 }, { "", -EINVAL }, { "m", -EINVAL }, { "-1", -EINVAL },
                { "1x", -EINVAL }, { "1mm", -EINVAL }, { "1.2.3m", -EINVAL }, { "0x10", -EINVAL }, { "inf", -EINVAL },
                { "99999999999t", -EINVAL }, { "1bb", -EINVAL } };

        numbers_are(cli_parse_size, cases, ARRAY_SIZE(cases));
}

static void cpus(void **state)
{
        static const struct number_case cases[] = { { "1", 1000000000 }, { "0.5", 500000000 }, { ".25", 250000000 },
                { "1.000000001", 1000000001 }, { "-1", -EINVAL }, { "one", -EINVAL }, { "1e9", -EINVAL },
                { "", -EINVAL }, { "99999999", -EINVAL } };

        numbers_are(cli_parse_cpus, cases, ARRAY_SIZE(cases));
}

static void durations(void **state)
{
        static const struct number_case cases[] = { { "1s", 1000000000 }, { "1m30s", 90000000000 },
                { "1.5h", 5400000000000 }, { "300ms", 300000000 }, { "2us", 2000 }, { "0", 0 }, { "", -EINVAL },
                { "5", -EINVAL }, { "s", -EINVAL }, { "1d", -EINVAL }, { "-1s", -EINVAL }, { "1s2", -EINVAL } };

        numbers_are(cli_parse_duration, cases, ARRAY_SIZE(cases));
}

static void counts(void **state)
{
        static const struct number_case cases[] = { { "0", 0 }, { "12", 12 }, { "-1", -EINVAL }, { " 1", -EINVAL },
                { "1 ", -EINVAL }, { "", -EINVAL }, { "99999999999999999999", -EINVAL } };

        numbers_are(cli_parse_count, cases, ARRAY_SIZE(cases));
}

static void times(void **state)
{
        static const struct number_case cases[] = { { "1970-01-01T00:00:10Z", 10000000000 },
                { "1970-01-01T01:00:10.5+01:00", 10500000000 }, { "1970-01-02", 86400000000000 },
                { "10.25", 10250000000 }, { "1136073600.000000001", 1136073600000000001 }, { "yesterday", -EINVAL },
                { "", -EINVAL }, { "1970-01-01T00:00:10X", -EINVAL } };
        struct timespec now;
        s64 value;

        setenv("TZ", "UTC", 1);
        tzset();
        numbers_are(cli_parse_time, cases, ARRAY_SIZE(cases));
        clock_gettime(CLOCK_REALTIME, &now);
        assert_int_equal(cli_parse_time(&value, "1h", NULL), 0);
        assert_in_range(now.tv_sec - value / 1000000000, 3598, 3602);
}

static void signals(void **state)
{
        static const struct {
                const char *text;
                int signal;
        } cases[] = { { "KILL", SIGKILL }, { "SIGTERM", SIGTERM }, { "sighup", SIGHUP }, { "9", 9 }, { "0", -1 },
                { "65", -1 }, { "NONE", -1 }, { "", -1 }, { "RTMIN+x", -1 }, { "-9", -1 } };
        int got;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                got = 0;
                assert_int_equal(cli_parse_signal(&got, cases[i].text, NULL) < 0, cases[i].signal < 0);
                assert_int_equal(got, MAX(cases[i].signal, 0));
        }
        assert_int_equal(cli_parse_signal(&got, "RTMIN+3", NULL), 0);
        assert_int_equal(got, SIGRTMIN + 3);
}

/* --- what becomes of a configuration --------------------------------------------------------------------------------- */

struct fixture {
        struct instance_config config;
        struct arena arena;
        struct runspec runspec;
};

static int set_up(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        f->config = (struct instance_config)INSTANCE_CONFIG_EMPTY;
        f->runspec = (struct runspec){ &f->config, &f->arena };
        *state = f;
        return 0;
}

static int tear_down(void **state)
{
        struct fixture *f = *state;

        arena_release(&f->arena);
        free(f);
        return 0;
}

static void refused(struct fixture *f, runspec_fn *fn, const char *const *texts, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                struct err *err = NULL;

                assert_true(fn(&f->runspec, texts[i], &err) < 0);
                assert_non_null(err);
                err_free(err);
        }
}

static void ports_are_published_one_by_one(void **state)
{
        struct fixture *f = *state;
        static const char *const wrong[] = { "", "x", "0", "70000", "80:", "1-2:1-3", "80/icmp", "1.2.3:80:80", "80-70" };

        assert_int_equal(runspec_publish(&f->runspec, "8080:80", NULL), 0);
        assert_int_equal(runspec_publish(&f->runspec, "53/udp", NULL), 0);
        assert_int_equal(runspec_publish(&f->runspec, "127.0.0.1:9000-9002:90-92", NULL), 0);
        assert_int_equal(runspec_publish(&f->runspec, "127.0.0.1::81", NULL), 0);
        assert_int_equal(runspec_publish(&f->runspec, "8000-8010:80", NULL), 0);
        assert_int_equal(f->config.ports.n, 7);
        assert_int_equal(f->config.ports.item[6].host_port, 8000);
        assert_int_equal(f->config.ports.item[6].host_port_last, 8010);
        assert_int_equal(f->config.ports.item[2].host_port_last, 0);
        assert_int_equal(f->config.ports.item[0].host_port, 8080);
        assert_int_equal(f->config.ports.item[0].port, 80);
        assert_null(f->config.ports.item[0].host_ip);
        assert_int_equal(f->config.ports.item[1].host_port, 0);
        assert_string_equal(f->config.ports.item[1].protocol, "udp");
        assert_int_equal(f->config.ports.item[4].host_port, 9002);
        assert_int_equal(f->config.ports.item[4].port, 92);
        assert_string_equal(f->config.ports.item[4].host_ip, "127.0.0.1");
        assert_int_equal(f->config.ports.item[5].host_port, 0);
        refused(f, runspec_publish, wrong, ARRAY_SIZE(wrong));
        assert_int_equal(f->config.ports.n, 7);
}

static void exposed_ports_have_protocols(void **state)
{
        struct fixture *f = *state;
        static const char *const wrong[] = { "", "0", "80/", "80/x", "90-80", "-80", "80-", "99999" };

        assert_int_equal(runspec_expose(&f->runspec, "80", NULL), 0);
        assert_int_equal(runspec_expose(&f->runspec, "90-91/udp", NULL), 0);
        assert_int_equal(f->config.exposed.n, 3);
        assert_string_equal(f->config.exposed.item[0], "80/tcp");
        assert_string_equal(f->config.exposed.item[2], "91/udp");
        refused(f, runspec_expose, wrong, ARRAY_SIZE(wrong));
}

static void volumes_are_directories_names_or_nothing(void **state)
{
        struct fixture *f = *state;
        static const char *const wrong[] = { "", "relative", "/a:b", ":/x", "/a:", "a:/x:", "/a:/x:ro:z", "bad name:/x",
                "x:/y", "/a:/x9:sideways", "/a:/" };
        const struct instance_mount *m;

        assert_int_equal(runspec_volume(&f->runspec, "/data:/d:ro,rshared", NULL), 0);
        assert_int_equal(runspec_volume(&f->runspec, "name:/n", NULL), 0);
        assert_int_equal(runspec_volume(&f->runspec, "/anonymous", NULL), 0);
        assert_int_equal(runspec_volume(&f->runspec, "./here:/h", NULL), 0);
        m = f->config.mounts.item;
        assert_string_equal(m[0].type, "bind");
        assert_true(m[0].read_only && m[0].make_source);
        assert_string_equal(m[0].propagation, "rshared");
        assert_string_equal(m[1].type, "volume");
        assert_string_equal(m[1].source, "name");
        assert_null(m[2].source);
        assert_string_equal(m[2].target, "/anonymous");
        assert_true(m[3].source[0] == '/' && strstr(m[3].source, "/./here"));
        refused(f, runspec_volume, wrong, ARRAY_SIZE(wrong));
        assert_int_equal(f->config.mounts.n, 4);
}

static void mounts_are_made_of_keys(void **state)
{
        struct fixture *f = *state;
        static const char *const wrong[] = { "", "type=bind,target=/x", "type=disk,target=/x", "target=x",
                "type=tmpfs,src=/a,dst=/x", "type=bind,src=/a,dst=/x,colour=red", "type=tmpfs,dst=/x,tmpfs-mode=9",
                "type=tmpfs,dst=/x,tmpfs-size=big", "type=bind,src=/a,dst=/x,readonly=maybe", "src=/a,dst=/x",
                "type=bind,src=/a,dst=/x,bind-propagation=up" };
        const struct instance_mount *m;

        assert_int_equal(runspec_mount(&f->runspec, "type=bind,source=/a,target=/b,readonly", NULL), 0);
        assert_int_equal(
                runspec_mount(&f->runspec, "type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770", NULL), 0);
        assert_int_equal(runspec_mount(&f->runspec, "src=vol,dst=/v,volume-nocopy=true,ro=false", NULL), 0);
        assert_int_equal(runspec_mount(&f->runspec, "type=bind,\"source=/with,comma\",target=/c", NULL), 0);
        m = f->config.mounts.item;
        assert_true(m[0].read_only && !m[0].make_source);
        assert_string_equal(m[1].options, "size=1048576,mode=1770");
        assert_string_equal(m[2].type, "volume");
        assert_true(m[2].no_copy && !m[2].read_only);
        assert_string_equal(m[3].source, "/with,comma");
        refused(f, runspec_mount, wrong, ARRAY_SIZE(wrong));
        assert_int_equal(f->config.mounts.n, 4);
}

static void limits_devices_and_names(void **state)
{
        struct fixture *f = *state;
        static const char *const limits[] = { "", "nofile", "=1", "nofile=", "nofile=x", "nofile=2:1", "nofile=-1:5" };
        static const char *const devices[] = { "", "sda", "/dev/a:b", "/dev/a:/dev/b:rwx", "/dev/a:/b:r:w" };
        static const char *const hosts[] = { "", "name", ":1.2.3.4", "name:" };

        assert_int_equal(runspec_ulimit(&f->runspec, "nofile=10:20", NULL), 0);
        assert_int_equal(runspec_ulimit(&f->runspec, "core=unlimited", NULL), 0);
        assert_int_equal(f->config.ulimits.item[0].soft, 10);
        assert_int_equal(f->config.ulimits.item[0].hard, 20);
        assert_int_equal(f->config.ulimits.item[1].hard, -1);
        refused(f, runspec_ulimit, limits, ARRAY_SIZE(limits));

        assert_int_equal(runspec_device(&f->runspec, "/dev/a", NULL), 0);
        assert_int_equal(runspec_device(&f->runspec, "/dev/a:r", NULL), 0);
        assert_int_equal(runspec_device(&f->runspec, "/dev/a:/dev/b:rw", NULL), 0);
        assert_string_equal(f->config.devices.item[1].permissions, "r");
        assert_null(f->config.devices.item[1].target);
        assert_string_equal(f->config.devices.item[2].target, "/dev/b");
        refused(f, runspec_device, devices, ARRAY_SIZE(devices));

        assert_int_equal(runspec_add_host(&f->runspec, "a:1.2.3.4", NULL), 0);
        assert_int_equal(runspec_add_host(&f->runspec, "b=[::1]", NULL), 0);
        assert_string_equal(f->config.extra_hosts.item[0], "a:1.2.3.4");
        assert_string_equal(f->config.extra_hosts.item[1], "b:::1");
        refused(f, runspec_add_host, hosts, ARRAY_SIZE(hosts));
}

static void write_text(char *path, const char *text)
{
        const int fd = mkstemp(path);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
        close(fd);
}

static void the_environment_comes_from_words_and_files(void **state)
{
        struct fixture *f = *state;
        char good[] = "/tmp/strata-test-XXXXXX", bad[] = "/tmp/strata-test-XXXXXX";

        setenv("STRATA_TEST_SET", "value", 1);
        unsetenv("STRATA_TEST_UNSET");
        assert_int_equal(runspec_env(&f->runspec, "A=1=2", NULL), 0);
        assert_int_equal(runspec_env(&f->runspec, "STRATA_TEST_SET", NULL), 0);
        assert_int_equal(runspec_env(&f->runspec, "STRATA_TEST_UNSET", NULL), 0);
        assert_int_equal(f->config.env.n, 3);
        assert_string_equal(f->config.env.item[0], "A=1=2");
        assert_string_equal(f->config.env.item[1], "STRATA_TEST_SET=value");
        assert_string_equal(f->config.env.item[2], "STRATA_TEST_UNSET");
        refused(f, runspec_env, (const char *const[]){ "", "=x" }, 2);

        write_text(good, "# comment\n\n  B=two words \"and quotes\"\r\nSTRATA_TEST_SET\nSTRATA_TEST_UNSET\nC=");
        assert_int_equal(runspec_env_file(&f->runspec, good, NULL), 0);
        assert_int_equal(f->config.env.n, 6);
        assert_string_equal(f->config.env.item[3], "B=two words \"and quotes\"");
        assert_string_equal(f->config.env.item[4], "STRATA_TEST_SET=value");
        assert_string_equal(f->config.env.item[5], "C=");
        write_text(bad, "bad name=1\n");
        refused(f, runspec_env_file, (const char *const[]){ bad, "/nonexistent" }, 2);
        unlink(good);
        unlink(bad);
}

static void restart_policies(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(runspec_restart(&f->runspec, "on-failure:3", NULL), 0);
        assert_int_equal(f->config.restart, INSTANCE_RESTART_ON_FAILURE);
        assert_int_equal(f->config.restart_max, 3);
        assert_int_equal(runspec_restart(&f->runspec, "unless-stopped", NULL), 0);
        assert_int_equal(f->config.restart, INSTANCE_RESTART_UNLESS_STOPPED);
        assert_int_equal(f->config.restart_max, 0);
        refused(f, runspec_restart, (const char *const[]){ "on-failure:x", "on-failure:-1", "no:1", "never" }, 4);
}

/* --- filters --------------------------------------------------------------------------------------------------------- */

static void filters_of_one_key_are_alternatives(void **state)
{
        static const char *const known[] = { "name", "status", "label", "label!", NULL };
        const char *item[] = { "name=web", "name=db", "status=running", NULL };
        const struct cli_words filters = { item, 3 };

        assert_int_equal(filter_check(&filters, known, NULL), 0);
        assert_true(filter_contains(&filters, "name", "my-web-1"));
        assert_true(filter_contains(&filters, "name", "db"));
        assert_false(filter_contains(&filters, "name", "cache"));
        assert_true(filter_equals(&filters, "status", "running"));
        assert_false(filter_equals(&filters, "status", "exited"));
        assert_true(filter_equals(&filters, "health", "anything"));
        item[2] = "colour=red";
        assert_true(filter_check(&filters, known, NULL) < 0);
        item[2] = "status";
        assert_true(filter_check(&filters, known, NULL) < 0);
}

static void labels_must_all_be_there(void **state)
{
        struct instance_pair pair[] = { { "a", "1" }, { "b", "" } };
        const struct instance_pairs labels = { pair, 2 };
        static const struct {
                const char *item[3];
                size_t n;
                bool passes;
        } cases[] = { { { "label=a" }, 1, true }, { { "label=a=1", "label=b" }, 2, true },
                { { "label=a=2" }, 1, false }, { { "label=a", "label=c" }, 2, false }, { { "label!=a" }, 1, false },
                { { "label!=a=2" }, 1, true } };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const struct cli_words filters = { (const char **)cases[i].item, cases[i].n };

                assert_int_equal(filter_labels(&filters, &labels), cases[i].passes);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(sizes),
                cmocka_unit_test(cpus),
                cmocka_unit_test(durations),
                cmocka_unit_test(counts),
                cmocka_unit_test(times),
                cmocka_unit_test(signals),
                cmocka_unit_test_setup_teardown(ports_are_published_one_by_one, set_up, tear_down),
                cmocka_unit_test_setup_teardown(exposed_ports_have_protocols, set_up, tear_down),
                cmocka_unit_test_setup_teardown(volumes_are_directories_names_or_nothing, set_up, tear_down),
                cmocka_unit_test_setup_teardown(mounts_are_made_of_keys, set_up, tear_down),
                cmocka_unit_test_setup_teardown(limits_devices_and_names, set_up, tear_down),
                cmocka_unit_test_setup_teardown(the_environment_comes_from_words_and_files, set_up, tear_down),
                cmocka_unit_test_setup_teardown(restart_policies, set_up, tear_down),
                cmocka_unit_test(filters_of_one_key_are_alternatives),
                cmocka_unit_test(labels_must_all_be_there),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
