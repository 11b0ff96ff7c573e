/* Mounts: -v, --mount and --tmpfs. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "runspec_internal.h"
#include "values.h"

#define VOLUME_FORM "[SOURCE:]TARGET[:OPTIONS], as in /data:/data:ro or name:/data"
#define MOUNT_FORM  "type=bind|volume|tmpfs,source=SOURCE,target=TARGET,..."

static int add_mount(struct runspec *runspec, const char *option, const struct instance_mount *mount, struct err **err)
{
        if (!mount->target || mount->target[0] != '/')
                return err_hint(err,
                        err_set(err, ERR_USAGE, EINVAL, "%s: the target '%s' is not an absolute path", option,
                                mount->target ? mount->target : ""),
                        "it is the path inside of the container");
        if (strcmp(mount->target, "/") == 0)
                return err_set(err, ERR_USAGE, EINVAL, "%s: nothing can be mounted over the root", option);
        for (size_t i = 0; i < runspec->config->mounts.n; i++)
                if (strcmp(runspec->config->mounts.item[i].target, mount->target) == 0)
                        return err_set(err, ERR_USAGE, EINVAL, "%s: '%s' is mounted twice", option, mount->target);
        return RUNSPEC_APPEND(runspec->arena, &runspec->config->mounts, err, *mount);
}

/* A path of the host: relative ones are relative to where we are. */
static int host_path(struct runspec *runspec, const char *path, const char **ret, struct err **err)
{
        _cleanup_free_ char *here = NULL;

        if (path[0] == '/') {
                *ret = path;
                return 0;
        }
        here = realpath(".", NULL);
        if (!here)
                return err_sys(err, errno, "finding the current directory");
        *ret = arena_printf(runspec->arena, "%s/%s", here, path);
        return *ret ? 0 : runspec_no_memory(err);
}

static bool is_volume_name(const char *text)
{
        if (!isalnum((unsigned char)text[0]) || !text[1])
                return false;
        for (; *text; text++)
                if (!isalnum((unsigned char)*text) && !strchr("_.-", *text))
                        return false;
        return true;
}

static bool is_propagation(const char *word)
{
        static const char *const words[] = { "private", "rprivate", "shared", "rshared", "slave", "rslave" };

        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (strcmp(words[i], word) == 0)
                        return true;
        return false;
}

/* --- -v ------------------------------------------------------------------------------------------------------------ */

/* Labels (z, Z) and what Docker Desktop takes for its own file systems say nothing here. */
static bool means_nothing(const char *word)
{
        static const char *const words[] = { "rw", "z", "Z", "consistent", "cached", "delegated" };

        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (strcmp(words[i], word) == 0)
                        return true;
        return false;
}

static int take_volume_option(struct instance_mount *mount, const char *word, struct err **err)
{
        if (strcmp(word, "ro") == 0)
                mount->read_only = true;
        else if (strcmp(word, "nocopy") == 0)
                mount->no_copy = true;
        else if (strcmp(word, "idmap") == 0)
                mount->id_map = true;
        else if (is_propagation(word))
                mount->propagation = word;
        else if (!means_nothing(word))
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "--volume: '%s' is not an option of mounts", word),
                        "there is: ro, rw, nocopy, idmap, [r]private, [r]shared, [r]slave, z, Z");
        return 0;
}

