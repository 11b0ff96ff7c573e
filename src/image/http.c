#include "http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/cleanup.h"

#define CONNECT_TIMEOUT_S 20L
#define STALL_S           60L /* without a byte */
#define REDIRECTS_MAX     5L
#define ERROR_BODY_MAX    (64 * KIB)
#define BUFFER_SIZE       (256L * 1024L)

struct http_client {
        const struct curl_library *curl;
        CURL *handle;
        struct http_client_options options;
        char error[CURL_ERROR_SIZE];
};

int http_client_new(const struct http_client_options *options, struct http_client **ret, struct err **err)
{
        _cleanup_(http_client_freep) struct http_client *client = calloc(1, sizeof(*client));

        if (!client)
                return err_sys(err, ENOMEM, "preparing a connection");
        client->options = *options;
        client->curl = library_curl(err);
        if (!client->curl)
                return -ENOSYS;
        client->handle = client->curl->curl_easy_init();
        if (!client->handle)
                return err_sys(err, ENOMEM, "preparing a connection");
        *ret = TAKE_PTR(client);
        return 0;
}

struct http_client *http_client_free(struct http_client *client)
{
        if (!client)
                return NULL;
        if (client->handle)
                client->curl->curl_easy_cleanup(client->handle);
        free(client);
        return NULL;
}

void http_answer_clear(struct http_answer *answer)
{
        free(answer->body);
        *answer = (struct http_answer){ 0 };
}

/* --- callbacks of curl ----------------------------------------------------------------------------------------------------- */

struct exchange {
        struct http_client *client;
        const struct http_request *request;
        struct http_answer *answer;
        size_t body_cap;
        u64 sent;
        int status; /* of receive */
        struct err *err;
};

static bool is_success(long status)
{
        return status >= 200 && status < 300;
}

static size_t collect(struct exchange *x, const void *data, size_t len, size_t max)
{
        struct http_answer *answer = x->answer;

        if (len > max - MIN(max, answer->body_len)) {
                x->status =
                        err_set(&x->err, ERR_TOO_LARGE, EFBIG, "the registry's answer is longer than %zu bytes", max);
                return 0;
        }
        if (answer->body_len + len + 1 > x->body_cap) {
                const size_t cap = MAX(2 * x->body_cap, answer->body_len + len + 1);
                char *grown = realloc(answer->body, cap);

                if (!grown) {
                        x->status = err_sys(&x->err, ENOMEM, "reading the registry's answer");
                        return 0;
                }
                answer->body = grown;
                x->body_cap = cap;
        }
        memcpy(answer->body + answer->body_len, data, len);
        answer->body_len += len;
        answer->body[answer->body_len] = '\0';
        return len;
}

static size_t on_body(char *data, size_t size, size_t n, void *opaque)
{
        struct exchange *x = opaque;
        const size_t len = size * n;
        long status = 0;

        x->client->curl->curl_easy_getinfo(x->client->handle, CURLINFO_RESPONSE_CODE, &status);
        if (!is_success(status)) { /* it is only for a message: the rest is not needed */
                const size_t room = ERROR_BODY_MAX - MIN(ERROR_BODY_MAX, x->answer->body_len);

                if (room > 0)
                        collect(x, data, MIN(len, room), ERROR_BODY_MAX);
                return len;
        }
        if (!x->request->receive)
                return collect(x, data, len, HTTP_BODY_MAX);
        x->status = x->request->receive(x->request->opaque, status, data, len, &x->err);
        return x->status < 0 ? 0 : len;
}

