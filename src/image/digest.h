/* Content addresses: "sha256:" and 64 lower-case hexadecimal digits (OCI image spec, descriptor.md). */
#pragma once

#include "library.h"

#define DIGEST_PREFIX "sha256:"
#define DIGEST_HEX    64
#define DIGEST_TEXT   (sizeof(DIGEST_PREFIX) - 1 + DIGEST_HEX)

struct digest {
        char text[DIGEST_TEXT + 1];
};

/* Another algorithm is ERR_UNSUPPORTED, anything else ERR_BAD_IMAGE. */
int digest_parse(const char *text, struct digest *ret, struct err **err);
bool digest_valid(const char *text);
bool digest_is_hex(const char *hex, size_t len);

static inline const char *digest_hex(const struct digest *digest)
{
        return digest->text + sizeof(DIGEST_PREFIX) - 1;
}

static inline bool digest_equal(const struct digest *a, const struct digest *b)
{
        return __builtin_memcmp(a->text, b->text, DIGEST_TEXT) == 0;
}

struct hasher {
        const struct crypto_library *crypto;
        SHA256_CTX ctx;
        u64 bytes;
};

int hasher_init(struct hasher *hasher, struct err **err);
void hasher_update(struct hasher *hasher, const void *data, size_t len);
void hasher_finish(struct hasher *hasher, struct digest *ret);

int digest_of(const void *data, size_t len, struct digest *ret, struct err **err);
