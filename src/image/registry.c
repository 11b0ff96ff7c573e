#include "registry.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define CONF_MAX       (1 * MIB)
#define JOBS_DEFAULT   4U
#define JOBS_MAX       64U
#define DOCKER_IO_HOST "registry-1.docker.io"

/* --- sessions ----------------------------------------------------------------------------------------------------------------- */

/* What registries.json says about a registry: {"registries": {"docker.io": {"mirrors": [...], "insecure": true, "ca": FILE}}} */
static int read_conf(const char *registry, json_t **ret, struct err **err)
{
        const char *home = getenv("HOME"), *given = getenv("STRATA_REGISTRIES");
        _cleanup_free_ char *own = NULL;
        const char *paths[] = { given, NULL, "/etc/strata/registries.json" };

        *ret = NULL;
        if (asprintf(&own, "%s/.config/strata/registries.json", home ? home : "") < 0) {
                own = NULL;
                return err_sys(err, ENOMEM, "reading registries.json");
        }
        paths[1] = own;
        for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
                _cleanup_close_ int fd = paths[i] ? open(paths[i], O_RDONLY | O_CLOEXEC) : -1;
                _cleanup_free_ char *text = NULL;
                _cleanup_json_ json_t *json = NULL;
                size_t len;
                int r;

                if (fd < 0)
                        continue;
                r = io_read_stream(fd, CONF_MAX, &text, &len, err);
                if (r == 0)
                        r = json_read(text, len, paths[i], &json, err);
                if (r == 0)
                        *ret = json_incref(json_object_get(json_object_get(json, "registries"), registry));
                return r;
        }
        return 0;
}

int registry_mirrors(const char *registry, json_t **ret, struct err **err)
{
        _cleanup_json_ json_t *conf = NULL, *list = json_array();
        const json_t *mirrors;
        int r = read_conf(registry, &conf, err);

        if (r < 0)
                return r;
        mirrors = json_object_get(conf, "mirrors");
        for (size_t i = 0; i < json_array_size(mirrors); i++)
                if (json_is_string(json_array_get(mirrors, i)))
                        json_array_append(list, json_array_get(mirrors, i));
        *ret = TAKE_PTR(list);
        return 0;
}

int registry_open(const char *host, const char *repository, const struct registry_options *options,
        struct registry **ret, struct err **err)
{
        _cleanup_(registry_closep) struct registry *registry = calloc(1, sizeof(*registry));
        _cleanup_json_ json_t *conf = NULL;
        const char *name = host;
        size_t len;
        int r;

        if (!registry)
                return err_sys(err, ENOMEM, "opening a registry");
        pthread_mutex_init(&registry->lock, NULL);
        for (size_t i = 0; i < 2; i++) {
                static const char *const schemes[] = { "http://", "https://" };

                if (strncmp(host, schemes[i], strlen(schemes[i])) != 0)
                        continue;
                name = host + strlen(schemes[i]);
                len = strlen(host);
                registry->base = strndup(host, len - (host[len - 1] == '/'));
        }
        r = read_conf(name, &conf, err);
        if (r == 0)
                r = credentials_find(name, options->credentials, &registry->credentials, err);
        if (r < 0)
                return r;
        registry->host = strdup(strcmp(name, "docker.io") == 0 ? DOCKER_IO_HOST : name);
        registry->repository = strdup(repository);
        registry->actions = options->push ? "pull,push" : "pull";
        registry->plain_http = options->plain_http || reference_registry_is_loopback(name);
        registry->insecure_tls = options->insecure_tls || json_is_true(json_object_get(conf, "insecure"));
        if (json_text(conf, "ca")[0])
                registry->ca_file = strdup(json_text(conf, "ca"));
        if (!registry->host || !registry->repository)
                return err_sys(err, ENOMEM, "opening a registry");
        *ret = TAKE_PTR(registry);
        return 0;
}

struct registry *registry_close(struct registry *registry)
{
        if (!registry)
                return NULL;
        free(registry->host);
        free(registry->base);
        free(registry->repository);
        free(registry->ca_file);
        free(registry->authorization);
        credentials_clear(&registry->credentials);
        pthread_mutex_destroy(&registry->lock);
        free(registry);
        return NULL;
}

int registry_connect(struct registry *registry, struct http_client **ret, struct err **err)
{
        const struct http_client_options options = { .insecure_tls = registry->insecure_tls,
                .ca_file = registry->ca_file };

        return http_client_new(&options, ret, err);
}

/* --- challenges (RFC 9110, 11.6.1; docker's token authentication) ----------------------------------------------------------------- */

