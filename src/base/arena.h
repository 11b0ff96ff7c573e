/* Memory that is freed all at once: a request's, a document's. Single-threaded. */
#pragma once

#include <stdarg.h>

#include "types.h"

struct arena_chunk;

struct arena {
        struct arena_chunk *chunks; /* newest first */
        size_t used;                /* of the newest */
};

/* Zeroed memory, aligned for any type; NULL when there is none or @n * @size overflows. */
void *arena_alloc(struct arena *arena, size_t n, size_t size);
char *arena_strdup(struct arena *arena, const char *text);
char *arena_printf(struct arena *arena, const char *fmt, ...) _printf_(2, 3);
char *arena_vprintf(struct arena *arena, const char *fmt, va_list ap) _printf_(2, 0);
/* Frees everything; the arena may be used again. */
void arena_release(struct arena *arena);

#define arena_new(arena, type, n) ((type *)arena_alloc((arena), (n), sizeof(type)))
