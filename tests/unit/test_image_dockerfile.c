/* Dockerfiles, .dockerignore and patterns: what they mean, and that nonsense is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image/change.h"
#include "image/dockerfile.h"
#include "image/dockerignore.h"

static void stages_and_instructions_are_found(void **state)
{
        static const char text[] =
                "# comment\nARG V=1\n\nFROM a:$V AS one\nRUN x && \\\n# in between\n  y\n\nfrom --platform=linux/amd64 b\ncopy --from=one --chown=1:2 /a /b\n";
        struct dockerfile f;

        assert_int_equal(dockerfile_parse(text, &f, NULL), 0);
        assert_int_equal(f.n_args, 1);
        assert_int_equal(f.n_stages, 2);
        assert_string_equal(f.stages[0].base, "a:$V");
        assert_string_equal(f.stages[0].name, "one");
        assert_string_equal(f.stages[0].instructions[0].text, "x &&   y");
        assert_int_equal(f.stages[0].instructions[0].line, 5);
        assert_string_equal(f.stages[1].platform, "linux/amd64");
        assert_string_equal(f.stages[1].instructions[0].keyword, "COPY");
        assert_string_equal(docker_flag(&f.stages[1].instructions[0], "from"), "one");
        assert_string_equal(docker_flag(&f.stages[1].instructions[0], "chown"), "1:2");
        assert_null(docker_flag(&f.stages[1].instructions[0], "chmod"));
        assert_string_equal(f.stages[1].instructions[0].text, "/a /b");
        dockerfile_clear(&f);
}

static void heredocs_are_read(void **state)
{
        static const char text[] =
                "FROM a\nRUN <<EOF\n# kept\n  line $X\nEOF\nCOPY <<-\"ONE\" <<TWO /dir/\n\tone\n\tONE\ntwo\nTWO\nCMD x\n";
        const struct docker_instruction *i;
        struct dockerfile f;

        assert_int_equal(dockerfile_parse(text, &f, NULL), 0);
        assert_int_equal(f.stages[0].n, 3);
        i = f.stages[0].instructions;
        assert_int_equal(i[0].n_heredocs, 1);
        assert_string_equal(i[0].heredocs[0].content, "# kept\n  line $X\n");
        assert_true(i[0].heredocs[0].expand);
        assert_int_equal(i[1].n_heredocs, 2);
        assert_string_equal(i[1].heredocs[0].content, "one\n");
        assert_false(i[1].heredocs[0].expand);
        assert_string_equal(i[1].heredocs[1].content, "two\n");
        assert_string_equal(i[2].keyword, "CMD");
        dockerfile_clear(&f);
}

static void the_escape_can_be_chosen(void **state)
{
        struct dockerfile f;

        assert_int_equal(dockerfile_parse("# escape=`\nFROM a\nRUN x `\n y\\\nUSER u\n", &f, NULL), 0);
        assert_int_equal(f.stages[0].n, 2);
        assert_string_equal(f.stages[0].instructions[0].text, "x  y\\");
        dockerfile_clear(&f);
}

static void nonsense_is_refused(void **state)
{
        static const char *const texts[] = { "", "# nothing\n", "RUN x\n", "FROM\n", "FROM a b\n", "FROM a AS\n",
                "FROM a AS b c\n", "FROM a\nNOPE x\n", "FROM a\nRUN\n", "FROM a\nRUN <<EOF\nno end\n",
                "ENV A=b\nFROM a\n", "FROM a\nABCDEFGHIJKLMNOPQRSTUVWXYZ x\n" };
        struct dockerfile f;

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                if (dockerfile_parse(texts[i], &f, NULL) != -EINVAL)
                        fail_msg("taken: %s", texts[i]);
}

static const char *lookup(void *opaque, const char *name, size_t len)
{
        static const char *const values[][2] = { { "A", "a" }, { "SPACE", "two words" }, { "QUOTE", "it's \"q\" \\" },
                { "EMPTY", "" }, { "A_1", "long" } };

        for (size_t i = 0; i < ARRAY_SIZE(values); i++)
                if (strlen(values[i][0]) == len && memcmp(values[i][0], name, len) == 0)
                        return values[i][1];
        return NULL;
}

/* Expanded and then cut into words: "<word><word>" */
static void expands_to(const char *text, const char *wanted)
{
        char *expanded = NULL, got[256] = "";
        json_t *words;

        assert_int_equal(docker_expand(text, lookup, NULL, &expanded, NULL), 0);
        words = change_words(expanded);
        for (size_t i = 0; i < json_array_size(words); i++)
                snprintf(got + strlen(got), sizeof(got) - strlen(got), "<%s>",
                        json_string_value(json_array_get(words, i)));
        assert_string_equal(got, wanted);
        json_decref(words);
        free(expanded);
}

