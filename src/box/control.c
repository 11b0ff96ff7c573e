/* What is done to containers that exist: each call loads the state, looks at the process, acts. */
#include <dirent.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "hooks.h"
#include "rdt.h"
#include "state.h"
#include "sys.h"

/* The container and its groups; groups that are gone make *ret_cgroup NULL. */
static int load(const struct box_runtime *runtime, const char *id, struct box_handle **ret, struct cgroup **ret_cgroup,
        struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        int r = state_load(runtime, id, &h, err);

        if (r == 0 && ret_cgroup && h->cgroup)
                r = cgroup_load(h->cgroup, ret_cgroup, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(h);
        return 0;
}

/* As load, for what makes sense only while it runs. */
static int load_alive(const struct box_runtime *runtime, const char *id, const char *what, struct box_handle **ret,
        struct cgroup **ret_cgroup, struct err **err)
{
        int r = load(runtime, id, ret, ret_cgroup, err);

        if (r < 0)
                return r;
        if (state_quick_status(*ret) == BOX_STOPPED)
                return err_set(err, ERR_BUSY, EBUSY, "cannot %s container '%s': container not running", what, id);
        if (ret_cgroup && !*ret_cgroup)
                return err_set(
                        err, ERR_UNSUPPORTED, ENOTSUP, "cannot %s container '%s': it has no control group", what, id);
        return 0;
}

int box_kill(const struct box_runtime *runtime, const char *id, int signal, bool all, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_(cgroup_freep) struct cgroup *cg = NULL;
        _cleanup_(spec_freep) struct spec *spec = NULL;
        _cleanup_close_ int pidfd = -1;
        bool frozen = false;
        int r = load(runtime, id, &h, &cg, err);

        if (r < 0)
                return r;
        pidfd = state_pidfd(h);
        /* Without a pid namespace of its own the others do not die with the first process. */
        if (signal == SIGKILL && !all && cg && cgroup_exists(cg)) {
                r = state_load_config(h, &spec, err);
                if (r < 0)
                        return r;
                all = !(spec->namespaces_new & CLONE_NEWPID);
        }
        if (all && cg)
                return cgroup_kill(cg, signal, err);
        if (pidfd < 0)
                return err_set(err, ERR_BUSY, ESRCH, "cannot kill container '%s': container not running", id);
        r = sys_pidfd_send_signal(pidfd, signal);
        if (r < 0)
                return err_sys(err, -r, "sending signal %d to container '%s'", signal, id);
        /* A frozen process does not die of it: as runc does, let it. */
        if (signal == SIGKILL && cg && cgroup_is_frozen(cg, &frozen, NULL) == 0 && frozen)
                cgroup_freeze(cg, false, NULL);
        return 0;
}

/* A process that somebody moved into a frozen group of his own (v1 lets him) is moved back, where it thaws and dies. */
static int fetch_back(const struct box_handle *h, struct cgroup *cg)
{
        return cg ? cgroup_join(cg, h->pid, false, NULL) : -ESRCH;
}

static int wait_dead(int pidfd, int timeout_ms)
{
        struct pollfd p = { .fd = pidfd, .events = POLLIN };

        return poll(&p, 1, timeout_ms) > 0 ? 0 : -ETIMEDOUT;
}

enum { INCOMPLETE_TRIES = 100 };

/* What a runtime that was killed while creating left: the directory, and groups whose path is known only from the
 * configuration. */
static int delete_incomplete(const struct box_handle *h, struct err **err)
{
        _cleanup_(spec_freep) struct spec *spec = NULL;
        _cleanup_(cgroup_freep) struct cgroup *cg = NULL;

        if (state_load_config(h, &spec, NULL) == 0) {
                const struct cgroup_spec group = {
                        .id = h->id,
                        .path = spec->linux_.cgroups_path,
                        .driver = h->runtime->cgroup_driver,
                        .rootless = h->runtime->rootless,
                        .annotations = spec->annotations,
                };

                int r = cgroup_create(&group, &cg, NULL);

                /* Its process may still be dying in there: it ends when it notices that its runtime is gone. */
                for (int i = 0; r == -EBUSY && i < INCOMPLETE_TRIES; i++) {
                        usleep(20000);
                        r = cgroup_create(&group, &cg, NULL);
                }
                if (r == 0)
                        r = cgroup_remove(cg, err);
                if (r < 0)
                        return err_wrap(err, r, "deleting container '%s', which was never completed", h->id);
        }
        return state_remove(h, err);
}

int box_delete(const struct box_runtime *runtime, const char *id, bool force, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_(cgroup_freep) struct cgroup *cg = NULL;
        _cleanup_(spec_freep) struct spec *spec = NULL;
        _cleanup_close_ int pidfd = -1;
        enum box_status status;
        int r = state_open(runtime, id, &h, err);

        if (r < 0)
                return r == -ENOENT && force ? (err ? (*err = err_free(*err), 0) : 0) : r;
        r = state_read(h, force ? NULL : err);
        if (r < 0)
                return force ? delete_incomplete(h, err) : r;
        if (h->cgroup) {
                r = cgroup_load(h->cgroup, &cg, err);
                if (r < 0)
                        return r;
        }
        status = state_quick_status(h);
        /* A created container has run nothing of its own: it may go as it is. */
        if (status == BOX_RUNNING && !force) {
                r = err_set(err, ERR_BUSY, EBUSY, "cannot delete container '%s' that is not stopped: running", id);
                return err_hint(err, r, "kill it first, or use delete --force");
        }
        if (status != BOX_STOPPED) {
                pidfd = state_pidfd(h);
                if (pidfd >= 0) {
                        sys_pidfd_send_signal(pidfd, SIGKILL);
                        if (cg)
                                cgroup_kill(cg, SIGKILL, NULL);
                        r = wait_dead(pidfd, 1000);
                        if (r < 0 && fetch_back(h, cg) == 0)
                                r = wait_dead(pidfd, 10000);
                        if (r < 0)
                                return err_sys(err, EBUSY, "container '%s' does not die", id);
                }
        }
        if (cg) {
                r = cgroup_remove(cg, err);
                if (r < 0)
                        return err_wrap(err, r, "deleting container '%s'", id);
        }
        rdt_remove(h);
        state_load_config(h, &spec, NULL);
        r = state_remove(h, err);
        if (r == 0 && spec)
                hooks_run_poststop(spec, h);
        return r;
}

static int freeze(const struct box_runtime *runtime, const char *id, bool on, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_(cgroup_freep) struct cgroup *cg = NULL;
        bool frozen = false;
        int r = load_alive(runtime, id, on ? "pause" : "resume", &h, &cg, err);

        if (r < 0)
                return r;
        r = cgroup_is_frozen(cg, &frozen, err);
        if (r < 0)
                return r;
        if (frozen == on)
                return err_set(err, ERR_BUSY, EBUSY,
                        on ? "container '%s' is not running or created: paused"
                           : "container '%s' is not paused: container not paused",
                        id);
        return cgroup_freeze(cg, on, err);
}

int box_pause(const struct box_runtime *runtime, const char *id, struct err **err)
{
        return freeze(runtime, id, true, err);
}

int box_resume(const struct box_runtime *runtime, const char *id, struct err **err)
{
        return freeze(runtime, id, false, err);
}

int box_update(const struct box_runtime *runtime, const char *id, const json_t *resources, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_(cgroup_freep) struct cgroup *cg = NULL;
        _cleanup_(cgroup_resources_freep) struct cgroup_resources *res = NULL;
        int r = cgroup_resources_parse(resources, &res, err);

        if (r == 0)
                r = load_alive(runtime, id, "update", &h, &cg, err);
        return r < 0 ? r : cgroup_apply(cg, res, err);
}

static int full_state(const struct box_handle *h, json_t **ret, struct err **err)
{
        enum box_status status;
        json_t *json;
        int r = state_status(h, &status, err);

        if (r < 0)
                return r;
        json = state_object(h, box_status_name(status));
        if (!json || json_object_set_new(json, "owner", json_integer(h->owner)) < 0)
                return err_sys(err, ENOMEM, "reading the state of '%s'", h->id);
        *ret = json;
        return 0;
}

int box_state(const struct box_runtime *runtime, const char *id, json_t **ret, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        int r = state_load(runtime, id, &h, err);

        return r < 0 ? r : full_state(h, ret, err);
}

static int by_id(const void *a, const void *b)
{
        const json_t *const *x = a, *const *y = b;

        return strcmp(json_string_value(json_object_get(*x, "id")), json_string_value(json_object_get(*y, "id")));
}

int box_list(const struct box_runtime *runtime, json_t **ret, struct err **err)
{
        DIR *dir = opendir(runtime->root);
        json_t **item = NULL, *list = json_array();
        size_t n = 0, room = 0;
        struct dirent *entry;

        if (!list || (!dir && errno != ENOENT))
                return err_sys(err, dir ? ENOMEM : errno, "listing '%s'", runtime->root);
        while (dir && (entry = readdir(dir))) {
                _cleanup_(state_freep) struct box_handle *h = NULL;
                json_t *state;

                /* What vanishes or was never completed is not there. */
                if (entry->d_name[0] == '.' || state_load(runtime, entry->d_name, &h, NULL) < 0 ||
                        full_state(h, &state, NULL) < 0)
                        continue;
                if (n == room) {
                        json_t **more = reallocarray(item, room ? room * 2 : 64, sizeof(*item));

                        if (!more) {
                                json_decref(state);
                                break;
                        }
                        item = more;
                        room = room ? room * 2 : 64;
                }
                item[n++] = state;
        }
        if (dir)
                closedir(dir);
        if (n)
                qsort(item, n, sizeof(*item), by_id);
        for (size_t i = 0; i < n; i++)
                json_array_append_new(list, item[i]);
        free(item);
        *ret = list;
        return 0;
}

int box_pids(const struct box_runtime *runtime, const char *id, pid_t **ret, size_t *ret_n, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_(cgroup_freep) struct cgroup *cg = NULL;
        int r = load(runtime, id, &h, &cg, err);

        if (r < 0)
                return r;
        if (!cg)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP,
                        "cannot list the processes of container '%s': it has no control group", id);
        return cgroup_pids(cg, ret, ret_n, err);
}

