/* References to images as people write them: [registry/]repository[:tag][@digest], with docker's short forms. */
#pragma once

#include "digest.h"

#define REFERENCE_REPOSITORY_MAX 255 /* registry included; OCI distribution spec, "Pulling manifests" */
#define REFERENCE_TAG_MAX        128
#define REFERENCE_TEXT_MAX       (2 * REFERENCE_REPOSITORY_MAX + 8 + REFERENCE_TAG_MAX)

struct reference {
        char registry[REFERENCE_REPOSITORY_MAX + 1];   /* "docker.io", "localhost:5000", "[::1]:5000" */
        char repository[REFERENCE_REPOSITORY_MAX + 1]; /* "library/debian" */
        char tag[REFERENCE_TAG_MAX + 1];               /* "" when only a digest was given */
        char digest[DIGEST_TEXT + 1];                  /* "" when there is none */
};

/* ERR_USAGE when @text is no reference. Without tag and digest the tag is "latest". */
int reference_parse(const char *text, struct reference *ret, struct err **err);
/* The full name: with the digest alone when there is one. */
void reference_format(const struct reference *reference, char ret[REFERENCE_TEXT_MAX]);
/* What the registry's API wants behind /manifests/. */
static inline const char *reference_version(const struct reference *reference)
{
        return reference->digest[0] ? reference->digest : reference->tag;
}
/* localhost, 127.0.0.0/8, ::1: where plain HTTP is no secret given away. */
bool reference_registry_is_loopback(const char *registry);
