/* Messages for the operator on stderr. Library code reports errors with struct err; it logs only what the caller
 * cannot be told (a clamped limit, a guest that misbehaves for the first time). */
#pragma once

#include "types.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Messages above @level are dropped; WARN at start. */
void log_set_level(enum log_level level);
/* Takes the messages in place of stderr. Set once, before threads. */
void log_set_sink(void (*sink)(enum log_level level, const char *text, void *arg), void *arg);
const char *log_level_name(enum log_level level);
void log_message(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...) log_message(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_message(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_message(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_message(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* Once a place, so that a guest cannot flood the log. */
#define log_warn_once(...)                                                                         \
        do {                                                                                       \
                static bool _warned;                                                               \
                if (!__atomic_exchange_n(&_warned, true, __ATOMIC_RELAXED))                        \
                        log_warn(__VA_ARGS__);                                                     \
        } while (0)
