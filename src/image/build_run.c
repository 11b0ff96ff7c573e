/* RUN: the command in a container of an OCI runtime, on the stage's mounted root.
 *
 * A child process gets a mount namespace of its own, attaches the root in it and becomes the runtime; so nothing stays mounted
 * whoever dies. The network is the host's. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "build.h"
#include "build_stubs.h"
#include "change.h"
#include "chunks.h"
#include "walk.h"

#define SECRET_MAX   (500 * KIB)
#define MS_REC_SLAVE (16384UL | 524288UL) /* MS_REC | MS_SLAVE: sys/mount.h and linux/mount.h exclude one another */

/* What docker gives to a container that asks for nothing. */
static const char *const capabilities[] = { "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD",
        "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE" };

static const struct {
        const char *target, *type, *source, *options;
} standard_mounts[] = {
        { "/proc", "proc", "proc", "nosuid,noexec,nodev" },
        { "/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k" },
        { "/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620" },
        { "/dev/shm", "tmpfs", "shm", NULL }, /* by --shm-size */
        { "/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev" },
        { "/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,ro" },
};

struct run {
        struct stage *stage;
        const struct docker_instruction *instruction;
        json_t *mounts;
        struct build_root sources[16]; /* of --mount=type=bind that are no plain directories or files */
        size_t n_sources;
        struct stubs stubs;
        int dir; /* the bundle */
        struct lease_name name;
};

/* --- the command -------------------------------------------------------------------------------------------------------------------- */

/* "<<NAME" alone: the content is the script. */
static bool is_script(const struct docker_instruction *i)
{
        const char *p = i->text + 2;

        if (i->n_heredocs != 1 || strncmp(i->text, "<<", 2) != 0)
                return false;
        p += *p == '-';
        p += *p == '"' || *p == '\'';
        p += strlen(i->heredocs[0].name);
        p += *p == '"' || *p == '\'';
        return !*p;
}

json_t *build_run_command(const struct stage *stage, const struct docker_instruction *i)
{
        const json_t *shell = json_object_get(json_object_get(stage->image.config, "config"), "Shell");
        _cleanup_free_ char *script = NULL;
        json_t *command;

        if (i->n_heredocs == 0)
                return change_command(i->text, shell);
        if (is_script(i)) {
                script = strdup(i->heredocs[0].content);
        } else { /* a shell's own heredocs: as they were written */
                script = strdup(i->text);
                for (size_t n = 0; script && n < i->n_heredocs; n++) {
                        char *longer;

                        if (asprintf(&longer, "%s\n%s%s", script, i->heredocs[n].content, i->heredocs[n].name) < 0)
                                longer = NULL;
                        free(script);
                        script = longer;
                }
        }
        if (!script)
                return NULL;
        command = change_command("x", shell);
        json_array_remove(command, json_array_size(command) - 1);
        json_array_append_new(command, json_string(script));
        return command;
}

/* --- mounts ------------------------------------------------------------------------------------------------------------------------------ */

static int add_mount(struct run *run, const char *target, const char *type, const char *source, const char *options,
        struct err **err)
{
        _cleanup_free_ char *copy = strdup(options);
        json_t *list = json_array();
        char *rest = copy, *word;

        while (copy && (word = strsep(&rest, ",")))
                if (*word)
                        json_array_append_new(list, json_string(word));
        if (json_array_append_new(run->mounts, json_pack("{s:s, s:s, s:s, s:o}", "destination", target, "type", type,
                                                       "source", source, "options", list)) < 0)
                return err_sys(err, ENOMEM, "preparing a container");
        return 0;
}

struct mount_spec {
        char *text; /* cut into the values below */
        const char *type, *target, *source, *from, *id, *mode, *size, *sharing, *uid, *gid;
        bool read_only, read_write, required;
};

