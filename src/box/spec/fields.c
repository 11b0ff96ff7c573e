#include "fields.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "box/oci_read.h"
#include "spec.h"

static const char *type_name(const json_t *json)
{
        static const char *const names[] = {
                [JSON_OBJECT] = "an object",
                [JSON_ARRAY] = "an array",
                [JSON_STRING] = "a string",
                [JSON_INTEGER] = "a number",
                [JSON_REAL] = "a number",
                [JSON_TRUE] = "a boolean",
                [JSON_FALSE] = "a boolean",
                [JSON_NULL] = "null",
        };

        return names[json_typeof(json)];
}

int fields_error(struct fields_context *ctx, const char *fmt, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        va_start(ap, fmt);
        if (vasprintf(&text, fmt, ap) < 0)
                text = NULL;
        va_end(ap);
        return err_set(ctx->err, ERR_BAD_CONFIG, EINVAL, "%s%s%s", ctx->path, ctx->path[0] ? ": " : "",
                text ? text : "out of memory");
}

static int wrong_type(struct fields_context *ctx, const char *wanted, const json_t *json)
{
        return fields_error(ctx, "must be %s, not %s", wanted, type_name(json));
}

static int out_of_memory(struct fields_context *ctx)
{
        return err_sys(ctx->err, ENOMEM, "%s", ctx->path);
}

/* Appends to the path; the return value takes it away again. */
static size_t enter(struct fields_context *ctx, const char *name)
{
        const size_t n = strlen(ctx->path);

        snprintf(ctx->path + n, sizeof(ctx->path) - n, "%s%s", n ? "." : "", name);
        return n;
}

static size_t enter_item(struct fields_context *ctx, size_t i)
{
        const size_t n = strlen(ctx->path);

        snprintf(ctx->path + n, sizeof(ctx->path) - n, "[%zu]", i);
        return n;
}

static void leave(struct fields_context *ctx, size_t n)
{
        ctx->path[n] = 0;
}

int fields_string(struct fields_context *ctx, const json_t *json, const char **ret)
{
        if (!json_is_string(json))
                return wrong_type(ctx, "a string", json);
        *ret = json_string_value(json);
        return 0;
}

static void store(void *out, unsigned size, u64 value)
{
        /* The machine is little-endian: the low bytes are the number of any width, signed or not. */
        memcpy(out, &value, size);
}

int fields_integer(struct fields_context *ctx, const json_t *json, unsigned size, bool is_signed, void *out)
{
        const unsigned bits = size * 8;
        s64 value;
        u64 large;

        if (!json_is_number(json))
                return wrong_type(ctx, "a number", json);
        if (!is_signed && bits == 64 && oci_u64(json, &large)) {
                store(out, size, large);
                return 0;
        }
        if (!oci_s64(json, &value))
                return fields_error(ctx, "must be a whole number in range");
        if (!is_signed && (value < 0 || (bits < 64 && value >> bits)))
                return fields_error(ctx, "%lld is out of range 0 to %llu", (long long)value,
                        bits < 64 ? (1ULL << bits) - 1 : (unsigned long long)UINT64_MAX);
        if (is_signed && bits < 64 && (value < -(1LL << (bits - 1)) || value >= 1LL << (bits - 1)))
                return fields_error(ctx, "%lld is out of range", (long long)value);
        store(out, size, (u64)value);
        return 0;
}

int fields_strings(struct fields_context *ctx, const json_t *json, const char ***ret, size_t *ret_n)
{
        const char **item;
        size_t n;

        if (!json_is_array(json))
                return wrong_type(ctx, "an array of strings", json);
        n = json_array_size(json);
        item = arena_new(ctx->arena, const char *, n + 1);
        if (!item)
                return out_of_memory(ctx);
        for (size_t i = 0; i < n; i++) {
                const size_t mark = enter_item(ctx, i);
                int r = fields_string(ctx, json_array_get(json, i), &item[i]);

                if (r < 0)
                        return r;
                leave(ctx, mark);
        }
        *ret = item;
        *ret_n = n;
        return 0;
}

/* What FIELD_STRINGS, FIELD_OBJECTS and FIELD_UINTS members look like. */
struct list {
        void *item;
        size_t n;
};

