/* Which hierarchies the host has, where they are mounted and where in them the caller is. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#include "box/cgroup/internal.h"

#define ROOT_MOUNT "/sys/fs/cgroup"

static const char *const names[] = {
#define CGROUP_CONTROLLER(id, name) [CONTROLLER_##id] = name,
#include "box/cgroup/controllers.def"
#undef CGROUP_CONTROLLER
};

const char *controller_name(enum controller controller)
{
        return names[controller];
}

enum controller controller_find(const char *name, size_t len)
{
        enum controller c;

        for (c = 0; c < CONTROLLER_COUNT; c++)
                if (strlen(names[c]) == len && memcmp(names[c], name, len) == 0)
                        break;
        return c;
}

/* ---- text ---- */

static int no_memory(struct err **err)
{
        return err_sys(err, ENOMEM, "reading the host's cgroup hierarchies");
}

/* Cuts the next word off *pos. */
static char *next_word(char **pos, const char *separators)
{
        return strsep(pos, separators);
}

/* mountinfo writes space, tab, newline and backslash as octal. */
static void unescape(char *text)
{
        char *out = text;

        for (; *text; text++) {
                if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && isdigit((unsigned char)text[2]) &&
                        isdigit((unsigned char)text[3])) {
                        *out++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
                        text += 3;
                } else {
                        *out++ = *text;
                }
        }
        *out = 0;
}

int cgroup_path_clean(const char *path, char **ret, struct err **err)
{
        _cleanup_free_ char *copy = strdup(path);
        char *out = calloc(1, strlen(path) + 2), *pos = copy, *word;
        size_t len = 0;

        if (!copy || !out) {
                free(out);
                return no_memory(err);
        }
        while ((word = next_word(&pos, "/"))) {
                bool bad = strlen(word) > 255;

                for (const char *c = word; *c; c++)
                        bad |= iscntrl((unsigned char)*c);
                if (bad) {
                        free(out);
                        return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%.60s' cannot be a path of cgroups", path);
                }
                if (!*word || strcmp(word, ".") == 0)
                        continue;
                if (strcmp(word, "..") == 0) {
                        while (len && out[--len] != '/')
                                ;
                        out[len] = 0;
                        continue;
                }
                out[len++] = '/';
                strcpy(out + len, word);
                len += strlen(word);
        }
        *ret = out;
        return 0;
}

/* ---- hierarchies ---- */

static bool is_separate_option(const char *option)
{
        static const char *const generic[] = { "rw", "ro", "noprefix", "clone_children", "xattr", "cpuset_v2_mode",
                "favordynmods", "nsdelegate", "memory_localevents", "memory_recursiveprot", "memory_hugetlb_accounting",
                "pids_localevents", NULL };

        for (size_t i = 0; generic[i]; i++)
                if (strcmp(generic[i], option) == 0)
                        return false;
        return strncmp(option, "release_agent=", 14) != 0;
}

/* What a v1 mount is, from its super block options "rw,cpu,cpuacct" or "rw,name=systemd": fills controllers and
 * options. */
static int read_options(struct hierarchy *h, char *options, struct err **err)
{
        char text[512] = "", *word;
        bool named = false;

        while ((word = next_word(&options, ","))) {
                const enum controller c = controller_find(word, strlen(word));
                const size_t len = strlen(text);

                if (!is_separate_option(word))
                        continue;
                named |= strncmp(word, "name=", 5) == 0;
                if (c != CONTROLLER_COUNT)
                        h->controllers |= (u32)BIT(c);
                snprintf(text + len, sizeof(text) - len, "%s%s", len ? "," : "", word);
        }
        h->face.options = NULL;
        return asprintf((char **)&h->face.options, "%s%s", named && !h->controllers ? "none," : "", text) < 0
                       ? no_memory(err)
                       : 0;
}

static int set_text(const char **ret, const char *text, struct err **err)
{
        free((char *)*ret);
        *ret = strdup(text);
        return *ret ? 0 : no_memory(err);
}

/* Whether another mount of the same hierarchy was seen already. */
static bool is_known(const struct cgroup *layout, bool v2, const char *options)
{
        for (size_t i = 0; i < layout->n; i++) {
                const struct cgroup_hierarchy *face = &layout->hierarchy[i].face;

                if (face->v2 == v2 && (v2 || strcmp(face->options, options) == 0))
                        return true;
        }
        return false;
}

void hierarchy_clear(struct hierarchy *h)
{
        closep(&h->dir);
        closep(&h->enter);
        free((char *)h->face.name);
        free((char *)h->face.mount);
        free((char *)h->face.path);
        free((char *)h->face.options);
        free(h->root);
        free(h->own);
        free(h->group);
}

static int add_hierarchy(
        struct cgroup *layout, bool v2, const char *root, const char *mount, char *options, struct err **err)
{
        struct hierarchy h = {
                .ops = v2 ? &hierarchy_v2_ops : &hierarchy_v1_ops, .face.v2 = v2, .dir = -1, .enter = -1
        };
        int r = v2 ? 0 : read_options(&h, options, err);

        if (r >= 0)
                r = set_text(&h.face.mount, mount, err);
        if (r >= 0)
                r = set_text(&h.face.name, strrchr(mount, '/') + 1, err);
        if (r >= 0)
                r = cgroup_path_clean(root, &h.root, err);
        if (r < 0 || layout->n == HIERARCHIES_MAX || is_known(layout, v2, h.face.options)) {
                hierarchy_clear(&h);
                return r;
        }
        layout->hierarchy[layout->n++] = h;
        return 0;
}