static int parse_mount(const char *text, struct mount_spec *ret, struct err **err)
{
        struct mount_spec m = { .text = strdup(text), .type = "bind" };
        const struct {
                const char *key;
                const char **value;
        } keys[] = { { "type", &m.type }, { "target", &m.target }, { "dst", &m.target }, { "destination", &m.target },
                { "source", &m.source }, { "src", &m.source }, { "from", &m.from }, { "id", &m.id },
                { "mode", &m.mode }, { "size", &m.size }, { "sharing", &m.sharing }, { "uid", &m.uid },
                { "gid", &m.gid } };
        char *rest = m.text, *word;

        while (m.text && (word = strsep(&rest, ","))) {
                char *equals = strchr(word, '=');
                const char *value = equals ? equals + 1 : "true";
                bool known = false;

                if (equals)
                        *equals = '\0';
                for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
                        if (strcmp(keys[i].key, word) == 0) {
                                *keys[i].value = value;
                                known = true;
                        }
                if (strcmp(word, "ro") == 0 || strcmp(word, "readonly") == 0)
                        known = m.read_only = strcmp(value, "true") == 0;
                else if (strcmp(word, "rw") == 0 || strcmp(word, "readwrite") == 0)
                        known = m.read_write = strcmp(value, "true") == 0;
                else if (strcmp(word, "required") == 0) {
                        m.required = strcmp(value, "true") == 0;
                        known = true;
                }
                if (!known) {
                        int r = err_set(err, ERR_USAGE, EINVAL, "--mount: unknown option '%s'", word);

                        free(m.text);
                        return r;
                }
        }
        *ret = m;
        return m.text ? 0 : err_sys(err, ENOMEM, "preparing a container");
}

static u32 number_of(const char *text, int base, u32 otherwise)
{
        return text ? (u32)strtoul(text, NULL, base) : otherwise;
}

/* The mode and owner that a mount's options ask for. */
static int give_to(const struct run *run, int fd, const struct mount_spec *m, mode_t otherwise, struct err **err)
{
        if (fchmod(fd, number_of(m->mode, 8, otherwise) & 07777) < 0)
                return err_sys(err, errno, "--mount: setting the mode");
        if ((m->uid || m->gid) && !run->stage->build->store->squash_owners &&
                fchown(fd, number_of(m->uid, 10, 0), number_of(m->gid, 10, 0)) < 0)
                return err_sys(err, errno, "--mount: setting the owner");
        return 0;
}

/* A directory that stays from build to build; the first one says whose it is. */
static int mount_cache(struct run *run, const struct mount_spec *m, struct err **err)
{
        struct image_store *store = run->stage->build->store;
        const char *id = m->id ? m->id : m->target;
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = -1;
        char name[sizeof(DIR_BUILD_CACHE) + 8 + DIGEST_HEX];
        struct digest digest;
        int r = digest_of(id, strlen(id), &digest, err);

        if (r < 0)
                return r;
        snprintf(name, sizeof(name), DIR_BUILD_CACHE "/mounts");
        r = io_make_dir(store->fd, DIR_BUILD_CACHE, 0700, err);
        if (r == 0)
                r = io_make_dir(store->fd, name, 0700, err);
        snprintf(name, sizeof(name), DIR_BUILD_CACHE "/mounts/%.32s", digest_hex(&digest));
        if (r == 0 && mkdirat(store->fd, name, 0755) == 0) {
                r = io_open_dir(store->fd, name, &fd, err);
                if (r == 0)
                        r = give_to(run, fd, m, 0755, err);
        } else if (r == 0 && errno != EEXIST) {
                r = err_sys(err, errno, "--mount: making a cache");
        }
        if (r == 0 && asprintf(&path, "%s/%s", store->root, name) < 0) {
                path = NULL;
                r = err_sys(err, ENOMEM, "preparing a container");
        }
        return r < 0 ? r : add_mount(run, m->target, "none", path, m->read_only ? "rbind,ro" : "rbind,rw", err);
}

/* Where the child attaches the root of the source @i. */
static void source_path(const struct run *run, size_t i, char ret[PATH_MAX])
{
        const struct build *build = run->stage->build;

        snprintf(ret, PATH_MAX, "%s/" DIR_TMP "/%s/%s/from-%zu", build->store->root, build->lease->name, run->name.text,
                i);
}

