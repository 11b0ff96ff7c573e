/* Saved state: what was put comes back, in a fixed byte order, and no damaged stream is believed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/statebuf.h"

#define HEADER (STATE_NAME_MAX + 8)

static void put_two_sections(struct state_out *out)
{
        state_out_init(out);
        state_out_section_begin(out, "first", 3);
        state_put_u8(out, 0x12);
        state_put_u16(out, 0x3456);
        state_put_u32(out, 0x789abcde);
        state_put_u64(out, 0x0123456789abcdef);
        state_put_bool(out, true);
        state_put_bytes(out, "raw", 3);
        state_out_section_end(out);
        state_out_section_begin(out, "second", 7);
        state_put_u32(out, 42);
        state_out_section_end(out);
        assert_int_equal(state_out_finish(out, NULL), 0);
}

static void what_was_put_comes_back(void **state)
{
        _cleanup_(state_out_free) struct state_out out;
        struct state_in in;
        char name[STATE_NAME_MAX], raw[3];
        u32 version;

        put_two_sections(&out);
        state_in_init(&in, out.data, out.len);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        assert_string_equal(name, "first");
        assert_int_equal(version, 3);
        assert_int_equal(state_in_left(&in), 1 + 2 + 4 + 8 + 1 + 3);
        assert_int_equal(state_get_u8(&in), 0x12);
        assert_int_equal(state_get_u16(&in), 0x3456);
        assert_int_equal(state_get_u32(&in), 0x789abcde);
        assert_true(state_get_u64(&in) == 0x0123456789abcdef);
        assert_true(state_get_bool(&in));
        state_get_bytes(&in, raw, 3);
        assert_memory_equal(raw, "raw", 3);
        assert_int_equal(state_in_left(&in), 0);
        assert_false(state_in_error(&in));
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        assert_string_equal(name, "second");
        assert_int_equal(version, 7);
        assert_int_equal(state_get_u32(&in), 42);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 0);
}

/* Streams travel between builds, so the bytes themselves are the promise. */
static void bytes_are_little_endian_and_packed(void **state)
{
        static const u8 payload[] = { 0x12, 0x56, 0x34, 0xde, 0xbc, 0x9a, 0x78, 0xef, 0xcd, 0xab,
                                      0x89, 0x67, 0x45, 0x23, 0x01, 1,    'r',  'a',  'w' };
        static const u8 numbers[8] = { 3, 0, 0, 0, sizeof(payload), 0, 0, 0 };
        _cleanup_(state_out_free) struct state_out out;

        put_two_sections(&out);
        assert_int_equal(out.len, HEADER + sizeof(payload) + HEADER + 4);
        assert_memory_equal(out.data, "first\0\0\0", 8);
        assert_memory_equal(out.data + STATE_NAME_MAX, numbers, 8);
        assert_memory_equal(out.data + HEADER, payload, sizeof(payload));
}

static void reading_past_a_section_yields_zeros_and_an_error(void **state)
{
        _cleanup_(state_out_free) struct state_out out;
        struct state_in in;
        char name[STATE_NAME_MAX];
        u32 version;

        state_out_init(&out);
        state_out_section_begin(&out, "short", 1);
        state_put_u32(&out, 0xffffffff);
        state_out_section_end(&out);
        state_out_section_begin(&out, "next", 1);
        state_put_u64(&out, ~0ULL);
        state_out_section_end(&out);
        state_in_init(&in, out.data, out.len);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        assert_true(state_get_u64(&in) == 0);
        assert_true(state_in_error(&in));
        assert_int_equal(state_get_u8(&in), 0); /* stays failed, although a byte would be there */
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        assert_false(state_in_error(&in)); /* each section is judged by itself */
        assert_true(state_get_u64(&in) == ~0ULL);
}

static void unread_rest_of_a_section_is_skipped(void **state)
{
        _cleanup_(state_out_free) struct state_out out;
        struct state_in in;
        char name[STATE_NAME_MAX];
        u32 version;

        put_two_sections(&out);
        state_in_init(&in, out.data, out.len);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        assert_string_equal(name, "second");
        assert_int_equal(state_get_u32(&in), 42);
}

/* Every cut gives an error or a clean end between sections, and never a read behind the buffer (the copy is exact, so that
 * a sanitizer would see one). */
