#include "credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "internal.h"

#define CONFIG_MAX        (4 * MIB)
#define HELPER_ANSWER_MAX (256 * KIB)
#define DOCKER_IO_KEY     "https://index.docker.io/v1/"

extern char **environ;

/* --- base64 (RFC 4648) ------------------------------------------------------------------------------------------------------ */

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static char *base64_encode(const char *text)
{
        const u8 *p = (const u8 *)text;
        size_t left = strlen(text);
        char *out = malloc((left + 2) / 3 * 4 + 1), *o = out;

        for (; out && left > 0; p += MIN(left, 3U), left -= MIN(left, 3U)) {
                const u32 v = (u32)p[0] << 16 | (left > 1 ? (u32)p[1] << 8 : 0) | (left > 2 ? p[2] : 0);

                *o++ = base64_digits[v >> 18];
                *o++ = base64_digits[v >> 12 & 63];
                *o++ = left > 1 ? base64_digits[v >> 6 & 63] : '=';
                *o++ = left > 2 ? base64_digits[v & 63] : '=';
        }
        if (out)
                *o = '\0';
        return out;
}

/* NULL when it is malformed. */
static char *base64_decode(const char *text)
{
        char *out = malloc(strlen(text) / 4 * 3 + 4), *o = out;
        u32 v = 0;
        unsigned n = 0;

        for (; out && *text && *text != '='; text++) {
                const char *digit = strchr(base64_digits, *text);

                if (!digit) {
                        free(out);
                        return NULL;
                }
                v = v << 6 | (u32)(digit - base64_digits);
                n += 6;
                if (n >= 8) {
                        n -= 8;
                        *o++ = (char)(v >> n);
                }
        }
        if (out)
                *o = '\0';
        return out;
}

char *credentials_basic(const struct credentials *c)
{
        _cleanup_free_ char *pair = NULL, *encoded = NULL;
        char *text = NULL;

        if (asprintf(&pair, "%s:%s", c->user, c->password) < 0) {
                pair = NULL;
                return NULL;
        }
        encoded = base64_encode(pair);
        return encoded && asprintf(&text, "Basic %s", encoded) >= 0 ? text : NULL;
}

void credentials_clear(struct credentials *c)
{
        free(c->user);
        free(c->password);
        free(c->identity_token);
        *c = (struct credentials){ 0 };
}

/* "user:password" */
static int split_pair(const char *pair, struct credentials *ret)
{
        const char *colon = strchr(pair, ':');

        if (!colon || colon == pair)
                return -EINVAL;
        ret->user = strndup(pair, (size_t)(colon - pair));
        ret->password = strdup(colon + 1);
        return ret->user && ret->password ? 0 : -ENOMEM;
}

/* --- files -------------------------------------------------------------------------------------------------------------------- */

/* In the order in which they count; the last one is what login writes. */
static char *config_path(unsigned i)
{
        const struct {
                const char *variable, *file;
        } places[] = { { "REGISTRY_AUTH_FILE", "" }, { "XDG_RUNTIME_DIR", "/containers/auth.json" },
                { "DOCKER_CONFIG", "/config.json" }, { "HOME", "/.docker/config.json" } };
        const char *dir;
        char *path;

        if (i >= ARRAY_SIZE(places))
                return NULL;
        dir = getenv(places[i].variable);
        return asprintf(&path, "%s%s", dir ? dir : "", dir ? places[i].file : "") < 0 ? NULL : path;
}

/* Where login writes: what the user named, else docker's. */
static char *login_path(void)
{
        const unsigned i = getenv("REGISTRY_AUTH_FILE") ? 0 : getenv("DOCKER_CONFIG") ? 2 : 3;

        return config_path(i);
}

static int read_config(const char *path, json_t **ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        size_t len;
        int r;

        if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) {
                *ret = NULL;
                return 0;
        }
        if (fd < 0)
                return err_sys(err, errno, "opening '%s'", path);
        r = io_read_stream(fd, CONFIG_MAX, &text, &len, err);
        return r < 0 ? err_wrap(err, r, "'%s'", path) : json_read(text, len, path, ret, err);
}

