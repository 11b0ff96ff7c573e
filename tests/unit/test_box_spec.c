/* config.json: what is understood, and that what is wrong is refused with the name of the member. */
#include <errno.h>
#include <linux/sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "box/mount_options.h"
#include "box/spec/names.h"
#include "box/spec/spec.h"

/* The least that a configuration needs, around @members. */
#define CONFIG(members)  "{\"ociVersion\": \"1.2.0\", \"root\": {\"path\": \"rootfs\"}, " members "}"
#define PROCESS(members) CONFIG("\"process\": {\"cwd\": \"/\", \"args\": [\"true\"], " members "}")
#define LINUX(members)   CONFIG("\"linux\": {" members "}")

static struct spec *parse(const char *text)
{
        _cleanup_(err_freep) struct err *err = NULL;
        struct spec *spec = NULL;

        if (spec_parse(text, strlen(text), &spec, &err) < 0)
                fail_msg("%s", err_message(err));
        return spec;
}

static void assert_refused(const char *text, const char *part)
{
        _cleanup_(err_freep) struct err *err = NULL;
        struct spec *spec = NULL;

        assert_true(spec_parse(text, strlen(text), &spec, &err) < 0);
        assert_null(spec);
        if (!strstr(err_message(err), part))
                fail_msg("'%s' does not say '%s'", err_message(err), part);
}

static void the_least_configuration_is_read(void **state)
{
        _cleanup_(spec_freep) struct spec *spec =
                parse(CONFIG("\"process\": {\"cwd\": \"/tmp\", \"args\": [\"echo\", \"x\"]}"));

        assert_string_equal(spec->root.path, "rootfs");
        assert_string_equal(spec->process->cwd, "/tmp");
        assert_int_equal(spec->process->args.n, 2);
        assert_string_equal(spec->process->args.item[1], "x");
        assert_null(spec->process->args.item[2]);
        assert_null(spec->process->oom_score_adj);
        assert_int_equal(spec->namespaces_new, 0);
}

static void unknown_members_are_ignored(void **state)
{
        _cleanup_(spec_freep) struct spec *spec = parse(CONFIG("\"whatever\": {\"a\": [1, {}]}, \"process\": null"));

        assert_null(spec->process);
}

static void a_missing_member_is_named(void **state)
{
        assert_refused("{\"root\": {\"path\": \"rootfs\"}}", "ociVersion: missing");
        assert_refused("{\"ociVersion\": \"1.0.0\"}", "root: missing");
        assert_refused(LINUX("\"namespaces\": [{\"type\": \"pid\"}, {}]"), "linux.namespaces[1].type: missing");
}

static void a_wrong_type_is_named(void **state)
{
        assert_refused(PROCESS("\"terminal\": \"yes\""), "process.terminal: must be true or false, not a string");
        assert_refused(PROCESS("\"env\": [\"A=1\", 5]"), "process.env[1]: must be a string, not a number");
        assert_refused(CONFIG("\"mounts\": {}"), "mounts: must be an array, not an object");
        assert_refused(
                CONFIG("\"hooks\": {\"prestart\": [{\"path\": \"/x\", \"args\": [{}]}]}"), "hooks.prestart[0].args[0]");
}

static void numbers_out_of_range_are_refused(void **state)
{
        assert_refused(PROCESS("\"user\": {\"uid\": -1}"), "process.user.uid");
        assert_refused(PROCESS("\"user\": {\"uid\": 4294967296}"), "process.user.uid");
        assert_refused(PROCESS("\"user\": {\"uid\": 1.5}"), "process.user.uid");
        /* setresuid(-1) would leave the payload root. */
        assert_refused(PROCESS("\"user\": {\"uid\": 4294967295}"), "not an id");
        assert_refused(PROCESS("\"user\": {\"gid\": 4294967295}"), "not an id");
        assert_refused(PROCESS("\"oomScoreAdj\": 1001"), "process.oomScoreAdj");
}

static void no_limit_as_go_writes_it_is_understood(void **state)
{
        _cleanup_(spec_freep) struct spec *spec = parse(PROCESS(
                "\"rlimits\": [{\"type\": \"RLIMIT_CORE\", \"soft\": 18446744073709551615, \"hard\": 18446744073709551615}]"));

        assert_int_equal(spec->process->rlimits.item[0].resource, RLIMIT_CORE);
        assert_true(spec->process->rlimits.item[0].soft == RLIM_INFINITY);
        assert_true(spec->process->rlimits.item[0].hard == RLIM_INFINITY);
}

