/* Hooks: programs that the configuration wants run at points of a container's life. Each gets the state object on
 * stdin. */
#pragma once

#include "spec/spec.h"
#include "state.h"

/* Runs those of @point one after another in the calling process's namespaces. They are told the container's state with
 * @status; @pid, when not 0, in place of the first process's number. The first that fails or takes longer than its
 * timeout ends it. @cwd: NULL to stay. */
int hooks_run(const struct spec *spec, enum spec_hook_point point, const struct box_handle *h, const char *status,
        pid_t pid, const char *cwd, struct err **err);
/* As the specification has it: a poststop hook that fails is worth a warning and changes nothing. */
void hooks_run_poststop(const struct spec *spec, const struct box_handle *h);
static inline bool hooks_any(const struct spec *spec, enum spec_hook_point point)
{
        return spec->hooks[point].n > 0;
}
