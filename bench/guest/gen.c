/* Deterministic input for the loads: gen text BYTES | table LINES | sql ROWS | records BYTES, on standard output. */
#include "loads.h"

static uint64_t state = 0x9e3779b97f4a7c15U;

static uint32_t next(void)
{
        return (uint32_t)(random_next(&state) >> 32);
}

static uint32_t below(uint32_t n)
{
        return (uint32_t)(((uint64_t)next() * n) >> 32);
}

#define WORDS 4096
static char words[WORDS][16];

static void make_words(void)
{
        static const char *const syllables[] = { "ba", "con", "de", "er", "fi", "gu", "ha", "in", "ka", "lo", "ma",
                "ne", "or", "pa", "qui", "re", "sta", "ter", "un", "ver", "wo", "xi", "yo", "ze" };

        for (int i = 0; i < WORDS; i++)
                for (uint32_t n = 1 + below(3) + (i > 64); n > 0; n--)
                        strcat(words[i], syllables[below(sizeof(syllables) / sizeof(*syllables))]);
}

/* Small indices are far more frequent, as in a language. */
static const char *word(void)
{
        uint32_t bound = 1 + below(WORDS);

        return words[below(1 + below(bound))];
}

static void text(long bytes)
{
        while (bytes > 0) {
                for (uint32_t n = 6 + below(9); n > 0; n--)
                        bytes -= printf("%s%c", word(), n > 1 ? ' ' : '\n');
        }
}

static void table(long lines)
{
        for (long i = 0; i < lines; i++)
                printf("%ld %s %" PRIu32 ".%02" PRIu32 " %s-%" PRIu32 "\n", i, word(), below(10000), below(100), word(),
                        below(100000));
}

static void sql(long rows)
{
        puts("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, value REAL, note TEXT);\nCREATE INDEX t_name ON t(name);\nBEGIN;");
        for (long i = 0; i < rows; i++)
                printf("INSERT INTO t(name, value, note) VALUES('%s', %" PRIu32 ".%02" PRIu32 ", '%s %s');\n", word(),
                        below(10000), below(100), word(), word());
        puts("COMMIT;\nSELECT count(*), sum(value) FROM t;\n"
             "SELECT name, count(*), max(value) FROM t GROUP BY name ORDER BY 2 DESC, 1 LIMIT 50;\n"
             "UPDATE t SET note = upper(note) WHERE value < 1000;\nDELETE FROM t WHERE id % 7 = 3;\n"
             "SELECT count(*), min(note), max(note) FROM t;");
}

/* Binary records as databases and object files have them: counters, small numbers, some noise, some text. */
static void records(long bytes)
{
        for (uint32_t i = 0; bytes > 0; i++, bytes -= 32) {
                struct {
                        uint32_t id, kind, noise, zero;
                        char name[16];
                } record = { i, below(16), next(), 0, "" };

                strncpy(record.name, word(), sizeof(record.name) - 1);
                fwrite(&record, sizeof(record), 1, stdout);
        }
}

static const struct {
        const char *name;
        void (*make)(long n);
} kinds[] = { { "text", text }, { "table", table }, { "sql", sql }, { "records", records } };

int main(int argc, char **argv)
{
        make_words();
        for (size_t i = 0; argc == 3 && i < sizeof(kinds) / sizeof(*kinds); i++) {
                if (strcmp(argv[1], kinds[i].name) != 0)
                        continue;
                kinds[i].make(atol(argv[2]));
                return fflush(stdout) != 0;
        }
        fprintf(stderr, "usage: gen text BYTES | table LINES | sql ROWS | records BYTES\n");
        return 2;
}
