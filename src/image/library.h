/* Libraries that are loaded when they are first needed: linking libcurl costs every start of the command some 15 ms and
 * 30 libraries, also of those commands that talk to no registry (ADR 41). */
#pragma once

#include <bzlib.h>
#include <curl/curl.h>
#include <openssl/sha.h>

#include "base/err.h"

#define CURL_FUNCTIONS(F)                                                                                        \
        F(curl_global_init)                                                                                      \
        F(curl_easy_init) F(curl_easy_cleanup) F(curl_easy_reset) F(curl_easy_setopt) F(curl_easy_perform)       \
                F(curl_easy_getinfo) F(curl_easy_strerror) F(curl_easy_escape) F(curl_free) F(curl_slist_append) \
                        F(curl_slist_free_all) F(curl_url) F(curl_url_cleanup) F(curl_url_set) F(curl_url_get)
#define CRYPTO_FUNCTIONS(F) F(SHA256_Init) F(SHA256_Update) F(SHA256_Final)
#define BZIP2_FUNCTIONS(F)  F(BZ2_bzDecompressInit) F(BZ2_bzDecompress) F(BZ2_bzDecompressEnd)

/* curl/curl.h hides curl_easy_setopt and others behind type-checking macros. */
#undef curl_easy_setopt
#undef curl_easy_getinfo

#define LIBRARY_MEMBER(name) __typeof__(name) *name;

struct curl_library {
        CURL_FUNCTIONS(LIBRARY_MEMBER)
};

struct bzip2_library {
        BZIP2_FUNCTIONS(LIBRARY_MEMBER)
};

/* The low-level interface is deprecated in favour of one that reads configuration files first. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
struct crypto_library {
        CRYPTO_FUNCTIONS(LIBRARY_MEMBER)
};
#pragma GCC diagnostic pop

/* NULL and ERR_UNSUPPORTED where it is not installed. Valid until the process ends. */
const struct curl_library *library_curl(struct err **err);
const struct crypto_library *library_crypto(struct err **err);
const struct bzip2_library *library_bzip2(struct err **err);
