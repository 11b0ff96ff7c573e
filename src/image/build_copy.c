/* COPY and ADD: what is to be copied is collected and hashed first (the cache's key), then copied into the mounted root. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "archive.h"
#include "build.h"
#include "change.h"
#include "chunks.h"
#include "http.h"
#include "unpack.h"
#include "walk.h"

#define SOURCES_MAX  10000U
#define DOWNLOAD_MAX (4 * GIB)

struct source {
        char *path;          /* clean, in the source's root; of a heredoc or download: the name that it gets */
        const char *content; /* of a heredoc */
        int file;            /* a download's; -1 */
        bool is_dir, archive;
};

struct build_copy {
        struct stage *stage;
        const struct docker_instruction *instruction;
        struct build_root from; /* mounted, for --from */
        int root;               /* borrowed: where sources are */
        const struct dockerignore *ignore;
        bool add, keep_owners;
        struct source *sources;
        size_t n;
        char *destination; /* as written */
        const char *chown;
        bool has_mode;
        mode_t mode;
        struct hasher hash;
        u8 *buf;
        struct build_user owner;
};

/* --- sources ----------------------------------------------------------------------------------------------------------------------- */

static int add_source(struct build_copy *c, const char *path, struct source **ret, struct err **err)
{
        struct source *grown = c->n < SOURCES_MAX ? reallocarray(c->sources, c->n + 1, sizeof(*grown)) : NULL;

        if (!grown)
                return c->n < SOURCES_MAX ? err_sys(err, ENOMEM, "copying")
                                          : err_set(err, ERR_TOO_LARGE, EFBIG, "more than %u sources", SOURCES_MAX);
        c->sources = grown;
        grown[c->n] = (struct source){ .path = strdup(path), .file = -1 };
        *ret = &grown[c->n];
        return grown[c->n++].path ? 0 : err_sys(err, ENOMEM, "copying");
}

struct glob {
        struct build_copy *copy;
        const char *pattern;
};

static int match_path(void *opaque, int fd, const char *path, const struct stat *st, struct err **err)
{
        struct glob *g = opaque;
        struct source *source;
        int r;

        if (dockerignore_matches(g->copy->ignore, path))
                return S_ISDIR(st->st_mode) && !dockerignore_has_exceptions(g->copy->ignore);
        if (!glob_matches(g->pattern, path))
                return 0;
        r = add_source(g->copy, path, &source, err);
        if (r < 0)
                return r;
        source->is_dir = S_ISDIR(st->st_mode);
        return 1;
}

int build_open_source(int root, const char *path, int flags)
{
        struct open_how how = { .flags = (u64)flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
        const long fd = syscall(SYS_openat2, root, path[0] ? path : ".", &how, sizeof(how));

        return fd < 0 ? -errno : (int)fd;
}

/* A directory may be reached through a link ("COPY current /"): what is in it is found below its own path. */
static int real_path(int root, int fd, char path[TAR_PATH_MAX + 1], struct err **err)
{
        char base[PATH_MAX], real[PATH_MAX];
        const ssize_t n = readlink(io_fd_path(root).text, base, sizeof(base) - 1),
                      len = readlink(io_fd_path(fd).text, real, sizeof(real) - 1);

        if (n < 0 || len < 0)
                return err_sys(err, errno, "'%s'", path);
        base[n > 1 ? n : 0] = '\0'; /* "/" has no name below it */
        real[len] = '\0';
        if (strncmp(real, base, strlen(base)) != 0)
                return 0;
        return tree_clean_path(real + strlen(base), path, err);
}

int build_open_wanted(int root, const struct dockerignore *ignore, const char *word, char path[TAR_PATH_MAX + 1],
        int *ret, struct err **err)
{
        _cleanup_close_ int fd = build_open_source(root, path, O_PATH);
        struct stat st;
        int r = 0;

        if (fd < 0 || fstat(fd, &st) < 0)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "'%s' is not there", word);
        if (path[0] && dockerignore_matches(ignore, path) &&
                !(S_ISDIR(st.st_mode) && dockerignore_has_exceptions(ignore)))
                return err_set(
                        err, ERR_NOT_FOUND, ENOENT, "'%s' is not there for builds: .dockerignore leaves it out", word);
        if (S_ISDIR(st.st_mode))
                r = real_path(root, fd, path, err);
        if (r == 0)
                *ret = TAKE_FD(fd);
        return r;
}