static void digits_inside_strings_stay_what_they_are(void **state)
{
        _cleanup_(spec_freep) struct spec *spec = parse(PROCESS(
                "\"env\": [\"A=\\\"18446744073709551615\"], \"rlimits\": [{\"type\": \"RLIMIT_CORE\", \"soft\": 18446744073709551615, \"hard\": 1}]"));

        assert_string_equal(spec->process->env.item[0], "A=\"18446744073709551615");
}

static void only_version_one_is_accepted(void **state)
{
        _cleanup_(spec_freep) struct spec *spec = parse("{\"ociVersion\": \"1.0.2-dev\", \"root\": {\"path\": \"r\"}}");

        assert_non_null(spec);
        assert_refused("{\"ociVersion\": \"2.0.0\", \"root\": {\"path\": \"r\"}}", "ociVersion");
        assert_refused("{\"ociVersion\": \"one\", \"root\": {\"path\": \"r\"}}", "ociVersion");
}

static void namespaces_are_new_or_joined(void **state)
{
        _cleanup_(spec_freep) struct spec *spec = parse(
                LINUX("\"namespaces\": [{\"type\": \"mount\"}, {\"type\": \"network\", \"path\": \"/run/netns/x\"}]"));

        assert_int_equal(spec->namespaces_new, CLONE_NEWNS);
        assert_int_equal(spec->namespaces_joined, CLONE_NEWNET);
        assert_string_equal(spec->namespace_path[NAMESPACE_NET], "/run/netns/x");
        assert_refused(LINUX("\"namespaces\": [{\"type\": \"pid\"}, {\"type\": \"pid\"}]"), "twice");
        assert_refused(LINUX("\"namespaces\": [{\"type\": \"moon\"}]"), "'moon' is unknown");
        assert_refused(LINUX("\"namespaces\": [{\"type\": \"pid\", \"path\": \"relative\"}]"), "not absolute");
}

static void what_needs_a_namespace_says_so(void **state)
{
        assert_refused(CONFIG("\"hostname\": \"x\""), "UTS");
        assert_refused(LINUX("\"maskedPaths\": [\"/proc/kcore\"]"), "mount namespace");
        assert_refused(LINUX("\"uidMappings\": [{\"containerID\": 0, \"hostID\": 1, \"size\": 1}]"), "user namespace");
        assert_refused(LINUX("\"namespaces\": [{\"type\": \"user\"}]"), "uidMappings");
        assert_refused(LINUX("\"timeOffsets\": {\"boottime\": {\"secs\": 1}}"), "time namespace");
}

static void sysctls_of_the_host_are_refused(void **state)
{
        _cleanup_(spec_freep) struct spec *spec = parse(LINUX(
                "\"namespaces\": [{\"type\": \"network\"}, {\"type\": \"ipc\"}], \"sysctl\": {\"net.ipv4.ip_forward\": \"1\", \"kernel/shmmax\": \"5\"}"));

        assert_int_equal(spec->linux_.sysctl.n, 2);
        assert_refused(LINUX("\"sysctl\": {\"net.ipv4.ip_forward\": \"1\"}"), "no namespace of its own");
        assert_refused(
                LINUX("\"namespaces\": [{\"type\": \"network\"}], \"sysctl\": {\"kernel.core_pattern\": \"|/x\"}"),
                "belongs to no namespace");
        assert_refused(
                LINUX("\"namespaces\": [{\"type\": \"network\"}], \"sysctl\": {\"net/../kernel/core_pattern\": \"|/x\"}"),
                "not a name");
        assert_refused(
                LINUX("\"namespaces\": [{\"type\": \"network\"}], \"sysctl\": {\"net.//.kernel.core_pattern\": \"x\"}"),
                "not a name");
        assert_refused(
                LINUX("\"namespaces\": [{\"type\": \"uts\"}], \"sysctl\": {\"kernel.hostname\": \"x\"}"), "conflicts");
}

static void capabilities_are_sets_of_bits(void **state)
{
        _cleanup_(spec_freep) struct spec *spec = parse(PROCESS(
                "\"capabilities\": {\"bounding\": [\"CAP_KILL\", \"CAP_SYS_ADMIN\", \"CAP_OF_TOMORROW\"], \"ambient\": [\"CAP_CHOWN\"]}"));

        assert_true(spec->process->capabilities->set[CAP_SET_BOUNDING] == (BIT(5) | BIT(21)));
        assert_true(spec->process->capabilities->set[CAP_SET_AMBIENT] == BIT(0));
        assert_true(spec->process->capabilities->set[CAP_SET_INHERITABLE] == 0);
        assert_int_equal(spec_capability("sys_admin"), 21);
        assert_int_equal(spec_capability("CAP_"), -1);
}

