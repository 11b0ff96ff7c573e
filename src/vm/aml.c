#include "aml.h"

#include <stdlib.h>
#include <string.h>

enum {
        OP_ZERO = 0x00,
        OP_ONE = 0x01,
        OP_NAME = 0x08,
        OP_BYTE = 0x0a,
        OP_WORD = 0x0b,
        OP_DWORD = 0x0c,
        OP_STRING = 0x0d,
        OP_QWORD = 0x0e,
        OP_SCOPE = 0x10,
        OP_BUFFER = 0x11,
        OP_PACKAGE = 0x12,
        OP_METHOD = 0x14,
        OP_DUAL_NAME = 0x2e,
        OP_MULTI_NAME = 0x2f,
        OP_EXT = 0x5b,
        OP_EXT_DEVICE = 0x82,
        OP_ARG0 = 0x68,
        OP_NOTIFY = 0x86,
        OP_RETURN = 0xa4,
};

void aml_init(struct aml *a)
{
        *a = (struct aml){ 0 };
}

void aml_free(struct aml *a)
{
        free(a->data);
        aml_init(a);
}

static bool reserve(struct aml *a, size_t n)
{
        if (a->failed)
                return false;
        if (a->cap - a->len < n) {
                size_t cap = a->cap * 2 + n + 256;
                u8 *data = realloc(a->data, cap);

                if (!data) {
                        a->failed = true;
                        return false;
                }
                a->data = data;
                a->cap = cap;
        }
        return true;
}

static void put(struct aml *a, u64 v, unsigned size)
{
        if (!reserve(a, size))
                return;
        for (unsigned i = 0; i < size; i++)
                a->data[a->len++] = (u8)(v >> (8 * i));
}

static void put_bytes(struct aml *a, const void *p, size_t n)
{
        if (!reserve(a, n) || n == 0)
                return;
        memcpy(a->data + a->len, p, n);
        a->len += n;
}

/* "\\_SB_.PCI0": an optional root, then segments of four characters. ACPI 20.2.2. */
static void put_name(struct aml *a, const char *name)
{
        size_t n_segments;

        if (*name == '\\')
                put(a, (u8)*name++, 1);
        n_segments = (strlen(name) + 1) / 5;
        if (strlen(name) + 1 != n_segments * 5 || n_segments > 255) {
                a->failed = true;
                return;
        }
        if (n_segments == 2) {
                put(a, OP_DUAL_NAME, 1);
        } else if (n_segments > 2) {
                put(a, OP_MULTI_NAME, 1);
                put(a, n_segments, 1);
        }
        for (size_t i = 0; i < n_segments; i++)
                put_bytes(a, name + i * 5, 4);
}

/* Opens a term whose length is known only at its end. */
static void begin(struct aml *a)
{
        if (a->depth == AML_DEPTH) {
                a->failed = true;
                return;
        }
        a->open[a->depth++] = a->len;
}

/* PkgLength counts itself; the first byte holds how many follow it. ACPI 20.2.4. */
void aml_end(struct aml *a)
{
        u8 encoded[4];
        size_t start, length, n;

        if (a->failed || a->depth == 0) {
                a->failed = true;
                return;
        }
        start = a->open[--a->depth];
        length = a->len - start;
        n = length + 1 <= 0x3f ? 1 : length + 2 <= 0xfff ? 2 : length + 3 <= 0xfffff ? 3 : 4;
        length += n;
        if (n == 1) {
                encoded[0] = (u8)length;
        } else {
                encoded[0] = (u8)((n - 1) << 6 | (length & 0xf));
                for (size_t i = 1; i < n; i++)
                        encoded[i] = (u8)(length >> (8 * i - 4));
        }
        if (!reserve(a, n))
                return;
        memmove(a->data + start + n, a->data + start, a->len - start);
        memcpy(a->data + start, encoded, n);
        a->len += n;
}

void aml_scope_begin(struct aml *a, const char *path)
{
        put(a, OP_SCOPE, 1);
        begin(a);
        put_name(a, path);
}

void aml_device_begin(struct aml *a, const char *name)
{
        put(a, OP_EXT, 1);
        put(a, OP_EXT_DEVICE, 1);
        begin(a);
        put_name(a, name);
}

void aml_method_begin(struct aml *a, const char *name, unsigned n_args)
{
        put(a, OP_METHOD, 1);
        begin(a);
        put_name(a, name);
        put(a, n_args & 7, 1);
}

void aml_package_begin(struct aml *a, u8 n_elements)
{
        put(a, OP_PACKAGE, 1);
        begin(a);
        put(a, n_elements, 1);
}

void aml_integer(struct aml *a, u64 value)
{
        if (value <= 1) {
                put(a, value ? OP_ONE : OP_ZERO, 1);
        } else if (value <= 0xff) {
                put(a, OP_BYTE, 1);
                put(a, value, 1);
        } else if (value <= 0xffff) {
                put(a, OP_WORD, 1);
                put(a, value, 2);
        } else if (value <= 0xffffffff) {
                put(a, OP_DWORD, 1);
                put(a, value, 4);
        } else {
                put(a, OP_QWORD, 1);
                put(a, value, 8);
        }
}

