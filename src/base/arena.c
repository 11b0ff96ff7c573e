#include "arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arena_chunk {
        struct arena_chunk *next;
        size_t size;
        _Alignas(max_align_t) char data[];
};

enum { CHUNK_SIZE = 4096 - sizeof(struct arena_chunk) };

void *arena_alloc(struct arena *arena, size_t n, size_t size)
{
        size_t bytes;
        void *p;

        if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2)
                return NULL;
        bytes = ALIGN_UP(bytes, _Alignof(max_align_t));
        if (!arena->chunks || arena->chunks->size - arena->used < bytes) {
                const size_t room = MAX(bytes, (size_t)CHUNK_SIZE);
                struct arena_chunk *chunk = calloc(1, sizeof(*chunk) + room);

                if (!chunk)
                        return NULL;
                chunk->size = room;
                chunk->next = arena->chunks;
                arena->chunks = chunk;
                arena->used = 0;
        }
        p = arena->chunks->data + arena->used;
        arena->used += bytes;
        return p;
}

char *arena_strdup(struct arena *arena, const char *text)
{
        const size_t n = strlen(text) + 1;
        char *copy = arena_alloc(arena, n, 1);

        return copy ? memcpy(copy, text, n) : NULL;
}

char *arena_vprintf(struct arena *arena, const char *fmt, va_list ap)
{
        char *text = NULL;
        va_list measured;
        int n;

        va_copy(measured, ap);
        n = vsnprintf(NULL, 0, fmt, measured);
        va_end(measured);
        if (n >= 0)
                text = arena_alloc(arena, (size_t)n + 1, 1);
        if (text)
                vsnprintf(text, (size_t)n + 1, fmt, ap);
        return text;
}

char *arena_printf(struct arena *arena, const char *fmt, ...)
{
        va_list ap;
        char *text;

        va_start(ap, fmt);
        text = arena_vprintf(arena, fmt, ap);
        va_end(ap);
        return text;
}

void arena_release(struct arena *arena)
{
        struct arena_chunk *next;

        for (struct arena_chunk *chunk = arena->chunks; chunk; chunk = next) {
                next = chunk->next;
                free(chunk);
        }
        *arena = (struct arena){ 0 };
}
