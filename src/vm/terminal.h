/* The terminal of the process: raw mode and the keys that do not go to the guest. */
#pragma once

#include "base/types.h"

/* Puts standard input into raw mode if it is a terminal that we are in the foreground of; what it was is restored by
 * terminal_restore, which a fatal signal calls too. False when it is not a terminal. */
bool terminal_raw(void);
/* Async-signal-safe; nothing happens when the terminal is not raw. */
void terminal_restore(void);
/* Fatal signals (SIGSEGV and such) restore the terminal before they end the process. */
void terminal_catch_crashes(void);

/* Ctrl-A and a key, as in QEMU. */
enum terminal_key { KEY_NONE, KEY_QUIT, KEY_HELP, KEY_BREAK, KEY_CPUS, KEY_STATS };

struct terminal_keys {
        bool escaped; /* Ctrl-A was the last byte */
};

/* Takes bytes from @in up to and including the first special key. Returns how many were taken; what is for the
 * guest is in @out (as large as @in), *ret_n bytes; *ret_key says what else is to be done. */
size_t terminal_filter(
        struct terminal_keys *keys, const u8 *in, size_t n, u8 *out, size_t *ret_n, enum terminal_key *ret_key);
extern const char terminal_help[];
