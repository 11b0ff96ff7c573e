#include "dockerignore.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define PATTERNS_MAX    10000U
#define PATTERN_LEN_MAX 4096U
#define STEPS_MAX       100000U /* of one match: patterns of many stars are slow */

struct dockerignore {
        struct pattern {
                char *text;
                bool exception; /* "!pattern" */
        } * patterns;
        size_t n;
        bool exceptions;
};

/* [a-z], [^a-z]: returns what follows the class, NULL when it is malformed. */
static const char *match_class(const char *p, char c, bool *ret)
{
        const bool negated = *p == '^' || *p == '!';
        bool found = false;

        p += negated;
        do {
                char low, high;

                if (*p == '\\')
                        p++;
                if (!*p)
                        return NULL;
                low = high = *p++;
                if (*p == '-' && p[1] && p[1] != ']') {
                        high = p[1];
                        p += 2;
                }
                found |= low <= c && c <= high;
        } while (*p && *p != ']');
        *ret = found != negated;
        return *p ? p + 1 : NULL;
}

static bool match(const char *p, const char *s, unsigned *steps)
{
        for (;; s++) {
                bool in_class = false;

                if (++*steps > STEPS_MAX)
                        return false;
                if (p[0] == '*' && p[1] == '*') {
                        p += 2;
                        if (*p == '/') { /* also no directory at all */
                                p++;
                                if (match(p, s, steps))
                                        return true;
                                for (; *s; s++)
                                        if (*s == '/' && match(p, s + 1, steps))
                                                return true;
                                return false;
                        }
                        for (;; s++) {
                                if (match(p, s, steps))
                                        return true;
                                if (!*s)
                                        return false;
                        }
                }
                if (*p == '*') {
                        p++;
                        for (;; s++) {
                                if (match(p, s, steps))
                                        return true;
                                if (!*s || *s == '/')
                                        return false;
                        }
                }
                if (!*p || !*s)
                        return !*p && !*s;
                if (*p == '[') {
                        p = *s == '/' ? NULL : match_class(p + 1, *s, &in_class);
                        if (!p || !in_class)
                                return false;
                        continue;
                }
                if (*p == '?' && *s != '/') {
                        p++;
                        continue;
                }
                if (*p == '\\' && p[1])
                        p++;
                if (*p != *s)
                        return false;
                p++;
        }
}

bool glob_matches(const char *pattern, const char *path)
{
        unsigned steps = 0;

        return match(pattern, path, &steps);
}

static int add_pattern(struct dockerignore *ignore, const char *p, size_t len, struct err **err)
{
        const bool exception = len > 0 && *p == '!';
        struct pattern *grown;

        p += exception;
        len -= exception;
        while (len > 0 && (*p == ' ' || *p == '/' || *p == '\t')) {
                p++;
                len--;
        }
        if (len > 1 && p[0] == '.' && p[1] == '/') {
                p += 2;
                len -= 2;
        }
        while (len > 0 && strchr("/ \t\r", p[len - 1]))
                len--;
        if (len == 0)
                return 0;
        if (ignore->n == PATTERNS_MAX || len > PATTERN_LEN_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, ".dockerignore has too many or too long patterns");
        grown = reallocarray(ignore->patterns, ignore->n + 1, sizeof(*grown));
        if (!grown)
                return err_sys(err, ENOMEM, "reading .dockerignore");
        ignore->patterns = grown;
        grown[ignore->n] = (struct pattern){ strndup(p, len), exception };
        ignore->exceptions |= exception;
        return grown[ignore->n++].text ? 0 : err_sys(err, ENOMEM, "reading .dockerignore");
}

int dockerignore_parse(const char *text, struct dockerignore **ret, struct err **err)
{
        _cleanup_(dockerignore_freep) struct dockerignore *ignore = calloc(1, sizeof(*ignore));
        int r = 0;

        if (!ignore)
                return err_sys(err, ENOMEM, "reading .dockerignore");
        while (r == 0 && *text) {
                const size_t len = strcspn(text, "\n");

                if (*text != '#')
                        r = add_pattern(ignore, text, len, err);
                text += len + (text[len] == '\n');
        }
        if (r == 0)
                *ret = TAKE_PTR(ignore);
        return r;
}

struct dockerignore *dockerignore_free(struct dockerignore *ignore)
{
        if (!ignore)
                return NULL;
        for (size_t i = 0; i < ignore->n; i++)
                free(ignore->patterns[i].text);
        free(ignore->patterns);
        free(ignore);
        return NULL;
}

/* The path, or a directory that it is in. */
static bool covers(const char *pattern, const char *path)
{
        _cleanup_free_ char *copy = strdup(path);
        char *slash;

        while (copy) {
                if (glob_matches(pattern, copy))
                        return true;
                slash = strrchr(copy, '/');
                if (!slash)
                        return false;
                *slash = '\0';
        }
        return false;
}

bool dockerignore_matches(const struct dockerignore *ignore, const char *path)
{
        bool ignored = false;

        for (size_t i = 0; ignore && i < ignore->n; i++)
                if (ignored == ignore->patterns[i].exception && covers(ignore->patterns[i].text, path))
                        ignored = !ignore->patterns[i].exception;
        return ignored;
}

bool dockerignore_has_exceptions(const struct dockerignore *ignore)
{
        return ignore && ignore->exceptions;
}
