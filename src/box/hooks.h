/* Hooks: programs that the configuration wants run at points of a container's life. Each gets the state object on
 * stdin. */
#pragma once

#include "spec/spec.h"

/* Runs them one after another in the calling process's namespaces. @state is the object as text. The first that fails
 * or takes longer than its timeout ends it. @cwd: NULL to stay. */
int hooks_run(
        const struct spec *spec, enum spec_hook_point point, const char *state, const char *cwd, struct err **err);
static inline bool hooks_any(const struct spec *spec, enum spec_hook_point point)
{
        return spec->hooks[point].n > 0;
}
