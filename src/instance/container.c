/* Containers: the runtime (box) with a state directory of each instance's own. */
#include "container.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "groups.h"
#include "network.h"
#include "rights.h"

#define DIR_BUNDLE "bundle"

struct box_runtime container_runtime(const struct instance *inst)
{
        /* Below a directory that is open already: short, and never another's. The string lives as long as the handle. */
        return (struct box_runtime){ .root = inst->box_root, .rootless = inst->host->rootless };
}

/* --- starting --------------------------------------------------------------------------------------------------- */

static int write_bundle(struct launch_plan *plan, struct err **err)
{
        json_t *json = NULL;
        _cleanup_free_ char *text = NULL;
        int r = spec_make(plan, &json, err);

        if (r < 0)
                return r;
        text = json_dumps(json, JSON_COMPACT);
        json_decref(json);
        if (!text)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "a text of the configuration is not UTF-8");
        r = io_make_dir(plan->inst->dir, DIR_BUNDLE, 0700, err);
        return r < 0 ? r : launch_write_file(plan->inst, DIR_BUNDLE "/config.json", text, err);
}

static pid_t read_pid(const struct instance *inst)
{
        _cleanup_free_ char *text = NULL;

        return io_read_file(inst->dir, FILE_PID, 32, &text, NULL, NULL) < 0 ? 0 : atoi(text);
}

static int run(struct launch_plan *plan, struct err **err)
{
        struct instance *inst = plan->inst;
        const struct box_runtime runtime = container_runtime(inst);
        _cleanup_free_ char *bundle = instance_path(inst, DIR_BUNDLE), *pid_file = instance_path(inst, FILE_PID);
        _cleanup_(err_freep) struct err *error = NULL;
        char console[64];
        struct box_create_args args = { .id = inst->id,
                .bundle = bundle,
                .stdio = {
                        .pid_file = pid_file, .detach = true, .console_socket = inst->config.tty ? console : NULL } };
        int status = 0, r;

        if (!bundle || !pid_file)
                return err_sys(err, ENOMEM, "starting the container");
        snprintf(console, sizeof(console), "/proc/self/fd/%d/" FILE_CONSOLE, inst->dir);
        r = io_make_dir(inst->dir, DIR_BOX, 0700, err);
        if (r < 0)
                return r;
        r = box_run(&runtime, &args, &status, &error);
        if (r < 0)
                return blame_command(r, &error, err);
        groups_find_oom_file(inst, read_pid(inst));
        return 0;
}

static int launch(struct launch_plan *plan, struct err **err)
{
        int r = write_bundle(plan, err);

        return r < 0 ? r : run(plan, err);
}

static bool needs_program(const struct instance *inst)
{
        const struct instance_config *c = &inst->config;
        struct security security;

        if (c->pid_mode && c->pid_mode[0] && strcmp(c->pid_mode, "private") != 0)
                return true;
        return security_parse(c, &security, NULL) == 0 && (security.apparmor || security.seccomp_file);
}

/* --- and back --------------------------------------------------------------------------------------------------- */

static int clean(struct instance *inst, struct err **err)
{
        const struct box_runtime runtime = container_runtime(inst);
        char path[sizeof(DIR_BOX) + ID_LEN + 16];
        bool recorded;
        int r;

        if (faccessat(inst->dir, DIR_BOX, F_OK, 0) < 0 || state_is_of_another_boot(inst))
                return 0;
        snprintf(path, sizeof(path), DIR_BOX "/%s/status", inst->id);
        recorded = faccessat(inst->dir, path, F_OK, 0) == 0;
        r = box_delete(&runtime, inst->id, true, recorded ? err : NULL);
        if (!recorded)
                groups_remove(inst);
        return !recorded || r == -ENOENT ? 0 : r;
}

/* --- while it runs ---------------------------------------------------------------------------------------------- */

static int freeze(struct instance *inst, bool freeze, struct err **err)
{
        const struct box_runtime runtime = container_runtime(inst);

        return freeze ? box_pause(&runtime, inst->id, err) : box_resume(&runtime, inst->id, err);
}

static bool is_frozen(struct instance *inst)
{
        const struct box_runtime runtime = container_runtime(inst);
        json_t *state = NULL;
        bool frozen;

        if (box_state(&runtime, inst->id, &state, NULL) < 0)
                return false;
        frozen = strcmp(json_string_value(json_object_get(state, "status")) ?: "", "paused") == 0;
        json_decref(state);
        return frozen;
}

static int update(struct instance *inst, struct err **err)
{
        const struct box_runtime runtime = container_runtime(inst);
        json_t *resources = NULL;
        int r = spec_resources(&inst->config.resources, &resources, err);

        if (r == 0)
                r = box_update(&runtime, inst->id, resources, err);
        json_decref(resources);
        return r;
}

static int open_root(struct instance *inst, pid_t pid, int *ret, struct err **err)
{
        char path[40];
        int fd;

        snprintf(path, sizeof(path), "/proc/%d/root", (int)pid);
        fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
        *ret = fd;
        return 0;
}

static void root_changed(struct instance *inst)
{
        /* It sees the same files. */
}

static int check(const struct instance_config *config, struct err **err)
{
        return 0;
}

static int prepare(struct instance *inst, struct err **err)
{
        return 0;
}

static void unspawn(pid_t pid)
{
        kill(pid, SIGKILL);
}

const struct instance_ops container_ops = {
        .name = "container",
        .has_namespaces = true,
        .check = check,
        .prepare = prepare,
        .needs_program = needs_program,
        .connect = network_connect,
        .launch = launch,
        .clean = clean,
        .freeze = freeze,
        .is_frozen = is_frozen,
        .update = update,
        .exec = container_exec,
        .spawn = container_spawn,
        .unspawn = unspawn,
        .stats = container_stats,
        .top = container_top,
        .root = open_root,
        .root_changed = root_changed,
};
