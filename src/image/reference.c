#include "reference.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_REGISTRY  "docker.io"
#define DEFAULT_NAMESPACE "library/"
#define DEFAULT_TAG       "latest"

static int bad(const char *text, const char *why, struct err **err)
{
        int r = err_set(err, ERR_USAGE, EINVAL, "'%.100s' is not the name of an image: %s", text, why);

        return err_hint(err, r, "names look like debian, debian:12 or registry.example:5000/team/app:1.0");
}

static bool is_lower_alnum(char c)
{
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* One path component: runs of lower-case letters and digits, separated by '.', '_', '__' or dashes
 * (OCI distribution spec, "Pulling manifests"). */
static bool component_valid(const char *p, size_t len)
{
        if (len == 0 || !is_lower_alnum(p[0]) || !is_lower_alnum(p[len - 1]))
                return false;
        for (size_t i = 1; i < len; i++) {
                if (is_lower_alnum(p[i]) || (p[i] == '-' && (is_lower_alnum(p[i - 1]) || p[i - 1] == '-')))
                        continue;
                if (p[i] != '.' && p[i] != '_')
                        return false;
                /* "a..b", "a._b" and "a___b" are not names; "a__b" is. */
                if (!is_lower_alnum(p[i - 1]) && !(p[i] == '_' && p[i - 1] == '_' && is_lower_alnum(p[i - 2])))
                        return false;
        }
        return true;
}

static bool repository_valid(const char *p)
{
        for (;;) {
                const size_t len = strcspn(p, "/");

                if (!component_valid(p, len))
                        return false;
                if (!p[len])
                        return true;
                p += len + 1;
        }
}

/* A host name or address and an optional port. Colons only as a port or inside brackets. */
static bool registry_valid(const char *p)
{
        const char *end = p;

        if (*p == '[') {
                end = strchr(p, ']');
                if (!end || strspn(p + 1, "0123456789abcdefABCDEF:.") != (size_t)(end - p - 1))
                        return false;
                end++;
        } else {
                while (isalnum((unsigned char)*end) || *end == '-' || *end == '.')
                        end++;
                if (end == p || *p == '.' || *p == '-')
                        return false;
        }
        if (*end == '\0')
                return true;
        return *end == ':' && end[1] && strspn(end + 1, "0123456789") == strlen(end + 1) && strlen(end + 1) <= 5;
}

static bool tag_valid(const char *p)
{
        size_t n = 0;

        if (*p == '.' || *p == '-')
                return false;
        for (; p[n]; n++)
                if (!isalnum((unsigned char)p[n]) && !strchr("_.-", p[n]))
                        return false;
        return n > 0 && n <= REFERENCE_TAG_MAX;
}

/* The first component is a registry when it looks like a host: "localhost", a dot, a port, or capitals. */
static bool looks_like_registry(const char *p, size_t len)
{
        if (memchr(p, '.', len) || memchr(p, ':', len) || (len == 9 && memcmp(p, "localhost", 9) == 0))
                return true;
        for (size_t i = 0; i < len; i++)
                if (isupper((unsigned char)p[i]))
                        return true;
        return false;
}

static void split_registry(char *rest, struct reference *ref)
{
        const char *slash = strchr(rest, '/');

        if (slash && looks_like_registry(rest, (size_t)(slash - rest))) {
                memcpy(ref->registry, rest, (size_t)(slash - rest));
                strcpy(ref->repository, slash + 1);
                /* docker's own names for its registry */
                if (strcmp(ref->registry, "index.docker.io") == 0 || strcmp(ref->registry, "registry-1.docker.io") == 0)
                        strcpy(ref->registry, DEFAULT_REGISTRY);
        } else {
                strcpy(ref->registry, DEFAULT_REGISTRY);
                strcpy(ref->repository, rest);
        }
}

int reference_parse(const char *text, struct reference *ret, struct err **err)
{
        struct reference ref = { 0 };
        char rest[REFERENCE_REPOSITORY_MAX + 1 + REFERENCE_TAG_MAX + 1];
        const char *at = strchr(text, '@');
        const size_t len = at ? (size_t)(at - text) : strlen(text);
        bool short_form;
        char *colon;

        if (len >= sizeof(rest))
                return bad(text, "it is too long", err);
        memcpy(rest, text, len);
        rest[len] = '\0';
        if (at) {
                if (!digest_valid(at + 1))
                        return bad(text, "what follows '@' is not a sha256 digest", err);
                strcpy(ref.digest, at + 1);
        }
        colon = strrchr(rest, ':');
        if (colon && !strchr(colon, '/')) {
                if (!tag_valid(colon + 1))
                        return bad(text, "the tag is malformed", err);
                strcpy(ref.tag, colon + 1);
                *colon = '\0';
        } else if (!at) {
                strcpy(ref.tag, DEFAULT_TAG);
        }
        if (strlen(rest) > REFERENCE_REPOSITORY_MAX)
                return bad(text, "it is too long", err);
        split_registry(rest, &ref);
        if (!registry_valid(ref.registry))
                return bad(text, "the registry is not a host name", err);
        if (!repository_valid(ref.repository))
                return bad(
                        text, "repositories are lower-case letters and digits, separated by '/', '.', '_' or '-'", err);
        short_form = strcmp(ref.registry, DEFAULT_REGISTRY) == 0 && !strchr(ref.repository, '/');
        if (strlen(ref.registry) + 1 + (short_form ? sizeof(DEFAULT_NAMESPACE) - 1 : 0) + strlen(ref.repository) >
                REFERENCE_REPOSITORY_MAX)
                return bad(text, "it is too long", err);
        if (short_form) {
                memmove(ref.repository + sizeof(DEFAULT_NAMESPACE) - 1, ref.repository, strlen(ref.repository) + 1);
                memcpy(ref.repository, DEFAULT_NAMESPACE, sizeof(DEFAULT_NAMESPACE) - 1);
        }
        *ret = ref;
        return 0;
}

void reference_format(const struct reference *ref, char ret[REFERENCE_TEXT_MAX])
{
        const char *separator = ref->digest[0] ? "@" : ":";

        snprintf(ret, REFERENCE_TEXT_MAX, "%s/%s%s%s", ref->registry, ref->repository, separator,
                reference_version(ref));
}

bool reference_registry_is_loopback(const char *registry)
{
        char host[REFERENCE_REPOSITORY_MAX + 1];
        size_t len = strlen(registry);
        unsigned a, b, c, d;
        char end;

        if (registry[0] == '[')
                return strncmp(registry, "[::1]", 5) == 0 && (registry[5] == '\0' || registry[5] == ':');
        len = strcspn(registry, ":");
        if (len >= sizeof(host))
                return false;
        memcpy(host, registry, len);
        host[len] = '\0';
        if (strcmp(host, "localhost") == 0)
                return true;
        return sscanf(host, "%3u.%3u.%3u.%3u%c", &a, &b, &c, &d, &end) == 4 && a == 127 && b < 256 && c < 256 &&
               d < 256;
}