/* What is at @path in the last of the sources, which is not attached anywhere yet. */
static int bind_last_source(struct run *run, const char *path, const struct mount_spec *m, struct err **err)
{
        const size_t i = run->n_sources - 1;
        _cleanup_free_ char *full = NULL;
        char base[PATH_MAX], name[32];
        int r;

        snprintf(name, sizeof(name), "from-%zu", i);
        r = io_make_dir(run->dir, name, 0700, err);
        if (r < 0)
                return r;
        source_path(run, i, base);
        if (asprintf(&full, "%s/%s", base, path) < 0) {
                full = NULL;
                return err_sys(err, ENOMEM, "preparing a container");
        }
        return add_mount(run, m->target, "none", full, m->read_write ? "rbind,rw" : "rbind,ro", err);
}

/* The path of @fd from the root of the last of the sources has no links in it, or the runtime would follow them out of the source. */
static int bind_resolved(struct run *run, int fd, const struct mount_spec *m, struct err **err)
{
        _cleanup_close_ int again = -1;
        const char *resolved = NULL;
        char path[PATH_MAX];
        const ssize_t n = readlink(io_fd_path(fd).text, path, sizeof(path) - 1);
        struct stat wanted, found;

        if (n > 0) {
                path[n] = '\0';
                resolved = path + strspn(path, "/");
                again = walk_open(run->sources[run->n_sources - 1].mount, resolved, O_PATH);
        }
        if (again < 0 || fstat(fd, &wanted) < 0 || fstat(again, &found) < 0 || wanted.st_ino != found.st_ino ||
                wanted.st_dev != found.st_dev)
                return err_set(
                        err, ERR_UNSUPPORTED, EOPNOTSUPP, "--mount: the source for '%s' cannot be resolved", m->target);
        return bind_last_source(run, resolved, m, err);
}

/* Of a stage or image. */
static int bind_from(struct run *run, const char *path, const struct mount_spec *m, struct err **err)
{
        struct build *build = run->stage->build;
        struct build_root *root = &run->sources[run->n_sources];
        _cleanup_json_ json_t *config = NULL;
        _cleanup_close_ int fd = -1;
        int r = build_find_source(build, run->stage, m->from, &config, err);

        if (r == 0)
                r = build_root_open(build, config, m->read_write, root, err);
        if (r < 0)
                return r;
        run->n_sources++;
        fd = build_open_source(root->mount, path, O_PATH);
        return fd < 0 ? err_sys(err, -fd, "--mount: '%s'", path) : bind_resolved(run, fd, m, err);
}

static int copy_content(int from, int to)
{
        ssize_t n;

        do
                n = sendfile(to, from, NULL, CHUNK_SIZE);
        while (n > 0 || (n < 0 && errno == EINTR));
        return n < 0 ? -errno : 0;
}