int runspec_volume(struct runspec *runspec, const char *text, struct err **err)
{
        struct instance_mount mount = { .type = "volume" };
        char *part[3], *copy = arena_strdup(runspec->arena, text), *save = NULL;
        size_t n = 0;
        int r;

        if (!copy)
                return runspec_no_memory(err);
        for (part[n] = copy; (copy = strchr(part[n], ':'));) {
                *copy++ = '\0';
                if (++n == ARRAY_SIZE(part))
                        return runspec_wrong(err, "--volume", text, VOLUME_FORM);
                part[n] = copy;
        }
        for (size_t i = 0; i <= n; i++)
                if (!part[i][0])
                        return runspec_wrong(err, "--volume", text, VOLUME_FORM);
        mount.target = part[n > 0];
        if (n > 0 && (part[0][0] == '/' || part[0][0] == '.')) {
                mount.type = "bind";
                mount.make_source = true;
                r = host_path(runspec, part[0], &mount.source, err);
                if (r < 0)
                        return r;
        } else if (n > 0) {
                mount.source = part[0];
                if (!is_volume_name(part[0]))
                        return err_hint(err,
                                err_set(err, ERR_USAGE, EINVAL, "--volume: '%s' is not a name for a volume", part[0]),
                                "letters, digits, '_', '.' and '-'; a directory of the host begins with / or .");
        }
        if (n == 2)
                for (char *word = strtok_r(part[2], ",", &save); word; word = strtok_r(NULL, ",", &save)) {
                        r = take_volume_option(&mount, word, err);
                        if (r < 0)
                                return r;
                }
        return add_mount(runspec, "--volume", &mount, err);
}

/* --- --mount ------------------------------------------------------------------------------------------------------- */

struct mount_reader {
        struct runspec *runspec;
        struct instance_mount mount;
        bool failed;
};

typedef int mount_key_fn(struct mount_reader *reader, const char *value, struct err **err);

static int key_type(struct mount_reader *reader, const char *value, struct err **err)
{
        if (strcmp(value, "bind") != 0 && strcmp(value, "volume") != 0 && strcmp(value, "tmpfs") != 0)
                return runspec_wrong(err, "--mount", value, "type=bind, type=volume or type=tmpfs");
        reader->mount.type = value;
        return 0;
}

static int key_source(struct mount_reader *reader, const char *value, struct err **err)
{
        reader->mount.source = value;
        return 0;
}

static int key_target(struct mount_reader *reader, const char *value, struct err **err)
{
        reader->mount.target = value;
        return 0;
}

static int read_bool(const char *value, bool *ret, struct err **err)
{
        const bool yes = !*value || strcmp(value, "true") == 0 || strcmp(value, "1") == 0;

        if (!yes && strcmp(value, "false") != 0 && strcmp(value, "0") != 0)
                return err_set(err, ERR_USAGE, EINVAL, "--mount: '%s' is neither true nor false", value);
        *ret = yes;
        return 0;
}

static int key_read_only(struct mount_reader *reader, const char *value, struct err **err)
{
        return read_bool(value, &reader->mount.read_only, err);
}

static int key_no_copy(struct mount_reader *reader, const char *value, struct err **err)
{
        return read_bool(value, &reader->mount.no_copy, err);
}

static int key_id_map(struct mount_reader *reader, const char *value, struct err **err)
{
        return read_bool(value, &reader->mount.id_map, err);
}

static int key_non_recursive(struct mount_reader *reader, const char *value, struct err **err)
{
        return read_bool(value, &reader->mount.no_recursive, err);
}

static int key_recursive(struct mount_reader *reader, const char *value, struct err **err)
{
        if (strcmp(value, "enabled") != 0 && strcmp(value, "disabled") != 0)
                return runspec_wrong(err, "--mount", value, "bind-recursive=enabled or bind-recursive=disabled");
        reader->mount.no_recursive = strcmp(value, "disabled") == 0;
        return 0;
}

static int key_propagation(struct mount_reader *reader, const char *value, struct err **err)
{
        if (!is_propagation(value))
                return runspec_wrong(err, "--mount", value, "bind-propagation=[r]private, [r]shared or [r]slave");
        reader->mount.propagation = value;
        return 0;
}

static int add_tmpfs_option(struct mount_reader *reader, const char *name, const char *value, struct err **err)
{
        const char *before = reader->mount.options;

        reader->mount.options =
                arena_printf(reader->runspec->arena, "%s%s%s=%s", before ? before : "", before ? "," : "", name, value);
        return reader->mount.options ? 0 : runspec_no_memory(err);
}

static int key_tmpfs_size(struct mount_reader *reader, const char *value, struct err **err)
{
        char text[24];
        s64 size;
        int r = cli_parse_size(&size, value, err);

        if (r < 0)
                return err_wrap(err, r, "--mount");
        snprintf(text, sizeof(text), "%lld", (long long)size);
        return add_tmpfs_option(reader, "size", text, err);
}

