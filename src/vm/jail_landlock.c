/* Landlock (landlock(7)): a second wall behind the mount namespace, and the first one where there is none. Files are opened, made and
 * removed below the directories that were kept and nowhere else; nothing is executed. Since version 4 no TCP connection is made or waited
 * for, since 6 no signal sent to and no abstract unix socket reached in a process outside. */
#include <errno.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "jail_internal.h"

/* Newer than Debian 12's headers. */
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif
#ifndef LANDLOCK_ACCESS_FS_IOCTL_DEV
#define LANDLOCK_ACCESS_FS_IOCTL_DEV (1ULL << 15)
#endif
#define NET_BIND_TCP BIT(0)
#define NET_CONNECT_TCP BIT(1)
#define SCOPE_ABSTRACT_UNIX_SOCKET BIT(0)
#define SCOPE_SIGNAL BIT(1)

struct ruleset { /* struct landlock_ruleset_attr of version 6 */
        u64 fs, net, scoped;
};

#define FS_1 (BIT(13) - 1) /* what the first version knew */
#define READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
/* All but programs, and devices that do something. */
#define WRITE \
        ((FS_1 | LANDLOCK_ACCESS_FS_REFER | LANDLOCK_ACCESS_FS_TRUNCATE) & ~(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_BLOCK))

static const u64 access_rights[] = { [JAIL_WALK] = 0, [JAIL_READ] = READ, [JAIL_WRITE] = WRITE };

/* What each version added, and how much of the structure it knows. */
static const struct {
        int version;
        struct ruleset handled;
        size_t size;
} versions[] = {
        { 1, { .fs = FS_1 }, 8 },
        { 2, { .fs = LANDLOCK_ACCESS_FS_REFER }, 8 },
        { 3, { .fs = LANDLOCK_ACCESS_FS_TRUNCATE }, 8 },
        { 4, { .net = NET_BIND_TCP | NET_CONNECT_TCP }, 16 },
        { 5, { .fs = LANDLOCK_ACCESS_FS_IOCTL_DEV }, 16 },
        { 6, { .scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL }, 24 },
};

static int add_rule(int ruleset, const struct jail_directory *d, u64 handled)
{
        const struct landlock_path_beneath_attr rule = { .allowed_access = access_rights[d->access] & handled, .parent_fd = d->fd };

        if (rule.allowed_access == 0)
                return 0;
        return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

int jail_landlock(struct jail *jail, struct err **err)
{
        const long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
        _cleanup_close_ int fd = -1;
        struct ruleset handled = { 0 };
        size_t size = 0;

        if (version < 0)
                return err_sys(err, errno, "asking for Landlock");
        if (version < 2) /* no file could be renamed into another directory */
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "Landlock of this kernel is too old");
        for (size_t i = 0; i < ARRAY_SIZE(versions) && versions[i].version <= version; i++) {
                handled.fs |= versions[i].handled.fs;
                handled.net |= versions[i].handled.net;
                handled.scoped |= versions[i].handled.scoped;
                size = versions[i].size;
        }
        fd = (int)syscall(SYS_landlock_create_ruleset, &handled, size, 0);
        if (fd < 0)
                return err_sys(err, errno, "making Landlock's rules");
        for (size_t i = 0; i < jail->n_directories; i++) {
                const int r = add_rule(fd, &jail->directories[i], handled.fs);

                if (r < 0)
                        return err_sys(err, -r, "making a rule for '%s'", jail->directories[i].path);
        }
        return syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? err_sys(err, errno, "putting Landlock's rules in force") : 0;
}
