#include "gdb_packet.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define INTERRUPT_BYTE 0x03
#define ESCAPE_XOR     0x20

int gdb_hex_digit(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -1;
}

static enum gdb_event feed_idle(struct gdb_parser *p, u8 byte)
{
        switch (byte) {
        case '$':
                p->state = GDB_DATA;
                p->len = 0;
                p->sum = 0;
                p->too_long = false;
                return GDB_NOTHING;
        case '+':
                return GDB_ACK;
        case '-':
                return GDB_NACK;
        case INTERRUPT_BYTE:
                return GDB_INTERRUPT;
        default:
                return GDB_NOTHING; /* noise between packets */
        }
}

static void add_byte(struct gdb_parser *p, u8 byte)
{
        if (p->len == GDB_PACKET_MAX)
                p->too_long = true;
        else
                p->data[p->len++] = byte;
}

static enum gdb_event feed_data(struct gdb_parser *p, u8 byte)
{
        if (byte == '#') {
                p->state = GDB_SUM1;
                return GDB_NOTHING;
        }
        if (byte == '$') /* the peer started over */
                return feed_idle(p, byte);
        p->sum = (u8)(p->sum + byte);
        if (p->state == GDB_ESCAPE) {
                add_byte(p, byte ^ ESCAPE_XOR);
                p->state = GDB_DATA;
        } else if (byte == '}') {
                p->state = GDB_ESCAPE;
        } else {
                add_byte(p, byte);
        }
        return GDB_NOTHING;
}

enum gdb_event gdb_parser_feed(struct gdb_parser *p, u8 byte)
{
        int low;

        switch (p->state) {
        case GDB_DATA:
        case GDB_ESCAPE:
                return feed_data(p, byte);
        case GDB_SUM1:
                p->sum_high = byte;
                p->state = GDB_SUM2;
                return GDB_NOTHING;
        case GDB_SUM2:
                p->state = GDB_IDLE;
                low = gdb_hex_digit((char)byte);
                p->data[p->len] = 0;
                if (p->too_long || low < 0 || gdb_hex_digit((char)p->sum_high) << 4 != (p->sum & 0xf0) ||
                        low != (p->sum & 0xf))
                        return GDB_BAD_PACKET;
                return GDB_PACKET;
        case GDB_IDLE:
                break;
        }
        return feed_idle(p, byte);
}

/* ---- replies ---- */

static void reply_bytes(struct gdb_reply *reply, const char *p, size_t n)
{
        if (n > sizeof(reply->data) - reply->len) {
                reply->overflow = true;
                return;
        }
        memcpy(reply->data + reply->len, p, n);
        reply->len += n;
}

void gdb_reply_text(struct gdb_reply *reply, const char *text)
{
        reply_bytes(reply, text, strlen(text));
}

void gdb_reply_printf(struct gdb_reply *reply, const char *fmt, ...)
{
        char buf[256];
        va_list ap;
        int n;

        va_start(ap, fmt);
        n = vsnprintf(buf, sizeof(buf), fmt, ap);
        va_end(ap);
        if (n < 0 || (size_t)n >= sizeof(buf))
                reply->overflow = true;
        else
                reply_bytes(reply, buf, (size_t)n);
}

void gdb_reply_hex(struct gdb_reply *reply, const void *data, size_t n)
{
        static const char digits[] = "0123456789abcdef";
        const u8 *p = data;

        for (size_t i = 0; i < n; i++) {
                const char pair[2] = { digits[p[i] >> 4], digits[p[i] & 15] };

                reply_bytes(reply, pair, sizeof(pair));
        }
}

void gdb_reply_binary(struct gdb_reply *reply, const void *data, size_t n)
{
        const char *p = data;

        for (size_t i = 0; i < n; i++) {
                if (strchr("}$#*", p[i]) && p[i]) {
                        const char pair[2] = { '}', (char)(p[i] ^ ESCAPE_XOR) };

                        reply_bytes(reply, pair, sizeof(pair));
                } else {
                        reply_bytes(reply, &p[i], 1);
                }
        }
}

size_t gdb_frame(const struct gdb_reply *reply, char out[GDB_FRAME_MAX])
{
        static const char digits[] = "0123456789abcdef";
        const char *data = reply->overflow ? "E22" : reply->data;
        const size_t len = reply->overflow ? 3 : reply->len;
        u8 sum = 0;

        out[0] = '$';
        memcpy(out + 1, data, len);
        for (size_t i = 0; i < len; i++)
                sum = (u8)(sum + (u8)data[i]);
        out[len + 1] = '#';
        out[len + 2] = digits[sum >> 4];
        out[len + 3] = digits[sum & 15];
        return len + 4;
}

/* ---- hexadecimal ---- */

bool gdb_hex_number(const char **p, u64 *ret)
{
        u64 value = 0;
        unsigned n = 0;

        for (; gdb_hex_digit(**p) >= 0; (*p)++, n++) {
                if (n == 16)
                        return false;
                value = value << 4 | (u64)gdb_hex_digit(**p);
        }
        *ret = value;
        return n > 0;
}

bool gdb_hex_bytes(const char **p, void *dst, size_t n)
{
        u8 *out = dst;

        for (size_t i = 0; i < n; i++, *p += 2) {
                int high = gdb_hex_digit((*p)[0]), low;

                if (high < 0)
                        return false;
                low = gdb_hex_digit((*p)[1]);
                if (low < 0)
                        return false;
                out[i] = (u8)(high << 4 | low);
        }
        return true;
}
