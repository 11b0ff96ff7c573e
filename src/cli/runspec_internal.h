/* What the runspec_*.c share. */
#pragma once

#include "runspec.h"

/* Makes room for one more item behind @n in an array that lives in the arena; NULL without memory. */
void *runspec_grow(struct arena *arena, void *item, size_t n, size_t size);
/* Appends to one of the contract's lists, { item, n }. */
#define RUNSPEC_APPEND(arena, list, err, ...)                                                                      \
        ({                                                                                                         \
                __typeof__((list)->item) _grown = runspec_grow((arena), (list)->item, (list)->n, sizeof(*_grown)); \
                if (_grown) {                                                                                      \
                        (list)->item = _grown;                                                                     \
                        (list)->item[(list)->n++] = (__typeof__(*_grown))__VA_ARGS__;                              \
                }                                                                                                  \
                _grown ? 0 : runspec_no_memory(err);                                                               \
        })
int runspec_no_memory(struct err **err);

/* "wrong: 'TEXT'" with a hint of how it is written. */
int runspec_wrong(struct err **err, const char *option, const char *text, const char *form);

/* The next of a list of words with commas between; a word in double quotes may have commas in it. @text goes behind it.
 * NULL at the end (*ret_failed false) or without memory (true). */
char *runspec_next_word(struct arena *arena, const char **text, bool *ret_failed);
/* The first @len bytes. */
char *runspec_copy(struct arena *arena, const char *text, size_t len);
