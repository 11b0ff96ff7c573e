/* What a machine is told at its start: the same root, mounts, names and process as a container's configuration says, as frames for
 * strata-init.
 *
 *      root    the share VM_TAG_ROOT, the instance's overlay as the host mounted it
 *      binds   volumes, directories of the host, /etc/hosts and the like: each is mounted on the host at N of one directory, which is
 *              the share VM_TAG_FILES; the guest binds N to where it belongs. Its kernel, not the host's, follows the image's symbolic
 *              links on the way there; that something is read-only is the host's mount to say.
 *      tmpfs   the guest's own memory */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "box/mount.h"
#include "box/sys.h"
#include "network_vm.h"
#include "rights.h"
#include "vm.h"

#define GUEST_ROOT  "/newroot"
#define GUEST_FILES "/dev/.strata" /* /dev is the machine's own: nothing is left in the image */

static int no_memory(struct err **err)
{
        return err_sys(err, ENOMEM, "writing the machine's script");
}

/* --- processes -------------------------------------------------------------------------------------------------- */

static int parse_limits(struct spec *spec, struct init_process *ret, struct err **err)
{
        const struct spec_process *p = spec->process;
        struct init_rlimit *limits = arena_new(&spec->arena, struct init_rlimit, p->rlimits.n + 1);

        if (!limits)
                return no_memory(err);
        for (size_t i = 0; i < p->rlimits.n; i++)
                limits[i] = (struct init_rlimit){ (u32)p->rlimits.item[i].resource, p->rlimits.item[i].soft,
                        p->rlimits.item[i].hard };
        ret->rlimits = limits;
        ret->n_rlimits = p->rlimits.n;
        return 0;
}

/* NULL at the end. */
static const char *const *terminated(struct spec *spec, const struct spec_strings *list)
{
        const char **item = arena_new(&spec->arena, const char *, list->n + 1);

        if (item && list->n)
                memcpy(item, list->item, list->n * sizeof(*item));
        return item;
}

int vm_process_parse(
        const json_t *process, u32 flags, struct spec **ret_spec, struct init_process *ret, struct err **err)
{
        _cleanup_(spec_freep) struct spec *spec = NULL;
        const struct spec_process *p;
        _cleanup_free_ char *text = json_dumps(process, JSON_COMPACT);
        int r = text ? spec_parse_process(text, strlen(text), &spec, err) : no_memory(err);

        if (r < 0)
                return r;
        p = spec->process;
        *ret = (struct init_process){ .argv = terminated(spec, &p->args),
                .env = terminated(spec, &p->env),
                .uid = p->user.uid,
                .gid = p->user.gid,
                .groups = p->user.additional_gids.item,
                .n_groups = p->user.additional_gids.n,
                .flags = flags | (p->terminal ? INIT_START_TTY : 0U) |
                         (p->no_new_privileges ? INIT_START_NO_NEW_PRIVS : 0U),
                .cwd = p->cwd,
                .umask = p->user.umask ? *p->user.umask : 022,
                .capabilities = p->capabilities ? p->capabilities->set[CAP_SET_BOUNDING] : INIT_CAPABILITIES_ALL,
                .oom_score_adj = p->oom_score_adj ? *p->oom_score_adj : 0 };
        if (!ret->argv || !ret->env)
                return no_memory(err);
        r = parse_limits(spec, ret, err);
        if (r == 0)
                *ret_spec = TAKE_PTR(spec);
        return r;
}

/* --- mounts ----------------------------------------------------------------------------------------------------- */

/* Attributes of a mount as mount(2) has them. */
static u32 mount_flags(u64 attributes)
{
        static const struct {
                u64 attribute;
                u32 flag;
        } known[] = {
                { MOUNT_ATTR_RDONLY, MS_RDONLY },
                { MOUNT_ATTR_NOSUID, MS_NOSUID },
                { MOUNT_ATTR_NODEV, MS_NODEV },
                { MOUNT_ATTR_NOEXEC, MS_NOEXEC },
                { MOUNT_ATTR_NOATIME, MS_NOATIME },
                { MOUNT_ATTR_NODIRATIME, MS_NODIRATIME },
        };
        u32 flags = 0;

        for (size_t i = 0; i < ARRAY_SIZE(known); i++)
                flags |= attributes & known[i].attribute ? known[i].flag : 0;
        return flags;
}

