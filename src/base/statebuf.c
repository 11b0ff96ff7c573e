#include "statebuf.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void state_out_init(struct state_out *out)
{
        *out = (struct state_out){ 0 };
}

void state_put_bytes(struct state_out *out, const void *p, size_t n)
{
        if (out->failed || !n)
                return;
        if (out->cap - out->len < n) {
                size_t cap = MAX(out->cap * 2, out->len + n + 4096);
                u8 *data = realloc(out->data, cap);

                if (!data) {
                        out->failed = true;
                        return;
                }
                out->data = data;
                out->cap = cap;
        }
        memcpy(out->data + out->len, p, n);
        out->len += n;
}

void state_put_u8(struct state_out *out, u8 v)
{
        state_put_bytes(out, &v, 1);
}

void state_put_u16(struct state_out *out, u16 v)
{
        v = htole16(v);
        state_put_bytes(out, &v, 2);
}

void state_put_u32(struct state_out *out, u32 v)
{
        v = htole32(v);
        state_put_bytes(out, &v, 4);
}

void state_put_u64(struct state_out *out, u64 v)
{
        v = htole64(v);
        state_put_bytes(out, &v, 8);
}

void state_out_section_begin(struct state_out *out, const char *name, u32 version)
{
        char padded[STATE_NAME_MAX] = { 0 };

        memcpy(padded, name, strnlen(name, STATE_NAME_MAX - 1));
        state_put_bytes(out, padded, sizeof(padded));
        state_put_u32(out, version);
        out->section_start = out->len;
        state_put_u32(out, 0);
}

void state_out_section_end(struct state_out *out)
{
        u32 len;

        if (out->failed)
                return;
        len = htole32((u32)(out->len - out->section_start - 4));
        memcpy(out->data + out->section_start, &len, 4);
        out->section_start = 0;
}

int state_out_finish(struct state_out *out, struct err **err)
{
        if (out->failed)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the machine's state");
        return 0;
}

void state_out_free(struct state_out *out)
{
        free(out->data);
        state_out_init(out);
}

void state_in_init(struct state_in *in, const void *data, size_t len)
{
        *in = (struct state_in){ .data = data, .len = len };
}

int state_in_section_next(struct state_in *in, char ret_name[STATE_NAME_MAX], u32 *ret_version, struct err **err)
{
        const size_t header = STATE_NAME_MAX + 8;
        u32 version, len;

        in->pos = in->section_end;
        if (in->pos == in->len)
                return 0;
        if (in->len - in->pos < header)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved state ends inside a section header");
        memcpy(&version, in->data + in->pos + STATE_NAME_MAX, 4);
        memcpy(&len, in->data + in->pos + STATE_NAME_MAX + 4, 4);
        version = le32toh(version);
        len = le32toh(len);
        if (in->len - in->pos - header < len)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved state ends inside a section");
        memcpy(ret_name, in->data + in->pos, STATE_NAME_MAX);
        if (ret_name[STATE_NAME_MAX - 1] != 0)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved state has a section without a name");
        *ret_version = version;
        in->pos += header;
        in->section_end = in->pos + len;
        in->error = false;
        return 1;
}

void state_get_bytes(struct state_in *in, void *p, size_t n)
{
        if (in->error || in->section_end - in->pos < n) {
                in->error = true;
                memset(p, 0, n);
                return;
        }
        memcpy(p, in->data + in->pos, n);
        in->pos += n;
}

u8 state_get_u8(struct state_in *in)
{
        u8 v;

        state_get_bytes(in, &v, 1);
        return v;
}

u16 state_get_u16(struct state_in *in)
{
        u16 v;

        state_get_bytes(in, &v, 2);
        return le16toh(v);
}

u32 state_get_u32(struct state_in *in)
{
        u32 v;

        state_get_bytes(in, &v, 4);
        return le32toh(v);
}

u64 state_get_u64(struct state_in *in)
{
        u64 v;

        state_get_bytes(in, &v, 8);
        return le64toh(v);
}

size_t state_in_left(const struct state_in *in)
{
        return in->section_end - in->pos;
}

bool state_in_error(const struct state_in *in)
{
        return in->error;
}
