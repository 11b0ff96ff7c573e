/* Framing of the GDB remote serial protocol: "$payload#checksum", acknowledgements, the interrupt byte, hexadecimal.
 * Source: GDB manual, appendix E, "Overview". Pure functions and one small state machine; input is not trusted. */
#pragma once

#include "base/types.h"

#define GDB_PACKET_MAX 16384

enum gdb_event {
        GDB_NOTHING,    /* more bytes needed */
        GDB_PACKET,     /* parser->data holds a packet, 0-terminated behind its len bytes */
        GDB_BAD_PACKET, /* wrong checksum or too long: ask for it again */
        GDB_INTERRUPT,  /* Ctrl-C */
        GDB_ACK,
        GDB_NACK,
};

struct gdb_parser {
        enum { GDB_IDLE, GDB_DATA, GDB_ESCAPE, GDB_SUM1, GDB_SUM2 } state;
        u8 data[GDB_PACKET_MAX + 1];
        size_t len;
        bool too_long;
        u8 sum, sum_high;
};

enum gdb_event gdb_parser_feed(struct gdb_parser *parser, u8 byte);

/* A reply under construction; what does not fit sets overflow, and an error is sent instead. */
struct gdb_reply {
        char data[GDB_PACKET_MAX];
        size_t len;
        bool overflow;
};
void gdb_reply_text(struct gdb_reply *reply, const char *text);
void gdb_reply_printf(struct gdb_reply *reply, const char *fmt, ...) _printf_(2, 3);
void gdb_reply_hex(struct gdb_reply *reply, const void *data, size_t n);
/* Escapes what framing needs: }, $, # and *. */
void gdb_reply_binary(struct gdb_reply *reply, const void *data, size_t n);
/* Frames @reply into @out; returns the length. */
#define GDB_FRAME_MAX (GDB_PACKET_MAX + 4)
size_t gdb_frame(const struct gdb_reply *reply, char out[GDB_FRAME_MAX]);

/* Reads a hexadecimal number of up to 16 digits; false when there is none or it is too long. Advances *p. */
bool gdb_hex_number(const char **p, u64 *ret);
/* Exactly @n bytes as 2n digits; advances *p. */
bool gdb_hex_bytes(const char **p, void *dst, size_t n);
int gdb_hex_digit(char c);