/* A copy in the bundle: what is written to it goes away with that. */
static int bind_copy(struct run *run, int fd, const struct mount_spec *m, struct err **err)
{
        struct build *build = run->stage->build;
        _cleanup_close_ int from = open(io_fd_path(fd).text, O_RDONLY | O_CLOEXEC | O_NONBLOCK), to = -1;
        _cleanup_free_ char *source = NULL;
        char name[32];
        struct stat st;
        int r;

        snprintf(name, sizeof(name), "bind-%zu", json_array_size(run->mounts));
        if (from < 0 || fstat(from, &st) < 0 || !S_ISREG(st.st_mode))
                return err_sys(err, from < 0 ? errno : EINVAL, "--mount: the source for '%s'", m->target);
        to = openat(run->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        r = to < 0 ? -errno : copy_content(from, to);
        if (r < 0 || fchmod(to, st.st_mode & 07777) < 0 ||
                (!build->store->squash_owners && fchown(to, st.st_uid, st.st_gid) < 0))
                return err_sys(err, r < 0 ? -r : errno, "--mount: copying the source for '%s'", m->target);
        if (asprintf(&source, "%s/" DIR_TMP "/%s/%s/%s", build->store->root, build->lease->name, run->name.text, name) <
                0) {
                source = NULL;
                return err_sys(err, ENOMEM, "preparing a container");
        }
        return add_mount(run, m->target, "none", source, "bind,rw", err);
}

static int bind_of_context(struct run *run, char path[TAR_PATH_MAX + 1], const struct mount_spec *m, struct err **err)
{
        struct build *build = run->stage->build;
        _cleanup_close_ int fd = -1;
        char source[PATH_MAX];
        struct stat st;
        ssize_t n;
        int r = build_open_wanted(build->context, build->ignore, m->source ? m->source : "", path, &fd, err);

        if (r < 0)
                return r;
        if (fstat(fd, &st) < 0)
                return err_sys(err, errno, "--mount: '%s'", path);
        if (S_ISDIR(st.st_mode) && (m->read_write || build->ignore)) {
                r = build_root_of_context(build, path, fd, m->read_write, &run->sources[run->n_sources], err);
                if (r < 0)
                        return r;
                run->n_sources++;
                return bind_last_source(run, "", m, err);
        }
        if (m->read_write)
                return bind_copy(run, fd, m, err);
        n = readlink(io_fd_path(fd).text, source, sizeof(source) - 1);
        if (n < 0)
                return err_sys(err, errno, "--mount: '%s'", path);
        source[n] = '\0';
        return add_mount(run, m->target, "none", source, "rbind,ro", err);
}

static int mount_bind(struct run *run, const struct mount_spec *m, struct err **err)
{
        char path[TAR_PATH_MAX + 1];
        const int r = tree_clean_path(m->source ? m->source : "", path, err);

        if (r < 0)
                return r;
        if (run->n_sources == ARRAY_SIZE(run->sources))
                return err_set(err, ERR_USAGE, EINVAL, "--mount: too many binds");
        return m->from ? bind_from(run, path, m, err) : bind_of_context(run, path, m, err);
}

static int mount_tmpfs(struct run *run, const struct mount_spec *m, struct err **err)
{
        char options[64];

        snprintf(options, sizeof(options), "nosuid,nodev%s%.40s", m->size ? ",size=" : "", m->size ? m->size : "");
        return add_mount(run, m->target, "tmpfs", "tmpfs", options, err);
}

/* --secret id=ID,src=FILE or id=ID,env=NAME: a copy in the bundle, which goes away with it. */
static int secret_value(struct build *build, const char *id, char **ret, struct err **err)
{
        *ret = NULL;
        for (const char *const *s = build->options->secrets; s && *s; s++) {
                _cleanup_free_ char *copy = strdup(*s);
                const char *name = NULL, *file = NULL, *variable = NULL;
                char *rest = copy, *word;
                _cleanup_close_ int fd = -1;

                while (copy && (word = strsep(&rest, ","))) {
                        if (strncmp(word, "id=", 3) == 0)
                                name = word + 3;
                        else if (strncmp(word, "src=", 4) == 0)
                                file = word + 4;
                        else if (strncmp(word, "source=", 7) == 0)
                                file = word + 7;
                        else if (strncmp(word, "env=", 4) == 0)
                                variable = word + 4;
                }
                if (!name || strcmp(name, id) != 0)
                        continue;
                if (variable || !file) {
                        const char *value = getenv(variable ? variable : id);

                        *ret = value ? strdup(value) : NULL;
                        return 0;
                }
                fd = open(file, O_RDONLY | O_CLOEXEC);
                return fd < 0 ? err_sys(err, errno, "secret '%s'", id) : io_read_stream(fd, SECRET_MAX, ret, NULL, err);
        }
        return 0;
}

static int mount_secret(struct run *run, const struct mount_spec *m, struct err **err)
{
        const char *base = m->target ? strrchr(m->target, '/') + 1 : "", *id = m->id ? m->id : base;
        struct build *build = run->stage->build;
        _cleanup_free_ char *value = NULL, *target = NULL, *source = NULL;
        char name[32];
        _cleanup_close_ int fd = -1;
        int r = secret_value(build, id, &value, err);

        if (r < 0)
                return r;
        if (!value)
                return m->required ? err_hint(err,
                                             err_set(err, ERR_NOT_FOUND, ENOENT, "the build needs the secret '%s'", id),
                                             "--secret id=%s,src=FILE", id)
                                   : 0;
        snprintf(name, sizeof(name), "secret-%zu", json_array_size(run->mounts));
        fd = openat(run->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 || io_write_all(fd, value, strlen(value)) < 0)
                return err_sys(err, errno, "secret '%s'", id);
        r = give_to(run, fd, m, 0400, err);
        if (r < 0)
                return r;
        if (asprintf(&target, "%s%s", m->target ? m->target : "/run/secrets/", m->target ? "" : id) < 0 ||
                asprintf(&source, "%s/" DIR_TMP "/%s/%s/%s", build->store->root, build->lease->name, run->name.text,
                        name) < 0)
                return err_sys(err, ENOMEM, "secret '%s'", id);
        return add_mount(run, target, "none", source, "bind,ro", err);
}

static const struct {
        const char *type;
        bool needs_target;
        int (*mount)(struct run *run, const struct mount_spec *m, struct err **err);
} mount_types[] = {
        { "bind", true, mount_bind },
        { "cache", true, mount_cache },
        { "tmpfs", true, mount_tmpfs },
        { "secret", false, mount_secret },
};

/* A relative one begins at the working directory. */
static int complete_target(const struct run *run, struct mount_spec *m, char **ret_text, struct err **err)
{
        const char *workdir = json_text(json_object_get(run->stage->image.config, "config"), "WorkingDir");

        if (!m->target || m->target[0] == '/')
                return 0;
        if (asprintf(ret_text, "%s/%s", workdir, m->target) < 0) {
                *ret_text = NULL;
                return err_sys(err, ENOMEM, "preparing a container");
        }
        m->target = *ret_text;
        return 0;
}

/* "NAME:ADDRESS" or "NAME=ADDRESS"; "host-gateway" is the host, whose network RUN has. */
static int add_host(FILE *f, const char *host, struct err **err)
{
        const size_t n = strcspn(host, ":=");
        const char *address = host[n] ? host + n + 1 : "";
        u8 parsed[16];

        if (strcmp(address, "host-gateway") == 0)
                address = "127.0.0.1";
        if (!n || (inet_pton(AF_INET, address, parsed) != 1 && inet_pton(AF_INET6, address, parsed) != 1))
                return err_set(err, ERR_USAGE, EINVAL, "'%s' is no host: NAME:ADDRESS", host);
        fprintf(f, "%s\t%.*s\n", address, (int)n, host);
        return 0;
}

static int mount_hosts(struct run *run, struct err **err)
{
        struct build *build = run->stage->build;
        _cleanup_free_ char *text = NULL, *path = NULL;
        size_t len = 0;
        FILE *f = open_memstream(&text, &len);
        int r = f ? 0 : err_sys(err, ENOMEM, "writing /etc/hosts");

        if (f)
                fputs("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n", f);
        for (const char *const *host = build->options->hosts; r == 0 && host && *host; host++)
                r = add_host(f, *host, err);
        if (f && fclose(f) != 0 && r == 0)
                r = err_sys(err, ENOMEM, "writing /etc/hosts");
        if (r == 0)
                r = io_replace_file(run->dir, "hosts.tmp", run->dir, "hosts", text, len, err);
        if (r < 0)
                return r;
        if (asprintf(&path, "%s/" DIR_TMP "/%s/%s/hosts", build->store->root, build->lease->name, run->name.text) < 0) {
                path = NULL;
                return err_sys(err, ENOMEM, "writing /etc/hosts");
        }
        return add_mount(run, "/etc/hosts", "none", path, "bind,ro", err);
}

static int add_standard_mounts(struct run *run, struct err **err)
{
        const struct image_build_options *o = run->stage->build->options;
        char shm[96];
        int r = 0;

        snprintf(shm, sizeof(shm), "nosuid,noexec,nodev,mode=1777,size=%llu",
                (unsigned long long)(o->shm_size ? o->shm_size : 64 * MIB));
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(standard_mounts); i++)
                r = add_mount(run, standard_mounts[i].target, standard_mounts[i].type, standard_mounts[i].source,
                        standard_mounts[i].options ? standard_mounts[i].options : shm, err);
        return r;
}