static int key_tmpfs_mode(struct mount_reader *reader, const char *value, struct err **err)
{
        if (!*value || strspn(value, "01234567") != strlen(value) || strlen(value) > 5)
                return runspec_wrong(err, "--mount", value, "tmpfs-mode=1777, an octal number");
        return add_tmpfs_option(reader, "mode", value, err);
}

static int take_mount_key(struct mount_reader *reader, const char *word, struct err **err)
{
        static const struct {
                const char *key;
                mount_key_fn *fn;
        } keys[] = { { "type", key_type }, { "source", key_source }, { "src", key_source }, { "target", key_target },
                { "destination", key_target }, { "dst", key_target }, { "readonly", key_read_only },
                { "ro", key_read_only }, { "volume-nocopy", key_no_copy }, { "idmap", key_id_map },
                { "bind-propagation", key_propagation }, { "bind-recursive", key_recursive },
                { "bind-nonrecursive", key_non_recursive }, { "tmpfs-size", key_tmpfs_size },
                { "tmpfs-mode", key_tmpfs_mode } };
        const size_t len = strcspn(word, "=");
        char known[256] = "";

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                if (strlen(keys[i].key) == len && strncmp(keys[i].key, word, len) == 0)
                        return keys[i].fn(reader, word[len] ? word + len + 1 : "", err);
                snprintf(known + strlen(known), sizeof(known) - strlen(known), "%s%s", i ? ", " : "", keys[i].key);
        }
        return err_hint(
                err, err_set(err, ERR_USAGE, EINVAL, "--mount: '%s' is not understood", word), "there is: %s", known);
}

int runspec_mount(struct runspec *runspec, const char *text, struct err **err)
{
        struct mount_reader reader = { .runspec = runspec, .mount = { .type = "volume" } };
        struct instance_mount *mount = &reader.mount;
        const char *p = text;
        char *word;
        int r;

        while ((word = runspec_next_word(runspec->arena, &p, &reader.failed))) {
                r = take_mount_key(&reader, word, err);
                if (r < 0)
                        return r;
        }
        if (reader.failed)
                return runspec_no_memory(err);
        if (!mount->target)
                return runspec_wrong(err, "--mount", text, MOUNT_FORM);
        if (mount->source && !*mount->source)
                mount->source = NULL;
        if (strcmp(mount->type, "bind") == 0) {
                if (!mount->source)
                        return err_set(err, ERR_USAGE, EINVAL, "--mount: '%s': a bind mount needs a source", text);
                r = host_path(runspec, mount->source, &mount->source, err);
                if (r < 0)
                        return r;
        } else if (mount->source && strcmp(mount->type, "tmpfs") == 0) {
                return err_set(err, ERR_USAGE, EINVAL, "--mount: '%s': a tmpfs has no source", text);
        } else if (mount->source && !is_volume_name(mount->source)) {
                return err_set(err, ERR_USAGE, EINVAL, "--mount: '%s' is not a name for a volume", mount->source);
        }
        return add_mount(runspec, "--mount", mount, err);
}

int runspec_security(struct runspec *runspec, const char *text, struct err **err)
{
        static const char key[] = "seccomp=";
        const char *path = text + sizeof(key) - 1;
        int r;

        if (strncmp(text, key, sizeof(key) - 1) == 0 && strcmp(path, "unconfined") != 0 &&
                strcmp(path, "builtin") != 0) {
                r = host_path(runspec, path, &path, err);
                if (r < 0)
                        return r;
                text = arena_printf(runspec->arena, "%s%s", key, path);
                if (!text)
                        return runspec_no_memory(err);
        }
        return runspec_strings_add(runspec->arena, &runspec->config->security, text, err);
}

int runspec_tmpfs(struct runspec *runspec, const char *text, struct err **err)
{
        const char *colon = strchr(text, ':');
        const struct instance_mount mount = { .type = "tmpfs",
                .target = colon ? runspec_copy(runspec->arena, text, (size_t)(colon - text)) : text,
                .options = colon ? colon + 1 : NULL };

        return add_mount(runspec, "--tmpfs", &mount, err);
}