static size_t on_header(char *data, size_t size, size_t n, void *opaque)
{
        struct exchange *x = opaque;
        struct http_answer *a = x->answer;
        const size_t len = size * n;
        const struct {
                const char *name;
                char *value;
                size_t size;
        } wanted[] = {
                { "content-type", a->content_type, sizeof(a->content_type) },
                { "location", a->location, sizeof(a->location) },
                { "www-authenticate", a->challenge, sizeof(a->challenge) },
                { "docker-content-digest", a->digest, sizeof(a->digest) },
                { "range", a->range, sizeof(a->range) },
        };
        const char *colon = memchr(data, ':', len);

        if (len > 5 && strncasecmp(data, "HTTP/", 5) == 0) /* of another answer on the way */
                for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
                        wanted[i].value[0] = '\0';
        for (size_t i = 0; colon && i < ARRAY_SIZE(wanted); i++) {
                const char *value = colon + 1, *end = data + len;

                if ((size_t)(colon - data) != strlen(wanted[i].name) ||
                        strncasecmp(data, wanted[i].name, strlen(wanted[i].name)) != 0)
                        continue;
                /* Of several challenges the one for a token is ours. */
                if (wanted[i].value == a->challenge && strncasecmp(a->challenge, "bearer", 6) == 0)
                        continue;
                while (value < end && (*value == ' ' || *value == '\t'))
                        value++;
                while (end > value && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' '))
                        end--;
                if ((size_t)(end - value) < wanted[i].size)
                        snprintf(wanted[i].value, wanted[i].size, "%.*s", (int)(end - value), value);
        }
        return len;
}

static size_t on_send(char *buf, size_t size, size_t n, void *opaque)
{
        struct exchange *x = opaque;
        const struct http_request *q = x->request;
        const u64 total = q->has_file ? q->file_len : q->body_len;
        const size_t len = MIN(size * n, total - x->sent);
        ssize_t got = (ssize_t)len;

        if (q->has_file)
                got = pread(q->file_fd, buf, len, (off_t)(q->file_offset + x->sent));
        else if (len > 0)
                memcpy(buf, (const u8 *)q->body + x->sent, len);
        if (got < 0 || (got == 0 && len > 0)) {
                x->status = err_sys(&x->err, got < 0 ? errno : EIO, "reading what is to be sent");
                return CURL_READFUNC_ABORT;
        }
        x->sent += (u64)got;
        if (q->sent)
                q->sent(q->opaque, x->sent);
        return (size_t)got;
}

static int on_seek(void *opaque, curl_off_t offset, int origin)
{
        struct exchange *x = opaque;

        if (origin != SEEK_SET || offset < 0)
                return CURL_SEEKFUNC_CANTSEEK;
        x->sent = (u64)offset;
        return CURL_SEEKFUNC_OK;
}

/* --- a request --------------------------------------------------------------------------------------------------------------- */

