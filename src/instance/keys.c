#include "keys.h"

#include <errno.h>
#include <string.h>

static bool parse_key(const char *text, size_t len, u8 *ret)
{
        if (len == 1) {
                *ret = (u8)text[0];
                return true;
        }
        if (len != 6 || strncmp(text, "ctrl-", 5) != 0 || !strchr("abcdefghijklmnopqrstuvwxyz@[\\]^_", text[5]))
                return false;
        *ret = text[5] & 0x1f;
        return true;
}

int keys_parse(struct detach_keys *keys, const char *text, struct err **err)
{
        const char *p = text ? text : "ctrl-p,ctrl-q";

        *keys = (struct detach_keys){ 0 };
        while (*p) {
                const size_t n = strcspn(p, ",");

                if (keys->n == KEYS_MAX || !parse_key(p, n, &keys->key[keys->n++]))
                        return err_set(err, ERR_USAGE, EINVAL, "'%.60s' are not keys: 'ctrl-p,ctrl-q' or 'a,b'", text);
                p += n + (p[n] == ',');
        }
        return 0;
}

bool keys_filter(struct detach_keys *keys, const u8 *in, size_t len, u8 *out, size_t *ret_len)
{
        size_t n = 0;

        for (size_t i = 0; i < len; i++) {
                if (keys->n && in[i] != keys->key[keys->matched] && keys->matched) {
                        memcpy(out + n, keys->key, keys->matched);
                        n += keys->matched;
                        keys->matched = 0;
                }
                if (keys->n && in[i] == keys->key[keys->matched]) {
                        if (++keys->matched == keys->n)
                                return true;
                } else
                        out[n++] = in[i];
        }
        *ret_len = n;
        return false;
}