void aml_string(struct aml *a, const char *s)
{
        put(a, OP_STRING, 1);
        put_bytes(a, s, strlen(s) + 1);
}

void aml_name(struct aml *a, const char *name)
{
        put(a, OP_NAME, 1);
        put_name(a, name);
}

void aml_name_integer(struct aml *a, const char *name, u64 value)
{
        aml_name(a, name);
        aml_integer(a, value);
}

static u32 hex_digit(char c)
{
        return (u32)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of five bits and four hexadecimal digits, most significant byte first. ACPI 19.3.4 (EISAID). */
void aml_name_eisaid(struct aml *a, const char *name, const char *id)
{
        u32 v;

        aml_name(a, name);
        if (strlen(id) != 7) {
                a->failed = true;
                return;
        }
        v = (u32)(id[0] - 0x40) << 26 | (u32)(id[1] - 0x40) << 21 | (u32)(id[2] - 0x40) << 16 | hex_digit(id[3]) << 12 |
            hex_digit(id[4]) << 8 | hex_digit(id[5]) << 4 | hex_digit(id[6]);
        put(a, OP_DWORD, 1);
        put(a, __builtin_bswap32(v), 4);
}

void aml_notify(struct aml *a, const char *name, u8 value)
{
        put(a, OP_NOTIFY, 1);
        put_name(a, name);
        aml_integer(a, value);
}

void aml_return_arg(struct aml *a, unsigned n)
{
        put(a, OP_RETURN, 1);
        put(a, OP_ARG0 + n, 1);
}

/* ---- resource templates; ACPI 6.4.2 and 6.4.3 ---- */

enum {
        RES_IRQ = 0x22,
        RES_IO = 0x47,
        RES_END = 0x79,
        RES_MEMORY32_FIXED = 0x86,
        RES_DWORD_SPACE = 0x87,
        RES_WORD_SPACE = 0x88,
        RES_QWORD_SPACE = 0x8a,

        SPACE_MEMORY = 0,
        SPACE_IO = 1,
        SPACE_BUS = 2,
        SPACE_MIN_MAX_FIXED = 0x0c,
        SPACE_MEMORY_RW = 0x01,
        SPACE_MEMORY_PREFETCHABLE = 0x06,
        SPACE_IO_ENTIRE_RANGE = 0x03,
};

static void res_put(struct aml_resources *res, u64 v, unsigned size)
{
        for (unsigned i = 0; i < size && res->len < sizeof(res->data); i++)
                res->data[res->len++] = (u8)(v >> (8 * i));
}

void aml_res_io(struct aml_resources *res, u16 base, u8 len)
{
        res_put(res, RES_IO, 1);
        res_put(res, 1, 1); /* decodes 16 bits */
        res_put(res, base, 2);
        res_put(res, base, 2);
        res_put(res, 1, 1);
        res_put(res, len, 1);
}

void aml_res_irq(struct aml_resources *res, unsigned irq)
{
        res_put(res, RES_IRQ, 1);
        res_put(res, BIT(irq), 2);
}

void aml_res_memory32(struct aml_resources *res, u32 base, u32 len)
{
        res_put(res, RES_MEMORY32_FIXED, 1);
        res_put(res, 9, 2);
        res_put(res, 1, 1); /* read-write */
        res_put(res, base, 4);
        res_put(res, len, 4);
}

/* An address space descriptor with fields of @width bytes. */
static void res_space(struct aml_resources *res, u8 tag, unsigned width, u8 type, u8 specific, u64 first, u64 last)
{
        res_put(res, tag, 1);
        res_put(res, 3 + 5 * width, 2);
        res_put(res, type, 1);
        res_put(res, SPACE_MIN_MAX_FIXED, 1);
        res_put(res, specific, 1);
        res_put(res, 0, width); /* granularity */
        res_put(res, first, width);
        res_put(res, last, width);
        res_put(res, 0, width); /* translation */
        res_put(res, last - first + 1, width);
}

void aml_res_bus_window(struct aml_resources *res, u16 first, u16 last)
{
        res_space(res, RES_WORD_SPACE, 2, SPACE_BUS, 0, first, last);
}

void aml_res_io_window(struct aml_resources *res, u16 first, u16 last)
{
        res_space(res, RES_WORD_SPACE, 2, SPACE_IO, SPACE_IO_ENTIRE_RANGE, first, last);
}

void aml_res_memory32_window(struct aml_resources *res, u32 first, u32 last)
{
        res_space(res, RES_DWORD_SPACE, 4, SPACE_MEMORY, SPACE_MEMORY_RW, first, last);
}

void aml_res_memory64_window(struct aml_resources *res, u64 first, u64 last)
{
        res_space(res, RES_QWORD_SPACE, 8, SPACE_MEMORY, SPACE_MEMORY_RW | SPACE_MEMORY_PREFETCHABLE, first, last);
}

void aml_name_resources(struct aml *a, const char *name, const struct aml_resources *res)
{
        if (res->len + 2 > sizeof(res->data))
                a->failed = true;
        aml_name(a, name);
        put(a, OP_BUFFER, 1);
        begin(a);
        aml_integer(a, res->len + 2);
        put_bytes(a, res->data, res->len);
        put(a, RES_END, 1);
        put(a, 0, 1); /* no checksum */
        aml_end(a);
}