static int find_sources(struct build_copy *c, const char *word, struct err **err)
{
        char path[TAR_PATH_MAX + 1];
        const size_t before = c->n;
        _cleanup_close_ int fd = -1;
        struct source *source;
        struct stat st;
        int r = tree_clean_path(word, path, err);

        if (r < 0)
                return r;
        if (strpbrk(path, "*?[")) {
                struct glob glob = { c, path };

                r = walk_tree(c->root, "", match_path, &glob, err);
                return r == 0 && c->n == before ? err_set(err, ERR_NOT_FOUND, ENOENT, "nothing matches '%s'", word) : r;
        }
        r = build_open_wanted(c->root, c->ignore, word, path, &fd, err);
        if (r == 0)
                r = add_source(c, path, &source, err);
        if (r == 0)
                source->is_dir = fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
        return r;
}

static int receive_file(void *opaque, long status, const void *data, size_t len, struct err **err)
{
        struct {
                int fd;
                u64 bytes;
        } *file = opaque;
        const int r = io_write_all(file->fd, data, len);

        file->bytes += len;
        if (file->bytes > DOWNLOAD_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "it is longer than %llu bytes", DOWNLOAD_MAX);
        return r < 0 ? err_sys(err, -r, "writing a download") : 0;
}

/* ADD of an address: the file gets the address's last part as its name. */
static int download(struct build_copy *c, const char *url, struct err **err)
{
        const struct http_client_options options = { 0 };
        _cleanup_(http_client_freep) struct http_client *client = NULL;
        struct lease *lease = c->stage->build->lease;
        struct {
                int fd;
                u64 bytes;
        } file = { .fd = openat(
                           lease->tmp_fd, lease_new_name(lease).text, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600) };
        const struct http_request request = { .url = url, .follow = true, .receive = receive_file, .opaque = &file };
        const char *slash = strrchr(url, '/'), *name = slash ? slash + 1 : url;
        char base[NAME_MAX + 1];
        struct http_answer answer = { 0 };
        struct source *source;
        int r = file.fd < 0 ? err_sys(err, errno, "downloading") : http_client_new(&options, &client, err);

        snprintf(base, sizeof(base), "%.*s", (int)MIN(strcspn(name, "?#"), (size_t)NAME_MAX), name);
        if (r == 0 && (!base[0] || base[0] == '.'))
                r = err_set(err, ERR_USAGE, EINVAL, "'%s' has no file's name at its end", url);
        if (r == 0)
                r = http_perform(client, &request, &answer, err);
        if (r == 0 && answer.status != 200)
                r = err_set(err, ERR_NOT_FOUND, ENOENT, "'%s' answers %ld", url, answer.status);
        http_answer_clear(&answer);
        if (r == 0)
                r = add_source(c, base, &source, err);
        if (r < 0) {
                closep(&file.fd);
                return r;
        }
        source->file = file.fd;
        return 0;
}

static bool is_url(const char *word)
{
        return strncmp(word, "http://", 7) == 0 || strncmp(word, "https://", 8) == 0;
}

static const struct docker_heredoc *heredoc_of(const struct docker_instruction *i, const char *word)
{
        if (strncmp(word, "<<", 2) != 0)
                return NULL;
        word += 2 + (word[2] == '-');
        for (size_t n = 0; n < i->n_heredocs; n++)
                if (strcmp(i->heredocs[n].name, word) == 0)
                        return &i->heredocs[n];
        return NULL;
}

