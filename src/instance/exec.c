#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "ops.h"
#include "rights.h"

/* --- what it is to be ------------------------------------------------------------------------------------------- */

static int running_pid(struct instance *inst, pid_t *ret, struct err **err)
{
        const struct instance_state *state;
        int r = instance_get_state(inst, &state, err);

        if (r < 0)
                return r;
        if (state->status == INSTANCE_PAUSED)
                return err_set(err, ERR_BUSY, EBUSY, "the instance '%s' is paused", inst->config.name);
        if (state->status != INSTANCE_RUNNING || !state->pid)
                return err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
        *ret = state->pid;
        return 0;
}

static int join_env(struct instance *inst, const struct instance_exec *exec, struct instance_strings *ret)
{
        int r = 0;

        *ret = (struct instance_strings){ 0 };
        for (size_t i = 0; r == 0 && i < inst->config.env.n; i++) {
                const char *text = inst->config.env.item[i];
                const size_t n = strcspn(text, "=") + 1;
                bool given = false;

                for (const char *const *e = exec->env; e && *e; e++)
                        given |= strncmp(*e, text, n) == 0;
                if (!given)
                        r = strings_add(&inst->arena, ret, text);
        }
        for (const char *const *e = exec->env; r == 0 && e && *e; e++)
                if (strchr(*e, '='))
                        r = strings_add(&inst->arena, ret, *e);
        return r;
}

static int make_process(
        struct instance *inst, const struct instance_exec *exec, int root, json_t **ret, struct err **err)
{
        const struct instance_config *c = &inst->config;
        struct instance_config wanted = *c;
        struct security security;
        struct instance_strings env;
        struct build_user found;
        json_t *user = NULL, *args, *process;
        const char *cwd = exec->working_dir ? exec->working_dir : c->working_dir;
        u64 caps = 0;
        int r;

        wanted.privileged |= exec->privileged;
        r = security_parse(&wanted, &security, err);
        if (r == 0)
                r = rights_capabilities(&wanted, &caps, err);
        if (r == 0)
                r = spec_user(c, exec->user ? exec->user : c->user, root, &user, &found, err);
        if (r == 0 && join_env(inst, exec, &env) < 0)
                r = err_sys(err, ENOMEM, "exec");
        if (r < 0) {
                json_decref(user);
                return r;
        }
        args = json_array();
        for (const char *const *a = exec->argv; *a; a++)
                json_array_append_new(args, json_string(*a));
        process = json_pack("{s:b, s:o, s:o, s:o, s:s, s:o, s:b}", "terminal", exec->tty, "user", user, "args", args,
                "env", spec_environment(&env, found.home, NULL, exec->tty), "cwd", cwd && cwd[0] ? cwd : "/",
                "capabilities", rights_capabilities_json(caps, found.uid == 0), "noNewPrivileges",
                security.no_new_privileges);
        if (!process)
                return err_set(err, ERR_USAGE, EINVAL, "exec: a text is not UTF-8");
        if (c->oom_score_adj)
                json_object_set_new(process, "oomScoreAdj", json_integer(c->oom_score_adj));
        *ret = process;
        return 0;
}

int exec_process(struct instance *inst, const struct instance_exec *exec, json_t **ret, struct err **err)
{
        _cleanup_close_ int root = -1;
        pid_t pid = 0;
        int r = running_pid(inst, &pid, err);

        if (r == 0)
                r = inst->ops->root(inst, pid, &root, err);
        return r < 0 ? r : make_process(inst, exec, root, ret, err);
}

/* --- running it ------------------------------------------------------------------------------------------------- */

static int use_null(int fd)
{
        _cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);

        return null < 0 || dup2(null, fd) < 0 ? -errno : 0;
}

int instance_exec(struct instance *inst, const struct instance_exec *exec, int *ret_status, struct err **err)
{
        json_t *process = NULL;
        int r;

        if (!exec->argv || !exec->argv[0])
                return err_set(err, ERR_USAGE, EINVAL, "exec needs a command");
        r = exec_process(inst, exec, &process, err);
        if (r < 0)
                return r;
        if (exec->detach)
                for (int i = 0; i < 3; i++)
                        use_null(i);
        else if (!exec->open_stdin)
                use_null(0);
        r = inst->ops->exec(inst, exec, process, ret_status, err);
        json_decref(process);
        return r;
}
