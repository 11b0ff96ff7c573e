/* Who the process is, and what it may.
 *
 * No new privileges: nothing that is executed gives any. (Nothing can be executed either, but this is what seccomp and Landlock ask of
 * somebody without rights.)
 *
 * Capabilities: none. With a file server that gives files to other users, those over files, in the user namespace, where
 * they are worth something for the inodes of the shared directories alone, there being no others in the mount namespace. Not
 * CAP_DAC_READ_SEARCH, with which files of a whole file system are opened by number (open_by_handle_at); not CAP_MKNOD.
 *
 * User: root becomes nobody, so that what is world-writable is all that it could change if a file of the host's came into its hands.
 * Files of /proc/sys, for example, belong to the user 0, whatever namespace he is in. Others stay who they are.
 *
 * Not dumpable: no other process of the same user reads or changes our memory by ptrace or /proc/PID/mem, which has the guest's in it;
 * a crash writes no core file. */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "jail_internal.h"

/* What a file server needs of what it has (capabilities(7)). */
#define FILE_CAPABILITIES \
        (BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FOWNER) | BIT(CAP_FSETID) | BIT(CAP_SETFCAP))

static int capabilities_get(u64 *ret)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

        if (syscall(SYS_capget, &header, data) < 0)
                return -errno;
        *ret = data[0].effective | (u64)data[1].effective << 32;
        return 0;
}

static int capabilities_set(u64 permitted, u64 effective)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        const struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
                { .permitted = (u32)permitted, .effective = (u32)effective },
                { .permitted = (u32)(permitted >> 32), .effective = (u32)(effective >> 32) },
        };

        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* Whether this user namespace has the user (or group) @id: containers may have few. */
static bool is_mapped(const char *path, unsigned id)
{
        _cleanup_fclose_ FILE *f = fopen(path, "re");
        unsigned first, count;

        while (f && fscanf(f, "%u %*u %u", &first, &count) == 2)
                if (id - first < count)
                        return true;
        return false;
}

int jail_rights_choose(struct jail *jail, struct err **err)
{
        u64 have = 0;
        int r = capabilities_get(&have);

        if (r < 0)
                return err_sys(err, -r, "asking for capabilities");
        jail->uid = geteuid();
        jail->gid = getegid();
        jail->may_set_ids = (have & BIT(CAP_SETUID)) && (have & BIT(CAP_SETGID));
        /* Without a nobody root stays who he is, which outside of his namespace is nobody special. */
        if (jail->uid == 0 && jail->may_set_ids && is_mapped("/proc/self/uid_map", NOBODY_UID) &&
                is_mapped("/proc/self/gid_map", NOBODY_UID))
                jail->uid = jail->gid = NOBODY_UID;
        jail->changes_user = jail->uid != getuid() || jail->uid != geteuid() || jail->gid != getgid() || jail->gid != getegid();
        /* As far as it goes: a file server that cannot change owners needs none of them. */
        if (jail->keep_owners && have & BIT(CAP_CHOWN))
                jail->capabilities = have & FILE_CAPABILITIES;
        return 0;
}

int jail_become(struct jail *jail, struct err **err)
{
        u64 have = 0;

        if (setgroups(0, NULL) < 0 && errno != EPERM)
                return err_sys(err, errno, "leaving groups");
        /* Not by asking who we are: somebody whom a namespace does not have is shown as nobody. */
        if (!jail->changes_user)
                return 0;
        /* The change of user would take them. Those in force, which it takes too, come back. */
        if (prctl(PR_SET_KEEPCAPS, 1) < 0 || capabilities_get(&have) < 0 || setresgid(jail->gid, jail->gid, jail->gid) < 0 ||
                setresuid(jail->uid, jail->uid, jail->uid) < 0 || capabilities_set(have, have) < 0)
                return err_sys(err, errno, "becoming the user %u", jail->uid);
        return 0;
}

int jail_rights_drop(struct jail *jail, struct err **err)
{
        int r = jail->own_namespaces || !jail->may_set_ids ? 0 : jail_become(jail, err);

        if (r < 0)
                return r;
        for (unsigned long cap = 0; cap < 64; cap++)
                if (prctl(PR_CAPBSET_DROP, cap) < 0) /* EINVAL behind the last one, EPERM without the right to */
                        break;
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        r = capabilities_set(jail->capabilities, jail->capabilities);
        if (r < 0)
                return err_sys(err, -r, "giving capabilities up");
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return err_sys(err, errno, "giving new privileges up");
        if (prctl(PR_SET_DUMPABLE, 0) < 0)
                return err_sys(err, errno, "hiding memory");
        return 0;
}

int jail_limits(struct jail *jail, struct err **err)
{
        static const int none[] = { RLIMIT_CORE, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_RTPRIO };
        struct rlimit limit;

        for (size_t i = 0; i < ARRAY_SIZE(none); i++)
                if (setrlimit(none[i], &(struct rlimit){ 0 }) < 0)
                        return err_sys(err, errno, "setting limits");
        /* As many files as there may be now, and no more again. */
        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return err_sys(err, errno, "asking for limits");
        limit.rlim_max = limit.rlim_cur;
        return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? err_sys(err, errno, "setting limits") : 0;
}
