/* A fuzz input as a stream of numbers; zeros follow its end. */
#pragma once

#include <stdlib.h>

#include "base/types.h"

struct input {
        const u8 *p;
        size_t left;
};

/* The next @bytes bytes as a number, most significant first. */
static inline u64 take(struct input *in, unsigned bytes)
{
        u64 v = 0;

        while (bytes--) {
                v = v << 8 | (in->left ? *in->p : 0);
                if (in->left) {
                        in->p++;
                        in->left--;
                }
        }
        return v;
}

/* What must hold whatever the input is: a finding when it does not. */
static inline void require(bool ok)
{
        if (!ok)
                abort();
}
