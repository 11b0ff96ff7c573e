/* Which engines this build has, and which of them to take. */
#include <errno.h>
#include <string.h>

#include "cpu.h"

const struct cpu_engine *const cpu_engines[] = {
        &kvm_engine,
        &translate_engine,
        &interp_engine,
        NULL,
};

/* The first that can run here at a useful speed. Failing that the last that can run at all: the list ends with the
 * interpreter, which is slow as well but depends on nothing. */
static const struct cpu_engine *find_auto(struct err **err)
{
        const struct cpu_engine *slow = NULL;

        for (size_t i = 0; cpu_engines[i]; i++) {
                unsigned caps = cpu_engines[i]->caps;

                if (cpu_engines[i]->probe && cpu_engines[i]->probe(&caps, NULL) < 0)
                        continue;
                if (caps & ENGINE_CAP_FAST)
                        return cpu_engines[i];
                slow = cpu_engines[i];
        }
        if (!slow)
                err_set(err, ERR_UNSUPPORTED, ENOTSUP, "no CPU engine of this build can run on this host");
        return slow;
}

const struct cpu_engine *cpu_engine_find(const char *name, struct err **err)
{
        if (strcmp(name, "auto") == 0)
                return find_auto(err);
        for (size_t i = 0; cpu_engines[i]; i++) {
                unsigned caps = cpu_engines[i]->caps;
                int r;

                if (strcmp(cpu_engines[i]->name, name) != 0)
                        continue;
                r = cpu_engines[i]->probe ? cpu_engines[i]->probe(&caps, err) : 0;
                if (r < 0) {
                        err_wrap(err, r, "engine '%s' cannot run on this host", name);
                        err_hint(err, r, "--engine auto takes the best one that can");
                        return NULL;
                }
                return cpu_engines[i];
        }
        err_set(err, ERR_USAGE, EINVAL, "there is no CPU engine '%s'", name);
        err_hint(err, -EINVAL, "engines of this build: auto, kvm, translate, interp");
        return NULL;
}