static int take_source(struct build_copy *c, const char *word, struct err **err)
{
        const struct docker_heredoc *heredoc = heredoc_of(c->instruction, word);
        struct source *source;
        int r;

        if (heredoc) {
                r = add_source(c, heredoc->name, &source, err);
                if (r == 0)
                        source->content = heredoc->content;
                return r;
        }
        if (c->add && is_url(word))
                return download(c, word, err);
        if (c->add && (strncmp(word, "git@", 4) == 0 || strncmp(word, "git://", 6) == 0))
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "ADD from git is not supported");
        return find_sources(c, word, err);
}

/* --- hashing --------------------------------------------------------------------------------------------------------------------------- */

static int hash_fd(struct build_copy *c, int fd, struct err **err)
{
        ssize_t n;

        while ((n = io_read_full(fd, c->buf, CHUNK_SIZE)) > 0)
                hasher_update(&c->hash, c->buf, (size_t)n);
        return n < 0 ? err_sys(err, (int)-n, "reading what is to be copied") : 0;
}

/* What matters of an entry: its name, kind, mode, owner where that is kept, content. Not its time. */
static int hash_entry(void *opaque, int fd, const char *path, const struct stat *st, struct err **err)
{
        struct build_copy *c = opaque;
        char text[PATH_MAX + 64];
        _cleanup_close_ int content = -1;
        ssize_t n;

        if (dockerignore_matches(c->ignore, path))
                return S_ISDIR(st->st_mode) && !dockerignore_has_exceptions(c->ignore);
        hasher_update(&c->hash, path, strlen(path) + 1);
        snprintf(text, sizeof(text), "%o %u %u", st->st_mode, c->keep_owners ? st->st_uid : 0,
                c->keep_owners ? st->st_gid : 0);
        hasher_update(&c->hash, text, strlen(text) + 1);
        if (S_ISLNK(st->st_mode)) {
                n = readlinkat(fd, "", text, PATH_MAX);
                if (n > 0)
                        hasher_update(&c->hash, text, (size_t)n);
        }
        if (!S_ISREG(st->st_mode))
                return 0;
        content = open(io_fd_path(fd).text, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        return content < 0 ? err_sys(err, errno, "opening '%s'", path) : hash_fd(c, content, err);
}

static int hash_source(struct build_copy *c, const struct source *s, struct err **err)
{
        _cleanup_close_ int fd = -1;
        struct stat st;

        if (s->content) {
                hasher_update(&c->hash, s->content, strlen(s->content) + 1);
                return 0;
        }
        if (s->file >= 0)
                return lseek(s->file, 0, SEEK_SET) < 0 ? err_sys(err, errno, "downloading") : hash_fd(c, s->file, err);
        fd = build_open_source(c->root, s->path, O_PATH);
        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, fd < 0 ? -fd : errno, "'%s'", s->path);
        return S_ISDIR(st.st_mode) ? walk_tree(c->root, s->path, hash_entry, c, err)
                                   : hash_entry(c, fd, s->path, &st, err);
}

int build_hash_source(struct stage *stage, const char *path, struct digest *ret, struct err **err)
{
        _cleanup_free_ u8 *buf = malloc(CHUNK_SIZE);
        struct build_copy c = {
                .stage = stage, .root = stage->build->context, .ignore = stage->build->ignore, .buf = buf
        };
        char clean[TAR_PATH_MAX + 1];
        const struct source source = { .path = clean, .file = -1 };
        int r = buf ? tree_clean_path(path, clean, err) : err_sys(err, ENOMEM, "reading the context");

        if (r == 0)
                r = hasher_init(&c.hash, err);
        if (r == 0)
                r = hash_source(&c, &source, err);
        if (r == 0)
                hasher_finish(&c.hash, ret);
        return r;
}

