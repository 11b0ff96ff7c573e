#include "digest.h"

#include <errno.h>
#include <string.h>

bool digest_is_hex(const char *hex, size_t len)
{
        return strspn(hex, "0123456789abcdef") >= len;
}

bool digest_valid(const char *text)
{
        const size_t prefix = sizeof(DIGEST_PREFIX) - 1;

        return strncmp(text, DIGEST_PREFIX, prefix) == 0 && strlen(text) == DIGEST_TEXT &&
               digest_is_hex(text + prefix, DIGEST_HEX);
}

int digest_parse(const char *text, struct digest *ret, struct err **err)
{
        if (!text)
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "a digest is missing");
        if (strncmp(text, "sha384:", 7) == 0 || strncmp(text, "sha512:", 7) == 0)
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "digest '%.80s': only sha256 is supported", text);
        if (!digest_valid(text))
                return err_set(err, ERR_BAD_IMAGE, EBADMSG, "'%.80s' is not a digest", text);
        memcpy(ret->text, text, DIGEST_TEXT + 1);
        return 0;
}

int hasher_init(struct hasher *hasher, struct err **err)
{
        hasher->crypto = library_crypto(err);
        if (!hasher->crypto)
                return -ENOSYS;
        hasher->bytes = 0;
        hasher->crypto->SHA256_Init(&hasher->ctx);
        return 0;
}

void hasher_update(struct hasher *hasher, const void *data, size_t len)
{
        hasher->bytes += len;
        hasher->crypto->SHA256_Update(&hasher->ctx, data, len);
}

void hasher_finish(struct hasher *hasher, struct digest *ret)
{
        static const char digits[] = "0123456789abcdef";
        u8 sum[SHA256_DIGEST_LENGTH];
        char *p = ret->text + sizeof(DIGEST_PREFIX) - 1;

        hasher->crypto->SHA256_Final(sum, &hasher->ctx);
        memcpy(ret->text, DIGEST_PREFIX, sizeof(DIGEST_PREFIX) - 1);
        for (size_t i = 0; i < sizeof(sum); i++) {
                *p++ = digits[sum[i] >> 4];
                *p++ = digits[sum[i] & 15];
        }
        *p = '\0';
}

int digest_of(const void *data, size_t len, struct digest *ret, struct err **err)
{
        struct hasher hasher;
        int r = hasher_init(&hasher, err);

        if (r < 0)
                return r;
        hasher_update(&hasher, data, len);
        hasher_finish(&hasher, ret);
        return 0;
}
