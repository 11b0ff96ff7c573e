/* The option tables: what a command line becomes, how it is refused; and the whole of `strata run`'s. */
#include "cli_util.h"

#include "cli/options.h"
#include "cli/run_options.h"

struct sample {
        bool all, interactive, tty;
        const char *name;
        struct cli_words env;
        int number;
};

static int parse_number(void *member, const char *text, struct err **err)
{
        *(int *)member = atoi(text);
        return *text ? 0 : err_set(err, ERR_USAGE, EINVAL, "not a number");
}

static const struct cli_option options[] = {
        CLI_OPTION("all", 'a', FLAG, offsetof(struct sample, all), NULL, "all"),
        CLI_OPTION("interactive", 'i', FLAG, offsetof(struct sample, interactive), NULL, "input"),
        CLI_OPTION("tty", 't', FLAG, offsetof(struct sample, tty), NULL, "terminal"),
        CLI_OPTION("name", 'n', TEXT, offsetof(struct sample, name), "NAME", "name"),
        CLI_OPTION("env", 'e', LIST, offsetof(struct sample, env), "VAR", "variable"),
        CLI_PARSED("number", 0, offsetof(struct sample, number), "N", "number", parse_number),
        CLI_OPTION("old", 0, IGNORED, 0, "X", NULL),
        CLI_OPTION("gpus", 0, REFUSED, 0, "X", "use --device"),
        { 0 },
};
static const struct cli_option_group groups[] = { { "options", options, 0 }, { 0 } };

static int parse_as(bool in_order, int max, char **argv, struct sample *ret, int *ret_first, struct err **err)
{
        const struct cli_usage usage = { "cmd", "WORD...", "Test.", groups, 0, max, in_order };

        return cli_options_parse(&usage, count_args(argv), argv, ret, ret_first, err);
}

static void every_way_to_write_an_option_works(void **state)
{
        static char *lines[][8] = {
                { "cmd", "--all", "--name", "x", "--env", "A=1", NULL },
                { "cmd", "-a", "-n", "x", "-e", "A=1", NULL },
                { "cmd", "-anx", "-eA=1", NULL },
                { "cmd", "--all=true", "--name=x", "--env=A=1", NULL },
                { "cmd", "-a", "-n=x", "-e=A=1", NULL },
        };

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                struct sample sample = { 0 };
                int first = 0;

                assert_int_equal(parse_as(false, 0, lines[i], &sample, &first, NULL), 0);
                assert_true(sample.all);
                assert_string_equal(sample.name, "x");
                assert_int_equal(sample.env.n, 1);
                assert_string_equal(sample.env.item[0], "A=1");
                cli_words_clear(&sample.env);
        }
}

static void flags_can_be_false_and_stand_together(void **state)
{
        struct sample sample = { .all = true };
        int first;

        assert_int_equal(parse_as(false, 0, ARGS("-it", "--all=false"), &sample, &first, NULL), 0);
        assert_true(sample.interactive && sample.tty);
        assert_false(sample.all);
        assert_int_equal(parse_as(false, 0, ARGS("--all=perhaps"), &sample, &first, NULL), -EINVAL);
}

static void words_may_stand_between_options(void **state)
{
        struct sample sample = { 0 };
        char **argv = ARGS("one", "-a", "two", "--name", "x", "three");
        int first = 0;

        assert_int_equal(parse_as(false, -1, argv, &sample, &first, NULL), 0);
        assert_int_equal(count_args(argv) - first, 3);
        assert_string_equal(argv[first], "one");
        assert_string_equal(argv[first + 1], "two");
        assert_string_equal(argv[first + 2], "three");
}

static void in_order_the_first_word_ends_the_options(void **state)
{
        struct sample sample = { 0 };
        char **argv = ARGS("-a", "image", "-t", "--name", "x");
        int first = 0;

        assert_int_equal(parse_as(true, -1, argv, &sample, &first, NULL), 0);
        assert_true(sample.all);
        assert_false(sample.tty);
        assert_string_equal(argv[first], "image");
        assert_string_equal(argv[first + 1], "-t");
}

static void two_dashes_end_the_options(void **state)
{
        struct sample sample = { 0 };
        char **argv = ARGS("one", "--", "-a");
        int first = 0;

        assert_int_equal(parse_as(false, -1, argv, &sample, &first, NULL), 0);
        assert_false(sample.all);
        assert_string_equal(argv[first], "one");
        assert_string_equal(argv[first + 1], "-a");
        assert_null(argv[first + 2]);
}

