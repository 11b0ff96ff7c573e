#include "record.h"

#include "text.h"

size_t record_len(const struct record *record)
{
        size_t n = 0;

        while (n < RECORD_SIZE && record->text[n])
                n++;
        return n;
}

/* The value of @key, up to the line's end; NULL. */
static const char *find(const struct record *record, const char *key)
{
        const char *p = record->text, *end = p + record_len(record);

        while (p < end) {
                const char *k = key, *q = p;

                while (*k && q < end && *q == *k)
                        q++, k++;
                if (!*k && q < end && *q == '=')
                        return q + 1;
                while (p < end && *p != '\n')
                        p++;
                p++;
        }
        return NULL;
}

bool record_get(const struct record *record, const char *key, char *ret, size_t size)
{
        const char *value = find(record, key), *end = record->text + record_len(record);
        size_t n = 0;

        if (!value)
                return false;
        for (; value + n < end && value[n] != '\n' && n + 1 < size; n++)
                ret[n] = value[n];
        ret[n] = '\0';
        return true;
}

s64 record_number(const struct record *record, const char *key, s64 absent)
{
        char text[24];
        const char *p = text;
        u64 n = 0;

        if (!record_get(record, key, text, sizeof(text)) || !text[0])
                return absent;
        for (p += *p == '-'; *p >= '0' && *p <= '9' && n < (u64)INT64_MAX / 10 - 10; p++)
                n = n * 10 + (u64)(*p - '0');
        return text[0] == '-' ? -(s64)n : (s64)n;
}

bool record_put(struct record *record, const char *key, const char *value)
{
        size_t n = record_len(record), need = 2;

        for (const char *p = key; *p; p++)
                need++;
        for (const char *p = value; *p; p++)
                need++;
        if (n + need >= RECORD_SIZE)
                return false;
        char *at = text_put(record->text + n, key);

        *at++ = '=';
        for (; *value; value++)
                *at++ = *value == '\n' ? ' ' : *value;
        *at++ = '\n';
        *at = '\0';
        return true;
}

bool record_put_number(struct record *record, const char *key, s64 value)
{
        char text[24];

        *text_number(text, value) = '\0';
        return record_put(record, key, text);
}