int build_copy_prepare(struct stage *stage, const struct docker_instruction *instruction, const char *text,
        struct build_copy **ret, struct digest *ret_key, struct err **err)
{
        _cleanup_(build_copy_freep) struct build_copy *c = calloc(1, sizeof(*c));
        _cleanup_json_ json_t *words = text[0] == '[' ? json_loads(text, 0, NULL) : NULL, *config = NULL;
        const char *from = docker_flag(instruction, "from"), *mode = docker_flag(instruction, "chmod");
        size_t n;
        int r = 0;

        if (!words)
                words = change_words(text);
        if (!c || !(c->buf = malloc(CHUNK_SIZE)))
                return err_sys(err, ENOMEM, "copying");
        c->from = (struct build_root)BUILD_ROOT_EMPTY;
        c->stage = stage;
        c->instruction = instruction;
        c->add = strcmp(instruction->keyword, "ADD") == 0;
        c->chown = docker_flag(instruction, "chown");
        c->keep_owners = from && !c->chown;
        n = json_array_size(words);
        if (n < 2)
                return err_set(err, ERR_USAGE, EINVAL, "%s takes a source and a destination", instruction->keyword);
        if (mode && *mode) {
                char *end;

                c->mode = (mode_t)strtoul(mode, &end, 8);
                c->has_mode = true;
                if (*end || c->mode > 07777)
                        return err_set(err, ERR_USAGE, EINVAL, "--chmod takes an octal mode, not '%s'", mode);
        }
        c->root = stage->build->context;
        c->ignore = stage->build->ignore;
        if (from) {
                c->ignore = NULL;
                r = build_find_source(stage->build, stage, from, &config, err);
                if (r == 0)
                        r = build_root_open(stage->build, config, false, &c->from, err);
                c->root = c->from.mount;
        }
        for (size_t i = 0; r == 0 && i + 1 < n; i++) {
                const char *word = json_string_value(json_array_get(words, i));

                r = word ? take_source(c, word, err)
                         : err_set(err, ERR_USAGE, EINVAL, "%s takes texts", instruction->keyword);
        }
        if (r == 0 && json_is_string(json_array_get(words, n - 1)))
                c->destination = strdup(json_string_value(json_array_get(words, n - 1)));
        if (r == 0 && !c->destination)
                r = err_set(err, ERR_USAGE, EINVAL, "%s has no destination", instruction->keyword);
        if (r == 0)
                r = hasher_init(&c->hash, err);
        for (size_t i = 0; r == 0 && i < c->n; i++)
                r = hash_source(c, &c->sources[i], err);
        if (r < 0)
                return r;
        hasher_finish(&c->hash, ret_key);
        *ret = TAKE_PTR(c);
        return 0;
}

struct build_copy *build_copy_free(struct build_copy *c)
{
        if (!c)
                return NULL;
        for (size_t i = 0; i < c->n; i++) {
                closep(&c->sources[i].file);
                free(c->sources[i].path);
        }
        free(c->sources);
        free(c->destination);
        free(c->buf);
        build_root_close(&c->from);
        free(c);
        return NULL;
}

/* --- copying ----------------------------------------------------------------------------------------------------------------------------- */

struct copying {
        struct build_copy *copy;
        struct tree tree;
        const char *target; /* clean, in the new root */
        size_t strip;       /* of a visited path: the source's own */
        json_t *links;      /* files that have several names, "device:inode": where the first one was copied to */
};

