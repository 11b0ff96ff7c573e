/* Saved state: the byte format in which devices and CPUs save themselves for snapshots and migration.
 *
 * A stream is a sequence of sections: name, version, length, payload. All numbers are little-endian and of
 * fixed width. The reader never trusts the stream: reading past the end of a section yields zeros and makes
 * state_in_error() true, so a load function reads everything first, validates the values, and checks once at the end.
 *
 * Not thread-safe: one owner. */
#pragma once

#include "err.h"

struct state_out {
        u8 *data;
        size_t len, cap;
        bool failed;          /* out of memory; reported by state_out_finish */
        size_t section_start; /* offset of the open section's length field; 0 when none is open */
};

void state_out_init(struct state_out *out);
void state_out_section_begin(struct state_out *out, const char *name, u32 version);
void state_out_section_end(struct state_out *out);
void state_put_u8(struct state_out *out, u8 v);
void state_put_u16(struct state_out *out, u16 v);
void state_put_u32(struct state_out *out, u32 v);
void state_put_u64(struct state_out *out, u64 v);
static inline void state_put_bool(struct state_out *out, bool v)
{
        state_put_u8(out, v);
}
void state_put_bytes(struct state_out *out, const void *p, size_t n);
/* 0, or -ENOMEM when a put ran out of memory. */
int state_out_finish(struct state_out *out, struct err **err);
void state_out_free(struct state_out *out);

struct state_in {
        const u8 *data; /* borrowed */
        size_t len, pos;
        size_t section_end;
        bool error;
};

#define STATE_NAME_MAX 32

void state_in_init(struct state_in *in, const void *data, size_t len);
/* Opens the next section. 1 and fills the outputs; 0 at the end of the stream; -EINVAL when damaged. */
int state_in_section_next(struct state_in *in, char ret_name[STATE_NAME_MAX], u32 *ret_version, struct err **err);
u8 state_get_u8(struct state_in *in);
u16 state_get_u16(struct state_in *in);
u32 state_get_u32(struct state_in *in);
u64 state_get_u64(struct state_in *in);
static inline bool state_get_bool(struct state_in *in)
{
        return state_get_u8(in) != 0;
}
void state_get_bytes(struct state_in *in, void *p, size_t n);
size_t state_in_left(const struct state_in *in);
/* True when something was read past the end of its section. */
bool state_in_error(const struct state_in *in);