static void variables_are_put_in(void **state)
{
        static const char *const cases[][2] = {
                { "$A", "<a>" },
                { "x${A}y", "<xay>" },
                { "$A_1", "<long>" },
                { "${A}_1", "<a_1>" },
                { "$NOPE", "" },
                { "\"$NOPE\"", "<>" },
                { "$SPACE", "<two words>" },
                { "\"$SPACE\" $A", "<two words><a>" },
                { "'$A'", "<$A>" },
                { "\\$A", "<$A>" },
                { "$QUOTE", "<it's \"q\" \\>" },
                { "\"$QUOTE\"", "<it's \"q\" \\>" },
                { "${NOPE:-word}", "<word>" },
                { "${A:-word}", "<a>" },
                { "${EMPTY:-word}", "<word>" },
                { "${EMPTY-word}", "" },
                { "${A:+word}", "<word>" },
                { "${NOPE:+word}", "" },
                { "${NOPE:-$A/${A_1}}", "<a/long>" },
                { "$", "<$>" },
                { "a$/b", "<a$/b>" },
                { "${A}${SPACE}", "<atwo words>" },
        };
        char *expanded = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                expands_to(cases[i][0], cases[i][1]);
        assert_int_equal(docker_expand("${A", lookup, NULL, &expanded, NULL), -EINVAL);
        assert_int_equal(docker_expand("${}", lookup, NULL, &expanded, NULL), -EINVAL);
        assert_int_equal(docker_expand("${A:?x}", lookup, NULL, &expanded, NULL), -EINVAL);
}

static void patterns_match_as_in_go(void **state)
{
        static const struct {
                const char *pattern, *path;
                bool matches;
        } cases[] = {
                { "*", "a", true },
                { "*", "a/b", false },
                { "*.log", "x.log", true },
                { "*.log", "d/x.log", false },
                { "**/*.log", "d/e/x.log", true },
                { "**/*.log", "x.log", true },
                { "a/**", "a/b/c", true },
                { "a/**/z", "a/z", true },
                { "a/**/z", "a/b/c/z", true },
                { "a/**/z", "a/b", false },
                { "?", "a", true },
                { "?", "/", false },
                { "[a-c]x", "bx", true },
                { "[^a-c]x", "bx", false },
                { "[a-c]x", "dx", false },
                { "\\*", "*", true },
                { "\\*", "a", false },
                { "[", "[", false },
                { "[a", "a", false },
                { "a*b*c", "aXbYc", true },
                { "", "", true },
                { "", "a", false },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                if (glob_matches(cases[i].pattern, cases[i].path) != cases[i].matches)
                        fail_msg("'%s' and '%s'", cases[i].pattern, cases[i].path);
}

static void the_last_ignore_pattern_decides(void **state)
{
        static const char text[] = "# comment\n*.log\n/node_modules/\n**/tmp\n!keep.log\n./dot\n\n";
        static const struct {
                const char *path;
                bool ignored;
        } cases[] = { { "a.log", true }, { "keep.log", false }, { "node_modules", true }, { "node_modules/a/b", true },
                { "x/tmp/y", true }, { "tmp", true }, { "x/a.log", false }, { "dot", true }, { "other", false } };
        struct dockerignore *ignore;

        assert_int_equal(dockerignore_parse(text, &ignore, NULL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                if (dockerignore_matches(ignore, cases[i].path) != cases[i].ignored)
                        fail_msg("'%s'", cases[i].path);
        assert_true(dockerignore_has_exceptions(ignore));
        assert_false(dockerignore_matches(NULL, "a"));
        dockerignore_free(ignore);
}

/* A pattern that would take for ever gives up. */
static void many_stars_end(void **state)
{
        char path[200];

        memset(path, 'a', sizeof(path) - 1);
        path[sizeof(path) - 1] = '\0';
        assert_false(glob_matches("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", path));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(stages_and_instructions_are_found),
                cmocka_unit_test(heredocs_are_read),
                cmocka_unit_test(the_escape_can_be_chosen),
                cmocka_unit_test(nonsense_is_refused),
                cmocka_unit_test(variables_are_put_in),
                cmocka_unit_test(patterns_match_as_in_go),
                cmocka_unit_test(the_last_ignore_pattern_decides),
                cmocka_unit_test(many_stars_end),
        };

        return cmocka_run_group_tests_name("image_dockerfile", tests, NULL, NULL);
}