static void wrong_lines_are_refused_with_a_hint(void **state)
{
        static const struct {
                char *line[4];
                const char *message, *hint;
        } cases[] = {
                { { "cmd", "--nmae", "x" }, "no option '--nmae'", "--name" },
                { { "cmd", "--inter" }, "no option '--inter'", "--interactive" },
                { { "cmd", "--zzzzzz" }, "no option", "see 'cmd --help'" },
                { { "cmd", "-z" }, "no option '-z'", "see" },
                { { "cmd", "--name" }, "--name needs a value", NULL },
                { { "cmd", "-n" }, "--name needs a value", NULL },
                { { "cmd", "--gpus", "all" }, "--gpus is not supported", "use --device" },
                { { "cmd", "--number", "" }, "--number: not a number", NULL },
                { { "cmd", "word" }, "too many", "usage: cmd" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct sample sample = { 0 };
                struct err *err = NULL;
                char *line[4];
                int first = 77;

                memcpy(line, cases[i].line, sizeof(line));
                assert_true(parse_as(false, 0, line, &sample, &first, &err) < 0);
                assert_int_equal(first, 77);
                assert_non_null(strstr(err_message(err), cases[i].message));
                if (cases[i].hint)
                        assert_non_null(strstr(err_get_hint(err), cases[i].hint));
                err_free(err);
        }
}

static void what_means_nothing_takes_its_value(void **state)
{
        struct sample sample = { 0 };
        int first;

        assert_int_equal(parse_as(false, 0, ARGS("--old", "-a"), &sample, &first, NULL), 0);
        assert_false(sample.all);
}

/* --- strata run ------------------------------------------------------------------------------------------------------ */

static int read_run(char **argv, struct run_options *ret, const char **ret_image, struct err **err)
{
        return run_options_read(ret, "strata run", true, count_args(argv), argv, ret_image, err);
}

static void a_run_line_becomes_a_configuration(void **state)
{
        struct run_options o = RUN_OPTIONS_EMPTY;
        const char *image = NULL;
        char **argv = ARGS("-it", "--rm", "--name", "web", "-e", "A=1", "-e", "B=2", "-m", "64m", "--cpus", "1.5", "-h",
                "host", "--entrypoint", "/bin/sh", "-w", "/tmp", "--label", "a=b", "--read-only", "-u", "1:2", "debian",
                "-c", "ls -l");

        assert_int_equal(read_run(argv, &o, &image, NULL), 0);
        assert_string_equal(image, "debian");
        assert_true(o.config.tty && o.config.open_stdin && o.config.auto_remove && o.config.read_only);
        assert_string_equal(o.config.name, "web");
        assert_int_equal(o.config.env.n, 2);
        assert_string_equal(o.config.env.item[1], "B=2");
        assert_int_equal(o.config.resources.memory, 64 * MIB);
        assert_int_equal(o.config.resources.nano_cpus, 1500000000);
        assert_int_equal(o.config.resources.memory_swappiness, -1);
        assert_string_equal(o.config.hostname, "host");
        assert_string_equal(o.config.entrypoint.item[0], "/bin/sh");
        assert_int_equal(o.config.command.n, 2);
        assert_string_equal(o.config.command.item[1], "ls -l");
        assert_string_equal(o.config.labels.item[0].key, "a");
        assert_int_equal(o.streams, INSTANCE_ATTACH_STDIN | INSTANCE_ATTACH_STDOUT | INSTANCE_ATTACH_STDERR);
        run_options_clear(&o);
}

static void nothing_of_a_detached_one_is_connected(void **state)
{
        struct run_options o = RUN_OPTIONS_EMPTY;
        const char *image;

        assert_int_equal(read_run(ARGS("-di", "debian"), &o, &image, NULL), 0);
        assert_int_equal(o.streams, 0);
        run_options_clear(&o);
}

static void streams_can_be_chosen(void **state)
{
        struct run_options o = RUN_OPTIONS_EMPTY;
        const char *image;

        assert_int_equal(read_run(ARGS("-a", "stderr", "-a", "STDIN", "debian"), &o, &image, NULL), 0);
        assert_int_equal(o.streams, INSTANCE_ATTACH_STDIN | INSTANCE_ATTACH_STDERR);
        run_options_clear(&o);
}

static void a_network_alone_is_the_mode(void **state)
{
        static const struct {
                char *line[8];
                const char *mode;
                size_t networks;
        } cases[] = {
                { { "cmd", "x" }, NULL, 0 },
                { { "cmd", "--network", "none", "x" }, "none", 0 },
                { { "cmd", "--net=host", "x" }, "host", 0 },
                { { "cmd", "--network", "mine", "x" }, "mine", 0 },
                { { "cmd", "--network", "container:web", "x" }, "container:web", 0 },
                { { "cmd", "--network", "mine", "--ip", "10.0.0.2", "x" }, NULL, 1 },
                { { "cmd", "--network", "a", "--network", "b", "x" }, NULL, 2 },
                { { "cmd", "--network", "name=a,alias=x,alias=y,ip=10.0.0.2", "x" }, NULL, 1 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct run_options o = RUN_OPTIONS_EMPTY;
                char *line[8];
                const char *image;

                memcpy(line, cases[i].line, sizeof(line));
                assert_int_equal(read_run(line, &o, &image, NULL), 0);
                assert_int_equal(o.config.networks.n, cases[i].networks);
                if (cases[i].mode)
                        assert_string_equal(o.config.network_mode, cases[i].mode);
                else
                        assert_null(o.config.network_mode);
                run_options_clear(&o);
        }
}

static void aliases_go_to_the_first_network(void **state)
{
        struct run_options o = RUN_OPTIONS_EMPTY;
        const char *image;
        char **argv = ARGS("--network-alias", "db", "--network", "a", "--network", "b", "--network-alias", "sql", "x");

        assert_int_equal(read_run(argv, &o, &image, NULL), 0);
        assert_string_equal(o.config.networks.item[0].name, "a");
        assert_int_equal(o.config.networks.item[0].aliases.n, 2);
        assert_string_equal(o.config.networks.item[0].aliases.item[1], "sql");
        assert_int_equal(o.config.networks.item[1].aliases.n, 0);
        run_options_clear(&o);
}

static void what_cannot_be_together_is_refused(void **state)
{
        static char *lines[][8] = {
                { "cmd", "--rm", "--restart", "always", "x" },
                { "cmd", "-d", "-a", "stdout", "x" },
                { "cmd", "--cpus", "1", "--cpu-quota", "1000", "x" },
                { "cmd", "--no-healthcheck", "--health-cmd", "true", "x" },
                { "cmd", "--network", "none", "--network", "a", "x" },
                { "cmd", "--network", "host", "--ip", "10.0.0.2", "x" },
                { "cmd", "-v", "/a:/x", "-v", "/b:/x", "x" },
                { "cmd", "--isolation", "jail", "x" },
                { "cmd", "--name", "", "x" },
                { "cmd", "--restart", "sometimes", "x" },
                { "cmd", "--restart", "always:3", "x" },
                { "cmd", "--pull", "often", "x" },
                { "cmd", "--log-driver", "syslog", "x" },
                { "cmd", "--oom-score-adj", "2000", "x" },
                { "cmd", "-a", "output", "x" },
                { "cmd" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                struct run_options o = RUN_OPTIONS_EMPTY;
                struct err *err = NULL;
                const char *image;

                assert_true(read_run(lines[i], &o, &image, &err) < 0);
                assert_non_null(err);
                err_free(err);
                run_options_clear(&o);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_way_to_write_an_option_works),
                cmocka_unit_test(flags_can_be_false_and_stand_together),
                cmocka_unit_test(words_may_stand_between_options),
                cmocka_unit_test(in_order_the_first_word_ends_the_options),
                cmocka_unit_test(two_dashes_end_the_options),
                cmocka_unit_test(wrong_lines_are_refused_with_a_hint),
                cmocka_unit_test(what_means_nothing_takes_its_value),
                cmocka_unit_test(a_run_line_becomes_a_configuration),
                cmocka_unit_test(nothing_of_a_detached_one_is_connected),
                cmocka_unit_test(streams_can_be_chosen),
                cmocka_unit_test(a_network_alone_is_the_mode),
                cmocka_unit_test(aliases_go_to_the_first_network),
                cmocka_unit_test(what_cannot_be_together_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
