#include "rights.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "box/spec/spec.h"

/* As docker's. */
static const int default_capabilities[] = { CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FSETID, CAP_FOWNER, CAP_MKNOD, CAP_NET_RAW,
        CAP_SETGID, CAP_SETUID, CAP_SETFCAP, CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_KILL,
        CAP_AUDIT_WRITE };

/* Those that this kernel has and this process may give. */
static u64 all_capabilities(void)
{
        struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
        struct __user_cap_data_struct data[2] = { 0 };

        if (syscall(SYS_capget, &header, data) < 0)
                return 0;
        return (u64)data[1].permitted << 32 | data[0].permitted;
}

static int capability_bit(const char *name, u64 *ret, struct err **err)
{
        int cap;

        if (strcasecmp(name, "all") == 0) {
                *ret = ~0ULL;
                return 0;
        }
        cap = spec_capability(name);
        if (cap < 0)
                return err_set(err, ERR_USAGE, EINVAL, "'%.60s' is not a capability", name);
        *ret = BIT(cap);
        return 0;
}

int rights_capabilities(const struct instance_config *config, u64 *ret, struct err **err)
{
        const u64 all = all_capabilities();
        u64 set = 0, add = 0, drop = 0, bit;
        int r;

        for (size_t i = 0; i < config->cap_add.n; i++) {
                r = capability_bit(config->cap_add.item[i], &bit, err);
                if (r < 0)
                        return r;
                add |= bit;
        }
        for (size_t i = 0; i < config->cap_drop.n; i++) {
                r = capability_bit(config->cap_drop.item[i], &bit, err);
                if (r < 0)
                        return r;
                drop |= bit;
        }
        for (size_t i = 0; i < ARRAY_SIZE(default_capabilities); i++)
                set |= BIT(default_capabilities[i]);
        if (config->privileged)
                *ret = all;
        else if (add == ~0ULL)
                *ret = all & ~drop;
        else
                *ret = ((set & ~drop) | add) & all;
        return 0;
}

json_t *rights_capabilities_json(u64 set, bool effective)
{
        json_t *names = json_array(), *json;

        for (int cap = 0; cap < 64; cap++)
                if (set & BIT(cap) && spec_capability_name(cap))
                        json_array_append_new(names, json_string(spec_capability_name(cap)));
        json = json_pack("{s:O}", "bounding", names);
        if (effective) {
                json_object_set(json, "effective", names);
                json_object_set(json, "permitted", names);
        }
        json_decref(names);
        return json;
}

int security_parse(const struct instance_config *config, struct security *ret, struct err **err)
{
        struct security s = { .unconfined = config->privileged };

        for (size_t i = 0; i < config->security.n; i++) {
                const char *option = config->security.item[i];
                const size_t key = strcspn(option, "=:");
                const char *value = option[key] ? option + key + 1 : "";

                if (key == strlen("no-new-privileges") && strncmp(option, "no-new-privileges", key) == 0)
                        s.no_new_privileges = strcmp(value, "false") != 0;
                else if (key == strlen("seccomp") && strncmp(option, "seccomp", key) == 0) {
                        s.unconfined = strcmp(value, "unconfined") == 0;
                        s.seccomp_file = s.unconfined || strcmp(value, "builtin") == 0 ? NULL : value;
                } else if (key == strlen("apparmor") && strncmp(option, "apparmor", key) == 0)
                        s.apparmor = strcmp(value, "unconfined") == 0 ? NULL : value;
                else if (key == strlen("label") && strncmp(option, "label", key) == 0)
                        s.label = strcmp(value, "disable") == 0 ? NULL : value;
                else
                        return err_set(err, ERR_USAGE, EINVAL, "'%.200s' is not a security option", option);
        }
        if (s.label)
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "SELinux labels are not supported: label=disable");
        *ret = s;
        return 0;
}

int security_seccomp(const struct security *security, u64 capabilities, json_t **ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        json_error_t error;
        int r;

        *ret = NULL;
        if (security->unconfined)
                return 0;
        if (!security->seccomp_file) {
                *ret = seccomp_default_profile(capabilities);
                return *ret ? 0 : err_sys(err, ENOMEM, "making the seccomp profile");
        }
        r = io_read_file(AT_FDCWD, security->seccomp_file, 4 * MIB, &text, NULL, err);
        if (r < 0)
                return err_wrap(err, r, "the seccomp profile");
        *ret = json_loads(text, JSON_REJECT_DUPLICATES, &error);
        if (!*ret)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "the seccomp profile '%s', line %d: %s",
                        security->seccomp_file, error.line, error.text);
        return 0;
}