static int set_attributes(struct copying *k, int parent, const char *name, const struct stat *st, struct err **err)
{
        struct build_copy *c = k->copy;
        const u32 uid = c->keep_owners ? st->st_uid : c->owner.uid, gid = c->keep_owners ? st->st_gid : c->owner.gid;
        const struct timespec times[2] = { st->st_mtim, st->st_mtim };
        const bool link = S_ISLNK(st->st_mode);

        if (!c->stage->build->store->squash_owners && fchownat(parent, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
                return err_sys(err, errno, "giving '%s' to %u:%u", name, uid, gid);
        if (!link && fchmodat(parent, name, c->has_mode ? c->mode : st->st_mode & 07777, 0) < 0)
                return err_sys(err, errno, "setting the mode of '%s'", name);
        utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW);
        return 0;
}

static int copy_content(struct build_copy *c, int from, int parent, const char *name, struct err **err)
{
        _cleanup_close_ int to = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        ssize_t n = 0;
        int r = to < 0 ? -errno : 0;

        while (r == 0 && (n = io_read_full(from, c->buf, CHUNK_SIZE)) > 0)
                r = io_write_all(to, c->buf, (size_t)n);
        if (r == 0 && n < 0)
                r = (int)n;
        return r < 0 ? err_sys(err, -r, "copying '%s'", name) : 0;
}

/* --- files with several names */

struct link_key {
        char text[48];
};

static struct link_key link_key(const struct stat *st)
{
        struct link_key key;

        snprintf(key.text, sizeof(key.text), "%llx:%llx", (unsigned long long)st->st_dev,
                (unsigned long long)st->st_ino);
        return key;
}

static bool has_names(const struct stat *st)
{
        return S_ISREG(st->st_mode) && st->st_nlink > 1;
}

/* @name in @parent is the copy of @st. Fails for paths that are not UTF-8: each name gets a file of its own then. */
static void remember_copy(struct copying *k, int parent, const char *name, const char *path, const struct stat *st)
{
        struct stat copy;

        if (has_names(st) && fstatat(parent, name, &copy, AT_SYMLINK_NOFOLLOW) == 0)
                json_object_set_new(k->links, link_key(st).text, json_pack("[s, I]", path, (json_int_t)copy.st_ino));
}

/* Makes @name another name of what was copied under a first one; false when there is none, or it was replaced since. */
static bool link_copy(struct copying *k, int parent, const char *name, const struct stat *st)
{
        const json_t *first = has_names(st) ? json_object_get(k->links, link_key(st).text) : NULL;
        _cleanup_close_ int dir = -1;
        const char *first_name;
        struct stat copy;
        int first_parent;

        if (!first)
                return false;
        dir = openat(parent, ".", O_PATH | O_DIRECTORY | O_CLOEXEC); /* the lookup may push it out of the cache */
        return dir >= 0 &&
               tree_parent(&k->tree, json_string_value(json_array_get(first, 0)), false, &first_parent, &first_name,
                       NULL) == 0 &&
               fstatat(first_parent, first_name, &copy, AT_SYMLINK_NOFOLLOW) == 0 &&
               copy.st_ino == (ino_t)json_integer_value(json_array_get(first, 1)) &&
               linkat(first_parent, first_name, dir, name, 0) == 0;
}

/* One file, link or directory; what is in the way goes, but for directories under directories. */
static int copy_one(struct copying *k, int fd, const char *path, const struct stat *st, struct err **err)
{
        struct build_copy *c = k->copy;
        _cleanup_close_ int content = -1;
        char link[PATH_MAX];
        const char *name;
        struct stat old;
        bool there;
        ssize_t n;
        int parent, r = tree_parent(&k->tree, path, true, &parent, &name, err);

        if (r < 0 || !path[0])
                return r;
        there = fstatat(parent, name, &old, AT_SYMLINK_NOFOLLOW) == 0;
        if (there && S_ISDIR(st->st_mode)) { /* "/lib" may be a link to a directory */
                int existing;

                if (S_ISDIR(old.st_mode) ||
                        (S_ISLNK(old.st_mode) && tree_dir(&k->tree, path, false, &existing, NULL) == 0))
                        return 0;
        }
        if (there && S_ISDIR(old.st_mode))
                return err_set(err, ERR_USAGE, EISDIR, "'%s' is a directory in the image", path);
        if (there) {
                r = tree_remove(&k->tree, parent, name, err);
                if (r < 0)
                        return r;
        }
        if (link_copy(k, parent, name, st))
                return 0;
        r = tree_parent(&k->tree, path, false, &parent, &name, err); /* what was borrowed may have gone */
        if (r < 0)
                return r;
        if (S_ISDIR(st->st_mode)) {
                r = mkdirat(parent, name, 0755) < 0 ? err_sys(err, errno, "making '%s'", path) : 0;
        } else if (S_ISLNK(st->st_mode)) {
                n = readlinkat(fd, "", link, sizeof(link) - 1);
                link[MAX(n, 0)] = '\0';
                r = n < 0 || symlinkat(link, parent, name) < 0 ? err_sys(err, errno, "copying link '%s'", path) : 0;
        } else if (S_ISREG(st->st_mode)) {
                content = open(io_fd_path(fd).text, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
                r = content < 0 ? err_sys(err, errno, "opening '%s'", path)
                                : copy_content(c, content, parent, name, err);
        } else {
                /* Sockets are nobody's any more; devices of the host's files have no business in an image. */
                if (S_ISSOCK(st->st_mode) || (!S_ISFIFO(st->st_mode) && c->from.mount < 0))
                        return 0;
                if (mknodat(parent, name, (st->st_mode & S_IFMT) | 0600, st->st_rdev) < 0)
                        return errno == EPERM ? 0 : err_sys(err, errno, "copying '%s'", path);
        }
        if (r == 0)
                r = set_attributes(k, parent, name, st, err);
        if (r == 0)
                remember_copy(k, parent, name, path, st);
        return r;
}

static int copy_entry(void *opaque, int fd, const char *path, const struct stat *st, struct err **err)
{
        struct copying *k = opaque;
        char target[2 * TAR_PATH_MAX];
        const char *rest = path + k->strip;

        if (dockerignore_matches(k->copy->ignore, path)) {
                /* A directory is made when something in it is wanted after all. */
                return S_ISDIR(st->st_mode) && !dockerignore_has_exceptions(k->copy->ignore);
        }
        rest += *rest == '/';
        snprintf(target, sizeof(target), "%s%s%s", k->target, k->target[0] ? "/" : "", rest);
        return copy_one(k, fd, target, st, err);
}

/* A local archive is unpacked: 1 when it was one. */
static int add_archive(struct copying *k, const struct source *s, struct err **err)
{
        const struct unpack_options options = { .squash_owners = k->copy->stage->build->store->squash_owners,
                .plain = true };
        int dir = -1;

        for (int pass = 0; pass < 2; pass++) {
                _cleanup_(decompressor_freep) struct decompressor *decompressor = NULL;
                _cleanup_(tar_reader_freep) struct tar_reader *tar = NULL;
                _cleanup_free_ u8 *raw = malloc(CHUNK_SIZE), *plain = malloc(CHUNK_SIZE);
                _cleanup_close_ int fd = build_open_source(k->copy->root, s->path, O_RDONLY | O_NONBLOCK);
                struct fd_source from = { fd, raw, CHUNK_SIZE };
                struct plain_source through = { NULL, plain, CHUNK_SIZE };
                struct unpack_result result = { 0 };
                const struct tar_entry *first;
                int r;

                if (!raw || !plain || fd < 0)
                        return err_sys(err, fd < 0 ? -fd : ENOMEM, "opening '%s'", s->path);
                r = decompressor_new(&(struct byte_source){ fd_source_next, &from }, &decompressor, err);
                through.decompressor = decompressor;
                if (r == 0)
                        r = tar_reader_new(&(struct byte_source){ plain_source_next, &through }, &tar, err);
                if (r < 0)
                        return r;
                if (pass == 0) { /* is it one? */
                        if (tar_reader_next(tar, &first, NULL) != 1)
                                return 0;
                        continue;
                }
                r = tree_dir(&k->tree, k->target, true, &dir, err);
                if (r < 0)
                        return r;
                dir = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                r = dir < 0 ? err_sys(err, errno, "opening '%s'", k->target)
                            : unpack_layer(dir, tar, &options, &result, err);
                closep(&dir);
                json_decref(result.implied);
                return r < 0 ? r : 1;
        }
        return 0;
}

/* Where it goes: relative paths begin at the working directory. */
static int find_target(struct build_copy *c, char ret[TAR_PATH_MAX + 1], struct err **err)
{
        const char *workdir = json_text(json_object_get(c->stage->image.config, "config"), "WorkingDir");
        _cleanup_free_ char *joined = NULL;

        if (asprintf(&joined, "%s/%s", c->destination[0] == '/' ? "" : workdir, c->destination) < 0) {
                joined = NULL;
                return err_sys(err, ENOMEM, "copying");
        }
        return tree_clean_path(joined, ret, err);
}

static int copy_source(struct copying *k, const struct source *s, bool into_dir, struct err **err)
{
        struct build_copy *c = k->copy;
        const char *base = strrchr(s->path, '/') ? strrchr(s->path, '/') + 1 : s->path;
        struct stat st = { .st_mode = S_IFREG | 0644 };
        _cleanup_close_ int fd = -1, memory = -1;
        char target[2 * TAR_PATH_MAX];
        int r;

        if (s->is_dir) {
                k->strip = strlen(s->path);
                return walk_tree(c->root, s->path, copy_entry, k, err);
        }
        if (c->add && !s->content && s->file < 0) {
                r = add_archive(k, s, err);
                if (r != 0)
                        return MIN(r, 0);
        }
        snprintf(
                target, sizeof(target), "%s%s%s", k->target, into_dir && k->target[0] ? "/" : "", into_dir ? base : "");
        if (s->content) {
                memory = memfd_create("heredoc", MFD_CLOEXEC);
                if (memory < 0 || io_write_all(memory, s->content, strlen(s->content)) < 0)
                        return err_sys(err, errno, "copying a heredoc");
                st.st_mtim.tv_sec = make_time();
                return copy_one(k, memory, target, &st, err);
        }
        if (s->file >= 0) {
                st.st_mode = S_IFREG | 0600;
                st.st_mtim.tv_sec = make_time();
                return copy_one(k, s->file, target, &st, err);
        }
        fd = build_open_source(c->root, s->path, O_PATH);
        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, fd < 0 ? -fd : errno, "'%s'", s->path);
        return copy_one(k, fd, target, &st, err);
}

int build_copy_run(struct build_copy *c, struct build_root *root, struct err **err)
{
        _cleanup_json_ json_t *links = json_object();
        struct copying k = { .copy = c, .links = links };
        char target[TAR_PATH_MAX + 1];
        const size_t len = strlen(c->destination);
        bool into_dir;
        int dir, r = find_target(c, target, err);

        if (r == 0 && c->chown && *c->chown)
                r = build_user_find(root->mount, c->chown, &c->owner, err);
        if (r < 0)
                return r;
        tree_init(&k.tree, root->mount);
        k.tree.has_owner = c->chown && *c->chown && !c->stage->build->store->squash_owners;
        k.tree.uid = c->owner.uid;
        k.tree.gid = c->owner.gid;
        k.target = target;
        into_dir = len == 0 || c->destination[len - 1] == '/' || strcmp(c->destination, ".") == 0 || c->n > 1 ||
                   !target[0] || tree_dir(&k.tree, target, false, &dir, NULL) == 0;
        if (into_dir || (c->n > 0 && c->sources[0].is_dir)) {
                const struct stat st = { .st_mode = S_IFDIR | 0755, .st_mtim.tv_sec = make_time() };
                struct build_copy plain = *c;

                /* The destination is made as it is, whatever --chmod says about the files. */
                plain.has_mode = false;
                plain.keep_owners = false;
                k.copy = &plain;
                r = copy_one(&k, -1, target, &st, err);
                k.copy = c;
        }
        for (size_t i = 0; r == 0 && i < c->n; i++)
                r = copy_source(&k, &c->sources[i], into_dir, err);
        tree_clear(&k.tree);
        return r;
}
