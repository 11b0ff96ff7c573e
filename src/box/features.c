/* `features`: the specification's features.md, "what this runtime knows", not what a given host grants. */
#include <errno.h>
#include <string.h>

#include "box.h"
#include "mount_options.h"
#include "seccomp/seccomp.h"
#include "spec/names.h"
#include "spec/spec.h"

static json_t *names_of(const struct name *table)
{
        json_t *list = json_array();

        for (; table->text; table++)
                json_array_append_new(list, json_string(table->text));
        return list;
}

static json_t *hook_names(void)
{
        json_t *list = json_array();

        for (int i = 0; i < HOOK_COUNT; i++)
                json_array_append_new(list, json_string(spec_hook_name((enum spec_hook_point)i)));
        return list;
}

static json_t *mount_option_names(void)
{
        json_t *list = json_array();
        const char *name;

        for (size_t i = 0; (name = mount_options_known(i)); i++)
                json_array_append_new(list, json_string(name));
        for (const struct name *p = spec_propagations; p->text; p++)
                json_array_append_new(list, json_string(p->text));
        for (size_t i = 0; i < 8; i++)
                json_array_append_new(list, json_string(((const char *const[]){ "rro", "rrw", "rnosuid", "rsuid",
                                                    "rnodev", "rdev", "rnoexec", "rexec" })[i]));
        return list;
}

json_t *box_features(void)
{
        json_t *enabled = json_pack("{s:b}", "enabled", 1);
        json_t *linux_ = json_pack("{s:o, s:o, s:o, s:o, s:{s:b}, s:O, s:O, s:{s:{s:b}}, s:{s:o, s:o}, s:{s:b}}",
                "namespaces", names_of(spec_namespace_names), "capabilities", names_of(spec_capability_names), "cgroup",
                cgroup_features(), "seccomp", seccomp_features(), "intelRdt", "enabled", 1, "apparmor", enabled,
                "selinux", enabled, "mountExtensions", "idmap", "enabled", 1, "memoryPolicy", "modes",
                names_of(spec_mempolicy_modes), "flags", names_of(spec_mempolicy_flags), "netDevices", "enabled", 1);
        json_t *json = json_pack("{s:s, s:s, s:o, s:o, s:o, s:[s]}", "ociVersionMin", "1.0.0", "ociVersionMax",
                "1.3.0", "hooks", hook_names(), "mountOptions", mount_option_names(), "linux", linux_,  "potentiallyUnsafeConfigAnnotations",
                "org.systemd.property.");

        json_decref(enabled);
        return json;
}
