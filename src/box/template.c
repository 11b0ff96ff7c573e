/* The document that `spec` writes: what a container usually wants, complete enough to be run. */
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "box.h"

static json_t *mounts(bool rootless)
{
        json_t *list = json_pack(
                "[{s:s, s:s, s:s}, {s:s, s:s, s:s, s:[ssss]}, {s:s, s:s, s:s, s:[sssss]}, {s:s, s:s, s:s, s:[sssss]}, {s:s, s:s, s:s, s:[sss]}]",
                "destination", "/proc", "type", "proc", "source", "proc", "destination", "/dev", "type", "tmpfs",
                "source", "tmpfs", "options", "nosuid", "strictatime", "mode=755", "size=65536k", "destination",
                "/dev/pts", "type", "devpts", "source", "devpts", "options", "nosuid", "noexec", "newinstance",
                "ptmxmode=0666", "mode=0620", "destination", "/dev/shm", "type", "tmpfs", "source", "shm", "options",
                "nosuid", "noexec", "nodev", "mode=1777", "size=65536k", "destination", "/dev/mqueue", "type", "mqueue",
                "source", "mqueue", "options", "nosuid", "noexec", "nodev");

        if (!rootless) {
                json_t *options = json_object_get(json_array_get(list, 2), "options");

                json_array_append_new(options, json_string("gid=5"));
                json_array_append_new(
                        list, json_pack("{s:s, s:s, s:s, s:[ssss]}", "destination", "/sys", "type", "sysfs", "source",
                                      "sysfs", "options", "nosuid", "noexec", "nodev", "ro"));
        } else {
                json_array_append_new(
                        list, json_pack("{s:s, s:s, s:s, s:[sssss]}", "destination", "/sys", "type", "none", "source",
                                      "/sys", "options", "rbind", "nosuid", "noexec", "nodev", "ro"));
        }
        json_array_append_new(
                list, json_pack("{s:s, s:s, s:s, s:[sssss]}", "destination", "/sys/fs/cgroup", "type", "cgroup",
                              "source", "cgroup", "options", "nosuid", "noexec", "nodev", "relatime", "ro"));
        return list;
}

/* On v1 hosts runc leaves the cgroup namespace out, and tools look for full paths in /proc/self/cgroup. */
static bool unified(void)
{
        struct statfs fs;

        return statfs("/sys/fs/cgroup", &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

static json_t *namespaces(bool rootless)
{
        static const char *const names[] = { "pid", "ipc", "uts", "mount", "cgroup" };
        json_t *list = json_array();

        for (size_t i = 0; i < ARRAY_SIZE(names) - !unified(); i++)
                json_array_append_new(list, json_pack("{s:s}", "type", names[i]));
        json_array_append_new(list, json_pack("{s:s}", "type", rootless ? "user" : "network"));
        return list;
}

json_t *box_spec_template(bool rootless)
{
        static const char *const sets[] = { "bounding", "effective", "permitted" };
        json_t *capabilities = json_object(), *json, *linux_;

        for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
                json_object_set_new(capabilities, sets[i],
                        json_pack("[sss]", "CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"));
        linux_ = json_pack("{s:o, s:[ssssssssss], s:[sssss]}", "namespaces", namespaces(rootless), "maskedPaths",
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi", "readonlyPaths", "/proc/bus",
                "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger");
        if (rootless) {
                json_object_set_new(linux_, "uidMappings",
                        json_pack("[{s:i, s:I, s:i}]", "containerID", 0, "hostID", (json_int_t)geteuid(), "size", 1));
                json_object_set_new(linux_, "gidMappings",
                        json_pack("[{s:i, s:I, s:i}]", "containerID", 0, "hostID", (json_int_t)getegid(), "size", 1));
        } else {
                json_object_set_new(
                        linux_, "resources", json_pack("{s:[{s:b, s:s}]}", "devices", "allow", 0, "access", "rwm"));
        }
        json = json_pack(
                "{s:s, s:{s:b, s:{s:i, s:i}, s:[s], s:[ss], s:s, s:o, s:[{s:s, s:i, s:i}], s:b}, s:{s:s, s:b}, s:s, s:o, s:o}",
                "ociVersion", "1.2.0", "process", "terminal", 1, "user", "uid", 0, "gid", 0, "args", "sh", "env",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", "cwd", "/",
                "capabilities", capabilities, "rlimits", "type", "RLIMIT_NOFILE", "hard", 1024, "soft", 1024,
                "noNewPrivileges", 1, "root", "path", "rootfs", "readonly", 1, "hostname", "strata", "mounts",
                mounts(rootless), "linux", linux_);
        return json;
}