int box_stats(const struct box_runtime *runtime, const char *id, json_t **ret, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_(cgroup_freep) struct cgroup *cg = NULL;
        int r = load_alive(runtime, id, "read the statistics of", &h, &cg, err);

        return r < 0 ? r : cgroup_stats(cg, ret, err);
}

static int emit_stats(
        struct cgroup *cg, int (*emit)(const char *type, const json_t *data, void *arg), void *arg, struct err **err)
{
        json_t *data;
        int r = cgroup_stats(cg, &data, err);

        if (r < 0)
                return r;
        r = emit("stats", data, arg);
        json_decref(data);
        return r;
}

/* v1 wakes its watchers when memory is used up and counts later, when something was killed for it. */
enum { OOM_AGAIN_MS = 20, OOM_TRIES = 100 };

int box_events(const struct box_runtime *runtime, const char *id, unsigned interval_ms,
        int (*emit)(const char *type, const json_t *data, void *arg), void *arg, struct err **err)
{
        _cleanup_(state_freep) struct box_handle *h = NULL;
        _cleanup_(cgroup_freep) struct cgroup *cg = NULL;
        _cleanup_close_ int pidfd = -1, oom = -1;
        u64 seen = 0, count = 0;
        unsigned again = 0;
        int r = load_alive(runtime, id, "watch", &h, &cg, err);

        if (r < 0)
                return r;
        pidfd = state_pidfd(h);
        if (cgroup_oom_watch(cg, &oom, NULL) == 0)
                cgroup_oom_read(cg, oom, &seen, NULL);
        r = 0;
        while (r == 0) {
                struct pollfd p[2] = { { .fd = pidfd, .events = POLLIN }, { .fd = oom, .events = POLLIN | POLLPRI } };
                const int n = poll(p, 2, again ? OOM_AGAIN_MS : (int)MIN(interval_ms, 1000000000U));

                if (n < 0 && errno != EINTR)
                        return err_sys(err, errno, "waiting for events");
                if (p[1].revents)
                        again = OOM_TRIES;
                if (again) {
                        again--;
                        if (cgroup_oom_read(cg, oom, &count, NULL) < 0 || seen < count)
                                again = 0;
                        for (; seen < count && r == 0; seen++)
                                r = emit("oom", NULL, arg);
                } else if (n == 0) {
                        r = emit_stats(cg, emit, arg, err);
                }
                if (p[0].revents)
                        break;
        }
        return r;
}
