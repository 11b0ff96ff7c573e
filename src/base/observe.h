/* Observability as data: exits, counters and trace events, each from one .def table.
 *
 * Counters live in `struct counters` sets. Each set has one writer (a vCPU thread, or whoever holds the device lock);
 * readers see values that may be a moment old. Tracing is a mask test when off; every event is also a USDT probe
 * `strata:<EVENT>` where <sys/sdt.h> was present at build time. */
#pragma once

#include <stdio.h>

#include "err.h"
#ifdef HAVE_SDT
#include <sys/sdt.h>
#endif

enum exit_reason {
#define EXIT(id, text) EXIT_##id,
#include "exits.def"
#undef EXIT
        EXIT_COUNT
};

enum counter_id {
#define COUNTER(id, unit, text) COUNTER_##id,
#include "counters.def"
#undef COUNTER
        COUNTER_COUNT
};

enum trace_category {
#define TRACE_CATEGORY(id, name, text) TRACE_##id,
#include "trace_categories.def"
#undef TRACE_CATEGORY
        TRACE_CATEGORY_COUNT
};

enum event_id {
#define EVENT(id, category, format) EVENT_##id,
#include "events.def"
#undef EVENT
        EVENT_COUNT
};

struct counters {
        u64 value[COUNTER_COUNT];
        u64 exits[EXIT_COUNT];
};

static inline void counter_add(struct counters *set, enum counter_id id, u64 n)
{
        __atomic_store_n(&set->value[id], set->value[id] + n, __ATOMIC_RELAXED);
}

static inline void counter_inc(struct counters *set, enum counter_id id)
{
        counter_add(set, id, 1);
}

static inline void exit_count(struct counters *set, enum exit_reason reason)
{
        __atomic_store_n(&set->exits[reason], set->exits[reason] + 1, __ATOMIC_RELAXED);
}

const char *exit_name(enum exit_reason reason);

/* Prints the non-zero counters and exits, "name value unit  # meaning" a line; set i is labelled @names[i]. */
void counters_print(FILE *out, const struct counters *const sets[], const char *const names[], size_t n_sets);

/* Bit n is on when category n is traced. Written before threads start, read everywhere. */
extern u64 trace_mask;
/* One category per event, so that trace() can test without a call. */
extern const u8 event_category[EVENT_COUNT];

/* Turn on the comma-separated categories in @list ("all" for every one). */
int trace_enable(const char *list, struct err **err);
/* Where trace lines go; stderr when never called. Borrowed. */
void trace_set_output(FILE *out);
/* For what does not fit into a line of an event. */
FILE *trace_get_output(void);
void trace_print_categories(FILE *out);
void trace_emit(enum event_id id, u64 a, u64 b, u64 c, u64 d);

#ifdef HAVE_SDT
#define TRACE_PROBE(id, a, b, c, d) DTRACE_PROBE4(strata, id, (u64)(a), (u64)(b), (u64)(c), (u64)(d))
#else
#define TRACE_PROBE(id, a, b, c, d) ((void)0)
#endif

/* trace(IRQ_LINE, gsi, level): up to four integer arguments. */
#define TRACE4(id, a, b, c, d, ...)                                                                \
        do {                                                                                       \
                TRACE_PROBE(id, a, b, c, d);                                                       \
                if (unlikely(trace_mask & BIT(event_category[EVENT_##id])))                        \
                        trace_emit(EVENT_##id, (u64)(a), (u64)(b), (u64)(c), (u64)(d));            \
        } while (0)
#define trace(id, ...) TRACE4(id, __VA_ARGS__, 0, 0, 0, 0)