static int read_list(struct fields_context *ctx, const json_t *json, const struct field *field, struct list *list)
{
        char *items;
        size_t n;

        if (!json_is_array(json))
                return wrong_type(ctx, "an array", json);
        n = json_array_size(json);
        items = arena_alloc(ctx->arena, n, field->size);
        if (!items)
                return out_of_memory(ctx);
        for (size_t i = 0; i < n; i++) {
                const json_t *item = json_array_get(json, i);
                const size_t mark = enter_item(ctx, i);
                int r;

                if (field->kind == FIELD_UINTS)
                        r = fields_integer(ctx, item, field->size, false, items + i * field->size);
                else
                        r = fields_read(ctx, item, field->fields, items + i * field->size);
                if (r < 0)
                        return r;
                leave(ctx, mark);
        }
        *list = (struct list){ items, n };
        return 0;
}

static int read_pairs(struct fields_context *ctx, const json_t *json, struct spec_pairs *pairs)
{
        const char *key;
        json_t *value;
        struct spec_pair *item;
        size_t n = 0;

        if (!json_is_object(json))
                return wrong_type(ctx, "an object of strings", json);
        item = arena_new(ctx->arena, struct spec_pair, json_object_size(json));
        if (!item && json_object_size(json))
                return out_of_memory(ctx);
        json_object_foreach((json_t *)json, key, value)
        {
                const size_t mark = enter(ctx, key);
                int r = fields_string(ctx, value, &item[n].value);

                if (r < 0)
                        return r;
                item[n++].key = key;
                leave(ctx, mark);
        }
        *pairs = (struct spec_pairs){ item, n };
        return 0;
}

/* A value behind a pointer: a number or a structure. */
static int read_pointer(struct fields_context *ctx, const json_t *json, const struct field *field, void **member)
{
        void *target = arena_alloc(ctx->arena, 1, field->size);
        int r;

        if (!target)
                return out_of_memory(ctx);
        if (field->kind == FIELD_OPTIONAL)
                r = fields_read(ctx, json, field->fields, target);
        else
                r = fields_integer(ctx, json, field->size, field->kind == FIELD_OPTIONAL_INT, target);
        if (r == 0)
                *member = target;
        return r;
}

static int read_field(struct fields_context *ctx, const json_t *json, const struct field *field, void *member)
{
        struct list *list = member;

        switch (field->kind) {
        case FIELD_BOOL:
                if (!json_is_boolean(json))
                        return wrong_type(ctx, "true or false", json);
                *(bool *)member = json_is_true(json);
                return 0;
        case FIELD_STRING:
                return fields_string(ctx, json, member);
        case FIELD_STRINGS:
                return fields_strings(ctx, json, (const char ***)&list->item, &list->n);
        case FIELD_INT:
        case FIELD_UINT:
                return fields_integer(ctx, json, field->size, field->kind == FIELD_INT, member);
        case FIELD_OPTIONAL_INT:
        case FIELD_OPTIONAL_UINT:
        case FIELD_OPTIONAL:
                return read_pointer(ctx, json, field, member);
        case FIELD_UINTS:
        case FIELD_OBJECTS:
                return read_list(ctx, json, field, list);
        case FIELD_OBJECT:
                return fields_read(ctx, json, field->fields, member);
        case FIELD_PAIRS:
                return read_pairs(ctx, json, member);
        case FIELD_JSON:
                if (!json_is_object(json))
                        return wrong_type(ctx, "an object", json);
                *(const json_t **)member = json;
                return 0;
        case FIELD_CUSTOM:
                return field->parse(ctx, json, member);
        case FIELD_END:
                break;
        }
        return fields_error(ctx, "no such kind of member");
}

int fields_read(struct fields_context *ctx, const json_t *json, const struct field *fields, void *out)
{
        if (!json_is_object(json))
                return wrong_type(ctx, "an object", json);
        for (const struct field *field = fields; field->name; field++) {
                const json_t *value = json_object_get(json, field->name);
                const size_t mark = enter(ctx, field->name);
                int r;

                if (!value || json_is_null(value)) {
                        if (field->required)
                                return fields_error(ctx, "missing");
                        leave(ctx, mark);
                        continue;
                }
                r = read_field(ctx, value, field, (char *)out + field->offset);
                if (r < 0)
                        return r;
                leave(ctx, mark);
        }
        return 0;
}