static int add_mounts(struct run *run, struct err **err)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < json_array_size(run->instruction->flags); i++) {
                const char *flag = json_string_value(json_array_get(run->instruction->flags, i));
                _cleanup_free_ char *target = NULL;
                struct mount_spec m;
                size_t type = 0;

                if (strncmp(flag, "mount=", 6) != 0)
                        continue;
                r = parse_mount(flag + 6, &m, err);
                if (r < 0)
                        return r;
                while (type < ARRAY_SIZE(mount_types) && strcmp(mount_types[type].type, m.type) != 0)
                        type++;
                if (type == ARRAY_SIZE(mount_types))
                        r = err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "--mount: type '%s' is not supported", m.type);
                else if (!m.target && mount_types[type].needs_target)
                        r = err_set(err, ERR_USAGE, EINVAL, "--mount needs a target");
                else
                        r = complete_target(run, &m, &target, err);
                if (r == 0)
                        r = mount_types[type].mount(run, &m, err);
                free(m.text);
        }
        return r;
}

static int bind_source_digest(struct stage *stage, const struct mount_spec *m, struct digest *ret, struct err **err)
{
        _cleanup_json_ json_t *config = NULL;
        _cleanup_free_ char *text = NULL;
        int r;

        if (!m->from)
                return build_hash_source(stage, m->source ? m->source : "", ret, err);
        r = build_find_source(stage->build, stage, m->from, &config, err);
        if (r < 0)
                return r;
        text = json_dumps(json_object_get(config, "rootfs"), JSON_COMPACT | JSON_SORT_KEYS);
        return text ? digest_of(text, strlen(text), ret, err) : err_sys(err, ENOMEM, "running a command");
}

