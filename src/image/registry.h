/* One repository of a registry (OCI distribution spec 1.1; docker's registry API v2 is the same): where it is, who we are
 * there, requests with the right credentials and second tries. A session may be used by several threads, each with its own connection. */
#pragma once

#include "credentials.h"
#include "http.h"
#include "internal.h"

#define REGISTRY_TRIES 4

struct registry {
        char *host; /* "registry-1.docker.io" for docker.io */
        char *base; /* "https://host", found out by the first request; NULL before */
        char *repository;
        const char *actions; /* "pull" or "pull,push" */
        bool plain_http, insecure_tls;
        char *ca_file;
        struct credentials credentials;
        pthread_mutex_t lock;
        char *authorization; /* "Authorization: ..."; NULL: none needed so far */
        unsigned generation; /* how often it was replaced */
};

struct registry_options {
        const char *credentials;
        bool plain_http, insecure_tls, push;
};

/* @host is where it is (a mirror's, or the reference's registry); "http://" and "https://" in front decide. */
int registry_open(const char *host, const char *repository, const struct registry_options *options,
        struct registry **ret, struct err **err);
struct registry *registry_close(struct registry *registry);
static inline void registry_closep(struct registry **registry)
{
        registry_close(*registry);
}
int registry_connect(struct registry *registry, struct http_client **ret, struct err **err);

/* A request below /v2/REPOSITORY/, or to the absolute @request->url when @path is NULL. Asks for credentials and
 * tries again where that helps. Statuses other than 2xx are errors, but for those in @allowed (0: none). */
int registry_request(struct registry *registry, struct http_client *client, const char *path,
        struct http_request *request, long allowed, struct http_answer *ret, struct err **err);
/* Whether /v2/ lets us in. */
int registry_ping(struct registry *registry, struct err **err);
/* Between tries. */
void registry_wait(unsigned try);

/* Mirrors of @registry from registries.json: a new array of "http[s]://host" texts, perhaps empty. */
int registry_mirrors(const char *registry, json_t **ret, struct err **err);

/* Runs @fn(opaque, client, i) for i below @n, @jobs at a time, each thread with its own connection. The first error wins. */
int registry_parallel(struct registry *registry, unsigned jobs, size_t n,
        int (*fn)(void *opaque, struct http_client *client, size_t i, struct err **err), void *opaque,
        struct err **err);
