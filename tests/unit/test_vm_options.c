/* The command line: what it becomes and how it is refused. Also the keys of the terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "vm/options.h"
#include "vm/terminal.h"

#define ARGS(...)                 \
        (char *[])                \
        {                         \
                __VA_ARGS__, NULL \
        }

static int parse(char *const argv[], struct vmm_options *ret, struct err **err)
{
        int argc = 0;

        while (argv[argc])
                argc++;
        return options_parse(argc, argv, ret, err);
}

static void defaults_are_as_documented(void **state)
{
        struct vmm_options o;

        assert_int_equal(parse(ARGS("--kernel", "k"), &o, NULL), 0);
        assert_string_equal(o.vm.kernel, "k");
        assert_int_equal(o.vm.memory, 512 * MIB);
        assert_int_equal(o.vm.n_cpus, 1);
        assert_string_equal(o.vm.engine, "auto");
        assert_int_equal(o.vm.n_nets, 0);
        assert_int_equal(o.vm.console, VM_CONSOLE_STDIO);
        assert_false(o.vm.debug_exit);
        assert_false(o.vm.start_paused);
        options_free(&o);
}

static void the_jail_has_three_words(void **state)
{
        static const struct {
                const char *word;
                enum jail_mode mode;
        } words[] = { { "auto", JAIL_AUTO }, { "none", JAIL_NONE }, { "required", JAIL_REQUIRED } };
        _cleanup_(err_freep) struct err *err = NULL;
        struct vmm_options o;

        assert_int_equal(parse(ARGS("--kernel", "k"), &o, NULL), 0);
        assert_int_equal(o.jail, JAIL_AUTO);
        options_free(&o);
        for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
                assert_int_equal(parse(ARGS("--kernel", "k", "--jail", (char *)(uintptr_t)words[i].word), &o, NULL), 0);
                assert_int_equal(o.jail, words[i].mode);
                options_free(&o);
        }
        assert_true(parse(ARGS("--kernel", "k", "--jail", "some"), &o, &err) < 0);
        assert_int_equal(err_get_id(err), ERR_USAGE);
        options_free(&o);
}

static void every_option_arrives(void **state)
{
        struct vmm_options o;

        assert_int_equal(
                parse(ARGS("--kernel=k", "--initrd", "i", "--append", "--x --kernel", "--memory", "1G", "--cpus", "4",
                              "--engine", "interp", "--disk", "a,,b,bus=virtio,ro", "--disk", "c", "--net", "tap=t0", "--net", "fd=7,mac=02:53:00:00:00:01",
                              "--console", "file", "--console-virtio", "--debug-exit", "--stats", "-", "--trace", "irq",
                              "--trace-file", "t", "--gdb", "1234", "--boot", "pvh"),
                        &o, NULL),
                0);
        assert_string_equal(o.vm.append, "--x --kernel");
        assert_int_equal(o.vm.memory, GIB);
        assert_int_equal(o.vm.n_cpus, 4);
        assert_int_equal(o.vm.n_disks, 2);
        assert_string_equal(o.vm.disks[0].spec, "a,,b,ro");
        assert_int_equal(o.vm.disks[0].bus, VM_DISK_VIRTIO);
        assert_int_equal(o.vm.disks[1].bus, VM_DISK_NVME);
        assert_int_equal(o.vm.n_nets, 2);
        assert_int_equal(o.vm.nets[0].how, VM_NET_TAP);
        assert_string_equal(o.vm.nets[0].tap, "t0");
        assert_int_equal(o.vm.nets[1].how, VM_NET_FD);
        assert_int_equal(o.vm.nets[1].fd, 7);
        assert_memory_equal(o.vm.nets[1].mac, "\x02\x53\0\0\0\1", 6);
        assert_int_equal(o.vm.console, VM_CONSOLE_FILE);
        assert_true(o.vm.console_virtio);
        assert_true(o.vm.debug_exit);
        assert_int_equal(o.gdb_port, 1234);
        assert_true(o.vm.start_paused);
        assert_int_equal(o.vm.boot, VM_BOOT_PVH);
        options_free(&o);
}

static void device_words_arrive(void **state)
{
        struct vmm_options o;

        assert_int_equal(parse(ARGS("--kernel", "k", "--vsock", "socket=/run/a,,b,cid=4294967294", "--balloon", "--control", "/c",
                                       "--share", "path=/srv/a=b,tag=one,ro", "--share", "tag=two,path=/"),
                                 &o, NULL),
                0);
        assert_int_equal(o.vm.vsock_cid, 4294967294U);
        assert_string_equal(o.vm.vsock_socket, "/run/a,b");
        assert_true(o.vm.balloon);
        assert_string_equal(o.vm.control_socket, "/c");
        assert_int_equal(o.vm.n_shares, 2);
        assert_string_equal(o.vm.shares[0].tag, "one");
        assert_string_equal(o.vm.shares[0].path, "/srv/a=b");
        assert_true(o.vm.shares[0].read_only);
        assert_false(o.vm.shares[1].read_only);
        options_free(&o);
}

static void wrong_lines_are_refused_by_name(void **state)
{
        static const struct {
                char *argv[6];
                const char *part;
        } lines[] = {
                { { "--memory", "1G" }, "kernel" },
                { { "--kernel", "k", "--frobnicate" }, "--frobnicate" },
                { { "--kernel", "k", "surplus" }, "surplus" },
                { { "--kernel" }, "--kernel" },
                { { "--kernel", "k", "--kernel", "k" }, "twice" },
                { { "--kernel", "k", "--debug-exit=1" }, "no value" },
                { { "--kernel", "k", "--memory", "lots" }, "lots" },
                { { "--kernel", "k", "--memory", "512Q" }, "512Q" },
                { { "--kernel", "k", "--memory", "-5M" }, "-5M" },
                { { "--kernel", "k", "--memory", "0" }, "needs" },
                { { "--kernel", "k", "--memory", "4097K" }, "4K" },
                { { "--kernel", "k", "--memory", "99999999999999999999G" }, "GiB" },
                { { "--kernel", "k", "--memory", "18014398509481984K" }, "GiB" }, /* 2^64 bytes */
                { { "--kernel", "k", "--cpus", "0" }, "0" },
                { { "--kernel", "k", "--cpus", "256" }, "256" },
                { { "--kernel", "k", "--cpus", "2M" }, "2M" },
                { { "--kernel", "k", "--net", "tap=" }, "tap" },
                { { "--kernel", "k", "--net", "fd=2" }, "fd=2" },
                { { "--kernel", "k", "--net", "user,tap=t" }, "user,tap=t" },
                { { "--kernel", "k", "--net", "mac=02:53:00:00:00:01" }, "mac=" },
                { { "--kernel", "k", "--net", "user,mac=01:53:00:00:00:01" }, "mac=01" },
                { { "--kernel", "k", "--net", "user,mac=02:53:00:00:00:1" }, "mac=02" },
                { { "--kernel", "k", "--disk", "d,bus=scsi" }, "scsi" },
                { { "--kernel", "k", "--gdb", "65536" }, "65536" },
                { { "--kernel", "k", "--boot", "efi" }, "efi" },
                { { "--kernel", "k", "--trace-file", "t" }, "--trace" },
                { { "--kernel", "k", "--vsock", "cid=2,socket=s" }, "cid=2" },
                { { "--kernel", "k", "--vsock", "cid=4294967295,socket=s" }, "4294967295" },
                { { "--kernel", "k", "--vsock", "cid=3" }, "socket=" },
                { { "--kernel", "k", "--vsock", "cid=3,socket=" }, "socket" },
                { { "--kernel", "k", "--vsock", "cid=3,cid=4,socket=s" }, "cid" },
                { { "--kernel", "k", "--vsock=cid=3,socket=s", "--vsock=cid=3,socket=s" }, "twice" },
                { { "--kernel", "k", "--share", "tag=a,path=b,ro=1" }, "ro" },
                { { "--kernel", "k", "--share", "tag=1234567890123456789012345678901234567,path=b" }, "longer" },
                { { "--kernel", "k", "--control", "" }, "--control" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                struct vmm_options o;
                struct err *err = NULL;

                assert_true(parse(lines[i].argv, &o, &err) < 0);
                assert_int_equal(err_exit_status(err), 124);
                if (!strstr(err_message(err), lines[i].part))
                        fail_msg("'%s' is not in '%s'", lines[i].part, err_message(err));
                err_free(err);
                options_free(&o);
        }
}

