#include "dns.h"

#include <errno.h>
#include <string.h>

enum {
        FLAG_REPLY = 0x8000,
        OPCODE = 0x7800,
        FLAG_AUTHORITATIVE = 0x0400,
        FLAG_CUT = 0x0200,
        FLAG_WANTED = 0x0100,
        FLAG_AVAILABLE = 0x0080
};
enum { CLASS_IN = 1, LABEL_MAX = 63, POINTER = 0xc000 };

static bool is_plain_letter(u8 c)
{
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static u8 lower(u8 c)
{
        return c >= 'A' && c <= 'Z' ? (u8)(c + 'a' - 'A') : c;
}

/* Reads the labels at *@at: queries have no compressed names. A dot inside a label, or a NUL, makes a name that is not
 * plain. */
static int parse_name(const u8 *message, size_t len, size_t *at, struct dns_question *ret)
{
        size_t n = 0;

        ret->is_plain = true;
        for (;;) {
                const size_t label = *at < len ? message[*at] : LABEL_MAX + 1;

                if (label > LABEL_MAX || *at + 1 + label > len)
                        return -EINVAL;
                *at += 1;
                if (!label)
                        break;
                if (n + label + (n > 0) > DNS_NAME_MAX)
                        return -EINVAL;
                if (n)
                        ret->name[n++] = '.';
                for (size_t i = 0; i < label; i++) {
                        const u8 c = lower(message[*at + i]);

                        ret->is_plain &= is_plain_letter(c);
                        ret->name[n++] = (char)(c ? c : '?');
                }
                *at += label;
        }
        ret->name[n] = '\0';
        ret->is_plain &= n > 0;
        return 0;
}

int dns_parse_query(const u8 *message, size_t len, struct dns_question *ret)
{
        size_t at = DNS_HEADER;

        ret->end = DNS_HEADER;
        if (len < DNS_HEADER || dns_get16(message + 2) & FLAG_REPLY)
                return -EBADMSG;
        if (dns_get16(message + 2) & OPCODE)
                return -ENOSYS;
        if (dns_get16(message + 4) != 1 || parse_name(message, len, &at, ret) < 0 || len - at < 4)
                return -EINVAL;
        ret->type = dns_get16(message + at);
        ret->class = dns_get16(message + at + 2);
        ret->end = at + 4;
        return 0;
}

/* --- answers ------------------------------------------------------------------------------------------------------ */

struct writer {
        u8 *out;
        size_t len, size;
        unsigned records;
        bool cut;
};

/* One resource record for the name of the question. */
static void put_record(struct writer *w, unsigned type, const void *data, size_t len)
{
        u8 *p = w->out + w->len;

        if (w->size - w->len < 12 + len) {
                w->cut = true;
                return;
        }
        dns_put16(p, POINTER | DNS_HEADER);
        dns_put16(p + 2, type);
        dns_put16(p + 4, CLASS_IN);
        dns_put16(p + 6, 0);
        dns_put16(p + 8, DNS_TTL);
        dns_put16(p + 10, (unsigned)len);
        memcpy(p + 12, data, len);
        w->len += 12 + len;
        w->records++;
}

/* Text as labels. Returns the length, 0: it is no name. */
static size_t encode_name(const char *name, u8 out[DNS_NAME_MAX + 2])
{
        size_t n = 0;

        while (*name) {
                const size_t label = strcspn(name, ".");

                if (!label || label > LABEL_MAX || n + label + 2 > DNS_NAME_MAX + 2)
                        return 0;
                out[n++] = (u8)label;
                memcpy(out + n, name, label);
                n += label;
                name += label + (name[label] == '.');
        }
        out[n++] = 0;
        return n;
}

size_t dns_write_answer(
        const u8 *query, const struct dns_question *question, const struct dns_answer *answer, u8 *out, size_t size)
{
        struct writer w = { .out = out, .len = question->end, .size = size };
        unsigned flags =
                FLAG_REPLY | FLAG_AVAILABLE | (dns_get16(query + 2) & (OPCODE | FLAG_WANTED)) | (unsigned)answer->rcode;
        u8 name[DNS_NAME_MAX + 2];

        if (w.len > size)
                w.len = DNS_HEADER;
        memcpy(out, query, w.len);
        dns_put16(out + 4, w.len > DNS_HEADER);
        memset(out + 6, 0, 6);
        if (answer->rcode == DNS_OK && w.len > DNS_HEADER) {
                flags |= FLAG_AUTHORITATIVE;
                for (size_t i = 0; i < answer->n; i++)
                        if (question->type == (answer->addresses[i].len == 4 ? DNS_A : DNS_AAAA))
                                put_record(&w, question->type, answer->addresses[i].bytes, answer->addresses[i].len);
                if (answer->name && question->type == DNS_PTR) {
                        const size_t n = encode_name(answer->name, name);

                        if (n)
                                put_record(&w, DNS_PTR, name, n);
                }
        }
        dns_put16(out + 2, flags | (w.cut || answer->cut ? FLAG_CUT : 0));
        dns_put16(out + 6, w.records);
        return w.len;
}

bool dns_is_reply(const u8 *reply, size_t reply_len, const u8 *query, const struct dns_question *question)
{
        if (reply_len < question->end || reply[0] != query[0] || reply[1] != query[1] ||
                !(dns_get16(reply + 2) & FLAG_REPLY) || dns_get16(reply + 4) != 1)
                return false;
        for (size_t i = DNS_HEADER; i < question->end; i++)
                if (lower(reply[i]) != lower(query[i]))
                        return false;
        return true;
}

/* --- addresses as names ------------------------------------------------------------------------------------------- */

static int reverse4(const char *p, struct ip *ret)
{
        struct ip ip = { .len = 4 };

        for (int i = 3; i >= 0; i--) {
                unsigned v = 0, digits = 0;

                for (; *p >= '0' && *p <= '9' && digits < 3; p++, digits++)
                        v = v * 10 + (unsigned)(*p - '0');
                if (!digits || v > 255 || *p != '.')
                        return -EINVAL;
                p++;
                ip.bytes[i] = (u8)v;
        }
        if (strcmp(p, "in-addr.arpa") != 0)
                return -EINVAL;
        *ret = ip;
        return 0;
}

static int reverse6(const char *p, struct ip *ret)
{
        static const char digits[] = "0123456789abcdef";
        struct ip ip = { .len = 16 };

        for (int i = 31; i >= 0; i--, p += 2) {
                const char *digit = *p ? strchr(digits, *p) : NULL;

                if (!digit || p[1] != '.')
                        return -EINVAL;
                ip.bytes[i / 2] |= (u8)((digit - digits) << (i % 2 ? 0 : 4));
        }
        if (strcmp(p, "ip6.arpa") != 0)
                return -EINVAL;
        *ret = ip;
        return 0;
}

int dns_reverse(const char *name, struct ip *ret)
{
        return reverse4(name, ret) == 0 ? 0 : reverse6(name, ret);
}
