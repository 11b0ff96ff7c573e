/* The keys that detach from a terminal: "ctrl-p,ctrl-q". */
#pragma once

#include "base/err.h"

#define KEYS_MAX 16

struct detach_keys {
        u8 key[KEYS_MAX];
        size_t n, matched;
};

/* NULL: ctrl-p,ctrl-q; "": none. */
int keys_parse(struct detach_keys *keys, const char *text, struct err **err);
/* Passes what was typed on to @out, which has room for @len + KEYS_MAX bytes; what may be the keys' beginning is held back for the
 * next call. True when they are complete. */
bool keys_filter(struct detach_keys *keys, const u8 *in, size_t len, u8 *out, size_t *ret_len);
