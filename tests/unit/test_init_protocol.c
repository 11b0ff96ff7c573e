/* The protocol between a host and strata-init. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "init/protocol.h"

static u8 buffer[INIT_FRAME_HEADER + INIT_FRAME_MAX + 64];

static size_t start_frame(void)
{
        static const char *const arguments[] = { "/bin/sh", "-c", "", NULL }, *const none[] = { NULL };
        struct init_frame frame;
        size_t size = 0;

        init_frame_begin(&frame, buffer, sizeof(buffer), INIT_START, 7);
        init_put_list(&frame, arguments);
        init_put_list(&frame, none);
        init_put_u32(&frame, 1000);
        init_put_u32(&frame, 100);
        init_put_u32(&frame, INIT_START_TTY);
        init_put_text(&frame, "/srv");
        init_put_text(&frame, "main");
        init_put_u32(&frame, 022);
        init_put_numbers(&frame, (const u64[]){ 4, 1ULL << 40 }, 2);
        init_put_numbers(&frame, NULL, 0);
        init_put_u64(&frame, UINT64_MAX);
        init_put_u32(&frame, 0);
        init_put_u32(&frame, 80);
        init_put_u32(&frame, 25);
        assert_int_equal(init_frame_end(&frame, &size), 0);
        return size;
}

static void what_is_written_is_read(void **state)
{
        const size_t size = start_frame();
        struct init_message m;
        const char *text;
        size_t found;

        assert_int_equal(init_frame_next(buffer, size + 5, &found), 1);
        assert_int_equal(found, size);
        assert_int_equal(init_parse(buffer, size, INIT_TO_GUEST, &m), 0);
        assert_int_equal(m.type, INIT_START);
        assert_int_equal(m.id, 7);
        assert_int_equal(m.field[0].number, 3);
        text = m.field[0].text;
        assert_string_equal(text, "/bin/sh");
        assert_string_equal(text = init_next_text(text), "-c");
        assert_string_equal(init_next_text(text), "");
        assert_int_equal(m.field[1].number, 0);
        assert_int_equal(m.field[2].number, 1000);
        assert_int_equal(m.field[3].number, 100);
        assert_int_equal(m.field[4].number, INIT_START_TTY);
        assert_string_equal(m.field[5].text, "/srv");
        assert_string_equal(m.field[6].text, "main");
        assert_int_equal(m.field[7].number, 022);
        assert_int_equal(m.field[8].number, 2);
        assert_int_equal(init_number(&m.field[8], 0), 4);
        assert_true(init_number(&m.field[8], 1) == 1ULL << 40);
        assert_int_equal(m.field[9].number, 0);
        assert_true(m.field[10].number == UINT64_MAX);
        assert_int_equal(m.field[13].number, 25);
}

static void bytes_take_the_rest(void **state)
{
        struct init_frame frame;
        struct init_message m;
        size_t size = 0;

        init_frame_begin(&frame, buffer, sizeof(buffer), INIT_DATA, 1);
        init_put_u32(&frame, 2);
        init_put_bytes(&frame, "a\0b", 3);
        assert_int_equal(init_frame_end(&frame, &size), 0);
        for (unsigned direction = INIT_TO_GUEST; direction <= INIT_TO_HOST; direction++) {
                assert_int_equal(init_parse(buffer, size, (enum init_direction)direction, &m), 0);
                assert_int_equal(m.field[1].number, 3);
                assert_memory_equal(m.field[1].text, "a\0b", 3);
        }
}

static void a_frame_that_is_not_whole_waits(void **state)
{
        const size_t size = start_frame();
        size_t found;

        for (size_t len = 0; len < size; len++)
                assert_int_equal(init_frame_next(buffer, len, &found), 0);
}

static void every_cut_is_noticed(void **state)
{
        const size_t size = start_frame();
        struct init_message m;
        u32 length;

        for (size_t len = 0; len < size; len++) {
                start_frame();
                assert_int_equal(init_parse(buffer, len, INIT_TO_GUEST, &m), -EBADMSG);
                /* Also when the header agrees. */
                length = (u32)(len - INIT_FRAME_HEADER);
                memcpy(buffer, &length, sizeof(length));
                if (len >= INIT_FRAME_HEADER)
                        assert_int_equal(init_parse(buffer, len, INIT_TO_GUEST, &m), -EBADMSG);
        }
}