/* One line: ID PARENT MAJOR:MINOR ROOT MOUNT OPTIONS [TAG...] - TYPE SOURCE SUPER-OPTIONS (proc(5)). */
static int read_mount(struct cgroup *layout, char *line, struct err **err)
{
        char *tail = strstr(line, " - "), *word[5], *type, *source;

        if (!tail)
                return 0;
        *tail = 0;
        tail += 3;
        type = next_word(&tail, " ");
        if (strcmp(type, "cgroup") != 0 && strcmp(type, "cgroup2") != 0)
                return 0;
        source = next_word(&tail, " ");
        for (size_t i = 0; i < ARRAY_SIZE(word); i++)
                word[i] = next_word(&line, " ");
        if (!source || !tail || !word[4])
                return 0;
        unescape(word[3]);
        unescape(word[4]);
        if (word[4][0] != '/')
                return 0;
        return add_hierarchy(layout, strcmp(type, "cgroup2") == 0, word[3], word[4], tail, err);
}

/* The caller's group at @path of the hierarchy, as seen from the mount. A mount in a container may show only a part of
 * the hierarchy; outside of that part there is nothing better than its root. */
static int set_own(struct hierarchy *h, const char *path, struct err **err)
{
        const size_t n = strlen(h->root);
        _cleanup_free_ char *own = NULL;
        int r = cgroup_path_clean(path, &own, err);

        if (r < 0)
                return r;
        free(h->own);
        h->own = strdup(n == 0 ? own : strncmp(own, h->root, n) == 0 && (own[n] == '/' || !own[n]) ? own + n : "");
        return h->own ? 0 : no_memory(err);
}

/* "cpu,cpuacct" of /proc/self/cgroup against "cpu,cpuacct" or "none,name=systemd" of the mount. */
static bool same_hierarchy(const struct hierarchy *h, const char *list)
{
        const char *options = h->face.options;

        if (h->face.v2)
                return !*list;
        if (strncmp(options, "none,", 5) == 0)
                options += 5;
        if (strncmp(list, "name=", 5) == 0 || !h->controllers)
                return strcmp(options, list) == 0;
        /* The order of controllers is the kernel's in both, but be sure: the first one decides. */
        return h->controllers & BIT(controller_find(list, strcspn(list, ",")));
}

/* One line: ID:CONTROLLER[,CONTROLLER]:PATH (cgroups(7)). */
static int read_own(struct cgroup *layout, char *line, struct err **err)
{
        char *list, *pos = line;

        next_word(&pos, ":");
        list = next_word(&pos, ":");
        for (size_t i = 0; list && pos && i < layout->n; i++)
                if (same_hierarchy(&layout->hierarchy[i], list))
                        return set_own(&layout->hierarchy[i], pos, err);
        return 0;
}

static int for_each_line(
        struct cgroup *layout, const char *text, int (*fn)(struct cgroup *, char *, struct err **), struct err **err)
{
        _cleanup_free_ char *copy = strdup(text);
        char *pos = copy, *line;
        int r = copy ? 0 : no_memory(err);

        while (r >= 0 && (line = cgroup_next_line(&pos)))
                r = fn(layout, line, err);
        return r;
}

int cgroup_layout_parse(const char *mountinfo, const char *self, struct cgroup **ret, struct err **err)
{
        _cleanup_(cgroup_freep) struct cgroup *layout = calloc(1, sizeof(*layout));
        int r = layout ? for_each_line(layout, mountinfo, read_mount, err) : no_memory(err);

        if (r >= 0)
                r = for_each_line(layout, self, read_own, err);
        for (size_t i = 0; r >= 0 && i < layout->n; i++)
                if (!layout->hierarchy[i].own)
                        r = set_own(&layout->hierarchy[i], "/", err);
        if (r < 0)
                return r;
        if (layout->n == 0)
                return err_set(err, ERR_UNSUPPORTED, ENOENT, "no cgroup file system is mounted");
        if (layout->n == 1 && layout->hierarchy[0].face.v2) {
                layout->hierarchy[0].full = true;
                r = set_text(&layout->hierarchy[0].face.name, "", err);
        }
        if (r >= 0)
                *ret = TAKE_PTR(layout);
        return r;
}

int cgroup_layout(struct cgroup **ret, struct err **err)
{
        /* What nearly every host has needs no look at its mounts. */
        static const char unified[] = "0 0 0:0 / " ROOT_MOUNT " rw - cgroup2 cgroup2 rw";
        _cleanup_free_ char *mountinfo = NULL, *self = NULL;
        struct statfs fs;
        int r = 0;

        if (statfs(ROOT_MOUNT, &fs) < 0 || fs.f_type != CGROUP2_SUPER_MAGIC)
                r = cgroup_read(AT_FDCWD, "/proc/self/mountinfo", &mountinfo, err);
        if (r >= 0)
                r = cgroup_read(AT_FDCWD, "/proc/self/cgroup", &self, err);
        if (r < 0)
                return err_wrap(err, r, "reading the host's cgroup hierarchies");
        return cgroup_layout_parse(mountinfo ? mountinfo : unified, self, ret, err);
}

struct cgroup *cgroup_free(struct cgroup *cg)
{
        if (cg) {
                for (size_t i = 0; i < cg->n; i++)
                        hierarchy_clear(&cg->hierarchy[i]);
                free(cg->unit);
                free(cg);
        }
        return NULL;
}
