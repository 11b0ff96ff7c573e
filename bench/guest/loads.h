/* What the load programs share: each is called as PROGRAM LOAD N, does N rounds and prints a result that depends on all of
 * the work, so that a wrong computation shows. */
#pragma once
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct load {
        const char *name;
        uint64_t (*run)(long rounds);
};

static inline int loads_main(const struct load *loads, size_t count, int argc, char **argv)
{
        for (size_t i = 0; argc == 3 && i < count; i++) {
                if (strcmp(argv[1], loads[i].name) != 0)
                        continue;
                printf("%s %016" PRIx64 "\n", argv[1], loads[i].run(atol(argv[2])));
                return 0;
        }
        fprintf(stderr, "usage: %s LOAD ROUNDS\n", argv[0]);
        for (size_t i = 0; i < count; i++)
                fprintf(stderr, "  %s\n", loads[i].name);
        return 2;
}

#define LOADS_MAIN(table)                                                                 \
        int main(int argc, char **argv)                                                   \
        {                                                                                 \
                return loads_main(table, sizeof(table) / sizeof((table)[0]), argc, argv); \
        }

/* xorshift64*: George Marsaglia, Xorshift RNGs (2003); multiplier from Sebastiano Vigna (2014). */
static inline uint64_t random_next(uint64_t *state)
{
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        return *state * 0x2545f4914f6cdd1dU;
}

static inline uint64_t mix(uint64_t hash, uint64_t value)
{
        hash = (hash ^ value) * 0x9e3779b97f4a7c15U;
        return hash ^ (hash >> 29);
}

static inline void *must_alloc(size_t size)
{
        void *p = aligned_alloc(64, (size + 63) & ~(size_t)63);

        if (!p) {
                perror("aligned_alloc");
                exit(1);
        }
        memset(p, 0, size);
        return p;
}

/* A system call that must not fail: the load is stopped, its result would mean nothing. */
static inline long must(long result, const char *what)
{
        if (result < 0) {
                perror(what);
                exit(1);
        }
        return result;
}