static void sizes_take_suffixes_of_either_case(void **state)
{
        u64 v;

        assert_int_equal(options_parse_size("64", MIB, &v), 0);
        assert_int_equal(v, 64 * MIB);
        assert_int_equal(options_parse_size("64k", MIB, &v), 0);
        assert_int_equal(v, 64 * KIB);
        assert_int_equal(options_parse_size("2G", 1, &v), 0);
        assert_int_equal(v, 2 * GIB);
        assert_int_equal(options_parse_size("2GB", 1, &v), -22);
        assert_int_equal(options_parse_size("", 1, &v), -22);
}

/* ---- keys ---- */

static void keys_give(const char *in, const char *out, enum terminal_key key, size_t used)
{
        struct terminal_keys keys = { 0 };
        u8 buf[64];
        size_t n, r;
        enum terminal_key got;

        r = terminal_filter(&keys, (const u8 *)in, strlen(in), buf, &n, &got);
        assert_int_equal(r, used);
        assert_int_equal(got, key);
        assert_int_equal(n, strlen(out));
        assert_memory_equal(buf, out, n);
}

static void ctrl_a_escapes_and_everything_else_passes(void **state)
{
        keys_give("ls\r\x03", "ls\r\x03", KEY_NONE, 4);
        keys_give("a\x01xb", "a", KEY_QUIT, 3);
        keys_give("a\x01Xb", "a", KEY_QUIT, 3);
        keys_give("\x01h", "", KEY_HELP, 2);
        keys_give("a\x01\x01"
                  "b",
                "a\x01"
                "b",
                KEY_NONE, 4);
        keys_give("\x01zq", "q", KEY_NONE, 3);
}

static void ctrl_a_is_remembered_between_reads(void **state)
{
        struct terminal_keys keys = { 0 };
        enum terminal_key got;
        u8 buf[8];
        size_t n;

        terminal_filter(&keys, (const u8 *)"\x01", 1, buf, &n, &got);
        assert_int_equal(n, 0);
        assert_int_equal(got, KEY_NONE);
        terminal_filter(&keys, (const u8 *)"x", 1, buf, &n, &got);
        assert_int_equal(got, KEY_QUIT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(defaults_are_as_documented),
                cmocka_unit_test(every_option_arrives),
                cmocka_unit_test(the_jail_has_three_words),
                cmocka_unit_test(wrong_lines_are_refused_by_name),
                cmocka_unit_test(device_words_arrive),
                cmocka_unit_test(sizes_take_suffixes_of_either_case),
                cmocka_unit_test(ctrl_a_escapes_and_everything_else_passes),
                cmocka_unit_test(ctrl_a_is_remembered_between_reads),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
