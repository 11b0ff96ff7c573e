/* A JSON object into a C structure by a table of its members: one line a member, with a name for every error.
 *
 *         static const struct field rlimit_fields[] = {
 *                 FIELD(STRING, struct rlimit, type, "type", .required = true),
 *                 FIELD(UINT, struct rlimit, soft, "soft"),
 *                 { 0 },
 *         };
 *
 * Members that the table does not name are ignored, as the specification asks ("MUST NOT generate an error if they
 * encounter an unknown property"); null counts as absent. */
#pragma once

#include <jansson.h>

#include "base/arena.h"
#include "base/err.h"

enum field_kind {
        FIELD_END,
        FIELD_BOOL,         /* bool */
        FIELD_STRING,       /* const char * */
        FIELD_STRINGS,      /* struct { const char **item; size_t n; }, item ends with NULL */
        FIELD_INT,          /* signed of @size bytes */
        FIELD_UINT,         /* unsigned of @size bytes */
        FIELD_OPTIONAL_INT, /* pointer to one; NULL when absent */
        FIELD_OPTIONAL_UINT,
        FIELD_UINTS,    /* struct { T *item; size_t n; } of @size bytes each */
        FIELD_OBJECT,   /* structure in place */
        FIELD_OPTIONAL, /* pointer to a structure, NULL when absent */
        FIELD_OBJECTS,  /* struct { T *item; size_t n; } */
        FIELD_PAIRS,    /* an object of strings: struct spec_pairs */
        FIELD_JSON,     /* json_t *, an object, borrowed */
        FIELD_CUSTOM,   /* @parse does it */
};

struct fields_context {
        struct arena *arena;
        struct err **err;
        char path[512]; /* of the member being read: "process.rlimits[2].type" */
};

struct field {
        const char *name;
        enum field_kind kind;
        bool required;
        unsigned size; /* of a number, or of an OBJECTS item */
        size_t offset;
        const struct field *fields; /* of OBJECT, OPTIONAL, OBJECTS */
        int (*parse)(struct fields_context *ctx, const json_t *json, void *member);
};

#define FIELD(kind_, type_, member_, name_, ...)                                            \
        {                                                                                   \
                .name = (name_), .kind = FIELD_##kind_, .offset = offsetof(type_, member_), \
                .size = sizeof(((type_ *)0)->member_), __VA_ARGS__                          \
        }
/* A list of numbers or objects; the size is that of one item. */
#define FIELD_LIST(kind_, type_, member_, name_, ...)                                       \
        {                                                                                   \
                .name = (name_), .kind = FIELD_##kind_, .offset = offsetof(type_, member_), \
                .size = sizeof(*((type_ *)0)->member_.item), __VA_ARGS__                    \
        }
/* A pointer; the size is that of what it points to. */
#define FIELD_PTR(kind_, type_, member_, name_, ...)                                        \
        {                                                                                   \
                .name = (name_), .kind = FIELD_##kind_, .offset = offsetof(type_, member_), \
                .size = sizeof(*((type_ *)0)->member_), __VA_ARGS__                         \
        }

/* Reads @json, which must be an object, into @out. */
int fields_read(struct fields_context *ctx, const json_t *json, const struct field *fields, void *out);
/* "PATH: <message>". */
int fields_error(struct fields_context *ctx, const char *fmt, ...) _printf_(2, 3);
int fields_integer(struct fields_context *ctx, const json_t *json, unsigned size, bool is_signed, void *out);
int fields_strings(struct fields_context *ctx, const json_t *json, const char ***ret, size_t *ret_n);
/* The string @json, or an error. */
int fields_string(struct fields_context *ctx, const json_t *json, const char **ret);
