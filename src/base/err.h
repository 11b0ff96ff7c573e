/* Errors: what went wrong, why, and what to do about it.
 *
 * A fallible function returns 0 (or a count) on success and -errno on failure, and takes an optional
 * `struct err **` last. On failure it fills *err, if err is not NULL, with a new error that the caller owns
 * (err_free). On success *err is untouched. A caller adds context with err_wrap:
 *
 *         r = disk_open(path, &disk, err);
 *         if (r < 0)
 *                 return err_wrap(err, r, "attaching disk '%s'", path);
 *
 * Errors are not shared between threads without a lock of the caller's. */
#pragma once

#include "types.h"

enum err_id {
#define ERR_ID(id, exit_status, http, text) ERR_##id,
#include "errors.def"
#undef ERR_ID
        ERR_ID_COUNT
};

struct err;

/* Make an error: returns -@errnum (@errnum is a positive errno) and, if @err is not NULL, fills *@err.
 * When *@err already holds an error that one is kept as the cause. */
int err_set(struct err **err, enum err_id id, int errnum, const char *fmt, ...) _printf_(4, 5);

/* As err_set for a failed system call: the id is chosen from @errnum and its strerror text is appended. */
int err_sys(struct err **err, int errnum, const char *fmt, ...) _printf_(3, 4);

/* Add context in front of an error that a callee filled in; keeps its id. @r is what the callee returned
 * and what this returns. */
int err_wrap(struct err **err, int r, const char *fmt, ...) _printf_(3, 4);

/* Attach a hint, one sentence that tells the user what to do. Returns @r. */
int err_hint(struct err **err, int r, const char *fmt, ...) _printf_(3, 4);

enum err_id err_get_id(const struct err *err);
/* The stable name of an id, e.g. "NOT_FOUND". */
const char *err_id_name(enum err_id id);
int err_exit_status(const struct err *err);
int err_http_status(const struct err *err);
/* The whole chain as one sentence: "context: context: cause". Owned by the error. */
const char *err_message(const struct err *err);
/* The innermost hint, or NULL. */
const char *err_get_hint(const struct err *err);

/* Prints "PROGRAM: message" and, if there is one, "hint: ..." to stderr. */
void err_print(const struct err *err, const char *program);

/* From a child to who waits for what it did: that it returned @r with @err (which may be NULL), into the pipe @fd. */
void err_send(int fd, int r, const struct err *err);
/* What was sent, up to the end of the pipe, as one's own result. Nothing: -ECONNRESET. */
int err_receive(int fd, struct err **err);

/* Returns NULL. err_free(NULL) is fine. */
struct err *err_free(struct err *err);
static inline void err_freep(struct err **err)
{
        err_free(*err);
}
