/* References, digests, manifests, configurations, changes: texts from users and strangers. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image/change.h"
#include "image_util.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void references_get_their_full_names(void **state)
{
        static const struct {
                const char *text, *full;
        } cases[] = {
                { "debian", "docker.io/library/debian:latest" },
                { "debian:12", "docker.io/library/debian:12" },
                { "user/app", "docker.io/user/app:latest" },
                { "localhost/app", "localhost/app:latest" },
                { "localhost:5000/a/b:1.0", "localhost:5000/a/b:1.0" },
                { "registry.example/x__y/z-1.2:T_a.g-", "registry.example/x__y/z-1.2:T_a.g-" },
                { "[::1]:5000/a:b", "[::1]:5000/a:b" },
                { "debian@sha256:" HEX, "docker.io/library/debian@sha256:" HEX },
                { "debian:12@sha256:" HEX, "docker.io/library/debian@sha256:" HEX },
                { "index.docker.io/library/debian", "docker.io/library/debian:latest" },
                { "host.example:5000/debian", "host.example:5000/debian:latest" },
        };
        char full[REFERENCE_TEXT_MAX];
        struct reference reference;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                assert_int_equal(reference_parse(cases[i].text, &reference, NULL), 0);
                reference_format(&reference, full);
                assert_string_equal(full, cases[i].full);
        }
}

static void what_is_no_reference_is_refused(void **state)
{
        static const char *const texts[] = {
                "",
                ":",
                "/",
                "@",
                "Debian",
                "a//b",
                "a/",
                "/a",
                "a:",
                "a:b:c",
                "a b",
                "a..b",
                "a.-b",
                "-a",
                "a-",
                "../a",
                "a/../b",
                "a@sha256:12",
                "a@sha512:" HEX HEX,
                "host:port/a",
                "host:123456/a",
                "-host.x/a",
                "a:-tag",
                "a:.tag",
                "a___b",
                "a\nb",
                "ä",
        };
        struct reference reference;
        char longest[1000];

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                if (reference_parse(texts[i], &reference, NULL) != -EINVAL)
                        fail_msg("'%s' was taken", texts[i]);
        memset(longest, 'a', sizeof(longest));
        for (size_t len = 200; len < sizeof(longest); len += 13) {
                longest[len] = '\0';
                reference_parse(longest, &reference, NULL); /* none overflows: the sanitizers watch */
                longest[len] = 'a';
        }
}

static void loopback_is_loopback(void **state)
{
        static const char *const yes[] = { "localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:80", "[::1]",
                "[::1]:443" };
        static const char *const no[] = { "localhost.example", "127.0.0.1.example", "128.0.0.1", "docker.io", "[::2]",
                "127.0.0.256", "1270.0.0.1" };

        for (size_t i = 0; i < ARRAY_SIZE(yes); i++)
                assert_true(reference_registry_is_loopback(yes[i]));
        for (size_t i = 0; i < ARRAY_SIZE(no); i++)
                assert_false(reference_registry_is_loopback(no[i]));
}

