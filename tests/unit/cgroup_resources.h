/* Resources from JSON in one expression, for tests of cgroups. Include it after <cmocka.h>. */
#pragma once

#include "base/cleanup.h"
#include "box/cgroup/cgroup.h"

#define _cleanup_err_       _cleanup_(err_freep)
#define _cleanup_resources_ _cleanup_(cgroup_resources_freep)
#define _cleanup_cgroup_    _cleanup_(cgroup_freep)

static inline struct cgroup_resources *resources(const char *text)
{
        _cleanup_(json_decrefp) json_t *json = json_loads(text, 0, NULL);
        _cleanup_err_ struct err *err = NULL;
        struct cgroup_resources *res = NULL;

        if (!json)
                fail_msg("no JSON: %s", text);
        if (cgroup_resources_parse(json, &res, &err) < 0)
                fail_msg("%s", err_message(err));
        return res;
}
