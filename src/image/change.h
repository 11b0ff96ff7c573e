/* Changes of an image's configuration, written as instructions of a Dockerfile. */
#pragma once

#include "internal.h"

bool change_known(const char *instruction);
/* @config is the "config" member; it may be half changed when this fails. */
int change_apply(json_t *config, const char *instruction, const char *text, struct err **err);

/* Words between blanks; quotes and backslashes taken away. A new array. */
json_t *change_words(const char *text);
/* A JSON list as it is, anything else behind the shell (NULL: /bin/sh -c). A new array. */
json_t *change_command(const char *text, const json_t *shell);
