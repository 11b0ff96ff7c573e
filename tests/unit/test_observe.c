/* Counters and traces as the user sees them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/observe.h"

struct text {
        char *data;
        size_t len;
        FILE *file;
};

static void text_open(struct text *t)
{
        *t = (struct text){ 0 };
        t->file = open_memstream(&t->data, &t->len);
        assert_non_null(t->file);
}

static void text_free(struct text *t)
{
        fclose(t->file);
        free(t->data);
}

static int trace_reset(void **state)
{
        trace_mask = 0;
        trace_set_output(NULL);
        return 0;
}

static void enable_takes_a_list(void **state)
{
        assert_int_equal(trace_enable("irq,mmu", NULL), 0);
        assert_true(trace_mask == (BIT(TRACE_IRQ) | BIT(TRACE_MMU)));
        assert_int_equal(trace_enable("pci", NULL), 0);
        assert_true(trace_mask == (BIT(TRACE_IRQ) | BIT(TRACE_MMU) | BIT(TRACE_PCI)));
}

static void enable_takes_all(void **state)
{
        assert_int_equal(trace_enable("all", NULL), 0);
        assert_true(trace_mask == BIT(TRACE_CATEGORY_COUNT) - 1);
}

static void unknown_category_is_refused_by_name_and_changes_nothing(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;

        assert_int_equal(trace_enable("pci", NULL), 0);
        assert_int_equal(trace_enable("irq,bogus,mmu", &err), -EINVAL);
        assert_int_equal(err_get_id(err), ERR_USAGE);
        assert_non_null(strstr(err_message(err), "'bogus'"));
        assert_non_null(err_get_hint(err));
        assert_true(trace_mask == BIT(TRACE_PCI));
}

static void names_are_not_abbreviated(void **state)
{
        assert_int_equal(trace_enable("ir", NULL), -EINVAL);
        assert_int_equal(trace_enable("irqs", NULL), -EINVAL);
        assert_int_equal(trace_enable("al", NULL), -EINVAL);
}

static void enabled_events_are_one_line_each_with_their_fields(void **state)
{
        _cleanup_(text_free) struct text t;

        text_open(&t);
        trace_set_output(t.file);
        assert_int_equal(trace_enable("irq", NULL), 0);
        trace(IRQ_LINE, 9, 1);
        fflush(t.file);
        assert_non_null(strstr(t.data, " IRQ_LINE: gsi=9 level=1\r\n"));
        assert_ptr_equal(strchr(t.data, '\n'), t.data + t.len - 1);
}

static void other_categories_stay_silent(void **state)
{
        _cleanup_(text_free) struct text t;

        text_open(&t);
        trace_set_output(t.file);
        assert_int_equal(trace_enable("mmu", NULL), 0);
        trace(IRQ_LINE, 9, 1);
        fflush(t.file);
        assert_int_equal(t.len, 0);
}

/* A format that asks for more than four numbers, or for a string, would read what is not there. */
static void every_event_prints_four_numbers_at_most(void **state)
{
        static const char *const formats[] = {
#define EVENT(id, category, format) format,
#include "base/events.def"
#undef EVENT
        };

        for (size_t i = 0; i < EVENT_COUNT; i++) {
                unsigned n = 0;

                for (const char *p = formats[i]; (p = strchr(p, '%')); p++, n++)
                        assert_true(p[1] == 'l' && (p[2] == 'u' || p[2] == 'x'));
                assert_in_range(n, 1, 4);
                assert_true(event_category[i] < TRACE_CATEGORY_COUNT);
        }
}

static void categories_are_listed_by_the_names_that_enable_takes(void **state)
{
        _cleanup_(text_free) struct text t;
        unsigned lines = 0;
        char *save = NULL;

        text_open(&t);
        trace_print_categories(t.file);
        fflush(t.file);
        for (char *line = strtok_r(t.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                char name[16];

                assert_int_equal(sscanf(line, " %15s", name), 1);
                assert_int_equal(trace_enable(name, NULL), 0);
                lines++;
        }
        assert_int_equal(lines, TRACE_CATEGORY_COUNT);
        assert_true(trace_mask == BIT(TRACE_CATEGORY_COUNT) - 1);
}

static void print_shows_each_sets_nonzero_counters_and_exits(void **state)
{
        struct counters a = { 0 }, b = { 0 };
        const struct counters *const sets[] = { &a, &b };
        const char *const names[] = { "vcpu0", "devices" };
        _cleanup_(text_free) struct text t;

        counter_inc(&a, COUNTER_TLB_FILLS);
        counter_add(&a, COUNTER_TLB_FILLS, 41);
        exit_count(&a, EXIT_HLT);
        counter_inc(&b, COUNTER_PIO_READS);
        text_open(&t);
        counters_print(t.file, sets, names, 2);
        fflush(t.file);
        assert_memory_equal(t.data, "vcpu0 tlb_fills 42 fills  # ", 28);
        assert_non_null(strstr(t.data, "\nvcpu0 exit_hlt 1 exits  # "));
        assert_non_null(strstr(t.data, "\ndevices pio_reads 1 accesses  # "));
        assert_null(strstr(t.data, " 0 "));
}

static void exits_have_names(void **state)
{
        for (enum exit_reason i = 0; i < EXIT_COUNT; i++)
                assert_true(exit_name(i)[0]);
        assert_string_equal(exit_name(EXIT_TRIPLE_FAULT), "TRIPLE_FAULT");
        assert_string_equal(exit_name(EXIT_COUNT), "UNKNOWN");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, trace_reset, trace_reset)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(enable_takes_a_list),
                TEST(enable_takes_all),
                TEST(unknown_category_is_refused_by_name_and_changes_nothing),
                TEST(names_are_not_abbreviated),
                TEST(enabled_events_are_one_line_each_with_their_fields),
                TEST(other_categories_stay_silent),
                TEST(every_event_prints_four_numbers_at_most),
                TEST(categories_are_listed_by_the_names_that_enable_takes),
                TEST(print_shows_each_sets_nonzero_counters_and_exits),
                TEST(exits_have_names),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