/* The parameter @name of a challenge: name="value" or name=value. The caller's string. */
static char *challenge_parameter(const char *challenge, const char *name)
{
        const size_t len = strlen(name);
        const char *p = challenge;

        for (p = strcasestr(p, name); p; p = strcasestr(p + 1, name)) {
                if ((p == challenge || strchr(" ,\t", p[-1])) && p[len] == '=') {
                        p += len + 1;
                        return *p == '"' ? strndup(p + 1, strcspn(p + 1, "\"")) : strndup(p, strcspn(p, ", \t"));
                }
        }
        return NULL;
}

static int set_authorization(struct registry *registry, const char *value, struct err **err)
{
        char *header;

        if (!value || asprintf(&header, "Authorization: %s", value) < 0)
                return err_sys(err, ENOMEM, "logging in");
        free(registry->authorization);
        registry->authorization = header;
        registry->generation++;
        return 0;
}

static int no_credentials(const struct registry *registry, struct err **err)
{
        const bool given = registry->credentials.user || registry->credentials.identity_token;
        int r = err_set(err, ERR_NO_PERMISSION, EACCES, "the registry %s %s", registry->host,
                given ? "does not take these credentials" : "wants credentials");

        return err_hint(err, r, "strata image login -u NAME %s", registry->host);
}

/* Appends "&name=value" or "?name=value" to *@url. */
static int add_query(char **url, const char *name, const char *value)
{
        _cleanup_free_ char *escaped = http_escape(value);
        char *longer;

        if (!escaped || asprintf(&longer, "%s%c%s=%s", *url, strchr(*url, '?') ? '&' : '?', name, escaped) < 0)
                return -ENOMEM;
        free(*url);
        *url = longer;
        return 0;
}

/* For what we do in our repository, and what else the challenge asks for (mounting a blob of another repository). */
static int fetch_token(struct registry *registry, struct http_client *client, const char *challenge, struct err **err)
{
        _cleanup_free_ char *realm = challenge_parameter(challenge, "realm"),
                            *service = challenge_parameter(challenge, "service"),
                            *asked = challenge_parameter(challenge, "scope"), *scope = NULL, *url = NULL, *basic = NULL,
                            *header = NULL, *form = NULL, *bearer = NULL;
        struct http_request request = { .follow = true };
        struct http_answer answer = { 0 };
        _cleanup_json_ json_t *json = NULL;
        const char *token;
        int r = 0;

        if (!realm ||
                (strncmp(realm, "https://", 8) != 0 && !(strncmp(realm, "http://", 7) == 0 && registry->plain_http)))
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP,
                        "the registry %s names no safe place to get a token from", registry->host);
        if (asprintf(&scope, "repository:%s:%s", registry->repository, registry->actions) < 0) {
                scope = NULL;
                return err_sys(err, ENOMEM, "logging in");
        }
        url = strdup(realm);
        if (registry->credentials.identity_token) {
                /* OAuth 2: the identity token is exchanged (docker's "Authenticate with OAuth2") */
                _cleanup_free_ char *t = http_escape(registry->credentials.identity_token),
                                    *s = http_escape(service ? service : ""), *c = http_escape(scope);

                if (!t || !s || !c ||
                        asprintf(&form,
                                "grant_type=refresh_token&client_id=strata&refresh_token=%s&service=%s&scope=%s", t, s,
                                c) < 0) {
                        form = NULL;
                        return err_sys(err, ENOMEM, "logging in");
                }
                request.method = "POST";
                request.body = form;
                request.body_len = strlen(form);
                request.headers[0] = "Content-Type: application/x-www-form-urlencoded";
                request.follow = false;
        } else {
                if (service)
                        r = add_query(&url, "service", service);
                if (r == 0 && registry->repository[0])
                        r = add_query(&url, "scope", scope);
                if (r == 0 && asked && asked[0] && strcmp(asked, scope) != 0)
                        r = add_query(&url, "scope", asked);
                if (registry->credentials.user) {
                        basic = credentials_basic(&registry->credentials);
                        if (!basic || asprintf(&header, "Authorization: %s", basic) < 0) {
                                header = NULL;
                                r = -ENOMEM;
                        }
                        request.headers[0] = header;
                }
        }
        if (r < 0 || !url)
                return err_sys(err, ENOMEM, "logging in");
        request.url = url;
        r = http_perform(client, &request, &answer, err);
        if (r < 0)
                return err_wrap(err, r, "asking for a token");
        if (answer.status == 200)
                r = json_read(answer.body ? answer.body : "", answer.body_len, "the token", &json, err);
        else
                r = no_credentials(registry, err);
        http_answer_clear(&answer);
        if (r < 0)
                return r;
        token = json_text(json, "token")[0] ? json_text(json, "token") : json_text(json, "access_token");
        if (!token[0] || strpbrk(token, "\r\n"))
                return err_set(err, ERR_IO, EBADMSG, "the registry %s gives no token", registry->host);
        if (asprintf(&bearer, "Bearer %s", token) < 0)
                bearer = NULL;
        return set_authorization(registry, bearer, err);
}

