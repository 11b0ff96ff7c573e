/* Instructions that change only the configuration: --change of import and commit, and the same lines of a Dockerfile.
 * (Dockerfile reference: each instruction's section.) */
#include "change.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define WORDS_MAX 1024

static int bad(struct err **err, const char *instruction, const char *why)
{
        return err_set(err, ERR_USAGE, EINVAL, "%s: %s", instruction, why);
}

static const char *skip_blanks(const char *p)
{
        while (*p == ' ' || *p == '\t')
                p++;
        return p;
}

json_t *change_words(const char *text)
{
        json_t *words = json_array();
        char *word = malloc(strlen(text) + 1);
        const char *p = skip_blanks(text);

        while (word && words && *p && json_array_size(words) < WORDS_MAX) {
                char quote = 0, *out = word;

                for (; *p && (quote || (*p != ' ' && *p != '\t')); p++) {
                        if (quote && *p == quote)
                                quote = 0;
                        else if (!quote && (*p == '"' || *p == '\''))
                                quote = *p;
                        else if (*p == '\\' && p[1] && quote != '\'')
                                *out++ = *++p;
                        else
                                *out++ = *p;
                }
                *out = '\0';
                json_array_append_new(words, json_string(word));
                p = skip_blanks(p);
        }
        free(word);
        return words;
}

json_t *change_command(const char *text, const json_t *shell)
{
        static const char *const default_shell[] = { "/bin/sh", "-c" };
        json_t *list = text[0] == '[' ? json_loads(text, 0, NULL) : NULL;
        bool strings = json_is_array(list);

        for (size_t i = 0; i < json_array_size(list); i++)
                strings = strings && json_is_string(json_array_get(list, i));
        if (strings)
                return list;
        json_decref(list);
        list = json_array();
        for (size_t i = 0; i < json_array_size(shell); i++)
                json_array_append(list, json_array_get(shell, i));
        for (size_t i = 0; !json_array_size(shell) && i < ARRAY_SIZE(default_shell); i++)
                json_array_append_new(list, json_string(default_shell[i]));
        json_array_append_new(list, json_string(text));
        return list;
}

static int put(json_t *object, const char *key, json_t *value, struct err **err)
{
        return json_object_set_new(object, key, value) < 0 ? err_sys(err, ENOMEM, "changing an image's configuration")
                                                           : 0;
}

static json_t *member(json_t *config, const char *key, json_t *(*make)(void))
{
        if (!json_object_get(config, key) || json_is_null(json_object_get(config, key)))
                json_object_set_new(config, key, make());
        return json_object_get(config, key);
}

/* --- the instructions ----------------------------------------------------------------------------------------------------- */

static int change_cmd(json_t *config, const char *key, const char *text, struct err **err)
{
        return put(config, key, change_command(text, json_object_get(config, "Shell")), err);
}

static int change_text(json_t *config, const char *key, const char *text, struct err **err)
{
        json_t *words = change_words(text);
        const char *word = json_string_value(json_array_get(words, 0));
        int r = word ? put(config, key, json_string(word), err) : bad(err, key, "a value is missing");

        json_decref(words);
        return r;
}

/* Relative ones go on from the one before. */
static int change_workdir(json_t *config, const char *key, const char *text, struct err **err)
{
        _cleanup_json_ json_t *words = change_words(text);
        const char *word = json_string_value(json_array_get(words, 0)), *old = json_text(config, key);
        _cleanup_free_ char *path = NULL;
        size_t len;

        if (!word)
                return bad(err, "WORKDIR", "a path is missing");
        if (asprintf(&path, "%s%s%s",
                    word[0] == '/' ? ""
                    : old[0]       ? old
                                   : "/",
                    word[0] == '/' || (old[0] && old[strlen(old) - 1] == '/') || !old[0] ? "" : "/", word) < 0) {
                path = NULL;
                return err_sys(err, ENOMEM, "WORKDIR");
        }
        len = strlen(path);
        while (len > 1 && path[len - 1] == '/')
                path[--len] = '\0';
        return put(config, key, json_string(path), err);
}

static int set_env(json_t *env, const char *name, size_t name_len, const char *pair, struct err **err)
{
        for (size_t i = 0; i < json_array_size(env); i++) {
                const char *old = json_string_value(json_array_get(env, i));

                if (old && strncmp(old, name, name_len) == 0 && old[name_len] == '=')
                        return json_array_set_new(env, i, json_string(pair)) < 0 ? err_sys(err, ENOMEM, "ENV") : 0;
        }
        return json_array_append_new(env, json_string(pair)) < 0 ? err_sys(err, ENOMEM, "ENV") : 0;
}