static void every_truncation_is_noticed(void **state)
{
        _cleanup_(state_out_free) struct state_out out;
        size_t first;

        put_two_sections(&out);
        first = out.len - HEADER - 4;
        for (size_t len = 0; len < out.len; len++) {
                _cleanup_free_ u8 *copy = malloc(len ? len : 1);
                struct state_in in;
                char name[STATE_NAME_MAX];
                u32 version;
                int r;

                memcpy(copy, out.data, len);
                state_in_init(&in, copy, len);
                do {
                        _cleanup_(err_freep) struct err *err = NULL;

                        r = state_in_section_next(&in, name, &version, &err);
                        if (r < 0) {
                                assert_int_equal(r, -EINVAL);
                                assert_int_equal(err_get_id(err), ERR_BAD_STATE);
                        }
                } while (r > 0);
                assert_int_equal(r, len == 0 || len == first ? 0 : -EINVAL);
        }
}

static void section_longer_than_the_stream_is_refused(void **state)
{
        _cleanup_(state_out_free) struct state_out out;
        struct state_in in;
        char name[STATE_NAME_MAX];
        u32 version;

        put_two_sections(&out);
        memset(out.data + STATE_NAME_MAX + 4, 0xff, 4);
        state_in_init(&in, out.data, out.len);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), -EINVAL);
}

static void unterminated_name_is_refused(void **state)
{
        _cleanup_(state_out_free) struct state_out out;
        struct state_in in;
        char name[STATE_NAME_MAX];
        u32 version;

        put_two_sections(&out);
        memset(out.data, 'x', STATE_NAME_MAX);
        state_in_init(&in, out.data, out.len);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), -EINVAL);
}

static void long_names_are_cut_and_terminated(void **state)
{
        _cleanup_(state_out_free) struct state_out out;
        struct state_in in;
        char name[STATE_NAME_MAX];
        u32 version;

        state_out_init(&out);
        state_out_section_begin(&out, "a-name-that-is-much-longer-than-thirty-two-bytes", 1);
        state_out_section_end(&out);
        state_in_init(&in, out.data, out.len);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        assert_int_equal(strlen(name), STATE_NAME_MAX - 1);
}

static void large_states_keep_their_content(void **state)
{
        _cleanup_(state_out_free) struct state_out out;
        struct state_in in;
        char name[STATE_NAME_MAX];
        u32 version;

        state_out_init(&out);
        state_out_section_begin(&out, "large", 1);
        for (u32 i = 0; i < 100000; i++)
                state_put_u32(&out, i * 2654435761u);
        state_out_section_end(&out);
        assert_int_equal(state_out_finish(&out, NULL), 0);
        state_in_init(&in, out.data, out.len);
        assert_int_equal(state_in_section_next(&in, name, &version, NULL), 1);
        for (u32 i = 0; i < 100000; i++)
                if (state_get_u32(&in) != i * 2654435761u)
                        fail_msg("word %u differs", i);
        assert_false(state_in_error(&in));
}

/* Sanitizers stop the program at such a request unless told otherwise. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);
const char *__asan_default_options(void)
{
        return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void)
{
        return "allocator_may_return_null=1";
}

/* A put of more than the address space must be remembered, whatever comes after it. */
static void running_out_of_memory_is_reported_at_the_end(void **state)
{
        _cleanup_(state_out_free) struct state_out out;
        _cleanup_(err_freep) struct err *err = NULL;
        u8 byte = 0;

        state_out_init(&out);
        state_out_section_begin(&out, "huge", 1);
        state_put_bytes(&out, &byte, PTRDIFF_MAX);
        state_put_u8(&out, 1);
        state_out_section_end(&out);
        assert_int_equal(state_out_finish(&out, &err), -ENOMEM);
        assert_int_equal(err_get_id(err), ERR_NO_MEMORY);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_was_put_comes_back),
                cmocka_unit_test(bytes_are_little_endian_and_packed),
                cmocka_unit_test(reading_past_a_section_yields_zeros_and_an_error),
                cmocka_unit_test(unread_rest_of_a_section_is_skipped),
                cmocka_unit_test(every_truncation_is_noticed),
                cmocka_unit_test(section_longer_than_the_stream_is_refused),
                cmocka_unit_test(unterminated_name_is_refused),
                cmocka_unit_test(long_names_are_cut_and_terminated),
                cmocka_unit_test(large_states_keep_their_content),
                cmocka_unit_test(running_out_of_memory_is_reported_at_the_end),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