int build_run_sources(
        struct stage *stage, const struct docker_instruction *instruction, struct digest *ret, struct err **err)
{
        struct hasher hasher;
        int r = hasher_init(&hasher, err);

        for (size_t i = 0; r == 0 && i < json_array_size(instruction->flags); i++) {
                const char *flag = json_string_value(json_array_get(instruction->flags, i));
                struct digest digest;
                struct mount_spec m;

                if (strncmp(flag, "mount=", 6) != 0)
                        continue;
                r = parse_mount(flag + 6, &m, err);
                if (r < 0)
                        break;
                if (strcmp(m.type, "bind") == 0) {
                        r = bind_source_digest(stage, &m, &digest, err);
                        if (r == 0)
                                hasher_update(&hasher, digest.text, sizeof(digest.text));
                }
                free(m.text);
        }
        for (const char *const *host = stage->build->options->hosts; r == 0 && host && *host; host++)
                hasher_update(&hasher, *host, strlen(*host) + 1);
        if (stage->build->options->no_network)
                hasher_update(&hasher, "no network", sizeof("no network"));
        if (r == 0)
                hasher_finish(&hasher, ret);
        return r;
}

/* --- the bundle ----------------------------------------------------------------------------------------------------------------------------- */

static json_t *process_json(
        const json_t *command, const json_t *env, const char *cwd, const struct build_user *user, bool squash)
{
        json_t *caps = json_array(), *groups = json_array(), *variables = json_deep_copy(env);
        char home[sizeof(user->home) + 8];
        bool has_home = false, has_path = false;

        for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++)
                json_array_append_new(caps, json_string(capabilities[i]));
        for (size_t i = 0; !squash && i < user->n_groups; i++)
                json_array_append_new(groups, json_integer(user->groups[i]));
        for (size_t i = 0; i < json_array_size(variables); i++) {
                has_home |= strncmp(json_string_value(json_array_get(variables, i)), "HOME=", 5) == 0;
                has_path |= strncmp(json_string_value(json_array_get(variables, i)), "PATH=", 5) == 0;
        }
        snprintf(home, sizeof(home), "HOME=%s", user->home);
        if (!has_home)
                json_array_append_new(variables, json_string(home));
        if (!has_path)
                json_array_append_new(
                        variables, json_string("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
        return json_pack("{s:b, s:{s:I, s:I, s:o}, s:O, s:o, s:s, s:{s:O, s:O, s:o}, s:b}", "terminal", 0, "user",
                "uid", (json_int_t)user->uid, "gid", (json_int_t)user->gid, "additionalGids", groups, "args", command,
                "env", variables, "cwd", cwd, "capabilities", "bounding", caps, "effective", caps, "permitted", caps,
                "noNewPrivileges", 0);
}

static int write_bundle(
        struct run *run, const json_t *command, const json_t *env, struct build_root *root, struct err **err)
{
        const json_t *config = json_object_get(run->stage->image.config, "config");
        const char *cwd = json_text(config, "WorkingDir");
        const bool squash = run->stage->build->store->squash_owners;
        _cleanup_json_ json_t *spec = NULL;
        _cleanup_free_ char *text = NULL;
        struct build_user user;
        int r = build_user_find(root->mount, json_text(config, "User"), &user, err);

        if (r == 0)
                r = add_standard_mounts(run, err);
        if (r == 0)
                r = mount_hosts(run, err);
        if (r == 0 && access("/etc/resolv.conf", R_OK) == 0)
                r = add_mount(run, "/etc/resolv.conf", "none", "/etc/resolv.conf", "bind,ro", err);
        if (r == 0)
                r = add_mounts(run, err);
        /* Not of the standard ones: an image without /proc and /dev may as well have them, as docker does. */
        for (size_t i = ARRAY_SIZE(standard_mounts); r == 0 && i < json_array_size(run->mounts); i++)
                r = stubs_note(&run->stubs, root->mount, json_text(json_array_get(run->mounts, i), "destination"), err);
        if (r < 0)
                return r;
        spec = json_pack(
                "{s:s, s:o, s:{s:s, s:b}, s:s, s:O, s:{s:[{s:s},{s:s},{s:s},{s:s}], s:[s,s,s,s,s,s,s], s:[s,s,s,s,s,s]}}",
                "ociVersion", "1.0.2", "process", process_json(command, env, cwd[0] ? cwd : "/", &user, squash), "root",
                "path", "rootfs", "readonly", 0, "hostname", "build", "mounts", run->mounts, "linux", "namespaces",
                "type", "pid", "type", "ipc", "type", "uts", "type", "mount", "maskedPaths", "/proc/acpi",
                "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug",
                "/sys/firmware", "readonlyPaths", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                "/proc/sysrq-trigger");
        if (spec && run->stage->build->options->no_network)
                json_array_append_new(json_object_get(json_object_get(spec, "linux"), "namespaces"),
                        json_pack("{s:s}", "type", "network"));
        text = spec ? json_dumps(spec, JSON_COMPACT) : NULL;
        if (!text)
                return err_sys(err, ENOMEM, "preparing a container");
        return io_replace_file(run->dir, "config.tmp", run->dir, "config.json", text, strlen(text), err);
}

/* Beside us, then in $PATH. */
static int find_runtime(const char *given, char ret[PATH_MAX], struct err **err)
{
        static const char *const names[] = { "strata-oci", "crun", "runc" };
        char self[PATH_MAX];
        const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        char *slash;

        if (given) {
                snprintf(ret, PATH_MAX, "%s", given);
                return 0;
        }
        self[MAX(n, 0)] = '\0';
        slash = strrchr(self, '/');
        if (slash && snprintf(ret, PATH_MAX, "%.*s/strata-oci", (int)(slash - self), self) < PATH_MAX &&
                access(ret, X_OK) == 0)
                return 0;
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                static const char *const dirs[] = { "/usr/local/bin", "/usr/bin", "/usr/sbin" };

                for (size_t d = 0; d < ARRAY_SIZE(dirs); d++) {
                        snprintf(ret, PATH_MAX, "%s/%s", dirs[d], names[i]);
                        if (access(ret, X_OK) == 0)
                                return 0;
                }
        }
        return err_hint(err, err_set(err, ERR_UNSUPPORTED, ENOENT, "there is no OCI runtime for RUN"),
                "strata-oci is expected beside strata");
}

