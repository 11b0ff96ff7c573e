#include "ops.h"

#include <errno.h>
#include <string.h>

const struct instance_ops *const instance_walls[] = { &container_ops, &vm_ops, NULL };

int instance_wall_find(const char *isolation, const struct instance_ops **ret, struct err **err)
{
        size_t i = 0;

        while (isolation && isolation[0] && instance_walls[i] && strcmp(instance_walls[i]->name, isolation) != 0)
                i++;
        if (!instance_walls[i])
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "the isolation '%.40s' is not there", isolation);
        *ret = instance_walls[i];
        return 0;
}

int instance_check_namespaces(const struct instance *inst, const char *what, struct err **err)
{
        if (inst->ops->has_namespaces)
                return 0;
        return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "%s: '%s' is a machine with a kernel of its own", what, inst->config.name);
}
