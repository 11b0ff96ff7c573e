#include "names.h"

#include <errno.h>
#include <linux/ioprio.h>
#include <linux/mempolicy.h>
#include <linux/sched.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/resource.h>

#include "spec.h"

const struct name *name_find(const struct name *table, const char *text)
{
        for (; table->text; table++)
                if (strcmp(table->text, text) == 0)
                        return table;
        return NULL;
}

/* capabilities(7), in the order of their numbers. */
const struct name spec_capability_names[] = {
        { "CAP_CHOWN", 0 },
        { "CAP_DAC_OVERRIDE", 1 },
        { "CAP_DAC_READ_SEARCH", 2 },
        { "CAP_FOWNER", 3 },
        { "CAP_FSETID", 4 },
        { "CAP_KILL", 5 },
        { "CAP_SETGID", 6 },
        { "CAP_SETUID", 7 },
        { "CAP_SETPCAP", 8 },
        { "CAP_LINUX_IMMUTABLE", 9 },
        { "CAP_NET_BIND_SERVICE", 10 },
        { "CAP_NET_BROADCAST", 11 },
        { "CAP_NET_ADMIN", 12 },
        { "CAP_NET_RAW", 13 },
        { "CAP_IPC_LOCK", 14 },
        { "CAP_IPC_OWNER", 15 },
        { "CAP_SYS_MODULE", 16 },
        { "CAP_SYS_RAWIO", 17 },
        { "CAP_SYS_CHROOT", 18 },
        { "CAP_SYS_PTRACE", 19 },
        { "CAP_SYS_PACCT", 20 },
        { "CAP_SYS_ADMIN", 21 },
        { "CAP_SYS_BOOT", 22 },
        { "CAP_SYS_NICE", 23 },
        { "CAP_SYS_RESOURCE", 24 },
        { "CAP_SYS_TIME", 25 },
        { "CAP_SYS_TTY_CONFIG", 26 },
        { "CAP_MKNOD", 27 },
        { "CAP_LEASE", 28 },
        { "CAP_AUDIT_WRITE", 29 },
        { "CAP_AUDIT_CONTROL", 30 },
        { "CAP_SETFCAP", 31 },
        { "CAP_MAC_OVERRIDE", 32 },
        { "CAP_MAC_ADMIN", 33 },
        { "CAP_SYSLOG", 34 },
        { "CAP_WAKE_ALARM", 35 },
        { "CAP_BLOCK_SUSPEND", 36 },
        { "CAP_AUDIT_READ", 37 },
        { "CAP_PERFMON", 38 },
        { "CAP_BPF", 39 },
        { "CAP_CHECKPOINT_RESTORE", 40 },
        { 0 },
};