/* In the child: only system calls from here. */
static void become_runtime(const struct run *run, const struct build_root *root, const char *bundle, const char *rootfs,
        const char *runtime, const char *state, const char *id)
{
        char source[PATH_MAX];
        char *argv[] = { (char *)runtime, (char *)"--root", (char *)state, (char *)"run", (char *)"--bundle",
                (char *)bundle, (char *)id, NULL };

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (unshare(CLONE_NEWNS) < 0 || syscall(SYS_mount, NULL, "/", NULL, MS_REC_SLAVE, NULL) < 0 ||
                syscall(SYS_move_mount, root->mount, "", AT_FDCWD, rootfs, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                _exit(125);
        for (size_t i = 0; i < run->n_sources; i++) {
                source_path(run, i, source);
                if (syscall(SYS_move_mount, run->sources[i].mount, "", AT_FDCWD, source, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                        _exit(125);
        }
        dup2(STDERR_FILENO, STDOUT_FILENO); /* ours is for the image's id */
        execv(runtime, argv);
        _exit(127);
}

static int run_container(struct run *run, struct build_root *root, struct err **err)
{
        struct build *build = run->stage->build;
        char bundle[PATH_MAX], rootfs[PATH_MAX + 16], state[PATH_MAX + 16], runtime[PATH_MAX], id[96];
        int status, r = find_runtime(build->options->runtime, runtime, err);
        pid_t pid;

        if (r < 0)
                return r;
        snprintf(
                bundle, sizeof(bundle), "%s/" DIR_TMP "/%s/%s", build->store->root, build->lease->name, run->name.text);
        snprintf(rootfs, sizeof(rootfs), "%s/rootfs", bundle);
        snprintf(state, sizeof(state), "%s/state", bundle);
        snprintf(id, sizeof(id), "build-%s-%s", build->lease->name, run->name.text);
        r = io_make_dir(run->dir, "rootfs", 0700, err);
        if (r == 0)
                r = io_make_dir(run->dir, "state", 0700, err);
        if (r < 0)
                return r;
        fflush(NULL);
        pid = fork();
        if (pid == 0)
                become_runtime(run, root, bundle, rootfs, runtime, state, id);
        if (pid < 0)
                return err_sys(err, errno, "starting a container");
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return err_sys(err, errno, "waiting for a container");
        if (WIFSIGNALED(status))
                return err_set(err, ERR_IO, EIO, "the command was killed by signal %d", WTERMSIG(status));
        if (WEXITSTATUS(status) != 0)
                return err_set(err, ERR_IO, EIO, "the command ended with status %d", WEXITSTATUS(status));
        return 0;
}

int build_run(struct stage *stage, const struct docker_instruction *instruction, const json_t *command,
        const json_t *env, struct build_root *root, struct err **err)
{
        struct run run = { .stage = stage,
                .instruction = instruction,
                .mounts = json_array(),
                .dir = -1,
                .name = lease_new_name(stage->build->lease) };
        int r = io_make_dir(stage->build->lease->tmp_fd, run.name.text, 0700, err);

        if (r == 0)
                r = io_open_dir(stage->build->lease->tmp_fd, run.name.text, &run.dir, err);
        if (r == 0)
                r = write_bundle(&run, command, env, root, err);
        if (r == 0)
                r = run_container(&run, root, err);
        stubs_remove(&run.stubs, root->mount);
        stubs_clear(&run.stubs);
        closep(&run.dir);
        for (size_t i = 0; i < run.n_sources; i++)
                build_root_close(&run.sources[i]);
        io_remove_tree(stage->build->lease->tmp_fd, run.name.text, NULL);
        json_decref(run.mounts);
        return r;
}
