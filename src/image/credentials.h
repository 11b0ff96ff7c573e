/* Credentials for registries, where docker and podman keep them. */
#pragma once

#include "base/err.h"

struct credentials {
        char *user, *password; /* NULL: none */
        char *identity_token;  /* instead of a password: to be exchanged for a token */
};

void credentials_clear(struct credentials *credentials);
/* From "user:password"; NULL from the files and helpers. No credentials are no error. */
int credentials_find(const char *registry, const char *given, struct credentials *ret, struct err **err);
int credentials_store(const char *registry, const char *user, const char *password, struct err **err);
/* -ENOENT, ERR_NOT_FOUND when there are none. */
int credentials_forget(const char *registry, struct err **err);

/* "Basic BASE64"; the caller's string. */
char *credentials_basic(const struct credentials *credentials);