static void id_maps_must_fit(void **state)
{
        assert_refused(
                LINUX("\"namespaces\": [{\"type\": \"user\"}], \"uidMappings\": [{\"containerID\": 4294967295, \"hostID\": 0, \"size\": 2}]"),
                "do not fit");
        assert_refused(
                LINUX("\"namespaces\": [{\"type\": \"user\"}], \"uidMappings\": [{\"containerID\": 0, \"hostID\": 0, \"size\": 0}]"),
                "do not fit");
}

static void hooks_must_be_absolute(void **state)
{
        assert_refused(CONFIG("\"hooks\": {\"poststop\": [{\"path\": \"x\"}]}"), "hooks.poststop[0].path");
        assert_refused(CONFIG("\"hooks\": {\"poststop\": [{\"path\": \"/x\", \"timeout\": 0}]}"), "timeout");
}

static void a_truncated_document_is_refused_with_its_place(void **state)
{
        assert_refused("{\"ociVersion\": ", "line 1");
        assert_refused("", "line 1");
        assert_refused("[]", "must be an object");
}

static void mount_options_are_sorted(void **state)
{
        const char *list[] = { "rbind", "ro", "rw", "nosuid", "rslave", "rro", "size=64k", "noatime", NULL };
        const struct spec_strings options = { list, 8 };
        struct arena arena = { 0 };
        struct mount_options o;

        assert_int_equal(mount_options_parse(&arena, &options, &o, NULL), 0);
        assert_int_equal(o.flags, MOUNT_BIND | MOUNT_RECURSIVE);
        assert_true(o.set == (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOATIME)); /* rw came after ro */
        assert_true(o.clear == (MOUNT_ATTR_RDONLY | MOUNT_ATTR__ATIME));
        assert_true(o.all_set == MOUNT_ATTR_RDONLY);
        assert_true(o.propagation == (MS_SLAVE | MS_REC));
        assert_int_equal(o.data.n, 1);
        assert_string_equal(o.data.item[0], "size=64k");
        arena_release(&arena);
}

static void the_template_is_a_configuration(void **state)
{
        extern json_t *box_spec_template(bool rootless);

        for (int rootless = 0; rootless < 2; rootless++) {
                json_t *json = box_spec_template(rootless);
                char *text = json ? json_dumps(json, 0) : NULL;
                struct spec *spec;

                assert_non_null(text);
                spec = parse(text);
                assert_non_null(spec->process);
                spec_free(spec);
                free(text);
                json_decref(json);
        }
}

static void lists_of_numbers_are_read_or_refused(void **state)
{
        static const char *const bad[] = { "-", "1-", "-1", "3-2", "1,,2", "a", "1;2", "128", "0-128", "99999999999999999999", " " };
        unsigned long mask[2];

        assert_int_equal(spec_id_list("0-2,5,127", mask, 128), 0);
        assert_int_equal(mask[0], 0x27);
        assert_int_equal(mask[1], 1UL << 63);
        assert_int_equal(spec_id_list("", mask, 128), 0);
        assert_int_equal(mask[0] | mask[1], 0);
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                assert_int_equal(spec_id_list(bad[i], mask, 128), -EINVAL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_least_configuration_is_read),
                cmocka_unit_test(unknown_members_are_ignored),
                cmocka_unit_test(a_missing_member_is_named),
                cmocka_unit_test(a_wrong_type_is_named),
                cmocka_unit_test(numbers_out_of_range_are_refused),
                cmocka_unit_test(no_limit_as_go_writes_it_is_understood),
                cmocka_unit_test(digits_inside_strings_stay_what_they_are),
                cmocka_unit_test(only_version_one_is_accepted),
                cmocka_unit_test(namespaces_are_new_or_joined),
                cmocka_unit_test(what_needs_a_namespace_says_so),
                cmocka_unit_test(sysctls_of_the_host_are_refused),
                cmocka_unit_test(capabilities_are_sets_of_bits),
                cmocka_unit_test(id_maps_must_fit),
                cmocka_unit_test(hooks_must_be_absolute),
                cmocka_unit_test(a_truncated_document_is_refused_with_its_place),
                cmocka_unit_test(mount_options_are_sorted),
                cmocka_unit_test(the_template_is_a_configuration),
                cmocka_unit_test(lists_of_numbers_are_read_or_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
