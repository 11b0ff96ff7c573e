/* The hidden modes of the strata command, with which a supervisor has its heavy work done: WORD ROOT ID. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "box/seal.h"
#include "health.h"
#include "ops.h"
#include "session.h"

static int start(struct instance *inst, struct err **err)
{
        const char *report = getenv(HELPER_REPORT);
        _cleanup_(err_freep) struct err *error = NULL;
        int r = 0;

        /* Before anything is made: it comes back here. The copy does not know where it came from. */
        if (inst->ops->needs_program(inst)) {
                setenv("STRATA_PROGRAMS", inst->host->programs, 1);
                r = seal_reexec(&error);
        }
        if (fcntl(HELPER_PORTS, F_SETFD, FD_CLOEXEC) == 0)
                inst->ports_to = HELPER_PORTS;
        fcntl(HELPER_LOCK, F_SETFD, FD_CLOEXEC);
        if (r == 0)
                r = launch_clean(inst, &error);
        if (r == 0)
                r = launch_instance(inst, &error);
        if (report)
                err_send(atoi(report), r, error);
        if (r < 0 && err)
                *err = TAKE_PTR(error);
        return r;
}

static int clean(struct instance *inst, struct err **err)
{
        fcntl(HELPER_LOCK, F_SETFD, FD_CLOEXEC);
        return instance_clean_up(inst, err);
}

static const struct {
        const char *word;
        int (*run)(struct instance *inst, struct err **err);
} modes[] = {
        { HELPER_START, start },
        { HELPER_CLEAN, clean },
        { HELPER_HEALTH, health_check },
};

static int run(const char *word, const char *root, const char *id, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        int r = instance_host_open(&(struct instance_host_options){ .root = root }, &host, err);

        if (r == 0)
                r = id_is_valid(id) ? instance_find(host, id, &inst, err) : -1;
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(modes); i++)
                if (strcmp(modes[i].word, word) == 0)
                        return modes[i].run(inst, err);
        return r;
}

int instance_helper_main(int argc, char **argv)
{
        _cleanup_(err_freep) struct err *err = NULL;
        int r;

        if (argc != 3)
                return 124;
        r = run(argv[0], argv[1], argv[2], &err);
        return r < 0 ? helper_status(err) : r;
}
