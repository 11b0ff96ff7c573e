/* Integer loads in user space: calls, memory latency, indirect branches, copying, sorting. */
#include "loads.h"

__attribute__((noinline)) static unsigned fib(unsigned n)
{
        return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

/* Almost nothing but calls, returns and pushes. */
static uint64_t calls(long rounds)
{
        uint64_t sum = 0;

        for (long i = 0; i < rounds; i++)
                sum = mix(sum, fib(22 + (unsigned)(i & 1)));
        return sum;
}

/* Open addressing in 4 MiB: independent loads and stores all over the place. */
static uint64_t hash_table(long rounds)
{
        enum { SLOTS = 1 << 18 };
        struct slot {
                uint64_t key, count;
        } *slots = must_alloc(SLOTS * sizeof(*slots));
        uint64_t seed = 1, sum = 0;

        for (long i = 0; i < rounds * 10000; i++) {
                uint64_t key = random_next(&seed) % (SLOTS / 2) + 1, at = mix(0, key);

                while (slots[at % SLOTS].key != 0 && slots[at % SLOTS].key != key)
                        at++;
                slots[at % SLOTS].key = key;
                slots[at % SLOTS].count++;
        }
        for (size_t i = 0; i < SLOTS; i++)
                sum = mix(sum, slots[i].key * slots[i].count);
        return sum;
}

/* One dependent load after another, in a working set of 1 MiB. */
static uint64_t list_walk(long rounds)
{
        enum { NODES = 1 << 14 };
        struct node {
                struct node *next;
                uint64_t value, pad[6];
        } *nodes = must_alloc(NODES * sizeof(*nodes)), *node = nodes;
        uint64_t seed = 7, sum = 0;
        size_t order[NODES];

        for (size_t i = 0; i < NODES; i++)
                order[i] = i;
        for (size_t i = NODES - 1; i > 0; i--) {
                size_t other = random_next(&seed) % (i + 1), swapped = order[i];

                order[i] = order[other];
                order[other] = swapped;
        }
        for (size_t i = 0; i < NODES; i++)
                nodes[order[i]] = (struct node){ .next = &nodes[order[(i + 1) % NODES]], .value = i };
        for (long i = 0; i < rounds * NODES; i++, node = node->next)
                sum += node->value ^ (uint64_t)i;
        return sum;
}

static int compare(const void *a, const void *b)
{
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

        return (x > y) - (x < y);
}

static uint64_t sort_numbers(long rounds)
{
        enum { COUNT = 50000 };
        uint32_t *numbers = must_alloc(COUNT * sizeof(*numbers));
        uint64_t seed = 3, sum = 0;

        for (long i = 0; i < rounds; i++) {
                for (size_t k = 0; k < COUNT; k++)
                        numbers[k] = (uint32_t)random_next(&seed);
                qsort(numbers, COUNT, sizeof(*numbers), compare);
                for (size_t k = 0; k < COUNT; k += 97)
                        sum = mix(sum, numbers[k]);
        }
        return sum;
}

/* A little bytecode machine with one indirect jump an instruction: the inside of an interpreted language. */
static uint64_t bytecode(long rounds)
{
        enum { PUSH, ADD, XOR, DUP, SHIFT, STORE, LOAD, LOOP };
        static const unsigned char code[] = { LOAD, 0, PUSH, 5, ADD, DUP, SHIFT, 3, XOR, DUP, STORE, 0, LOAD, 1, ADD,
                DUP, SHIFT, 17, XOR, STORE, 1, LOAD, 2, PUSH, 1, ADD, STORE, 2, LOOP };
        static const void *const labels[] = { &&push, &&add, &&exclusive_or, &&dup, &&shift, &&store, &&load, &&loop };
        uint64_t stack[8] = { 0 }, vars[3] = { 1, 2, 3 }, *top = stack;
        long left = rounds * 100000;
        const unsigned char *pc = code;

#define NEXT goto *labels[*pc++]
        NEXT;
push:
        *++top = *pc++;
        NEXT;
add:
        top--;
        top[0] += top[1];
        NEXT;
exclusive_or:
        top--;
        top[0] ^= top[1];
        NEXT;
dup:
        top[1] = top[0];
        top++;
        NEXT;
shift:
        *top = (*top << *pc) | (*top >> (64 - *pc));
        pc++;
        NEXT;
store:
        vars[*pc++] = *top--;
        NEXT;
load:
        *++top = vars[*pc++];
        NEXT;
loop:
        if (--left > 0) {
                top = stack;
                pc = code;
                NEXT;
        }
#undef NEXT
        return mix(mix(vars[0], vars[1]), vars[2]);
}

/* Copies and comparisons of many sizes through the C library. */
static uint64_t copying(long rounds)
{
        enum { SIZE = 1 << 18 };
        unsigned char *a = must_alloc(SIZE), *b = must_alloc(SIZE);
        uint64_t seed = 11, sum = 0;

        for (size_t i = 0; i < SIZE; i++)
                a[i] = (unsigned char)random_next(&seed) | 1;
        for (long i = 0; i < rounds * 1000; i++) {
                uint64_t r = random_next(&seed);
                size_t size = (size_t)1 << (r % 15), at = (r >> 8) % (SIZE - 16384), to = (r >> 32) % (SIZE - 16384);

                memcpy(b + to, a + at, size);
                sum += (uint64_t)memcmp(b + to, a + at, size) + (memchr(a + at, 0, size) == NULL);
                b[to + size / 2] = 0;
                sum += strnlen((char *)b + to, size);
        }
        return sum;
}

static const struct load loads[] = {
        { "calls", calls },
        { "hash-table", hash_table },
        { "list-walk", list_walk },
        { "sort-numbers", sort_numbers },
        { "bytecode", bytecode },
        { "copying", copying },
};

LOADS_MAIN(loads)