static void texts_have_one_nul_at_their_end(void **state)
{
        const size_t size = start_frame();
        struct init_message m;

        buffer[INIT_FRAME_HEADER + 8 + 3] = '\0'; /* inside "/bin/sh" */
        assert_int_equal(init_parse(buffer, size, INIT_TO_GUEST, &m), -EBADMSG);
        start_frame();
        buffer[INIT_FRAME_HEADER + 8 + 7] = 'x'; /* its end */
        assert_int_equal(init_parse(buffer, size, INIT_TO_GUEST, &m), -EBADMSG);
        start_frame();
        memset(buffer + INIT_FRAME_HEADER + 4, 0, 4); /* a text of no bytes has no NUL */
        assert_int_equal(init_parse(buffer, size, INIT_TO_GUEST, &m), -EBADMSG);
        start_frame();
        memset(buffer + INIT_FRAME_HEADER, 0xff, 4); /* so many arguments */
        assert_int_equal(init_parse(buffer, size, INIT_TO_GUEST, &m), -EBADMSG);
}

static void directions_types_and_headers_are_checked(void **state)
{
        const size_t size = start_frame();
        struct init_message m;
        size_t found;

        assert_int_equal(init_parse(buffer, size, INIT_TO_HOST, &m), -EBADMSG);
        buffer[4] = 15; /* no such type */
        assert_int_equal(init_parse(buffer, size, INIT_TO_GUEST, &m), -EPROTONOSUPPORT);
        start_frame();
        buffer[6] = 1;
        assert_int_equal(init_parse(buffer, size, INIT_TO_GUEST, &m), -EBADMSG);
        assert_int_equal(init_frame_next(buffer, size, &found), -EBADMSG);
        start_frame();
        buffer[3] = 1; /* 16 MiB */
        assert_int_equal(init_frame_next(buffer, size, &found), -EBADMSG);
}

static void fields_of_a_newer_peer_are_ignored(void **state)
{
        struct init_frame frame;
        struct init_message m;
        size_t size = 0;

        init_frame_begin(&frame, buffer, sizeof(buffer), INIT_SIGNAL, 1);
        init_put_u32(&frame, 15);
        init_put_text(&frame, "because");
        assert_int_equal(init_frame_end(&frame, &size), 0);
        assert_int_equal(init_parse(buffer, size, INIT_TO_GUEST, &m), 0);
        assert_int_equal(m.field[0].number, 15);
}

static void a_frame_that_is_too_large_is_not_sent(void **state)
{
        static u8 data[INIT_FRAME_MAX];
        struct init_frame frame;
        size_t size = 0;

        init_frame_begin(&frame, buffer, sizeof(buffer), INIT_DATA, 1);
        init_put_u32(&frame, 1);
        init_put_bytes(&frame, data, INIT_FRAME_MAX - 4);
        assert_int_equal(init_frame_end(&frame, &size), 0);
        init_put_bytes(&frame, data, 1);
        assert_int_equal(init_frame_end(&frame, &size), -EMSGSIZE);
        init_frame_begin(&frame, buffer, 8, INIT_DATA, 1);
        assert_int_equal(init_frame_end(&frame, &size), -EMSGSIZE);
}

static void numbers_and_fields_are_well_formed(void **state)
{
        static const struct {
                unsigned number;
                const char *fields;
        } all[] = {
#define INIT_MESSAGE(id, number, direction, fields, meaning) { number, fields },
#include "init/messages.def"
#undef INIT_MESSAGE
        };

        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                const char *bytes = strchr(all[i].fields, 'b');

                assert_true(strlen(all[i].fields) <= INIT_FIELDS_MAX);
                assert_int_equal(strspn(all[i].fields, "uUslNb"), strlen(all[i].fields));
                assert_true(!bytes || !bytes[1]);
                for (size_t j = 0; j < i; j++)
                        assert_int_not_equal(all[i].number, all[j].number);
        }
        assert_string_equal(init_type_name(INIT_START), "START");
        assert_string_equal(init_type_name((enum init_type)9999), "?");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_is_written_is_read),
                cmocka_unit_test(bytes_take_the_rest),
                cmocka_unit_test(a_frame_that_is_not_whole_waits),
                cmocka_unit_test(every_cut_is_noticed),
                cmocka_unit_test(texts_have_one_nul_at_their_end),
                cmocka_unit_test(directions_types_and_headers_are_checked),
                cmocka_unit_test(fields_of_a_newer_peer_are_ignored),
                cmocka_unit_test(a_frame_that_is_too_large_is_not_sent),
                cmocka_unit_test(numbers_and_fields_are_well_formed),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