/* What a file calls the registry. */
static const json_t *find_member(const json_t *object, const char *registry)
{
        static const char *const patterns[] = { "%s", "https://%s", "http://%s", "https://%s/v1/", "https://%s/v2/" };
        const json_t *found = NULL;
        char key[400];

        if (strcmp(registry, "docker.io") == 0)
                found = json_object_get(object, DOCKER_IO_KEY);
        for (size_t i = 0; !found && i < ARRAY_SIZE(patterns); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
                snprintf(key, sizeof(key), patterns[i], registry);
#pragma GCC diagnostic pop
                found = json_object_get(object, key);
        }
        return found;
}

static int take_auth(const json_t *auth, struct credentials *ret)
{
        _cleanup_free_ char *pair = NULL;
        const char *token = json_text(auth, "identitytoken");
        int r = 0;

        if (token[0])
                ret->identity_token = strdup(token);
        if (json_text(auth, "auth")[0]) {
                pair = base64_decode(json_text(auth, "auth"));
                r = pair ? split_pair(pair, ret) : -EINVAL;
        } else if (json_text(auth, "username")[0]) {
                ret->user = strdup(json_text(auth, "username"));
                ret->password = strdup(json_text(auth, "password"));
        }
        return r;
}

/* --- helpers: docker-credential-NAME get, the registry on its input, JSON on its output ----------------------------------------- */

static int run_helper(const char *program, const char *input, char **ret, struct err **err)
{
        char *argv[] = { (char *)program, (char *)"get", NULL };
        posix_spawn_file_actions_t actions;
        int in[2] = { -1, -1 }, out[2] = { -1, -1 }, status, r;
        pid_t pid;

        if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0) {
                r = err_sys(err, errno, "starting %s", program);
                closep(&in[0]);
                closep(&in[1]);
                return r;
        }
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
        posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
        r = posix_spawnp(&pid, program, &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        close(in[0]);
        close(out[1]);
        if (r != 0) {
                close(in[1]);
                close(out[0]);
                return err_sys(err, r, "starting %s", program);
        }
        /* A registry's name fits into a pipe: this does not wait for the helper. */
        r = io_write_all(in[1], input, strlen(input));
        close(in[1]);
        r = io_read_stream(out[0], HELPER_ANSWER_MAX, ret, NULL, err);
        close(out[0]);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (r == 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
                free(TAKE_PTR(*ret)); /* it knows nobody: no error */
                return 0;
        }
        return r;
}

static int ask_helper(const char *name, const char *registry, struct credentials *ret, struct err **err)
{
        _cleanup_free_ char *program = NULL, *answer = NULL;
        _cleanup_json_ json_t *json = NULL;
        int r;

        if (strchr(name, '/') || asprintf(&program, "docker-credential-%s", name) < 0) {
                program = NULL;
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is not the name of a credential helper", name);
        }
        r = run_helper(program, strcmp(registry, "docker.io") == 0 ? DOCKER_IO_KEY : registry, &answer, err);
        if (r < 0 || !answer || json_read(answer, strlen(answer), program, &json, NULL) < 0)
                return r;
        if (strcmp(json_text(json, "Username"), "<token>") == 0) {
                ret->identity_token = strdup(json_text(json, "Secret"));
        } else if (json_text(json, "Username")[0]) {
                ret->user = strdup(json_text(json, "Username"));
                ret->password = strdup(json_text(json, "Secret"));
        }
        return 0;
}

static bool is_known(const struct credentials *c)
{
        return (c->user && c->password) || c->identity_token;
}

