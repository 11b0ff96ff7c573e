#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "build.h"
#include "implied.h"
#include "instance.h"
#include "layer_writer.h"
#include "overlay.h"
#include "walk.h"

static int read_diff_ids(const json_t *config, struct digest **ret, size_t *ret_n, struct err **err)
{
        const json_t *list = json_object_get(json_object_get(config, "rootfs"), "diff_ids");
        const size_t n = json_array_size(list);
        _cleanup_free_ struct digest *ids = calloc(n + 1, sizeof(*ids));
        int r = ids ? 0 : err_sys(err, ENOMEM, "mounting a stage");

        for (size_t i = 0; r == 0 && i < n; i++)
                r = digest_parse(json_string_value(json_array_get(list, i)), &ids[i], err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(ids);
        *ret_n = n;
        return 0;
}

static int root_attributes(struct build *build, const char *top, int upper, struct err **err)
{
        struct stat st;

        if (stat(top, &st) < 0 || (!build->store->squash_owners && fchown(upper, st.st_uid, st.st_gid) < 0) ||
                fchmod(upper, st.st_mode & 07777) < 0)
                return err_sys(err, errno, "preparing a stage's root");
        return 0;
}

/* Directories of its own in the lease's, "upper", "work" and "target": *ret_dir and their paths. */
static int make_parts(
        struct build *build, struct build_root *root, int *ret_dir, char path[3][PATH_MAX], struct err **err)
{
        static const char *const parts[] = { "upper", "work", "target" };
        _cleanup_close_ int dir = -1;
        int r;

        *root = (struct build_root){ .build = build, .dir = lease_new_name(build->lease), .mount = -1, .upper = -1 };
        r = io_make_dir(build->lease->tmp_fd, root->dir.text, 0700, err);
        if (r == 0)
                r = io_open_dir(build->lease->tmp_fd, root->dir.text, &dir, err);
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(parts); i++) {
                r = io_make_dir(dir, parts[i], 0755, err);
                if (snprintf(path[i], PATH_MAX, "%s/" DIR_TMP "/%s/%s/%s", build->store->root, build->lease->name,
                            root->dir.text, parts[i]) >= PATH_MAX)
                        return err_set(err, ERR_TOO_LARGE, ENAMETOOLONG, "the store's path is too long");
        }
        if (r == 0)
                *ret_dir = TAKE_FD(dir);
        return r;
}

static int mount_parts(struct build_root *root, struct overlay *overlay, char path[3][PATH_MAX], bool writable,
        struct build_root *ret, struct err **err)
{
        int r;

        overlay->user_xattr = root->build->store->user_xattr;
        overlay->is_volatile = true;
        overlay->upper = writable ? path[0] : NULL;
        overlay->work = writable ? path[1] : NULL;
        overlay->fuse_target = path[2];
        r = overlay_mount(overlay, &root->mount, err);
        if (r < 0)
                return r;
        *ret = *root;
        *root = (struct build_root)BUILD_ROOT_EMPTY;
        return 0;
}

int build_root_open(struct build *build, const json_t *config, bool writable, struct build_root *ret, struct err **err)
{
        _cleanup_(build_root_close) struct build_root root = BUILD_ROOT_EMPTY;
        _cleanup_(instance_free_paths) char **lower = NULL;
        _cleanup_free_ struct digest *diff_ids = NULL;
        _cleanup_close_ int dir = -1;
        struct overlay overlay = { .lower = NULL };
        char path[3][PATH_MAX];
        size_t n = 0;
        int r = make_parts(build, &root, &dir, path, err);

        if (r == 0)
                r = read_diff_ids(config, &diff_ids, &n, err);
        if (r == 0)
                r = instance_lower_paths(build->store, diff_ids, n, !writable, &lower, &overlay.n_lower, err);
        if (r == 0 && writable)
                r = io_open_dir(dir, "upper", &root.upper, err);
        if (r == 0 && writable)
                r = root_attributes(build, lower[0], root.upper, err);
        if (r == 0 && writable)
                r = implied_repair(build->store, diff_ids, n, root.upper, err);
        if (r < 0)
                return r;
        overlay.lower = (const char *const *)lower;
        return mount_parts(&root, &overlay, path, writable, ret, err);
}

