#include "init/protocol.h"

#include <errno.h>
#include <string.h>

static const struct description {
        u16 number;
        u8 direction;
        const char *fields, *name;
} descriptions[] = {
#define INIT_MESSAGE(id, number, direction, fields, meaning) { number, INIT_##direction, fields, #id },
#include "init/messages.def"
#undef INIT_MESSAGE
};

#define INIT_MESSAGE(id, number, direction, fields, meaning) _Static_assert(sizeof(fields) - 1 <= INIT_FIELDS_MAX, #id);
#include "init/messages.def"
#undef INIT_MESSAGE

static const struct description *describe(unsigned number)
{
        for (size_t i = 0; i < ARRAY_SIZE(descriptions); i++)
                if (descriptions[i].number == number)
                        return &descriptions[i];
        return NULL;
}

const char *init_type_name(enum init_type type)
{
        const struct description *d = describe(type);

        return d ? d->name : "?";
}

/* ---- reading ---- */

struct reader {
        const u8 *p;
        size_t left;
};

static bool get(struct reader *r, void *to, size_t n)
{
        if (r->left < n)
                return false;
        memcpy(to, r->p, n);
        r->p += n;
        r->left -= n;
        return true;
}

static bool get_u32(struct reader *r, u64 *ret)
{
        u32 value;

        if (!get(r, &value, sizeof(value)))
                return false;
        *ret = value;
        return true;
}

/* The length counts the NUL, which is the only one. */
static bool get_text(struct reader *r, struct init_value *ret)
{
        u64 len;

        if (!get_u32(r, &len) || len == 0 || len > r->left || memchr(r->p, '\0', len) != r->p + len - 1)
                return false;
        *ret = (struct init_value){ .number = len - 1, .text = (const char *)r->p };
        r->p += len;
        r->left -= len;
        return true;
}

static bool get_list(struct reader *r, struct init_value *ret)
{
        struct init_value text;
        u64 n;

        if (!get_u32(r, &n) || n > INIT_LIST_MAX)
                return false;
        *ret = (struct init_value){ .number = n };
        for (u64 i = 0; i < n; i++) {
                if (!get_text(r, &text))
                        return false;
                if (i == 0)
                        ret->text = text.text;
        }
        return true;
}

static bool get_numbers(struct reader *r, struct init_value *ret)
{
        u64 n;

        if (!get_u32(r, &n) || n > INIT_LIST_MAX || n * sizeof(u64) > r->left)
                return false;
        *ret = (struct init_value){ .number = n, .text = (const char *)r->p };
        r->p += n * sizeof(u64);
        r->left -= n * sizeof(u64);
        return true;
}

static bool get_field(struct reader *r, char kind, struct init_value *ret)
{
        switch (kind) {
        case 'u':
                return get_u32(r, &ret->number);
        case 'U':
                return get(r, &ret->number, sizeof(ret->number));
        case 's':
                return get_text(r, ret);
        case 'l':
                return get_list(r, ret);
        case 'N':
                return get_numbers(r, ret);
        default: /* b */
                *ret = (struct init_value){ .number = r->left, .text = (const char *)r->p };
                r->p += r->left;
                r->left = 0;
                return true;
        }
}

const char *init_next_text(const char *text)
{
        return text + strlen(text) + 1 + sizeof(u32);
}

u64 init_number(const struct init_value *list, u64 i)
{
        u64 number;

        memcpy(&number, list->text + i * sizeof(number), sizeof(number));
        return number;
}

_Static_assert(sizeof(struct init_header) == INIT_FRAME_HEADER, "protocol.h");

int init_frame_next(const void *data, size_t len, size_t *ret_size)
{
        struct reader r = { data, len };
        struct init_header header;

        if (!get(&r, &header, sizeof(header)))
                return 0;
        if (header.length > INIT_FRAME_MAX || header.zero)
                return -EBADMSG;
        if (r.left < header.length)
                return 0;
        *ret_size = sizeof(header) + header.length;
        return 1;
}

int init_parse(const void *frame, size_t size, enum init_direction direction, struct init_message *ret)
{
        struct reader r = { frame, size };
        const struct description *d;
        struct init_message message = { 0 };
        struct init_header header;

        if (!get(&r, &header, sizeof(header)) || header.length != r.left || header.zero)
                return -EBADMSG;
        d = describe(header.type);
        if (!d)
                return -EPROTONOSUPPORT;
        if (!(d->direction & direction))
                return -EBADMSG;
        message.type = (enum init_type)header.type;
        message.id = header.id;
        for (unsigned i = 0; d->fields[i]; i++)
                if (!get_field(&r, d->fields[i], &message.field[i]))
                        return -EBADMSG;
        *ret = message;
        return 0;
}

/* ---- writing ---- */

static void put(struct init_frame *frame, const void *data, size_t n)
{
        if (frame->failed || n > frame->size - frame->len) {
                frame->failed = true;
                return;
        }
        if (n)
                memcpy(frame->data + frame->len, data, n);
        frame->len += n;
}

void init_frame_begin(struct init_frame *frame, void *buffer, size_t size, enum init_type type, u32 id)
{
        const struct init_header header = { .type = (u16)type, .id = id };

        *frame = (struct init_frame){ .data = buffer, .size = MIN(size, (size_t)INIT_FRAME_HEADER + INIT_FRAME_MAX) };
        put(frame, &header, sizeof(header));
}

void init_put_u32(struct init_frame *frame, u32 value)
{
        put(frame, &value, sizeof(value));
}

void init_put_u64(struct init_frame *frame, u64 value)
{
        put(frame, &value, sizeof(value));
}

void init_put_text(struct init_frame *frame, const char *text)
{
        const size_t n = strlen(text) + 1;

        init_put_u32(frame, (u32)MIN(n, (size_t)UINT32_MAX));
        put(frame, text, n);
}

void init_put_list(struct init_frame *frame, const char *const *texts)
{
        u32 n = 0;

        while (texts && texts[n])
                n++;
        frame->failed |= n > INIT_LIST_MAX;
        init_put_u32(frame, n);
        for (u32 i = 0; i < n; i++)
                init_put_text(frame, texts[i]);
}

void init_put_numbers(struct init_frame *frame, const u64 *numbers, size_t n)
{
        frame->failed |= n > INIT_LIST_MAX;
        init_put_u32(frame, (u32)MIN(n, (size_t)UINT32_MAX));
        put(frame, numbers, MIN(n, (size_t)INIT_LIST_MAX) * sizeof(*numbers));
}

void init_put_bytes(struct init_frame *frame, const void *data, size_t n)
{
        put(frame, data, n);
}

int init_frame_end(struct init_frame *frame, size_t *ret_size)
{
        const u32 length = (u32)(frame->len - INIT_FRAME_HEADER);

        if (frame->failed)
                return -EMSGSIZE;
        memcpy(frame->data, &length, sizeof(length));
        *ret_size = frame->len;
        return 0;
}