int credentials_find(const char *registry, const char *given, struct credentials *ret, struct err **err)
{
        struct credentials found = { 0 };
        int r = 0;

        if (given) {
                if (split_pair(given, &found) < 0) {
                        credentials_clear(&found);
                        return err_set(err, ERR_USAGE, EINVAL, "credentials look like USER:PASSWORD");
                }
                *ret = found;
                return 0;
        }
        for (unsigned i = 0; r == 0 && !is_known(&found); i++) {
                _cleanup_free_ char *path = config_path(i);
                _cleanup_json_ json_t *json = NULL;
                const json_t *auth;
                const char *helper;

                if (!path)
                        break;
                if (!path[0])
                        continue;
                r = read_config(path, &json, err);
                if (r < 0 || !json)
                        continue;
                helper = json_string_value(find_member(json_object_get(json, "credHelpers"), registry));
                if (!helper && json_text(json, "credsStore")[0])
                        helper = json_text(json, "credsStore");
                auth = find_member(json_object_get(json, "auths"), registry);
                if (helper)
                        r = ask_helper(helper, registry, &found, err);
                if (r == 0 && auth && !is_known(&found) && take_auth(auth, &found) < 0)
                        r = err_set(
                                err, ERR_USAGE, EINVAL, "'%s': the credentials for %s are malformed", path, registry);
        }
        if (r < 0)
                credentials_clear(&found);
        else
                *ret = found;
        return r;
}

/* --- login and logout ------------------------------------------------------------------------------------------------------------ */

static int write_config(const char *path, const json_t *json, struct err **err)
{
        _cleanup_free_ char *text = json_dumps(json, JSON_INDENT(8)), *dir = strdup(path), *tmp = NULL;
        _cleanup_close_ int fd = -1;
        char *slash = dir ? strrchr(dir, '/') : NULL;
        int r = 0;

        if (!text || !dir || asprintf(&tmp, "%s.%d", path, (int)getpid()) < 0) {
                tmp = NULL;
                return err_sys(err, ENOMEM, "writing '%s'", path);
        }
        if (slash && slash != dir) {
                *slash = '\0';
                r = io_make_path(dir, 0700, err);
        }
        if (r < 0)
                return r;
        fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        r = fd < 0 ? -errno : io_write_all(fd, text, strlen(text));
        if (r == 0 && (fsync(fd) < 0 || rename(tmp, path) < 0))
                r = -errno;
        if (r < 0 && fd >= 0)
                unlink(tmp);
        return r < 0 ? err_sys(err, -r, "writing '%s'", path) : 0;
}

int credentials_store(const char *registry, const char *user, const char *password, struct err **err)
{
        const struct credentials c = { .user = (char *)user, .password = (char *)password };
        const char *key = strcmp(registry, "docker.io") == 0 ? DOCKER_IO_KEY : registry;
        _cleanup_free_ char *path = login_path(), *basic = credentials_basic(&c);
        _cleanup_json_ json_t *json = NULL;
        json_t *auths;
        int r;

        if (!path || !basic)
                return err_sys(err, ENOMEM, "storing credentials");
        if (!path[0])
                return err_set(
                        err, ERR_USAGE, EINVAL, "there is no home directory to store credentials in: HOME is not set");
        r = read_config(path, &json, err);
        if (r < 0)
                return r;
        if (!json)
                json = json_object();
        auths = json_object_get(json, "auths");
        if (!auths) {
                auths = json_object();
                json_object_set_new(json, "auths", auths);
        }
        if (json_object_set_new(auths, key, json_pack("{s:s}", "auth", basic + sizeof("Basic ") - 1)) < 0)
                return err_sys(err, ENOMEM, "storing credentials");
        return write_config(path, json, err);
}

int credentials_forget(const char *registry, struct err **err)
{
        const char *key = strcmp(registry, "docker.io") == 0 ? DOCKER_IO_KEY : registry;
        _cleanup_free_ char *path = login_path();
        _cleanup_json_ json_t *json = NULL;
        int r = path ? read_config(path, &json, err) : err_sys(err, ENOMEM, "forgetting credentials");

        if (r < 0)
                return r;
        if (!json || json_object_del(json_object_get(json, "auths"), key) < 0)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "there are no credentials for %s", registry);
        return write_config(path, json, err);
}
