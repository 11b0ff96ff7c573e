/* Making a container's groups, and the record of them that later invocations start from. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "box/cgroup/internal.h"
#include "box/oci_read.h"

static int no_memory(struct err **err)
{
        return err_sys(err, ENOMEM, "making cgroups");
}

/* ---- where ---- */

static int set_group(struct hierarchy *h, const char *base, const char *below, struct err **err)
{
        _cleanup_free_ char *joined = NULL;
        int r;

        if (asprintf(&joined, "%s/%s", base, below) < 0)
                return no_memory(err);
        r = cgroup_path_clean(joined, &h->group, err);
        if (r < 0)
                return r;
        if (!*h->group)
                return err_set(err, ERR_BAD_CONFIG, EINVAL,
                        "cgroupsPath '%s' is the root of all cgroups, not a container's", below);
        return hierarchy_set_path(h, err);
}

/* An absolute cgroupsPath is below the hierarchy's mount, a relative one (and a name made from the id) below the
 * caller's own group, as runc has it: so whatever limits the caller limits its containers. On full v2 the caller's
 * group holds processes, so by the kernel's "no internal processes" rule nothing useful can be below it: its parent is
 * taken. */
static int place(struct hierarchy *h, const struct cgroup_spec *spec, struct err **err)
{
        const char *path = spec->path && *spec->path ? spec->path : spec->id;
        _cleanup_free_ char *clean = NULL, *base = NULL;
        int r = cgroup_path_clean(path, &clean, err);

        if (r < 0)
                return r;
        base = strdup(path[0] == '/' ? "" : h->own);
        if (!base)
                return no_memory(err);
        if (h->full && *base)
                *strrchr(base, '/') = 0;
        return set_group(h, base, clean, err);
}

/* ---- making ---- */