/* After a 401. @generation is that of the credentials that were refused. */
static int authenticate(struct registry *registry, struct http_client *client, const char *challenge,
        unsigned generation, struct err **err)
{
        _cleanup_free_ char *basic = NULL;
        int r = 0;

        pthread_mutex_lock(&registry->lock);
        if (registry->generation != generation) {
                ; /* another thread was faster */
        } else if (strncasecmp(challenge, "Bearer", 6) == 0) {
                r = fetch_token(registry, client, challenge, err);
        } else if (strncasecmp(challenge, "Basic", 5) == 0 && registry->credentials.user && !registry->authorization) {
                basic = credentials_basic(&registry->credentials);
                r = set_authorization(registry, basic, err);
        } else {
                r = no_credentials(registry, err);
        }
        pthread_mutex_unlock(&registry->lock);
        return r;
}

/* --- requests ---------------------------------------------------------------------------------------------------------------------- */

/* What the registry says about an error: {"errors": [{"code": ..., "message": ...}]} */
static int answer_error(const struct registry *registry, const struct http_answer *answer, struct err **err)
{
        _cleanup_json_ json_t *json = NULL;
        const json_t *first;
        char text[300] = "";
        enum err_id id = ERR_IO;
        int errnum = EIO;

        if (answer->body && json_read(answer->body, answer->body_len, "", &json, NULL) == 0) {
                first = json_array_get(json_object_get(json, "errors"), 0);
                snprintf(text, sizeof(text), "%.100s%s%.180s", json_text(first, "code"),
                        json_text(first, "message")[0] ? ": " : "", json_text(first, "message"));
        }
        for (char *p = text; *p; p++)
                if (!isprint((unsigned char)*p))
                        *p = '?';
        if (answer->status == 404) {
                id = ERR_NOT_FOUND;
                errnum = ENOENT;
        } else if (answer->status == 401 || answer->status == 403) {
                id = ERR_NO_PERMISSION;
                errnum = EACCES;
        } else if (answer->status == 429 || answer->status >= 500) {
                errnum = EAGAIN;
        }
        return err_set(err, id, errnum, "the registry %s answers %ld%s%s%s", registry->host, answer->status,
                text[0] ? " (" : "", text, text[0] ? ")" : "");
}

void registry_wait(unsigned try)
{
        const struct timespec delay = { .tv_sec = try > 2 ? 2 : 0, .tv_nsec = try > 2 ? 0 : 100000000L << (2 * try) };

        nanosleep(&delay, NULL);
}

/* Which scheme the registry speaks. Over TLS unless clear text is allowed, and then whichever it answers. */
static int find_base(struct registry *registry, struct http_client *client, struct err **err)
{
        static const char *const schemes[] = { "http", "https" };
        char *base = NULL;
        int r = 0;

        pthread_mutex_lock(&registry->lock);
        for (size_t i = registry->plain_http ? 0 : 1; !registry->base && r == 0 && i < ARRAY_SIZE(schemes); i++) {
                struct http_request request = { 0 };
                struct http_answer answer = { 0 };
                _cleanup_free_ char *url = NULL;
                int failed = 0;

                if (asprintf(&base, "%s://%s", schemes[i], registry->host) < 0 || asprintf(&url, "%s/v2/", base) < 0) {
                        r = err_sys(err, ENOMEM, "opening a registry");
                        break;
                }
                if (i == 0) { /* a TLS server answers 400 or hangs up */
                        request.url = url;
                        failed = http_perform(client, &request, &answer, NULL);
                        failed = failed < 0 || answer.status == 400;
                        http_answer_clear(&answer);
                }
                if (!failed)
                        registry->base = TAKE_PTR(base);
                free(TAKE_PTR(base));
        }
        pthread_mutex_unlock(&registry->lock);
        return r;
}

static void current_authorization(struct registry *registry, char **ret_header, unsigned *ret_generation)
{
        pthread_mutex_lock(&registry->lock);
        *ret_header = registry->authorization ? strdup(registry->authorization) : NULL;
        *ret_generation = registry->generation;
        pthread_mutex_unlock(&registry->lock);
}

/* Credentials go to the registry alone, wherever it sends us for uploads. */
static bool is_own_url(const struct registry *registry, const char *url)
{
        const size_t len = strlen(registry->base);

        return strncmp(url, registry->base, len) == 0 && (url[len] == '/' || url[len] == '\0' || url[len] == '?');
}

