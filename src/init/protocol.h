/* What a host and strata-init, the first process of its machine, say to each other: over virtio sockets (the guest connects to port
 * INIT_PORT of the host) or, where there are none, a virtio console. Both sides use this file.
 *
 * A stream of frames, all numbers little-endian:
 *
 *         u32 length    of the payload, at most INIT_FRAME_MAX
 *         u16 type      messages.def
 *         u16 zero
 *         u32 id        which process, or which request
 *         payload       the fields of the message one behind the other:
 *                       u u32, U u64, s u32 length and the text with its NUL, l u32 count and texts, N u32 count and u64 each, b the rest
 *
 * The guest begins with HELLO, the host answers WELCOME, then SYSTEM, MOUNT..., ROOT, START. Each DATA byte uses up room that its
 * receiver granted by ROOM, so that a stream that nobody reads holds up no other. A peer that breaks a rule of this page is a broken
 * one: the connection is closed.
 *
 * Neither side trusts the other: init_frame_next finds where a frame ends, init_parse checks all of it before anybody looks inside.
 * Parsed texts and bytes are parts of the frame, nothing is copied; texts have no NUL inside and one behind. */
#pragma once

#include "base/types.h"

#define INIT_PORT 1022U
#define INIT_VERSION 1U
#define INIT_FRAME_HEADER 12U
#define INIT_FRAME_MAX (256U * 1024)
/* A process has no more arguments, variables or groups than this. */
#define INIT_LIST_MAX 4096U
/* Bytes of a stream that may be sent before any ROOM came. */
#define INIT_ROOM_FIRST (64U * 1024)
/* No more than so many may be allowed at a time. */
#define INIT_ROOM_MAX (1024U * 1024)
/* The control group of all processes but strata-init, where the kernel has such groups. */
#define INIT_GROUP "workload"
/* The machine's main process; when it ends, so does the machine. */
#define INIT_ID_MAIN 1U

struct init_header {
        u32 length;
        u16 type, zero;
        u32 id;
};

enum init_direction { INIT_TO_GUEST = 1, INIT_TO_HOST = 2, INIT_BOTH = 3 };

enum init_type {
#define INIT_MESSAGE(id, number, direction, fields, meaning) INIT_##id = number,
#include "init/messages.def"
#undef INIT_MESSAGE
};

enum { /* HELLO, WELCOME */
        INIT_FEATURE_FREEZE = 1,
};

enum { /* START */
        INIT_START_TTY = 1,   /* a terminal of its own for all three streams */
        INIT_START_STDIN = 2, /* DATA for stream 0 will come; otherwise it reads end of file */
        INIT_START_NO_NEW_PRIVS = 4,
        INIT_START_PID_NS = 8,  /* it is process 1 of a PID namespace of its own, with a /proc that shows just that */
        INIT_START_INSIDE = 16, /* in that namespace, as a process of the main one's */
};
#define INIT_START_FLAGS 31U
#define INIT_STREAMS 3U
#define INIT_GROUPS_MAX 1024U

enum init_start_field { /* of START, as messages.def says */
        START_ARGV,
        START_ENV,
        START_UID,
        START_GID,
        START_FLAGS,
        START_CWD,
        START_LABEL,
        START_UMASK,
        START_GROUPS,
        START_LIMITS,
        START_CAPABILITIES,
        START_OOM_ADJ,
        START_COLUMNS,
        START_ROWS,
};

/* ---- reading ---- */

struct init_value {
        u64 number;       /* u, U: the number. s, b: bytes without the NUL. l, N: how many */
        const char *text; /* s, b. l: the first; init_next_text finds the others. N: init_number */
};

#define INIT_FIELDS_MAX 14

struct init_message {
        enum init_type type;
        u32 id;
        struct init_value field[INIT_FIELDS_MAX];
};

/* Is there a whole frame at @data? 1 and its size; 0 when more has to come; -EBADMSG when no frame begins like this. */
int init_frame_next(const void *data, size_t len, size_t *ret_size);
/* Checks one whole frame that comes from the side that @from says: from the guest are INIT_TO_HOST and INIT_BOTH. 0; -EBADMSG when it is
 * malformed or not for that direction; -EPROTONOSUPPORT for a type that is not known, which a receiver ignores. */
int init_parse(const void *frame, size_t size, enum init_direction direction, struct init_message *ret);
/* The text behind @text of a list. */
const char *init_next_text(const char *text);
/* Number @i of a list of numbers. */
u64 init_number(const struct init_value *list, u64 i);

const char *init_type_name(enum init_type type);

/* ---- writing ---- */

/* A frame in a buffer of the caller's; what does not fit is found out at the end. */
struct init_frame {
        u8 *data;
        size_t size, len;
        bool failed;
};

void init_frame_begin(struct init_frame *frame, void *buffer, size_t size, enum init_type type, u32 id);
void init_put_u32(struct init_frame *frame, u32 value);
void init_put_u64(struct init_frame *frame, u64 value);
void init_put_text(struct init_frame *frame, const char *text);
/* @texts ends with NULL, which may be all of it. */
void init_put_list(struct init_frame *frame, const char *const *texts);
void init_put_numbers(struct init_frame *frame, const u64 *numbers, size_t n);
void init_put_bytes(struct init_frame *frame, const void *data, size_t n);
/* 0 and how much to send; -EMSGSIZE: it is larger than the buffer or than a frame may be. */
int init_frame_end(struct init_frame *frame, size_t *ret_size);
