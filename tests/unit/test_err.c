/* Errors: stable ids, one message for the whole chain, the first hint, and callers that do not want to know. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/err.h"

static void set_returns_minus_errno_and_fills_the_error(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;

        assert_int_equal(err_set(&err, ERR_BUSY, EBUSY, "port %d is taken", 80), -EBUSY);
        assert_int_equal(err_get_id(err), ERR_BUSY);
        assert_string_equal(err_message(err), "port 80 is taken");
        assert_null(err_get_hint(err));
}

static void callers_may_pass_no_error(void **state)
{
        assert_int_equal(err_set(NULL, ERR_BUSY, EBUSY, "x"), -EBUSY);
        assert_int_equal(err_sys(NULL, ENOENT, "x"), -ENOENT);
        assert_int_equal(err_wrap(NULL, -7, "x"), -7);
        assert_int_equal(err_hint(NULL, -7, "x"), -7);
}

static void wrap_puts_context_in_front_and_keeps_the_id(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;
        int r = err_set(&err, ERR_BAD_IMAGE, EINVAL, "bad magic");

        r = err_wrap(&err, r, "disk '%s'", "a.img");
        r = err_wrap(&err, r, "starting");
        assert_int_equal(r, -EINVAL);
        assert_string_equal(err_message(err), "starting: disk 'a.img': bad magic");
        assert_int_equal(err_get_id(err), ERR_BAD_IMAGE);
}

static void set_over_an_error_keeps_it_as_the_cause(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;

        err_set(&err, ERR_NOT_FOUND, ENOENT, "no file");
        assert_int_equal(err_set(&err, ERR_USAGE, EINVAL, "bad option"), -EINVAL);
        assert_string_equal(err_message(err), "bad option: no file");
        assert_int_equal(err_get_id(err), ERR_NOT_FOUND);
}

static void wrap_without_a_cause_is_an_internal_error(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;

        assert_int_equal(err_wrap(&err, -EIO, "reading"), -EIO);
        assert_int_equal(err_get_id(err), ERR_INTERNAL);
        assert_string_equal(err_message(err), "reading");
}

static void sys_chooses_the_id_from_errno(void **state)
{
        static const struct {
                int errnum;
                enum err_id id;
        } rows[] = {
                { ENOENT, ERR_NOT_FOUND },        { ENOTDIR, ERR_NOT_FOUND }, { EACCES, ERR_NO_PERMISSION },
                { EPERM, ERR_NO_PERMISSION },     { EBUSY, ERR_BUSY },        { EADDRINUSE, ERR_BUSY },
                { ENOMEM, ERR_NO_MEMORY },        { ENOSYS, ERR_UNSUPPORTED }, { EROFS, ERR_NO_PERMISSION },
                { EIO, ERR_IO },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_(err_freep) struct err *err = NULL;

                assert_int_equal(err_sys(&err, rows[i].errnum, "opening '%s'", "x"), -rows[i].errnum);
                assert_int_equal(err_get_id(err), rows[i].id);
                assert_memory_equal(err_message(err), "opening 'x': ", 13);
                assert_string_equal(err_message(err) + 13, strerror(rows[i].errnum));
        }
}

static void innermost_hint_wins(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;
        int r = err_set(&err, ERR_NO_PERMISSION, EACCES, "no");

        r = err_hint(&err, r, "join group '%s'", "kvm");
        assert_int_equal(err_hint(&err, r, "try again"), -EACCES);
        assert_string_equal(err_get_hint(err), "join group 'kvm'");
}

static void hint_without_an_error_is_dropped(void **state)
{
        struct err *err = NULL;

        assert_int_equal(err_hint(&err, 0, "nothing went wrong"), 0);
        assert_null(err);
        assert_null(err_get_hint(NULL));
}

static void every_id_has_a_name_and_both_statuses(void **state)
{
        for (enum err_id id = 0; id < ERR_ID_COUNT; id++) {
                _cleanup_(err_freep) struct err *err = NULL;

                err_set(&err, id, EIO, "x");
                assert_true(strlen(err_id_name(id)) > 1);
                assert_in_range(err_exit_status(err), 124, 127);
                assert_in_range(err_http_status(err), 400, 599);
        }
        assert_string_equal(err_id_name(ERR_GUEST_CRASH), "GUEST_CRASH");
        assert_string_equal(err_id_name(ERR_ID_COUNT), "UNKNOWN");
}

static void documented_exit_statuses_hold(void **state)
{
        static const struct {
                enum err_id id;
                int status;
        } rows[] = { { ERR_USAGE, 124 }, { ERR_NOT_FOUND, 125 }, { ERR_INTERNAL, 125 }, { ERR_GUEST_CRASH, 126 } };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_(err_freep) struct err *err = NULL;

                err_set(&err, rows[i].id, EIO, "x");
                assert_int_equal(err_exit_status(err), rows[i].status);
        }
}

/* calloc may fail in err_set; whoever looks at the error then gets something sensible. */
static void missing_error_reads_as_out_of_memory(void **state)
{
        assert_string_equal(err_message(NULL), "out of memory");
        assert_int_equal(err_exit_status(NULL), 125);
        assert_int_equal(err_http_status(NULL), 500);
        assert_null(err_free(NULL));
}

static int pass_through_a_pipe(int r, const struct err *sent, const char *instead, struct err **ret)
{
        int ends[2];

        assert_int_equal(pipe(ends), 0);
        if (instead)
                assert_int_equal(write(ends[1], instead, strlen(instead)), strlen(instead));
        else
                err_send(ends[1], r, sent);
        close(ends[1]);
        r = err_receive(ends[0], ret);
        close(ends[0]);
        return r;
}

static void a_childs_error_arrives_whole(void **state)
{
        _cleanup_(err_freep) struct err *sent = NULL, *got = NULL;

        err_hint(&sent, err_set(&sent, ERR_BUSY, EEXIST, "line one\nline two"), "wait");
        assert_int_equal(pass_through_a_pipe(-EEXIST, sent, NULL, &got), -EEXIST);
        assert_int_equal(err_get_id(got), ERR_BUSY);
        assert_string_equal(err_message(got), "line one\nline two");
        assert_string_equal(err_get_hint(got), "wait");
}

static void a_child_without_error_or_word_is_understood(void **state)
{
        static const char *const broken[] = { "", "0", "1\n2", "-1\n9999\n\nx", "x\n-5" };
        struct err *got = NULL;

        assert_int_equal(pass_through_a_pipe(0, NULL, NULL, &got), 0);
        assert_null(got);
        for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
                assert_true(pass_through_a_pipe(0, NULL, broken[i], &got) < 0);
                assert_non_null(got);
                assert_true(err_get_id(got) < ERR_ID_COUNT);
                got = err_free(got);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(set_returns_minus_errno_and_fills_the_error),
                cmocka_unit_test(callers_may_pass_no_error),
                cmocka_unit_test(wrap_puts_context_in_front_and_keeps_the_id),
                cmocka_unit_test(set_over_an_error_keeps_it_as_the_cause),
                cmocka_unit_test(wrap_without_a_cause_is_an_internal_error),
                cmocka_unit_test(sys_chooses_the_id_from_errno),
                cmocka_unit_test(innermost_hint_wins),
                cmocka_unit_test(hint_without_an_error_is_dropped),
                cmocka_unit_test(every_id_has_a_name_and_both_statuses),
                cmocka_unit_test(documented_exit_statuses_hold),
                cmocka_unit_test(missing_error_reads_as_out_of_memory),
                cmocka_unit_test(a_childs_error_arrives_whole),
                cmocka_unit_test(a_child_without_error_or_word_is_understood),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