static void the_digest_is_sha256(void **state)
{
        struct digest digest;

        assert_int_equal(digest_of("abc", 3, &digest, NULL), 0); /* FIPS 180-2, appendix B.1 */
        assert_string_equal(digest.text, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_int_equal(digest_parse("sha512:00", &digest, NULL), -EOPNOTSUPP);
        assert_int_equal(digest_parse("sha256:XY", &digest, NULL), -EBADMSG);
        assert_int_equal(digest_parse(NULL, &digest, NULL), -EBADMSG);
        assert_int_equal(digest_parse("sha256:" HEX "0", &digest, NULL), -EBADMSG);
        assert_int_equal(
                digest_parse("sha256:../../../../../../../../../../../../../../../../../../etc/passwd", &digest, NULL),
                -EBADMSG);
}

#define DESCRIPTOR "{\"mediaType\":\"x\",\"digest\":\"sha256:" HEX "\",\"size\":7}"

static void malformed_manifests_are_refused(void **state)
{
        static const char *const texts[] = {
                "",
                "[]",
                "{",
                "{}",
                "{\"schemaVersion\":1}",
                "{\"schemaVersion\":2}",
                "{\"schemaVersion\":2,\"config\":" DESCRIPTOR "}",
                "{\"schemaVersion\":2,\"config\":" DESCRIPTOR ",\"layers\":7}",
                "{\"schemaVersion\":2,\"config\":" DESCRIPTOR ",\"layers\":[7]}",
                "{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:" HEX "\",\"size\":-1},\"layers\":[]}",
                "{\"schemaVersion\":2,\"config\":{\"digest\":\"../x\",\"size\":1},\"layers\":[]}",
                "{\"schemaVersion\":2,\"mediaType\":\"text/html\",\"config\":" DESCRIPTOR ",\"layers\":[]}",
                "{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:" HEX "\",\"size\":99999999999},\"layers\":[]}",
        };
        struct manifest manifest;

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                assert_true(manifest_parse(texts[i], strlen(texts[i]), "", &manifest, NULL) < 0);
}

static void a_manifest_is_read_back(void **state)
{
        const struct descriptor config = { .media_type = MEDIA_OCI_CONFIG, .digest = { "sha256:" HEX }, .size = 5 };
        const struct descriptor layers[] = {
                { .media_type = MEDIA_OCI_LAYER, .digest = { "sha256:" HEX }, .size = 1ULL << 40 }
        };
        char *text = manifest_format(MEDIA_OCI_MANIFEST, &config, layers, 1);
        struct manifest manifest;

        assert_int_equal(manifest_parse(text, strlen(text), "", &manifest, NULL), 0);
        assert_int_equal(manifest.n_layers, 1);
        assert_true(manifest.layers[0].size == 1ULL << 40);
        assert_string_equal(manifest.config.media_type, MEDIA_OCI_CONFIG);
        assert_false(manifest_is_index(text, strlen(text), ""));
        manifest_clear(&manifest);
        free(text);
}

#define ENTRY(os, arch, variant, first)                                      \
        "{\"mediaType\":\"x\",\"size\":1,\"digest\":\"sha256:" first         \
        "123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"," \
        "\"platform\":{\"os\":\"" os "\",\"architecture\":\"" arch "\"" variant "}}"

static void the_platform_is_chosen(void **state)
{
        static const char index[] = "{\"schemaVersion\":2,\"manifests\":[" ENTRY("linux", "amd64", "", "a") "," ENTRY(
                "linux", "arm", ",\"variant\":\"v6\"", "b") "," ENTRY("linux", "arm", ",\"variant\":\"v7\"",
                "c") "," ENTRY("linux", "arm64", ",\"variant\":\"v8\"", "d") "," ENTRY("windows", "amd64", "",
                "e") "]}";
        static const struct {
                const char *platform;
                char first; /* 0: there is none */
        } cases[] = { { "linux/amd64", 'a' }, { "linux/arm/v7", 'c' }, { "linux/arm/v6", 'b' }, { "linux/arm64", 'd' },
                { "windows/amd64", 'e' }, { "linux/riscv64", 0 }, { "linux/arm/v5", 0 } };
        struct platform platform;
        struct descriptor chosen;

        assert_true(manifest_is_index(index, strlen(index), ""));
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                assert_int_equal(platform_parse(cases[i].platform, &platform, NULL), 0);
                if (cases[i].first) {
                        assert_int_equal(index_choose(index, strlen(index), &platform, &chosen, NULL), 0);
                        assert_int_equal(chosen.digest.text[7], cases[i].first);
                } else {
                        assert_int_equal(index_choose(index, strlen(index), &platform, &chosen, NULL), -ENOENT);
                }
        }
        assert_int_equal(platform_parse("linux", &platform, NULL), -EINVAL);
        assert_int_equal(platform_parse("linux/", &platform, NULL), -EINVAL);
        assert_int_equal(platform_parse("linux/amd64/v1/x", &platform, NULL), -EINVAL);
        assert_int_equal(platform_parse("linux/amd64 x", &platform, NULL), -EINVAL);
}

static void a_configuration_is_read(void **state)
{
        static const char text[] =
                "{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{\"Env\":[\"A=b\"],\"Cmd\":null,\"Entrypoint\":[\"/e\",\"x\"],\"User\":\"u:g\","
                "\"WorkingDir\":\"/w\",\"Labels\":{\"k\":\"v\"},\"Volumes\":{\"/data\":{}},\"ExposedPorts\":{\"80/tcp\":{}},\"StopSignal\":\"SIGQUIT\","
                "\"Healthcheck\":{\"Test\":[\"CMD\",\"x\"],\"Interval\":5000000000,\"Retries\":3}},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:" HEX
                "\"]}}";
        struct config_file file;

        assert_int_equal(config_file_parse(text, strlen(text), &file, NULL), 0);
        assert_string_equal(file.config.env[0], "A=b");
        assert_null(file.config.env[1]);
        assert_null(file.config.cmd[0]);
        assert_string_equal(file.config.entrypoint[1], "x");
        assert_string_equal(file.config.user, "u:g");
        assert_string_equal(file.config.labels[0].value, "v");
        assert_null(file.config.labels[1].key);
        assert_string_equal(file.config.volumes[0], "/data");
        assert_string_equal(file.config.exposed_ports[0], "80/tcp");
        assert_string_equal(file.config.healthcheck.test[1], "x");
        assert_true(file.config.healthcheck.interval_ns == 5000000000ULL);
        assert_int_equal(file.config.healthcheck.retries, 3);
        assert_int_equal(file.n_diff_ids, 1);
        config_file_clear(&file);
}

