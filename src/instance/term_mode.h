/* The user's terminal while an instance's terminal is behind it. */
#pragma once

#include <termios.h>

#include "base/types.h"

struct term_mode {
        int fd; /* -1: nothing was changed */
        struct termios saved;
};

static inline void term_raw(int fd, struct term_mode *ret)
{
        struct termios raw;

        if (tcgetattr(fd, &ret->saved) < 0)
                return;
        raw = ret->saved;
        cfmakeraw(&raw);
        if (tcsetattr(fd, TCSANOW, &raw) == 0)
                ret->fd = fd;
}

static inline void term_restore(const struct term_mode *mode)
{
        if (mode->fd >= 0)
                tcsetattr(mode->fd, TCSANOW, &mode->saved);
}