/* --- of the context ------------------------------------------------------------------------------------------------------------- */

struct hiding {
        const struct build *build;
        const char *start; /* the directory, clean */
        int cover;         /* what lies over it */
};

static const char *below_start(const struct hiding *h, const char *path)
{
        path += strlen(h->start);
        return path + (*path == '/');
}

/* The directories above, as they are in the context. */
static int cover_parents(const struct hiding *h, const char *path, struct err **err)
{
        char prefix[PATH_MAX];
        struct stat st;

        for (const char *slash = strchr(below_start(h, path), '/'); slash; slash = strchr(slash + 1, '/')) {
                const char *name;

                snprintf(prefix, sizeof(prefix), "%.*s", (int)(slash - path), path);
                name = below_start(h, prefix);
                if (mkdirat(h->cover, name, 0700) < 0) {
                        if (errno != EEXIST)
                                return err_sys(err, errno, "hiding '%s'", path);
                        continue;
                }
                if (fstatat(h->build->context, prefix, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
                        (!h->build->store->squash_owners && fchownat(h->cover, name, st.st_uid, st.st_gid, 0) < 0) ||
                        fchmodat(h->cover, name, st.st_mode & 07777, 0) < 0)
                        return err_sys(err, errno, "hiding '%s'", path);
        }
        return 0;
}

struct search {
        const struct dockerignore *ignore;
        bool found;
};

static int find_wanted(void *opaque, int fd, const char *path, const struct stat *st, struct err **err)
{
        struct search *search = opaque;

        search->found |= !dockerignore_matches(search->ignore, path);
        return search->found ? -ECANCELED : 0;
}

/* An overlay's whiteout hides what has its name below. */
static int hide(void *opaque, int fd, const char *path, const struct stat *st, struct err **err)
{
        const struct hiding *h = opaque;
        struct search search = { .ignore = h->build->ignore };
        int r;

        if (!dockerignore_matches(h->build->ignore, path))
                return 0;
        if (S_ISDIR(st->st_mode) && dockerignore_has_exceptions(h->build->ignore)) {
                r = walk_tree(h->build->context, path, find_wanted, &search, err);
                if (r < 0 && r != -ECANCELED)
                        return r;
                if (search.found)
                        return 0;
        }
        r = cover_parents(h, path, err);
        if (r == 0 && mknodat(h->cover, below_start(h, path), S_IFCHR, 0) < 0)
                r = err_sys(err, errno, "hiding '%s'", path);
        return r < 0 ? r : 1;
}

int build_root_of_context(
        struct build *build, const char *path, int fd, bool writable, struct build_root *ret, struct err **err)
{
        _cleanup_(build_root_close) struct build_root root = BUILD_ROOT_EMPTY;
        _cleanup_close_ int dir = -1, cover = -1;
        char part[3][PATH_MAX], source[PATH_MAX];
        /* read-only the cover is one more of the lower ones */
        const char *const lower[] = { part[0], source };
        struct overlay overlay = { .lower = lower + writable, .n_lower = writable ? 1 : 2 };
        struct hiding hiding = { .build = build, .start = path };
        const ssize_t n = readlink(io_fd_path(fd).text, source, sizeof(source) - 1);
        int r = n < 0 ? err_sys(err, errno, "opening '%s'", path) : make_parts(build, &root, &dir, part, err);

        if (r == 0)
                r = io_open_dir(dir, "upper", &cover, err);
        if (r < 0)
                return r;
        source[n] = '\0';
        hiding.cover = cover;
        r = root_attributes(build, source, cover, err);
        if (r == 0 && build->ignore)
                r = walk_tree(build->context, path, hide, &hiding, err);
        return r < 0 ? r : mount_parts(&root, &overlay, part, writable, ret, err);
}

void build_root_close(struct build_root *root)
{
        closep(&root->mount);
        closep(&root->upper);
        if (root->build)
                io_remove_tree(root->build->lease->tmp_fd, root->dir.text, NULL);
        *root = (struct build_root)BUILD_ROOT_EMPTY;
}

int build_root_commit(struct build_root *root, struct descriptor *ret, struct digest *ret_diff_id, struct err **err)
{
        const bool reproducible = getenv("SOURCE_DATE_EPOCH") != NULL;

        /* Everything has to be in the upper directory, and nothing may be done to it any more. */
        closep(&root->mount);
        root->mount = -1;
        return layer_from_upper(
                root->build->lease, root->upper, reproducible ? make_time() : -1, ret, ret_diff_id, err);
}

/* --- users ------------------------------------------------------------------------------------------------------------------------ */

#define USERS_FILE_MAX (4 * MIB)

static char *read_in_root(int root, const char *path)
{
        struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
                .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
        _cleanup_close_ int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
        char *text = NULL;

        return fd < 0 || io_read_stream(fd, USERS_FILE_MAX, &text, NULL, NULL) < 0 ? NULL : text;
}

static bool parse_id(const char *text, u32 *ret)
{
        char *end;
        const unsigned long v = strtoul(text, &end, 10);

        if (!*text || *end || v > UINT32_MAX - 1 || text[0] == '-' || text[0] == '+')
                return false;
        *ret = (u32)v;
        return true;
}

/* Calls @fn with the fields of each "a:b:c" line of @path. */
static void each_line(int root, const char *path, void (*fn)(void *opaque, char **fields, size_t n), void *opaque)
{
        _cleanup_free_ char *text = read_in_root(root, path);
        char *rest = text, *line;

        while (text && (line = strsep(&rest, "\n"))) {
                char *fields[8] = { NULL };
                size_t n = 0;

                while (n < ARRAY_SIZE(fields) && (fields[n] = strsep(&line, ":")))
                        n++;
                fn(opaque, fields, n);
        }
}

struct user_search {
        const char *name; /* or number */
        const char *group;
        struct build_user user;
        bool found, group_found;
        char own_name[64];
};

/* name:password:uid:gid:comment:home:shell */
static void match_user(void *opaque, char **f, size_t n)
{
        struct user_search *s = opaque;
        u32 uid, gid, wanted;

        if (s->found || n < 6 || !parse_id(f[2], &uid) || !parse_id(f[3], &gid))
                return;
        if (strcmp(f[0], s->name) != 0 && !(parse_id(s->name, &wanted) && wanted == uid))
                return;
        s->found = true;
        s->user.uid = uid;
        s->user.gid = gid;
        snprintf(s->user.home, sizeof(s->user.home), "%s", f[5]);
        snprintf(s->own_name, sizeof(s->own_name), "%s", f[0]);
}

/* name:password:gid:members */
static void match_group(void *opaque, char **f, size_t n)
{
        struct user_search *s = opaque;
        char *member;
        u32 gid;

        if (n < 4 || !parse_id(f[2], &gid))
                return;
        if (s->group && !s->group_found && strcmp(f[0], s->group) == 0) {
                s->group_found = true;
                s->user.gid = gid;
        }
        while (!s->group && s->own_name[0] && (member = strsep(&f[3], ",")))
                if (strcmp(member, s->own_name) == 0 && s->user.n_groups < ARRAY_SIZE(s->user.groups))
                        s->user.groups[s->user.n_groups++] = gid;
}

int build_user_find(int root, const char *text, struct build_user *ret, struct err **err)
{
        _cleanup_free_ char *copy = strdup(text[0] ? text : "0");
        struct user_search s = { .user.home = "/" };
        char *rest = copy;

        if (!copy)
                return err_sys(err, ENOMEM, "looking up a user");
        s.name = strsep(&rest, ":");
        s.group = rest && *rest ? rest : NULL;
        each_line(root, "etc/passwd", match_user, &s);
        if (!s.found && !parse_id(s.name, &s.user.uid))
                return err_set(err, ERR_NOT_FOUND, ENOENT, "there is no user '%.60s' in the image", s.name);
        if (!s.found && s.user.uid == 0)
                strcpy(s.user.home, "/root");
        each_line(root, "etc/group", match_group, &s);
        if (s.group && !s.group_found && !parse_id(s.group, &s.user.gid))
                return err_set(err, ERR_NOT_FOUND, ENOENT, "there is no group '%.60s' in the image", s.group);
        *ret = s.user;
        return 0;
}
