/* For the tests of the command line: includes of cmocka in its order, argument vectors. */
#pragma once

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ARGS(...)                             \
        (char *[])                            \
        {                                     \
                (char *)"cmd", __VA_ARGS__, NULL \
        }

static inline int count_args(char *const *argv)
{
        int argc = 0;

        while (argv[argc])
                argc++;
        return argc;
}