int registry_request(struct registry *registry, struct http_client *client, const char *path,
        struct http_request *request, long allowed, struct http_answer *ret, struct err **err)
{
        _cleanup_free_ char *url = NULL;
        unsigned tries = 0, logins = 0, slot = 0;
        int r = registry->base ? 0 : find_base(registry, client, err);

        if (r < 0)
                return r;
        if (path) {
                const bool below = registry->repository[0] && path[0];

                if (asprintf(&url, "%s/v2/%s%s%s", registry->base, below ? registry->repository : "", below ? "/" : "",
                            path) < 0) {
                        url = NULL;
                        return err_sys(err, ENOMEM, "asking the registry");
                }
                request->url = url;
        }
        while (request->headers[slot])
                slot++;
        for (;;) {
                _cleanup_free_ char *authorization = NULL;
                struct http_answer answer = { 0 };
                struct err *failure = NULL;
                unsigned generation;

                current_authorization(registry, &authorization, &generation);
                request->headers[slot] = authorization && is_own_url(registry, request->url) ? authorization : NULL;
                r = http_perform(client, request, &answer, &failure);
                request->headers[slot] = NULL;
                if (r == 0 && answer.status == 401 && logins++ < 2) {
                        r = authenticate(registry, client, answer.challenge, generation, &failure);
                        http_answer_clear(&answer);
                        if (r == 0)
                                continue;
                } else if (r == 0 && (answer.status < 200 || answer.status >= 300) && answer.status != allowed) {
                        r = answer.status == 401 ? no_credentials(registry, &failure)
                                                 : answer_error(registry, &answer, &failure);
                        http_answer_clear(&answer);
                }
                if (r == 0) {
                        *ret = answer;
                        return 0;
                }
                /* Only what can be said again: an upload's place in the stream has to be asked for first. */
                if (r == -EAGAIN && !request->has_file && !request->receive && ++tries < REGISTRY_TRIES) {
                        err_free(failure);
                        registry_wait(tries);
                        continue;
                }
                if (err)
                        *err = TAKE_PTR(failure);
                err_free(failure);
                return r;
        }
}

int registry_ping(struct registry *registry, struct err **err)
{
        _cleanup_(http_client_freep) struct http_client *client = NULL;
        struct http_request request = { 0 };
        struct http_answer answer = { 0 };
        int r = registry_connect(registry, &client, err);

        if (r == 0)
                r = registry_request(registry, client, "", &request, 0, &answer, err);
        http_answer_clear(&answer);
        return r;
}

/* --- several at a time ---------------------------------------------------------------------------------------------------------------- */

struct parallel {
        struct registry *registry;
        int (*fn)(void *opaque, struct http_client *client, size_t i, struct err **err);
        void *opaque;
        pthread_mutex_t lock;
        size_t next, n;
        int status;
        struct err *err;
};

static void *parallel_thread(void *opaque)
{
        struct parallel *p = opaque;
        _cleanup_(http_client_freep) struct http_client *client = NULL;
        struct err *err = NULL;
        int r = registry_connect(p->registry, &client, &err);

        pthread_mutex_lock(&p->lock);
        while (r == 0 && p->status == 0 && p->next < p->n) {
                const size_t i = p->next++;

                pthread_mutex_unlock(&p->lock);
                r = p->fn(p->opaque, client, i, &err);
                pthread_mutex_lock(&p->lock);
        }
        if (r < 0 && p->status == 0) {
                p->status = r;
                p->err = TAKE_PTR(err);
        }
        pthread_mutex_unlock(&p->lock);
        err_free(err);
        return NULL;
}

int registry_parallel(struct registry *registry, unsigned jobs, size_t n,
        int (*fn)(void *opaque, struct http_client *client, size_t i, struct err **err), void *opaque, struct err **err)
{
        struct parallel p = { .registry = registry, .fn = fn, .opaque = opaque, .n = n };
        pthread_t threads[JOBS_MAX];
        size_t started = 0;
        const size_t wanted = MIN(jobs ? MIN(jobs, JOBS_MAX) : JOBS_DEFAULT, n);

        pthread_mutex_init(&p.lock, NULL);
        while (started + 1 < wanted && pthread_create(&threads[started], NULL, parallel_thread, &p) == 0)
                started++;
        if (n > 0)
                parallel_thread(&p); /* this thread is one of them */
        while (started > 0)
                pthread_join(threads[--started], NULL);
        pthread_mutex_destroy(&p.lock);
        if (p.status < 0 && err)
                *err = TAKE_PTR(p.err);
        err_free(p.err);
        return p.status;
}
