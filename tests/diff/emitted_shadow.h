/* Judges how emitted code uses a shadow window: see emitted_shadow.c. */
#pragma once

#include "cpu/translate/internal.h"

/* @t is what became of @req. NULL when all is well, else what is wrong; *ret_off is where. */
const char *emitted_shadow_judge(const struct translation *t, const struct translate_request *req, unsigned *ret_off);
