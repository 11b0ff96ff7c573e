/* Go's templates as far as --format takes them, and docker's tables. */
#include "cli_util.h"

#include "base/cleanup.h"
#include "cli/listing.h"
#include "cli/template.h"

static const char document[] =
        "{\"ID\": \"abc\", \"Names\": \"web\", \"Count\": 3, \"None\": null, \"Up\": true, \"Empty\": [],"
        " \"State\": {\"Status\": \"running\", \"ExitCode\": 0},"
        " \"Mounts\": [{\"Source\": \"/a\"}, {\"Source\": \"/b\"}],"
        " \"List\": [\"x\", \"y\"],"
        " \"Nets\": {\"mine\": {\"IP\": \"10.0.0.2\"}, \"bridge\": {\"IP\": \"10.1.0.2\"}},"
        " \"Ports\": {\"80/tcp\": [{\"HostPort\": \"8080\"}], \"90/tcp\": null}}";

/* What @text gives; NULL when it is refused, by either step. The caller's. */
static char *filled(const char *text)
{
        _cleanup_(template_freep) struct template *template = NULL;
        json_t *data = json_loads(document, 0, NULL);
        struct err *err = NULL;
        char *out = NULL;
        size_t len = 0;
        FILE *f = open_memstream(&out, &len);
        int r = template_parse(text, &template, &err);

        assert_non_null(data);
        if (r == 0)
                r = template_run(template, data, f, &err);
        fclose(f);
        assert_int_equal(r < 0, err != NULL);
        if (r < 0) {
                free(out);
                out = NULL;
        }
        err_free(err);
        json_decref(data);
        return out;
}

