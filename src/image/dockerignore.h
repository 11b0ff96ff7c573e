/* .dockerignore: which files of a build's context are sent (Dockerfile reference, "dockerignore file"). */
#pragma once

#include "base/err.h"

struct dockerignore;

int dockerignore_parse(const char *text, struct dockerignore **ret, struct err **err);
/* Whether the clean path is left out; the last pattern that matches it or a directory above it decides. NULL ignores nothing. */
bool dockerignore_matches(const struct dockerignore *ignore, const char *path);
/* Whether something below an ignored directory may be wanted nevertheless. */
bool dockerignore_has_exceptions(const struct dockerignore *ignore);
struct dockerignore *dockerignore_free(struct dockerignore *ignore);
static inline void dockerignore_freep(struct dockerignore **ignore)
{
        dockerignore_free(*ignore);
}

/* Go's filepath.Match, and "**" for any number of directories. */
bool glob_matches(const char *pattern, const char *path);