/* "a=b c=d", or the old form "a b c" that sets a to "b c". */
static int change_env(json_t *config, const char *key, const char *text, struct err **err)
{
        json_t *env = member(config, key, json_array);
        _cleanup_json_ json_t *words = change_words(text);
        const char *first = json_string_value(json_array_get(words, 0));
        _cleanup_free_ char *pair = NULL;
        int r = 0;

        if (!first || first[0] == '=')
                return bad(err, "ENV", "a name is missing");
        if (!strchr(first, '=')) {
                const size_t len = strcspn(text, " \t");

                if (asprintf(&pair, "%.*s=%s", (int)len, text, skip_blanks(text + len)) < 0) {
                        pair = NULL;
                        return err_sys(err, ENOMEM, "ENV");
                }
                return text[len] ? set_env(env, text, len, pair, err) : bad(err, "ENV", "a value is missing");
        }
        for (size_t i = 0; r == 0 && i < json_array_size(words); i++) {
                const char *word = json_string_value(json_array_get(words, i)), *equals = strchr(word, '=');

                r = equals && equals != word ? set_env(env, word, (size_t)(equals - word), word, err)
                                             : bad(err, "ENV", "it takes NAME=VALUE");
        }
        return r;
}

static int change_label(json_t *config, const char *key, const char *text, struct err **err)
{
        json_t *labels = member(config, key, json_object);
        _cleanup_json_ json_t *words = change_words(text);
        int r = 0;

        for (size_t i = 0; r == 0 && i < json_array_size(words); i++) {
                _cleanup_free_ char *word = strdup(json_string_value(json_array_get(words, i)));
                char *equals = word ? strchr(word, '=') : NULL;

                if (!equals || equals == word)
                        return bad(err, "LABEL", "it takes NAME=VALUE");
                *equals = '\0';
                r = put(labels, word, json_string(equals + 1), err);
        }
        return r;
}

static bool port_valid(const char *text)
{
        const size_t digits = strspn(text, "0123456789-");

        return digits > 0 && digits <= 11 &&
               (text[digits] == '\0' || strcmp(text + digits, "/tcp") == 0 || strcmp(text + digits, "/udp") == 0 ||
                       strcmp(text + digits, "/sctp") == 0);
}

static int change_expose(json_t *config, const char *key, const char *text, struct err **err)
{
        json_t *ports = member(config, key, json_object);
        _cleanup_json_ json_t *words = change_words(text);
        char port[32];
        int r = 0;

        for (size_t i = 0; r == 0 && i < json_array_size(words); i++) {
                const char *word = json_string_value(json_array_get(words, i));

                if (!port_valid(word))
                        return err_set(err, ERR_USAGE, EINVAL, "EXPOSE: '%s' is not a port", word);
                snprintf(port, sizeof(port), "%s%s", word, strchr(word, '/') ? "" : "/tcp");
                r = put(ports, port, json_object(), err);
        }
        return r;
}

static int change_volume(json_t *config, const char *key, const char *text, struct err **err)
{
        json_t *volumes = member(config, key, json_object);
        _cleanup_json_ json_t *list = text[0] == '[' ? json_loads(text, 0, NULL) : change_words(text);
        int r = 0;

        for (size_t i = 0; r == 0 && i < json_array_size(list); i++) {
                const char *word = json_string_value(json_array_get(list, i));

                r = word && word[0] ? put(volumes, word, json_object(), err) : bad(err, "VOLUME", "a path is missing");
        }
        return r;
}

static int change_onbuild(json_t *config, const char *key, const char *text, struct err **err)
{
        json_t *list = member(config, key, json_array);

        if (strncasecmp(text, "ONBUILD", 7) == 0 || strncasecmp(text, "FROM", 4) == 0 ||
                strncasecmp(text, "MAINTAINER", 10) == 0)
                return bad(err, "ONBUILD", "this instruction cannot be put off");
        return json_array_append_new(list, json_string(text)) < 0 ? err_sys(err, ENOMEM, "ONBUILD") : 0;
}

static int change_shell(json_t *config, const char *key, const char *text, struct err **err)
{
        json_t *list = text[0] == '[' ? json_loads(text, 0, NULL) : NULL;

        return json_array_size(list) > 0 ? put(config, key, list, err)
                                         : (json_decref(list), bad(err, "SHELL", "it takes a JSON list"));
}

