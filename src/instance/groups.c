#include "groups.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

char *groups_path(const struct instance *inst)
{
        const char *parent = inst->config.cgroup_parent;
        char *path;

        return asprintf(&path, "%s/strata-%s", parent ? parent : "", inst->id) < 0 ? NULL : path;
}

void groups_remove(const struct instance *inst)
{
        _cleanup_(cgroup_freep) struct cgroup *cgroup = NULL;
        _cleanup_free_ char *path = groups_path(inst);
        struct cgroup_spec spec = { .id = inst->id, .rootless = true };

        if (!path)
                return;
        spec.path = path;
        if (cgroup_create(&spec, &cgroup, NULL) == 0)
                cgroup_remove(cgroup, NULL);
}

void groups_find_oom_file(const struct instance *inst, pid_t pid)
{
        char path[64], line[1024], file[1200] = "";
        _cleanup_fclose_ FILE *f = NULL;

        snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f)) {
                char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;

                if (!group)
                        continue;
                *group++ = '\0';
                group[strcspn(group, "\n")] = '\0';
                if (strcmp(controllers + 1, "memory") == 0)
                        snprintf(file, sizeof(file), "/sys/fs/cgroup/memory%s/memory.oom_control", group);
                else if (!controllers[1] && !file[0])
                        snprintf(file, sizeof(file), "/sys/fs/cgroup%s/memory.events", group);
        }
        if (file[0])
                launch_write_file(inst, FILE_OOM, file, NULL);
}