/* A new v1 cpuset has no CPUs and no memory nodes and takes no process until it has: it gets its parent's. */
static int inherit_cpuset(int parent, int dir, struct err **err)
{
        static const char *const files[] = { "cpuset.cpus", "cpuset.mems" };

        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                _cleanup_free_ char *text = NULL, *own = NULL;
                int r = cgroup_read(dir, files[i], &own, err);

                if (r >= 0 && !*own)
                        r = cgroup_read(parent, files[i], &text, err);
                if (r >= 0 && !*own)
                        r = cgroup_write(dir, files[i], text, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Writing "cpuset.cpus" makes the kernel look at every cpuset there is, which is what starts cost that grow with the
 * number of containers. Below a group with this flag new ones are born with their parent's values. Set only on groups
 * that are made here for others to be made in (/engine of /engine/ID): not on what the host made. */
static void let_inherit_cpuset(int dir)
{
        (void)cgroup_write(dir, "cgroup.clone_children", "1", NULL);
}

/* Lets the groups below @dir use the controllers @wanted that @dir itself has. Those that cannot be are missed only
 * when a limit needs them, so that is where the error is. Writing what is on already would cost a grace period for
 * nothing. */
static void enable_controllers(int dir, u32 wanted)
{
        _cleanup_free_ char *there = NULL, *on = NULL;
        char *pos, *word;

        if (cgroup_read(dir, "cgroup.controllers", &there, NULL) < 0 ||
                cgroup_read(dir, "cgroup.subtree_control", &on, NULL) < 0)
                return;
        for (pos = on; (word = strsep(&pos, " "));)
                wanted &= ~(u32)BIT(controller_find(word, strlen(word)));
        for (pos = there; (word = strsep(&pos, " "));) {
                const enum controller c = controller_find(word, strlen(word));
                char order[40];

                if (c == CONTROLLER_COUNT || !(wanted & BIT(c)))
                        continue;
                snprintf(order, sizeof(order), "+%s", word);
                (void)cgroup_write(dir, "cgroup.subtree_control", order, NULL);
        }
}

static u32 v2_controllers(int dir)
{
        _cleanup_free_ char *text = NULL;
        char *pos, *word;
        u32 mask = 0;

        if (cgroup_read(dir, "cgroup.controllers", &text, NULL) < 0)
                return 0;
        for (pos = text; (word = strsep(&pos, " "));) {
                const enum controller c = controller_find(word, strlen(word));

                if (c != CONTROLLER_COUNT)
                        mask |= (u32)BIT(c);
        }
        return mask;
}

/* What a container may need of a v2 hierarchy beside v1 ones: only what they do not have. */
static u32 controllers_wanted(const struct cgroup *cg, const struct hierarchy *h, const struct cgroup_resources *res)
{
        u32 wanted = 0;

        if (h->full)
                return UINT32_MAX;
        if (res && res->n_huge)
                wanted |= (u32)BIT(CONTROLLER_HUGETLB);
        if (res && res->n_rdma)
                wanted |= (u32)BIT(CONTROLLER_RDMA);
        for (size_t i = 0; i < cg->n; i++)
                if (!cg->hierarchy[i].face.v2)
                        wanted &= ~cg->hierarchy[i].controllers;
        return wanted;
}

static int open_dir(int parent, const char *name, int *ret, struct err **err)
{
        *ret = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        return *ret < 0 ? err_sys(err, errno, "opening '%s'", name) : 0;
}

/* One level: the group @name below @*dir, which is made if it is not there; *dir becomes the new one. */
static int make_level(struct hierarchy *h, int *dir, const char *name, bool last, u32 wanted, struct err **err)
{
        const bool cpuset = !h->face.v2 && hierarchy_has(h, CONTROLLER_CPUSET);
        const unsigned made_before = h->n_made;
        _cleanup_close_ int child = -1;
        int r;

        if (h->face.v2 && wanted)
                enable_controllers(*dir, wanted);
        if (last && h->shared) {
                r = cgroup_shared_open(*dir, &child, err);
                h->n_made += r >= 0;
        } else {
                if (mkdirat(*dir, name, 0755) == 0)
                        h->n_made++;
                else if (errno != EEXIST)
                        return err_sys(err, errno, "making '%s'", name);
                r = open_dir(*dir, name, &child, err);
        }
        if (r >= 0 && cpuset)
                r = inherit_cpuset(*dir, child, err);
        if (r < 0)
                return r;
        if (cpuset && !last && h->n_made > made_before)
                let_inherit_cpuset(child);
        closep(dir);
        *dir = TAKE_FD(child);
        return 0;
}

/* A group that was there before must not be somebody else's: removing the container kills what is in it. Nor may it be
 * frozen, for the container would never come to life in it, and nobody would see why. */
static int check_unused(const struct hierarchy *h, int dir, size_t expected, struct err **err)
{
        const char *const freezer = h->face.v2 ? "cgroup.freeze" : "freezer.state";
        _cleanup_free_ char *state = NULL;
        struct pid_list list = { 0 };
        int r;

        if (h->n_made || expected == SIZE_MAX)
                return 0;
        r = cgroup_collect_pids(dir, &list, err);
        free(list.pid);
        if (r < 0)
                return r;
        if (list.n > expected)
                return err_set(err, ERR_BUSY, EBUSY, "container's cgroup is not empty: %zu process(es) found", list.n);
        if (cgroup_has(dir, freezer) && cgroup_read(dir, freezer, &state, NULL) >= 0 &&
                strcmp(state, h->face.v2 ? "0" : "THAWED") != 0)
                return err_set(err, ERR_BUSY, EBUSY, "container's cgroup unexpectedly frozen");
        return 0;
}

/* Removes the last @n components of @path, which nobody has used yet. */
static void unmake(const char *path, unsigned n)
{
        _cleanup_free_ char *copy = strdup(path);

        for (; copy && n > 0 && rmdir(copy) == 0; n--)
                *strrchr(copy, '/') = 0;
}

static int make_levels(struct hierarchy *h, u32 wanted, size_t expected, char *reached, int *dir, struct err **err)
{
        _cleanup_free_ char *copy = strdup(h->face.path + strlen(h->face.mount) + 1);
        char *pos = copy, *name;
        int r = copy ? open_dir(AT_FDCWD, h->face.mount, dir, err) : no_memory(err);

        strcpy(reached, h->face.mount);
        while (r >= 0 && (name = strsep(&pos, "/"))) {
                strcat(strcat(reached, "/"), name);
                r = make_level(h, dir, name, !pos, wanted, err);
        }
        return r < 0 ? r : check_unused(h, *dir, expected, err);
}

int cgroup_make_group(struct hierarchy *h, u32 wanted, size_t expected, struct err **err)
{
        _cleanup_free_ char *reached = calloc(1, strlen(h->face.path) + 1);
        _cleanup_close_ int dir = -1;
        int r = reached ? make_levels(h, wanted, expected, reached, &dir, err) : no_memory(err);

        if (r < 0) {
                /* What is not ours must not look like it: whoever rolls back removes only what has a descriptor. */
                if (reached)
                        unmake(reached, h->n_made);
                h->n_made = 0;
                return err_wrap(err, r, "cgroup '%s'", h->face.path);
        }
        if (h->face.v2)
                h->controllers = v2_controllers(dir);
        h->dir = TAKE_FD(dir);
        return 0;
}

static void unmake_all(struct cgroup *cg)
{
        for (size_t i = 0; i < cg->n; i++)
                if (cg->hierarchy[i].dir >= 0 && cg->hierarchy[i].shared)
                        cgroup_shared_remove(&cg->hierarchy[i]);
                else if (cg->hierarchy[i].dir >= 0)
                        unmake(cg->hierarchy[i].face.path, cg->hierarchy[i].n_made);
        if (cg->unit)
                (void)cgroup_systemd_stop(cg->unit, cg->user_unit, NULL);
}

static void forget_hierarchy(struct cgroup *cg, size_t i)
{
        hierarchy_clear(&cg->hierarchy[i]);
        memmove(&cg->hierarchy[i], &cg->hierarchy[i + 1], (cg->n - i - 1) * sizeof(cg->hierarchy[0]));
        cg->n--;
}

static bool is_forbidden(int r)
{
        return r == -EACCES || r == -EPERM || r == -EROFS;
}

static int make_all(struct cgroup *cg, const struct cgroup_spec *spec, const char *group, struct err **err)
{
        for (size_t i = 0; i < cg->n;) {
                struct hierarchy *h = &cg->hierarchy[i];
                struct err *why = NULL;
                int r = group ? set_group(h, "", group, &why) : place(h, spec, &why);

                if (r >= 0 && !group && cgroup_may_share(cg, h, spec)) {
                        h->shared = h->born_shared = true;
                        r = hierarchy_set_path(h, &why);
                }
                if (r >= 0)
                        r = cgroup_make_group(h, controllers_wanted(cg, h, spec->resources), group ? 1 : 0, &why);
                if (r < 0 && spec->rootless && is_forbidden(r)) {
                        err_free(why);
                        forget_hierarchy(cg, i);
                        continue;
                }
                if (r < 0) {
                        if (err)
                                *err = why;
                        else
                                err_free(why);
                        return r;
                }
                i++;
        }
        return 0;
}

/* ---- delegation ---- */

/* v2: the container's root may manage what is below its group, not its own limits (spec, "Cgroup ownership"; which
 * files is the kernel's to say). */
static int delegate(const struct hierarchy *h, uid_t owner, struct err **err)
{
        _cleanup_free_ char *files = NULL;
        char *pos, *file;

        if (owner == geteuid())
                return 0;
        if (fchownat(h->dir, "", owner, (gid_t)-1, AT_EMPTY_PATH) < 0)
                return err_sys(err, errno, "giving cgroup '%s' to uid %u", h->face.path, owner);
        if (cgroup_read(AT_FDCWD, "/sys/kernel/cgroup/delegate", &files, NULL) < 0)
                files = strdup("cgroup.procs\ncgroup.threads\ncgroup.subtree_control");
        if (!files)
                return no_memory(err);
        for (pos = files; (file = cgroup_next_line(&pos));)
                if (fchownat(h->dir, file, owner, (gid_t)-1, AT_SYMLINK_NOFOLLOW) < 0 && errno != ENOENT)
                        return err_sys(err, errno, "giving '%s' of cgroup '%s' to uid %u", file, h->face.path, owner);
        return 0;
}

/* ---- create ---- */

/* systemd makes the group where it manages (v2, or name=systemd and some of v1's); in the others it is made at the
 * same path. */
static int create_systemd(struct cgroup *cg, const struct cgroup_spec *spec, struct err **err)
{
        _cleanup_free_ char *unit = NULL, *slice = NULL, *group = NULL;
        int r = cgroup_systemd_names(spec, &unit, &slice, err);

        if (r < 0)
                return r;
        r = cgroup_systemd_start(spec, unit, slice, cgroup_is_unified(cg), &group, err);
        if (r < 0)
                return r;
        cg->unit = TAKE_PTR(unit);
        cg->user_unit = spec->rootless;
        return make_all(cg, spec, group, err);
}

int cgroup_create_on(struct cgroup *layout, const struct cgroup_spec *spec, struct cgroup **ret, struct err **err)
{
        struct cgroup *cg = layout;
        int r = spec->driver == CGROUP_DRIVER_SYSTEMD ? create_systemd(cg, spec, err) : make_all(cg, spec, NULL, err);

        for (size_t i = 0; r >= 0 && spec->delegate && i < cg->n; i++)
                if (cg->hierarchy[i].face.v2)
                        r = delegate(&cg->hierarchy[i], spec->owner, err);
        /* Without rules of its own a container gets the default devices and no others. */
        if (r >= 0 && !(spec->resources && spec->resources->n_devices))
                r = cgroup_set_devices(cg, NULL, 0, err);
        if (r >= 0)
                r = cgroup_prepare_enter(cg, err);
        if (r < 0) {
                unmake_all(cg);
                cgroup_free(cg);
                return r;
        }
        *ret = cg;
        return 0;
}

int cgroup_create(const struct cgroup_spec *spec, struct cgroup **ret, struct err **err)
{
        struct cgroup *layout = NULL;
        int r;

        if (spec->driver == CGROUP_DRIVER_NONE) {
                *ret = calloc(1, sizeof(**ret));
                return *ret ? 0 : no_memory(err);
        }
        r = cgroup_layout(&layout, err);
        return r < 0 ? r : cgroup_create_on(layout, spec, ret, err);
}

/* ---- save and load ---- */

json_t *cgroup_save(const struct cgroup *cg)
{
        json_t *list = json_array(), *state;

        for (size_t i = 0; list && i < cg->n; i++) {
                const struct hierarchy *h = &cg->hierarchy[i];

                if (json_array_append_new(
                            list, json_pack("{s:s, s:s, s:s, s:s*, s:i, s:b, s:b, s:i, s:b}", "name", h->face.name,
                                          "mount", h->face.mount, "group", h->group, "options", h->face.options,
                                          "controllers", (int)h->controllers, "v2", h->face.v2, "full", h->full, "made",
                                          (int)h->n_made, "shared", h->born_shared)) < 0) {
                        json_decref(list);
                        list = NULL;
                }
        }
        state = list ? json_pack("{s:o, s:s*, s:b}", "hierarchies", list, "unit", cg->unit, "userUnit", cg->user_unit)
                     : NULL;
        return state;
}

static int load_text(const json_t *json, const char *key, const char **ret, struct err **err)
{
        const char *text = NULL;
        int r = oci_read_string(json, key, &text, err);

        if (r < 0 || !text)
                return r;
        *ret = strdup(text);
        return *ret ? 0 : no_memory(err);
}

static int load_hierarchy(const json_t *json, struct hierarchy *h, struct err **err)
{
        const char *group = NULL;
        s64 controllers = 0, made = 0;
        int r;

        *h = (struct hierarchy){ .dir = -1, .enter = -1 };
        r = load_text(json, "name", &h->face.name, err);
        if (r >= 0)
                r = load_text(json, "mount", &h->face.mount, err);
        if (r >= 0)
                r = load_text(json, "options", &h->face.options, err);
        if (r >= 0)
                r = oci_read_string(json, "group", &group, err);
        if (r >= 0)
                r = oci_read_bool(json, "v2", &h->face.v2, err);
        if (r >= 0)
                r = oci_read_bool(json, "full", &h->full, err);
        if (r >= 0)
                r = oci_read_bool(json, "shared", &h->shared, err);
        if (r >= 0)
                r = oci_read_int(json, "controllers", 0, UINT32_MAX, &controllers, err);
        if (r >= 0)
                r = oci_read_int(json, "made", 0, 1000, &made, err);
        if (r < 0)
                return r;
        if (!h->face.name || !h->face.mount || h->face.mount[0] != '/' || !group)
                return err_set(err, ERR_BAD_STATE, EINVAL, "the container's state does not say where its cgroups are");
        h->ops = h->face.v2 ? &hierarchy_v2_ops : &hierarchy_v1_ops;
        h->controllers = (u32)controllers;
        h->n_made = (unsigned)made;
        h->born_shared = h->shared;
        r = set_group(h, "", group, err);
        return r < 0 ? r : hierarchy_settle(h, err);
}

int cgroup_load(const json_t *state, struct cgroup **ret, struct err **err)
{
        _cleanup_(cgroup_freep) struct cgroup *cg = calloc(1, sizeof(*cg));
        const json_t *list = NULL;
        int r = cg ? oci_read_array(state, "hierarchies", &list, err) : no_memory(err);

        if (r >= 0)
                r = load_text(state, "unit", (const char **)&cg->unit, err);
        if (r >= 0)
                r = oci_read_bool(state, "userUnit", &cg->user_unit, err);
        if (r >= 0 && json_array_size(list) > HIERARCHIES_MAX)
                r = err_set(err, ERR_BAD_STATE, EINVAL, "the container's state has more than %d cgroup hierarchies",
                        HIERARCHIES_MAX);
        for (size_t i = 0; r >= 0 && i < json_array_size(list); i++)
                r = load_hierarchy(json_array_get(list, i), &cg->hierarchy[cg->n++], err);
        if (r >= 0)
                *ret = TAKE_PTR(cg);
        return r;
}
