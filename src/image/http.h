/* HTTP requests through libcurl. A client is one connection (kept open between requests) and belongs to one thread. */
#pragma once

#include "library.h"

struct http_client;

struct http_client_options {
        bool insecure_tls;
        const char *ca_file; /* NULL: the system's */
};

int http_client_new(const struct http_client_options *options, struct http_client **ret, struct err **err);
struct http_client *http_client_free(struct http_client *client);
static inline void http_client_freep(struct http_client **client)
{
        http_client_free(*client);
}

#define HTTP_HEADERS_MAX 8
#define HTTP_BODY_MAX    (8 * MIB)

struct http_request {
        const char *method; /* NULL: GET */
        const char *url;
        const char *headers[HTTP_HEADERS_MAX]; /* "Name: value"; ends with NULL */
        bool follow;                           /* redirections; credentials stay with the first host */
        /* body: bytes, or a stretch of a file */
        const void *body;
        size_t body_len;
        bool has_file;
        int file_fd;
        u64 file_offset, file_len;
        void (*sent)(void *opaque, u64 bytes);
        /* where a successful answer's body goes; NULL: into the answer, up to HTTP_BODY_MAX */
        int (*receive)(void *opaque, long status, const void *data, size_t len, struct err **err);
        void *opaque;
};

struct http_answer {
        long status;
        char *body; /* with a NUL behind it */
        size_t body_len;
        char content_type[128], location[4096], challenge[2048], digest[80], range[64];
};

/* 0 when there is an answer of whatever status. Failures of the network are ERR_IO with -EAGAIN when trying again may
 * help, and what @receive returned when that failed. */
int http_perform(
        struct http_client *client, const struct http_request *request, struct http_answer *ret, struct err **err);
void http_answer_clear(struct http_answer *answer);

/* @base with the possibly relative @reference resolved against it. The caller's string. */
char *http_resolve(const char *base, const char *reference);
/* For a query's value. The caller's string. */
char *http_escape(const char *text);