/* "1h30m", "500ms", "2.5s" as nanoseconds. */
static int parse_duration(const char *text, json_int_t *ret)
{
        static const struct {
                const char *unit;
                double ns;
        } units[] = { { "ns", 1 }, { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { "m", 60e9 }, { "h", 3600e9 } };
        double sum = 0;

        while (*text) {
                char *end;
                const double value = strtod(text, &end);
                size_t unit = 0, len = strspn(end, "abcdefghijklmnopqrstuvwxyz");

                while (unit < ARRAY_SIZE(units) &&
                        !(strlen(units[unit].unit) == len && strncmp(units[unit].unit, end, len) == 0))
                        unit++;
                if (end == text || unit == ARRAY_SIZE(units) || !(value >= 0 && value < 1e6))
                        return -EINVAL;
                sum += value * units[unit].ns;
                text = end + len;
        }
        if (sum > 9e18)
                return -EINVAL;
        *ret = (json_int_t)sum;
        return 0;
}

static int healthcheck_option(json_t *check, const char *word, size_t len, struct err **err)
{
        static const struct {
                const char *option, *key;
        } durations[] = { { "--interval=", "Interval" }, { "--timeout=", "Timeout" },
                { "--start-period=", "StartPeriod" } };
        char value[64];
        json_int_t ns;

        for (size_t i = 0; i < ARRAY_SIZE(durations); i++) {
                const size_t n = strlen(durations[i].option);

                if (len < n || strncmp(word, durations[i].option, n) != 0)
                        continue;
                snprintf(value, sizeof(value), "%.*s", (int)(len - n), word + n);
                if (parse_duration(value, &ns) < 0)
                        return err_set(err, ERR_USAGE, EINVAL, "HEALTHCHECK: '%s' is not a duration", value);
                return put(check, durations[i].key, json_integer(ns), err);
        }
        if (len > 10 && strncmp(word, "--retries=", 10) == 0)
                return put(check, "Retries", json_integer(strtol(word + 10, NULL, 10)), err);
        return err_set(err, ERR_USAGE, EINVAL, "HEALTHCHECK: unknown option '%.*s'", (int)len, word);
}

static int change_healthcheck(json_t *config, const char *key, const char *text, struct err **err)
{
        _cleanup_json_ json_t *check = json_object();
        json_t *command;
        int r = 0;

        while (r == 0 && strncmp(text, "--", 2) == 0) {
                const size_t len = strcspn(text, " \t");

                r = healthcheck_option(check, text, len, err);
                text = skip_blanks(text + len);
        }
        if (r < 0)
                return r;
        if (strcasecmp(text, "NONE") == 0)
                return put(config, key, json_pack("{s:[s]}", "Test", "NONE"), err);
        if (strncasecmp(text, "CMD", 3) != 0 || !isspace((unsigned char)text[3]))
                return bad(err, "HEALTHCHECK", "it takes CMD command or NONE");
        text = skip_blanks(text + 3);
        command = text[0] == '[' ? json_loads(text, 0, NULL) : json_pack("[s, s]", "CMD-SHELL", text);
        if (text[0] == '[')
                json_array_insert_new(command, 0, json_string("CMD"));
        r = put(check, "Test", command, err);
        return r < 0 ? r : put(config, key, json_incref(check), err);
}

static const struct {
        const char *instruction, *key;
        int (*change)(json_t *config, const char *key, const char *text, struct err **err);
} changes[] = {
        { "CMD", "Cmd", change_cmd },
        { "ENTRYPOINT", "Entrypoint", change_cmd },
        { "ENV", "Env", change_env },
        { "EXPOSE", "ExposedPorts", change_expose },
        { "HEALTHCHECK", "Healthcheck", change_healthcheck },
        { "LABEL", "Labels", change_label },
        { "ONBUILD", "OnBuild", change_onbuild },
        { "SHELL", "Shell", change_shell },
        { "STOPSIGNAL", "StopSignal", change_text },
        { "USER", "User", change_text },
        { "VOLUME", "Volumes", change_volume },
        { "WORKDIR", "WorkingDir", change_workdir },
};

bool change_known(const char *instruction)
{
        for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
                if (strcasecmp(changes[i].instruction, instruction) == 0)
                        return true;
        return false;
}

int change_apply(json_t *config, const char *instruction, const char *text, struct err **err)
{
        for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
                if (strcasecmp(changes[i].instruction, instruction) == 0)
                        return changes[i].change(config, changes[i].key, skip_blanks(text), err);
        return err_set(err, ERR_USAGE, EINVAL, "'%.40s' does not change an image's configuration", instruction);
}

int config_change(json_t *file, const char *line, struct err **err)
{
        char instruction[32];
        const size_t len = strcspn(line, " \t=");

        snprintf(instruction, sizeof(instruction), "%.*s", (int)MIN(len, sizeof(instruction) - 1), line);
        /* docker takes "ENV=a=b" too */
        return change_apply(json_object_get(file, "config"), instruction, line + len + (line[len] != '\0'), err);
}