static void set_options(struct http_client *c, struct exchange *x, struct curl_slist *headers)
{
        const struct http_request *q = x->request;
        const char *method = q->method ? q->method : "GET";
        __typeof__(c->curl->curl_easy_setopt) set = c->curl->curl_easy_setopt;

        c->curl->curl_easy_reset(c->handle);
        set(c->handle, CURLOPT_URL, q->url);
        set(c->handle, CURLOPT_ERRORBUFFER, c->error);
        set(c->handle, CURLOPT_NOSIGNAL, 1L);
        set(c->handle, CURLOPT_PROTOCOLS_STR, "http,https");
        /* From TLS no redirection leads into the clear. */
        set(c->handle, CURLOPT_REDIR_PROTOCOLS_STR, strncmp(q->url, "https:", 6) == 0 ? "https" : "http,https");
        set(c->handle, CURLOPT_FOLLOWLOCATION, q->follow ? 1L : 0L);
        set(c->handle, CURLOPT_MAXREDIRS, REDIRECTS_MAX);
        set(c->handle, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
        set(c->handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
        set(c->handle, CURLOPT_LOW_SPEED_TIME, STALL_S);
        set(c->handle, CURLOPT_BUFFERSIZE, BUFFER_SIZE);
        set(c->handle, CURLOPT_UPLOAD_BUFFERSIZE, BUFFER_SIZE);
        set(c->handle, CURLOPT_TCP_NODELAY, 1L);
        set(c->handle, CURLOPT_USERAGENT, "strata");
        set(c->handle, CURLOPT_SSL_VERIFYPEER, c->options.insecure_tls ? 0L : 1L);
        set(c->handle, CURLOPT_SSL_VERIFYHOST, c->options.insecure_tls ? 0L : 2L);
        if (c->options.ca_file)
                set(c->handle, CURLOPT_CAINFO, c->options.ca_file);
        set(c->handle, CURLOPT_HTTPHEADER, headers);
        set(c->handle, CURLOPT_WRITEFUNCTION, on_body);
        set(c->handle, CURLOPT_WRITEDATA, x);
        set(c->handle, CURLOPT_HEADERFUNCTION, on_header);
        set(c->handle, CURLOPT_HEADERDATA, x);
        if (strcmp(method, "HEAD") == 0) {
                set(c->handle, CURLOPT_NOBODY, 1L);
        } else if (q->has_file || q->body || strcmp(method, "GET") != 0) {
                set(c->handle, CURLOPT_UPLOAD, 1L);
                set(c->handle, CURLOPT_CUSTOMREQUEST, method);
                set(c->handle, CURLOPT_READFUNCTION, on_send);
                set(c->handle, CURLOPT_READDATA, x);
                set(c->handle, CURLOPT_SEEKFUNCTION, on_seek);
                set(c->handle, CURLOPT_SEEKDATA, x);
                set(c->handle, CURLOPT_INFILESIZE_LARGE, (curl_off_t)(q->has_file ? q->file_len : q->body_len));
        }
}

/* What may be better next time: the network, not the names or certificates. */
static bool is_transient(CURLcode code)
{
        static const CURLcode codes[] = { CURLE_COULDNT_CONNECT, CURLE_OPERATION_TIMEDOUT, CURLE_SEND_ERROR,
                CURLE_RECV_ERROR, CURLE_GOT_NOTHING, CURLE_PARTIAL_FILE, CURLE_HTTP2, CURLE_HTTP2_STREAM,
                CURLE_COULDNT_RESOLVE_HOST };

        for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
                if (codes[i] == code)
                        return true;
        return false;
}

static bool is_tls(CURLcode code)
{
        return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CONNECT_ERROR ||
               code == CURLE_SSL_CACERT_BADFILE || code == CURLE_SSL_ISSUER_ERROR;
}

int http_perform(struct http_client *c, const struct http_request *request, struct http_answer *ret, struct err **err)
{
        struct http_answer answer = { 0 };
        struct exchange x = { .client = c, .request = request, .answer = &answer };
        struct curl_slist *headers = NULL;
        CURLcode code;
        int r;

        for (size_t i = 0; i < HTTP_HEADERS_MAX && request->headers[i]; i++)
                headers = c->curl->curl_slist_append(headers, request->headers[i]);
        headers = c->curl->curl_slist_append(headers, "Expect:"); /* no round trip before a body */
        set_options(c, &x, headers);
        c->error[0] = '\0';
        code = c->curl->curl_easy_perform(c->handle);
        c->curl->curl_easy_getinfo(c->handle, CURLINFO_RESPONSE_CODE, &answer.status);
        c->curl->curl_slist_free_all(headers);
        if (x.status < 0) {
                if (err)
                        *err = TAKE_PTR(x.err);
                err_free(x.err);
                http_answer_clear(&answer);
                return x.status;
        }
        if (code != CURLE_OK) {
                http_answer_clear(&answer);
                r = err_set(err, ERR_IO, is_transient(code) ? EAGAIN : EIO, "%.500s: %s", request->url,
                        c->error[0] ? c->error : c->curl->curl_easy_strerror(code));
                return is_tls(code)
                               ? err_hint(err, r,
                                         "--plain-http is for registries without TLS, --insecure for certificates of nobody")
                               : r;
        }
        *ret = answer;
        return 0;
}

/* --- addresses ----------------------------------------------------------------------------------------------------------------- */

char *http_resolve(const char *base, const char *reference)
{
        const struct curl_library *curl = library_curl(NULL);
        CURLU *url = curl ? curl->curl_url() : NULL;
        char *text = NULL, *copy = NULL;

        if (!url)
                return NULL;
        if (curl->curl_url_set(url, CURLUPART_URL, base, 0) == CURLUE_OK &&
                curl->curl_url_set(url, CURLUPART_URL, reference, 0) == CURLUE_OK &&
                curl->curl_url_get(url, CURLUPART_URL, &text, 0) == CURLUE_OK)
                copy = strdup(text);
        curl->curl_free(text);
        curl->curl_url_cleanup(url);
        return copy;
}

char *http_escape(const char *text)
{
        const struct curl_library *curl = library_curl(NULL);
        char *escaped = curl ? curl->curl_easy_escape(NULL, text, (int)strlen(text)) : NULL;
        char *copy = escaped ? strdup(escaped) : NULL;

        if (curl)
                curl->curl_free(escaped);
        return copy;
}