/* Makes what is to be mounted on: a directory or a file, as @source is. */
static int make_target(int files, const char *name, const char *source, int *ret, struct err **err)
{
        _cleanup_close_ int fd = -1;
        struct stat st;

        if (stat(source, &st) < 0)
                return err_sys(err, errno, "the source of the bind mount, '%s'", source);
        if (S_ISDIR(st.st_mode) ? mkdirat(files, name, 0755) < 0 : mknodat(files, name, S_IFREG | 0644, 0) < 0)
                return err_sys(err, errno, "preparing the mount of '%s'", source);
        fd = openat(files, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return err_sys(err, errno, "preparing the mount of '%s'", source);
        *ret = TAKE_FD(fd);
        return 0;
}

static int add_bind(struct init_script *script, int files, size_t number, const struct spec_mount *m,
        const struct mount_options *options, struct err **err)
{
        _cleanup_close_ int target = -1, mounted = -1;
        char name[24], source[sizeof(GUEST_FILES) + sizeof(name)];
        int r;

        snprintf(name, sizeof(name), "%zu", number);
        r = make_target(files, name, m->source, &target, err);
        if (r < 0)
                return r;
        mounted = mount_bind(m->source, options, err);
        if (mounted < 0)
                return mounted;
        r = mount_move(mounted, target);
        if (r < 0)
                return err_sys(err, -r, "mounting '%s'", m->source);
        snprintf(source, sizeof(source), GUEST_FILES "/%s", name);
        init_script_mount(
                script, source, m->destination, "", MS_BIND | mount_flags(options->set | options->all_set), "");
        return 0;
}

static int add_tmpfs(struct init_script *script, struct arena *arena, const struct spec_mount *m,
        const struct mount_options *options, struct err **err)
{
        const char *data = "";

        for (size_t i = 0; data && i < options->data.n; i++)
                data = arena_printf(arena, "%s%s%s", data, *data ? "," : "", options->data.item[i]);
        if (!data)
                return no_memory(err);
        init_script_mount(script, "tmpfs", m->destination, "tmpfs", mount_flags(options->set), data);
        return 0;
}

static int parse_mounts(const struct launch_plan *plan, struct spec **ret, struct err **err)
{
        json_t *document = json_pack(
                "{s:s, s:O, s:{s:s}}", "ociVersion", "1.0.2", "mounts", plan->mounts, "root", "path", plan->rootfs);
        _cleanup_free_ char *text = document ? json_dumps(document, JSON_COMPACT) : NULL;

        json_decref(document);
        if (!text)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "a text of the configuration is not UTF-8");
        return spec_parse(text, strlen(text), ret, err);
}

static int add_mounts(struct launch_plan *plan, int files, struct init_script *script, struct err **err)
{
        _cleanup_(spec_freep) struct spec *spec = NULL;
        int r = parse_mounts(plan, &spec, err);

        if (r < 0)
                return r;
        if (spec->mounts.n)
                init_script_mount(script, VM_TAG_FILES, GUEST_FILES, "virtiofs", 0, "");
        for (size_t i = 0; r == 0 && i < spec->mounts.n; i++) {
                const struct spec_mount *m = &spec->mounts.item[i];
                struct mount_options options;

                r = mount_options_parse(&spec->arena, &m->options, &options, err);
                if (r == 0 && options.flags & MOUNT_BIND)
                        r = add_bind(script, files, i, m, &options, err);
                else if (r == 0)
                        r = add_tmpfs(script, &spec->arena, m, &options, err);
        }
        /* What is bound stays; the place that it came from is nobody's to see. */
        if (r == 0 && spec->mounts.n)
                init_script_mount(script, "none", GUEST_FILES, "tmpfs", MS_RDONLY, "size=4k,mode=0");
        return r;
}

/* --- the machine ------------------------------------------------------------------------------------------------ */

