#include "observe.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "clock.h"

u64 trace_mask;
static FILE *trace_output;

const u8 event_category[EVENT_COUNT] = {
#define EVENT(id, category, format) [EVENT_##id] = TRACE_##category,
#include "events.def"
#undef EVENT
};

static const struct {
        const char *name, *format;
} events[EVENT_COUNT] = {
#define EVENT(id, category, format) [EVENT_##id] = { #id, format },
#include "events.def"
#undef EVENT
};

static const struct {
        const char *name, *text;
} categories[TRACE_CATEGORY_COUNT] = {
#define TRACE_CATEGORY(id, name, text) [TRACE_##id] = { name, text },
#include "trace_categories.def"
#undef TRACE_CATEGORY
};

static const struct {
        const char *name, *unit, *text;
} counter_info[COUNTER_COUNT] = {
#define COUNTER(id, unit, text) [COUNTER_##id] = { #id, unit, text },
#include "counters.def"
#undef COUNTER
};

static const struct {
        const char *name, *text;
} exit_info[EXIT_COUNT] = {
#define EXIT(id, text) [EXIT_##id] = { #id, text },
#include "exits.def"
#undef EXIT
};

const char *exit_name(enum exit_reason reason)
{
        return (unsigned)reason < EXIT_COUNT ? exit_info[reason].name : "UNKNOWN";
}

static void print_lower(FILE *out, const char *s)
{
        for (; *s; s++)
                fputc(tolower((unsigned char)*s), out);
}

static void print_row(FILE *out, const char *label, const char *prefix, const char *name, u64 value, const char *unit,
                      const char *text)
{
        fprintf(out, "%s ", label);
        fputs(prefix, out);
        print_lower(out, name);
        fprintf(out, " %lu %s  # %s\n", (unsigned long)value, unit, text);
}

void counters_print(FILE *out, const struct counters *const sets[], const char *const names[], size_t n_sets)
{
        for (size_t s = 0; s < n_sets; s++) {
                for (size_t i = 0; i < COUNTER_COUNT; i++) {
                        u64 v = __atomic_load_n(&sets[s]->value[i], __ATOMIC_RELAXED);

                        if (v)
                                print_row(out, names[s], "", counter_info[i].name, v, counter_info[i].unit,
                                          counter_info[i].text);
                }
                for (size_t i = 0; i < EXIT_COUNT; i++) {
                        u64 v = __atomic_load_n(&sets[s]->exits[i], __ATOMIC_RELAXED);

                        if (v)
                                print_row(out, names[s], "exit_", exit_info[i].name, v, "exits", exit_info[i].text);
                }
        }
}

static bool trace_enable_one(const char *name, size_t len)
{
        for (size_t i = 0; i < TRACE_CATEGORY_COUNT; i++) {
                if (strlen(categories[i].name) == len && memcmp(categories[i].name, name, len) == 0) {
                        trace_mask |= BIT(i);
                        return true;
                }
        }
        return false;
}

int trace_enable(const char *list, struct err **err)
{
        const u64 before = trace_mask;

        while (*list) {
                size_t len = strcspn(list, ",");

                if (len == 3 && memcmp(list, "all", 3) == 0) {
                        trace_mask |= BIT(TRACE_CATEGORY_COUNT) - 1;
                } else if (len && !trace_enable_one(list, len)) {
                        trace_mask = before;
                        err_set(err, ERR_USAGE, EINVAL, "unknown trace category '%.*s'", (int)len, list);
                        return err_hint(err, -EINVAL, "`--trace help` lists the categories");
                }
                list += len;
                if (*list == ',')
                        list++;
        }
        return 0;
}

void trace_set_output(FILE *out)
{
        trace_output = out;
}

FILE *trace_get_output(void)
{
        return trace_output ? trace_output : stderr;
}

void trace_print_categories(FILE *out)
{
        for (size_t i = 0; i < TRACE_CATEGORY_COUNT; i++)
                fprintf(out, "  %-8s %s\n", categories[i].name, categories[i].text);
}

void trace_emit(enum event_id id, u64 a, u64 b, u64 c, u64 d)
{
        const u64 now = clock_now_ns();
        char text[256];

        /* The formats are literals of events.def, each used with the arguments it names. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof(text), events[id].format, a, b, c, d);
#pragma GCC diagnostic pop
        fprintf(trace_output ? trace_output : stderr, "%lu.%06lu %s: %s\r\n", (unsigned long)(now / 1000000000),
                (unsigned long)(now / 1000 % 1000000), events[id].name, text);
}