static void templates_are_filled_in(void **state)
{
        static const struct {
                const char *text, *out;
        } cases[] = {
                { "", "" },
                { "plain", "plain" },
                { "{{.ID}} {{ .Names }}", "abc web" },
                { "{{.State.Status}}", "running" },
                { "{{.Count}} {{.Up}} {{.None}}", "3 true <no value>" },
                { "{{.List}} {{.State}}", "[x y] map[ExitCode:0 Status:running]" },
                { "{{json .ID}} {{json .State}}", "\"abc\" {\"ExitCode\":0,\"Status\":\"running\"}" },
                { "{{.List | json}}", "[\"x\",\"y\"]" },
                { "{{json .}}", NULL }, /* only that it works: below */
                { "{{index .List 1}} {{index .Nets \"mine\" \"IP\"}}", "y 10.0.0.2" },
                { "{{(index .Mounts 0).Source}}", "/a" },
                { "{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080" },
                { "{{len .List}} {{join .List \"+\"}} {{upper .ID}} {{title .Names}}", "2 x+y ABC Web" },
                { "{{range .Mounts}}{{.Source}};{{end}}", "/a;/b;" },
                { "{{range .Nets}}{{.IP}} {{end}}", "10.1.0.2 10.0.0.2 " },
                { "{{range $k, $v := .Nets}}{{$k}}={{$v.IP}} {{$.ID}};{{end}}",
                        "bridge=10.1.0.2 abc;mine=10.0.0.2 abc;" },
                { "{{range $i, $v := .List}}{{$i}}{{$v}}{{end}}", "0x1y" },
                { "{{range .Empty}}x{{else}}none{{end}}", "none" },
                { "{{range $p, $c := .Ports}}{{if $c}}{{$p}}->{{(index $c 0).HostPort}}{{end}}{{end}}",
                        "80/tcp->8080" },
                { "{{if .Up}}yes{{else}}no{{end}}", "yes" },
                { "{{if .None}}a{{else if .Empty}}b{{else if eq .Count 3}}c{{else}}d{{end}}!", "c!" },
                { "{{if and .Up (not .None)}}ok{{end}} {{if or .None .Empty}}no{{end}}", "ok " },
                { "{{with .State}}{{.Status}}{{end}}", "running" },
                { "{{$x := .State}}{{$x.ExitCode}}", "0" },
                { "{{ne .ID \"abc\"}} {{eq .ID \"x\" \"abc\"}}", "false true" },
                { "a {{- .ID -}}  b", "aabcb" },
                { "{{/* nothing */}}x", "x" },
                { "{{\"q\\\"\\n\"}}{{`raw\\n`}}", "q\"\nraw\\n" },
                { "{{println .ID}}", "abc\n" },
                { "{{true}} {{-5}} {{1.5}}", "true -5 1.5" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_free_ char *out = filled(cases[i].text);

                assert_non_null(out);
                if (cases[i].out)
                        assert_string_equal(out, cases[i].out);
        }
}

static void what_is_wrong_is_refused(void **state)
{
        static const char *const texts[] = { "{{", "{{}}", "{{.ID", "{{.ID}", "{{ID}}", "{{.Id}}", "{{.State.Missing}}",
                "{{.ID.More}}", "{{frobnicate .ID}}", "{{json}}", "{{json .ID .ID}}", "{{range .List}}",
                "{{if .Up}}x{{else}}", "{{end}}", "{{else}}", "{{index .List 7}}", "{{index .List -1}}",
                "{{index .ID 0}}", "{{$x}}", "{{(.ID}}", "{{\"open}}", "{{.ID | .Names}}", "{{range .ID}}x{{end}}",
                "{{join .ID \"x\"}}", "{{/* open }}", "{{.ID)}}", "{{template \"x\"}}", "{{define \"x\"}}",
                "{{.ID 3}}" };

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                assert_null(filled(texts[i]));
}

static void depth_is_bounded(void **state)
{
        char text[4096] = "{{";

        for (unsigned i = 0; i < 1000; i++)
                strcat(text, "(");
        assert_null(filled(text));
        text[0] = '\0';
        for (unsigned i = 0; i < 100; i++)
                strcat(text, "{{if .Up}}");
        assert_null(filled(text));
}

/* --- tables ---------------------------------------------------------------------------------------------------------- */

static const struct listing_column columns[] = { { "ID", "CONTAINER ID", false }, { "Image", "IMAGE", false },
        { "Names", "NAMES", false }, { "Size", "SIZE", true }, { 0 } };

static void table_is(const char *format, bool quiet, const char *wanted)
{
        const struct listing listing = { columns, format, quiet };
        json_t *rows =
                json_loads("[{\"ID\": \"0123456789ab\", \"Image\": \"debian\", \"Names\": \"a\", \"Size\": \"1B\"},"
                           " {\"ID\": \"ba9876543210\", \"Image\": \"sp\u00e4t\", \"Names\": \"b\", \"Size\": \"2B\"}]",
                        0, NULL);
        char *out = NULL;
        size_t len = 0;
        FILE *f = open_memstream(&out, &len);

        assert_int_equal(listing_check(&listing, NULL), 0);
        assert_int_equal(listing_print(&listing, rows, f, NULL), 0);
        fclose(f);
        assert_string_equal(out, wanted);
        free(out);
        json_decref(rows);
}

static void tables_are_aligned_as_dockers(void **state)
{
        table_is(NULL, false,
                "CONTAINER ID   IMAGE     NAMES\n0123456789ab   debian    a\nba9876543210   sp\u00e4t      b\n");
        table_is("table", true, "0123456789ab\nba9876543210\n");
        table_is("table {{.Names}}\\t{{.Size}}", false, "NAMES     SIZE\na         1B\nb         2B\n");
        table_is("{{.Names}}\\t{{.ID}}", false, "a\t0123456789ab\nb\tba9876543210\n");
}

static void json_is_an_object_a_line(void **state)
{
        table_is("json", false,
                "{\"ID\":\"0123456789ab\",\"Image\":\"debian\",\"Names\":\"a\",\"Size\":\"1B\"}\n"
                "{\"ID\":\"ba9876543210\",\"Image\":\"sp\u00e4t\",\"Names\":\"b\",\"Size\":\"2B\"}\n");
}

static void numbers_are_for_people(void **state)
{
        assert_string_equal(listing_size(0).text, "0B");
        assert_string_equal(listing_size(999).text, "999B");
        assert_string_equal(listing_size(1500).text, "1.5kB");
        assert_string_equal(listing_size(123456789).text, "123MB");
        assert_string_equal(listing_size_binary(1536).text, "1.5KiB");
        assert_string_equal(listing_duration(0).text, "Less than a second");
        assert_string_equal(listing_duration(1).text, "1 second");
        assert_string_equal(listing_duration(59).text, "59 seconds");
        assert_string_equal(listing_duration(61).text, "About a minute");
        assert_string_equal(listing_duration(3600).text, "About an hour");
        assert_string_equal(listing_duration(3 * 3600).text, "3 hours");
        assert_string_equal(listing_duration(49 * 3600).text, "2 days");
        assert_string_equal(listing_duration(21 * 86400).text, "3 weeks");
        assert_string_equal(listing_time(1500000000).text, "1970-01-01T00:00:01.500000000Z");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(templates_are_filled_in),
                cmocka_unit_test(what_is_wrong_is_refused),
                cmocka_unit_test(depth_is_bounded),
                cmocka_unit_test(tables_are_aligned_as_dockers),
                cmocka_unit_test(json_is_an_object_a_line),
                cmocka_unit_test(numbers_are_for_people),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