static void malformed_configurations_are_refused(void **state)
{
        static const char *const texts[] = {
                "[]",
                "{\"config\":7}",
                "{\"config\":{\"Env\":\"A=b\"}}",
                "{\"config\":{\"Env\":[7]}}",
                "{\"config\":{\"Labels\":[]}}",
                "{\"config\":{\"Labels\":{\"a\":7}}}",
                "{\"config\":{\"Volumes\":[]}}",
                "{\"rootfs\":{\"diff_ids\":[\"x\"]}}",
                "{\"rootfs\":{\"diff_ids\":{}}}",
        };
        struct config_file file;

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                assert_int_equal(config_file_parse(texts[i], strlen(texts[i]), &file, NULL), -EBADMSG);
}

static void changes_are_those_of_a_dockerfile(void **state)
{
        static const char *const lines[] = {
                "CMD [\"a\", \"b c\"]",
                "ENTRYPOINT run me",
                "ENV A=1 B=\"two words\"",
                "ENV C three words",
                "ENV A=2",
                "EXPOSE 80 53/udp",
                "LABEL x.y=\"a b\" z=1",
                "USER me:us",
                "VOLUME [\"/a\", \"/b\"]",
                "WORKDIR /one",
                "WORKDIR two/",
                "STOPSIGNAL SIGINT",
                "HEALTHCHECK --interval=1m30s --retries=2 CMD curl x",
                "ONBUILD RUN true",
                "SHELL [\"/bin/bash\", \"-c\"]",
        };
        static const char wanted[] =
                "{\"Cmd\":[\"a\",\"b c\"],\"Entrypoint\":[\"/bin/sh\",\"-c\",\"run me\"],\"Env\":[\"A=2\",\"B=two words\",\"C=three words\"],"
                "\"ExposedPorts\":{\"53/udp\":{},\"80/tcp\":{}},\"Healthcheck\":{\"Interval\":90000000000,\"Retries\":2,\"Test\":[\"CMD-SHELL\",\"curl x\"]},"
                "\"Labels\":{\"x.y\":\"a b\",\"z\":\"1\"},\"OnBuild\":[\"RUN true\"],\"Shell\":[\"/bin/bash\",\"-c\"],\"StopSignal\":\"SIGINT\",\"User\":\"me:us\","
                "\"Volumes\":{\"/a\":{},\"/b\":{}},\"WorkingDir\":\"/one/two\"}";
        json_t *file = json_pack("{s:{}}", "config");
        char *text;

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
                assert_int_equal(config_change(file, lines[i], NULL), 0);
        text = json_dumps(json_object_get(file, "config"), JSON_COMPACT | JSON_SORT_KEYS);
        assert_string_equal(text, wanted);
        free(text);
        json_decref(file);
}

static void bad_changes_are_refused(void **state)
{
        static const char *const lines[] = { "RUN x", "FROM y", "", "ENV", "ENV =x", "ENV A", "LABEL x", "EXPOSE http",
                "EXPOSE 80/x", "HEALTHCHECK x", "HEALTHCHECK --interval=5 CMD x", "SHELL sh", "WORKDIR", "USER",
                "ONBUILD FROM x", "VOLUME [7]" };
        json_t *file = json_pack("{s:{}}", "config");

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
                if (config_change(file, lines[i], NULL) >= 0)
                        fail_msg("'%s' was taken", lines[i]);
        json_decref(file);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(references_get_their_full_names),
                cmocka_unit_test(what_is_no_reference_is_refused),
                cmocka_unit_test(loopback_is_loopback),
                cmocka_unit_test(the_digest_is_sha256),
                cmocka_unit_test(malformed_manifests_are_refused),
                cmocka_unit_test(a_manifest_is_read_back),
                cmocka_unit_test(the_platform_is_chosen),
                cmocka_unit_test(a_configuration_is_read),
                cmocka_unit_test(malformed_configurations_are_refused),
                cmocka_unit_test(changes_are_those_of_a_dockerfile),
                cmocka_unit_test(bad_changes_are_refused),
        };

        return cmocka_run_group_tests_name("image_parts", tests, NULL, NULL);
}