/* What the host's control groups would limit of a container. */
static void add_limits(const struct instance_config *c, struct init_script *script)
{
        static const char controllers[] = "+pids";
        char text[24];

        if (c->resources.pids <= 0)
                return;
        snprintf(text, sizeof(text), "%lld", (long long)c->resources.pids);
        init_script_file(script, VM_GROUPS "/cgroup.subtree_control", 0644, controllers, strlen(controllers));
        init_script_file(script, VM_GROUPS "/" INIT_GROUP "/pids.max", 0644, text, strlen(text));
}

static int add_system(struct launch_plan *plan, struct init_script *script, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        u8 random[64];

        if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
                return err_sys(err, errno, "getting random bytes");
        /* The clock is right: Linux takes it from the machine's when it boots. */
        init_script_system(script, plan->hostname, 0, random, sizeof(random));
        if (c->domainname && c->domainname[0])
                init_script_sysctl(script, "kernel.domainname", c->domainname);
        for (size_t i = 0; i < c->sysctls.n; i++)
                init_script_sysctl(script, c->sysctls.item[i].key, c->sysctls.item[i].value);
        return 0;
}

/* Empty texts are left out; a NULL ends the list. */
static void add_text(const char *list[], size_t *n, const char *text)
{
        if (text && text[0])
                list[(*n)++] = text;
        list[*n] = NULL;
}

void vm_script_add_interface(struct init_script *script, const struct network_vm_interface *i, const char *found_by, const char *mac)
{
        char ip[80] = "", ip6[80] = "";
        const char *addresses[3] = { NULL }, *gateways[3] = { NULL };
        size_t n = 0, k = 0;

        if (i->ip && i->ip[0])
                snprintf(ip, sizeof(ip), "%s/%u", i->ip, i->prefix_len);
        if (i->ip6 && i->ip6[0])
                snprintf(ip6, sizeof(ip6), "%s/%u", i->ip6, i->prefix_len6);
        add_text(addresses, &n, ip);
        add_text(addresses, &n, ip6);
        add_text(gateways, &k, i->gateway);
        add_text(gateways, &k, i->gateway6);
        init_script_address(script, &(struct init_address){ .interface = found_by,
                                            .mac = mac,
                                            .name = !mac && i->ifname && i->ifname[0] ? i->ifname : NULL,
                                            .mtu = i->mtu,
                                            .addresses = addresses,
                                            .gateways = gateways });
}

static int add_command(struct launch_plan *plan, struct init_script *script, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        _cleanup_(spec_freep) struct spec *spec = NULL;
        struct init_process process;
        json_t *json = NULL;
        int r = spec_process_json(plan, &json, err);

        if (r < 0)
                return r;
        r = vm_process_parse(json, INIT_START_PID_NS | (c->open_stdin ? INIT_START_STDIN : 0U), &spec, &process, err);
        json_decref(json);
        if (r == 0)
                init_script_start(script, &process);
        return r;
}

int vm_script_make(struct launch_plan *plan, int files, struct init_script *script, struct err **err)
{
        const struct instance_config *c = &plan->inst->config;
        const struct network_vm_interface *interface = NULL;
        const size_t n = network_vm_interfaces(plan->network, &interface);
        int r;

        init_script_mount(script, VM_TAG_ROOT, GUEST_ROOT, "virtiofs", 0, "");
        init_script_root(script, GUEST_ROOT);
        init_script_standard_mounts(script, c->shm_size > 0 ? (u64)c->shm_size : 0);
        add_limits(c, script);
        r = add_mounts(plan, files, script, err);
        if (r == 0 && c->read_only)
                init_script_mount(script, "", "/", "", MS_BIND | MS_REMOUNT | MS_RDONLY, "");
        if (r == 0)
                r = add_system(plan, script, err);
        for (size_t i = 0; r == 0 && i < n; i++)
                vm_script_add_interface(script, &interface[i], interface[i].mac, NULL);
        if (r == 0)
                r = add_command(plan, script, err);
        return r < 0 ? r : init_script_end(script, err);
}
