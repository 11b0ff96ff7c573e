#include <errno.h>
#include "box/cgroup/internal.h"
int cgroup_systemd_names(const struct cgroup_spec *spec, char **ret_unit, char **ret_group, struct err **err){return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "systemd is not running");}
int cgroup_systemd_start(const struct cgroup_spec *spec, const char *unit, bool user, struct err **err){return 0;}
int cgroup_systemd_update(const char *unit, bool user, const struct cgroup_resources *res, struct err **err){return 0;}
int cgroup_systemd_stop(const char *unit, bool user, struct err **err){return 0;}
