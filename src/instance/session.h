/* What of sessions the other files use. */
#pragma once

#include <sys/un.h>

#include "internal.h"

/* Connects to the supervisor and says what is wanted (0: nothing yet). Without one: -ESRCH, ERR_BUSY. */
int session_open(struct instance *inst, unsigned attach, struct instance_session **ret, struct err **err);
/* A message without data. */
int session_send(struct instance_session *session, enum message_type type, int arg, int arg2, struct err **err);
/* Waits for DONE or FAILED (an -errno without an error). */
int session_answer(struct instance_session *session, struct err **err);
/* Waits for EXIT. 1 when the supervisor went away without one. *ret_last may be NULL. */
int session_wait_exit(struct instance_session *session, int *ret_status, bool *ret_last, struct err **err);
/* Waits until it was started again. */
int session_wait_started(struct instance_session *session, struct err **err);
/* Waits until the supervisor is gone. */
void session_wait_closed(struct instance_session *session);

struct instance *session_instance(const struct instance_session *session);

/* start.c */
struct sockaddr_un instance_socket(const struct instance *inst, const char *name);
/* The supervise record anew. */
int supervise_save(const struct instance *inst, struct err **err);
#define HELPER_REPORT "STRATA_INSTANCE_REPORT" /* in a helper's environment: the descriptor for err_send */
/* The exit status that says what @error is. */
int helper_status(const struct err *error);