const struct name spec_rlimit_names[] = {
        { "RLIMIT_AS", RLIMIT_AS },
        { "RLIMIT_CORE", RLIMIT_CORE },
        { "RLIMIT_CPU", RLIMIT_CPU },
        { "RLIMIT_DATA", RLIMIT_DATA },
        { "RLIMIT_FSIZE", RLIMIT_FSIZE },
        { "RLIMIT_LOCKS", RLIMIT_LOCKS },
        { "RLIMIT_MEMLOCK", RLIMIT_MEMLOCK },
        { "RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE },
        { "RLIMIT_NICE", RLIMIT_NICE },
        { "RLIMIT_NOFILE", RLIMIT_NOFILE },
        { "RLIMIT_NPROC", RLIMIT_NPROC },
        { "RLIMIT_RSS", RLIMIT_RSS },
        { "RLIMIT_RTPRIO", RLIMIT_RTPRIO },
        { "RLIMIT_RTTIME", RLIMIT_RTTIME },
        { "RLIMIT_SIGPENDING", RLIMIT_SIGPENDING },
        { "RLIMIT_STACK", RLIMIT_STACK },
        { 0 },
};

const struct name spec_namespace_names[] = {
#define NAMESPACE(id, name, proc, flag) { name, NAMESPACE_##id },
        SPEC_NAMESPACES(NAMESPACE)
#undef NAMESPACE
                { 0 },
};

const struct name spec_sched_policies[] = {
        { "SCHED_OTHER", SCHED_NORMAL },
        { "SCHED_FIFO", SCHED_FIFO },
        { "SCHED_RR", SCHED_RR },
        { "SCHED_BATCH", SCHED_BATCH },
        { "SCHED_ISO", 4 },
        { "SCHED_IDLE", SCHED_IDLE },
        { "SCHED_DEADLINE", SCHED_DEADLINE },
        { 0 },
};

const struct name spec_sched_flags[] = {
        { "SCHED_FLAG_RESET_ON_FORK", SCHED_FLAG_RESET_ON_FORK },
        { "SCHED_FLAG_RECLAIM", SCHED_FLAG_RECLAIM },
        { "SCHED_FLAG_DL_OVERRUN", SCHED_FLAG_DL_OVERRUN },
        { "SCHED_FLAG_KEEP_POLICY", SCHED_FLAG_KEEP_POLICY },
        { "SCHED_FLAG_KEEP_PARAMS", SCHED_FLAG_KEEP_PARAMS },
        { "SCHED_FLAG_UTIL_CLAMP_MIN", SCHED_FLAG_UTIL_CLAMP_MIN },
        { "SCHED_FLAG_UTIL_CLAMP_MAX", SCHED_FLAG_UTIL_CLAMP_MAX },
        { 0 },
};

const struct name spec_io_classes[] = {
        { "IOPRIO_CLASS_RT", IOPRIO_CLASS_RT },
        { "IOPRIO_CLASS_BE", IOPRIO_CLASS_BE },
        { "IOPRIO_CLASS_IDLE", IOPRIO_CLASS_IDLE },
        { 0 },
};

const struct name spec_personalities[] = {
        { "LINUX", PER_LINUX },
        { "LINUX32", PER_LINUX32 },
        { 0 },
};

const struct name spec_mempolicy_modes[] = {
        { "MPOL_DEFAULT", MPOL_DEFAULT },
        { "MPOL_PREFERRED", MPOL_PREFERRED },
        { "MPOL_BIND", MPOL_BIND },
        { "MPOL_INTERLEAVE", MPOL_INTERLEAVE },
        { "MPOL_LOCAL", MPOL_LOCAL },
        { "MPOL_PREFERRED_MANY", MPOL_PREFERRED_MANY },
        { "MPOL_WEIGHTED_INTERLEAVE", 6 }, /* Linux 6.9; not in these headers */
        { 0 },
};

const struct name spec_mempolicy_flags[] = {
        { "MPOL_F_STATIC_NODES", MPOL_F_STATIC_NODES },
        { "MPOL_F_RELATIVE_NODES", MPOL_F_RELATIVE_NODES },
        { "MPOL_F_NUMA_BALANCING", MPOL_F_NUMA_BALANCING },
        { 0 },
};

const struct name spec_propagations[] = {
        { "shared", MS_SHARED },
        { "rshared", MS_SHARED | MS_REC },
        { "slave", MS_SLAVE },
        { "rslave", MS_SLAVE | MS_REC },
        { "private", MS_PRIVATE },
        { "rprivate", MS_PRIVATE | MS_REC },
        { "unbindable", MS_UNBINDABLE },
        { "runbindable", MS_UNBINDABLE | MS_REC },
        { 0 },
};

int spec_capability(const char *name)
{
        const size_t skip = strncasecmp(name, "CAP_", 4) == 0 ? 0 : 4;

        for (const struct name *n = spec_capability_names; n->text; n++)
                if (strcasecmp(n->text + skip, name) == 0)
                        return (int)n->value;
        return -1;
}

const char *spec_capability_name(int cap)
{
        for (const struct name *n = spec_capability_names; n->text; n++)
                if (n->value == cap)
                        return n->text;
        return NULL;
}

int spec_rlimit_resource(const char *name)
{
        const struct name *n = name_find(spec_rlimit_names, name);

        return n ? (int)n->value : -1;
}

const char *spec_hook_name(enum spec_hook_point point)
{
        static const char *const names[] = {
#define HOOK(id, name) [HOOK_##id] = name,
                SPEC_HOOKS(HOOK)
#undef HOOK
        };

        return names[point];
}

int spec_id_list(const char *text, unsigned long *mask, size_t bits)
{
        enum { WORD = sizeof(*mask) * 8 };

        memset(mask, 0, bits / 8);
        for (const char *p = text; *p;) {
                char *end;
                unsigned long from = strtoul(p, &end, 10), to = from;

                if (end != p && *end == '-') {
                        p = end + 1;
                        to = strtoul(p, &end, 10);
                }
                if (end == p || (*end && *end != ',') || to < from || to >= bits)
                        return -EINVAL;
                for (; from <= to; from++)
                        mask[from / WORD] |= 1UL << (from % WORD);
                p = *end ? end + 1 : end;
        }
        return 0;
}
