/* Reading config.json: the tables of its members. What the members may say together is checked in check.c. */
#include "spec.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "check.h"
#include "fields.h"
#include "names.h"

enum { DOCUMENT_MAX = 16 * 1024 * 1024 };

/* ---- members that are names of numbers ---- */

static int parse_name(struct fields_context *ctx, const json_t *json, const struct name *table, int *ret)
{
        const char *text;
        const struct name *name;
        int r = fields_string(ctx, json, &text);

        if (r < 0)
                return r;
        name = name_find(table, text);
        if (!name)
                return fields_error(ctx, "'%s' is unknown", text);
        *ret = (int)name->value;
        return 0;
}

#define NAME_PARSER(function, table)                                                      \
        static int function(struct fields_context *ctx, const json_t *json, void *member) \
        {                                                                                 \
                return parse_name(ctx, json, table, member);                              \
        }
NAME_PARSER(parse_rlimit_type, spec_rlimit_names)
NAME_PARSER(parse_namespace_type, spec_namespace_names)
NAME_PARSER(parse_sched_policy, spec_sched_policies)
NAME_PARSER(parse_io_class, spec_io_classes)
NAME_PARSER(parse_personality, spec_personalities)
NAME_PARSER(parse_mempolicy_mode, spec_mempolicy_modes)
#undef NAME_PARSER

/* An array of names into a mask. */
static int parse_flags(struct fields_context *ctx, const json_t *json, const struct name *table, u64 *ret)
{
        const char **names;
        size_t n;
        int r = fields_strings(ctx, json, &names, &n);

        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++) {
                const struct name *name = name_find(table, names[i]);

                if (!name)
                        return fields_error(ctx, "'%s' is unknown", names[i]);
                *ret |= (u64)name->value;
        }
        return 0;
}

static int parse_sched_flags(struct fields_context *ctx, const json_t *json, void *member)
{
        return parse_flags(ctx, json, spec_sched_flags, member);
}

static int parse_mempolicy_flags(struct fields_context *ctx, const json_t *json, void *member)
{
        u64 flags = 0;
        int r = parse_flags(ctx, json, spec_mempolicy_flags, &flags);

        if (r == 0)
                *(u32 *)member = (u32)flags;
        return r;
}

/* One of the five sets. Capabilities this build does not know are skipped: runc and crun warn and go on, since a
 * profile may be written for a newer kernel. */
static int parse_cap_set(struct fields_context *ctx, const json_t *json, void *member)
{
        const char **names;
        size_t n;
        u64 set = 0;
        int r = fields_strings(ctx, json, &names, &n);

        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++) {
                const int cap = spec_capability(names[i]);

                if (cap >= 0)
                        set |= BIT(cap);
        }
        *(u64 *)member = set;
        return 0;
}

static int parse_device_type(struct fields_context *ctx, const json_t *json, void *member)
{
        const char *text;
        int r = fields_string(ctx, json, &text);

        if (r < 0)
                return r;
        if (!text[0] || text[1] || !strchr("cbup", text[0]))
                return fields_error(ctx, "'%s' is not a type of device (c, b, u or p)", text);
        *(int *)member = text[0] == 'u' ? 'c' : text[0];
        return 0;
}

static int parse_annotations(struct fields_context *ctx, const json_t *json, void *member)
{
        const char *key;
        json_t *value;

        if (!json_is_object(json))
                return fields_error(ctx, "must be an object of strings");
        json_object_foreach((json_t *)json, key, value)
        {
                if (!key[0])
                        return fields_error(ctx, "a key must not be empty");
                if (!json_is_string(value))
                        return fields_error(ctx, "the value of '%s' must be a string", key);
        }
        *(const json_t **)member = json;
        return 0;
}

/* ---- process ---- */

static const struct field console_size_fields[] = {
        FIELD(UINT, struct spec_process, console_size.height, "height"),
        FIELD(UINT, struct spec_process, console_size.width, "width"),
        { 0 },
};

static const struct field user_fields[] = {
        FIELD(UINT, struct spec_user, uid, "uid"),
        FIELD(UINT, struct spec_user, gid, "gid"),
        FIELD_PTR(OPTIONAL_UINT, struct spec_user, umask, "umask"),
        FIELD_LIST(UINTS, struct spec_user, additional_gids, "additionalGids"),
        { 0 },
};

static const struct field rlimit_fields[] = {
        FIELD(CUSTOM, struct spec_rlimit, resource, "type", .required = true, .parse = parse_rlimit_type),
        FIELD(UINT, struct spec_rlimit, soft, "soft"),
        FIELD(UINT, struct spec_rlimit, hard, "hard"),
        { 0 },
};

static const struct field capability_fields[] = {
        FIELD(CUSTOM, struct spec_capabilities, set[CAP_SET_BOUNDING], "bounding", .parse = parse_cap_set),
        FIELD(CUSTOM, struct spec_capabilities, set[CAP_SET_EFFECTIVE], "effective", .parse = parse_cap_set),
        FIELD(CUSTOM, struct spec_capabilities, set[CAP_SET_INHERITABLE], "inheritable", .parse = parse_cap_set),
        FIELD(CUSTOM, struct spec_capabilities, set[CAP_SET_PERMITTED], "permitted", .parse = parse_cap_set),
        FIELD(CUSTOM, struct spec_capabilities, set[CAP_SET_AMBIENT], "ambient", .parse = parse_cap_set),
        { 0 },
};

static const struct field scheduler_fields[] = {
        FIELD(CUSTOM, struct spec_scheduler, policy, "policy", .required = true, .parse = parse_sched_policy),
        FIELD(INT, struct spec_scheduler, nice, "nice"),
        FIELD(INT, struct spec_scheduler, priority, "priority"),
        FIELD(CUSTOM, struct spec_scheduler, flags, "flags", .parse = parse_sched_flags),
        FIELD(UINT, struct spec_scheduler, runtime, "runtime"),
        FIELD(UINT, struct spec_scheduler, deadline, "deadline"),
        FIELD(UINT, struct spec_scheduler, period, "period"),
        { 0 },
};

static const struct field io_priority_fields[] = {
        FIELD(CUSTOM, struct spec_io_priority, class, "class", .required = true, .parse = parse_io_class),
        FIELD(INT, struct spec_io_priority, priority, "priority"),
        { 0 },
};

static const struct field cpu_affinity_fields[] = {
        FIELD(STRING, struct spec_cpu_affinity, initial, "initial"),
        FIELD(STRING, struct spec_cpu_affinity, final, "final"),
        { 0 },
};

static const struct field process_fields[] = {
        FIELD(BOOL, struct spec_process, terminal, "terminal"),
        { .name = "consoleSize", .kind = FIELD_OBJECT, .fields = console_size_fields },
        FIELD(OBJECT, struct spec_process, user, "user", .fields = user_fields),
        FIELD(STRINGS, struct spec_process, args, "args"),
        FIELD(STRINGS, struct spec_process, env, "env"),
        FIELD(STRING, struct spec_process, cwd, "cwd"),
        FIELD_PTR(OPTIONAL, struct spec_process, capabilities, "capabilities", .fields = capability_fields),
        FIELD_LIST(OBJECTS, struct spec_process, rlimits, "rlimits", .fields = rlimit_fields),
        FIELD(BOOL, struct spec_process, no_new_privileges, "noNewPrivileges"),
        FIELD(STRING, struct spec_process, apparmor_profile, "apparmorProfile"),
        FIELD(STRING, struct spec_process, selinux_label, "selinuxLabel"),
        FIELD_PTR(OPTIONAL_INT, struct spec_process, oom_score_adj, "oomScoreAdj"),
        FIELD_PTR(OPTIONAL, struct spec_process, scheduler, "scheduler", .fields = scheduler_fields),
        FIELD_PTR(OPTIONAL, struct spec_process, io_priority, "ioPriority", .fields = io_priority_fields),
        FIELD_PTR(OPTIONAL, struct spec_process, cpu_affinity, "execCPUAffinity", .fields = cpu_affinity_fields),
        { 0 },
};

/* ---- mounts, hooks ---- */

static const struct field id_map_fields[] = {
        FIELD(UINT, struct spec_id_map, container_id, "containerID", .required = true),
        FIELD(UINT, struct spec_id_map, host_id, "hostID", .required = true),
        FIELD(UINT, struct spec_id_map, size, "size", .required = true),
        { 0 },
};

static const struct field mount_fields[] = {
        FIELD(STRING, struct spec_mount, destination, "destination", .required = true),
        FIELD(STRING, struct spec_mount, type, "type"),
        FIELD(STRING, struct spec_mount, source, "source"),
        FIELD(STRINGS, struct spec_mount, options, "options"),
        FIELD_LIST(OBJECTS, struct spec_mount, uid_mappings, "uidMappings", .fields = id_map_fields),
        FIELD_LIST(OBJECTS, struct spec_mount, gid_mappings, "gidMappings", .fields = id_map_fields),
        { 0 },
};

static const struct field hook_fields[] = {
        FIELD(STRING, struct spec_hook, path, "path", .required = true),
        FIELD(STRINGS, struct spec_hook, args, "args"),
        FIELD(STRINGS, struct spec_hook, env, "env"),
        FIELD_PTR(OPTIONAL_INT, struct spec_hook, timeout, "timeout"),
        { 0 },
};

static const struct field hooks_fields[] = {
#define HOOK(id, name_)                                          \
        { .name = name_,                                         \
                .kind = FIELD_OBJECTS,                           \
                .offset = HOOK_##id * sizeof(struct spec_hooks), \
                .size = sizeof(struct spec_hook),                \
                .fields = hook_fields },
        SPEC_HOOKS(HOOK)
#undef HOOK
                { 0 },
};

/* ---- linux ---- */

static const struct field namespace_fields[] = {
        FIELD(CUSTOM, struct spec_namespace, id, "type", .required = true, .parse = parse_namespace_type),
        FIELD(STRING, struct spec_namespace, path, "path"),
        { 0 },
};

static const struct field device_fields[] = {
        FIELD(STRING, struct spec_device, path, "path", .required = true),
        FIELD(CUSTOM, struct spec_device, type, "type", .required = true, .parse = parse_device_type),
        FIELD(INT, struct spec_device, major, "major"),
        FIELD(INT, struct spec_device, minor, "minor"),
        FIELD_PTR(OPTIONAL_UINT, struct spec_device, file_mode, "fileMode"),
        FIELD(UINT, struct spec_device, uid, "uid"),
        FIELD(UINT, struct spec_device, gid, "gid"),
        { 0 },
};

static const struct field personality_fields[] = {
        FIELD(CUSTOM, struct spec_personality, domain, "domain", .required = true, .parse = parse_personality),
        FIELD(STRINGS, struct spec_personality, flags, "flags"),
        { 0 },
};

static const struct field memory_policy_fields[] = {
        FIELD(CUSTOM, struct spec_memory_policy, mode, "mode", .required = true, .parse = parse_mempolicy_mode),
        FIELD(STRING, struct spec_memory_policy, nodes, "nodes"),
        FIELD(CUSTOM, struct spec_memory_policy, flags, "flags", .parse = parse_mempolicy_flags),
        { 0 },
};

static const struct field intel_rdt_fields[] = {
        FIELD(STRING, struct spec_intel_rdt, clos_id, "closID"),
        FIELD(STRINGS, struct spec_intel_rdt, schemata, "schemata"),
        FIELD(STRING, struct spec_intel_rdt, l3_cache_schema, "l3CacheSchema"),
        FIELD(STRING, struct spec_intel_rdt, mem_bw_schema, "memBwSchema"),
        FIELD(BOOL, struct spec_intel_rdt, enable_monitoring, "enableMonitoring"),
        { 0 },
};

static const struct field time_offset_fields[] = {
        FIELD(INT, struct spec_time_offset, secs, "secs"),
        FIELD(UINT, struct spec_time_offset, nanosecs, "nanosecs"),
        { 0 },
};

static const struct field time_offsets_fields[] = {
        FIELD_PTR(OPTIONAL, struct spec_linux, monotonic, "monotonic", .fields = time_offset_fields),
        FIELD_PTR(OPTIONAL, struct spec_linux, boottime, "boottime", .fields = time_offset_fields),
        { 0 },
};

static const struct field net_device_fields[] = {
        FIELD(STRING, struct spec_net_device, name, "name"),
        { 0 },
};

static int parse_net_devices(struct fields_context *ctx, const json_t *json, void *member)
{
        struct spec_linux *linux_ = container_of(member, struct spec_linux, net_devices);
        struct spec_net_device *device;
        const char *key;
        json_t *value;
        int r;

        if (!json_is_object(json))
                return fields_error(ctx, "must be an object");
        device = arena_new(ctx->arena, struct spec_net_device, json_object_size(json));
        if (!device)
                return err_sys(ctx->err, ENOMEM, "%s", ctx->path);
        linux_->net_devices = device;
        json_object_foreach((json_t *)json, key, value)
        {
                device->host_name = key;
                r = fields_read(ctx, value, net_device_fields, device);
                if (r < 0)
                        return r;
                if (!device->name || !device->name[0])
                        device->name = key;
                device++;
                linux_->n_net_devices++;
        }
        return 0;
}

static const struct field linux_fields[] = {
        FIELD_LIST(OBJECTS, struct spec_linux, uid_mappings, "uidMappings", .fields = id_map_fields),
        FIELD_LIST(OBJECTS, struct spec_linux, gid_mappings, "gidMappings", .fields = id_map_fields),
        FIELD_LIST(OBJECTS, struct spec_linux, namespaces, "namespaces", .fields = namespace_fields),
        FIELD_LIST(OBJECTS, struct spec_linux, devices, "devices", .fields = device_fields),
        FIELD(CUSTOM, struct spec_linux, net_devices, "netDevices", .parse = parse_net_devices),
        FIELD(STRING, struct spec_linux, cgroups_path, "cgroupsPath"),
        FIELD(JSON, struct spec_linux, resources, "resources"),
        FIELD(JSON, struct spec_linux, seccomp, "seccomp"),
        FIELD_PTR(OPTIONAL, struct spec_linux, intel_rdt, "intelRdt", .fields = intel_rdt_fields),
        FIELD_PTR(OPTIONAL, struct spec_linux, memory_policy, "memoryPolicy", .fields = memory_policy_fields),
        FIELD(PAIRS, struct spec_linux, sysctl, "sysctl"),
        FIELD(STRING, struct spec_linux, rootfs_propagation, "rootfsPropagation"),
        FIELD(STRINGS, struct spec_linux, masked_paths, "maskedPaths"),
        FIELD(STRINGS, struct spec_linux, readonly_paths, "readonlyPaths"),
        FIELD(STRING, struct spec_linux, mount_label, "mountLabel"),
        FIELD_PTR(OPTIONAL, struct spec_linux, personality, "personality", .fields = personality_fields),
        { .name = "timeOffsets", .kind = FIELD_OBJECT, .fields = time_offsets_fields },
        { 0 },
};

static const struct field root_fields[] = {
        FIELD(STRING, struct spec, root.path, "path", .required = true),
        FIELD(BOOL, struct spec, root.readonly, "readonly"),
        { 0 },
};

static const struct field config_fields[] = {
        FIELD(STRING, struct spec, oci_version, "ociVersion", .required = true),
        { .name = "root", .kind = FIELD_OBJECT, .fields = root_fields },
        FIELD_PTR(OPTIONAL, struct spec, process, "process", .fields = process_fields),
        FIELD(STRING, struct spec, hostname, "hostname"),
        FIELD(STRING, struct spec, domainname, "domainname"),
        FIELD_LIST(OBJECTS, struct spec, mounts, "mounts", .fields = mount_fields),
        FIELD(OBJECT, struct spec, hooks, "hooks", .fields = hooks_fields),
        FIELD(CUSTOM, struct spec, annotations, "annotations", .parse = parse_annotations),
        FIELD(OBJECT, struct spec, linux_, "linux", .fields = linux_fields),
        { 0 },
};

/* ---- documents ---- */

/* Whole numbers above INT64_MAX are legal JSON that the library refuses: gives each of them a fraction, which makes it
 * a real. */
static char *with_real_giants(const char *text, size_t size, size_t *ret_size)
{
        char *out = malloc(size * 2 + 1);
        bool in_string = false;
        size_t n = 0;

        if (!out)
                return NULL;
        for (size_t i = 0; i < size;) {
                size_t digits = 0;

                if (in_string || text[i] < '0' || text[i] > '9') {
                        if (text[i] == '"')
                                in_string = !in_string;
                        else if (in_string && text[i] == '\\' && i + 1 < size)
                                out[n++] = text[i++];
                        out[n++] = text[i++];
                        continue;
                }
                while (i + digits < size && strchr("0123456789.eE+-", text[i + digits]) && text[i + digits])
                        digits++;
                memcpy(out + n, text + i, digits);
                n += digits;
                if (digits >= 19 && strspn(text + i, "0123456789") == digits) {
                        memcpy(out + n, ".0", 2);
                        n += 2;
                }
                i += digits;
        }
        out[n] = 0;
        *ret_size = n;
        return out;
}

int spec_read_json(const char *text, size_t size, json_t **ret, struct err **err)
{
        _cleanup_free_ char *patched = NULL;
        json_error_t error;
        json_t *json;
        size_t seed = 0;

        /* jansson would open /dev/urandom for it. */
        if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) > 0)
                json_object_seed(seed | 1);
        if (size > DOCUMENT_MAX)
                return err_set(err, ERR_BAD_CONFIG, EFBIG, "the document is larger than %d MiB", DOCUMENT_MAX >> 20);
        json = json_loadb(text, size, 0, &error);
        if (!json && json_error_code(&error) == json_error_numeric_overflow) {
                patched = with_real_giants(text, size, &size);
                if (!patched)
                        return err_sys(err, ENOMEM, "reading JSON");
                json = json_loadb(patched, size, 0, &error);
        }
        if (!json)
                return err_set(
                        err, ERR_BAD_CONFIG, EINVAL, "line %d, column %d: %s", error.line, error.column, error.text);
        *ret = json;
        return 0;
}

static int parse_document(const char *text, size_t size, const struct field *fields, bool process_only,
        struct spec **ret, struct err **err)
{
        _cleanup_(spec_freep) struct spec *spec = calloc(1, sizeof(*spec));
        struct fields_context ctx = { .err = err };
        int r;

        if (!spec)
                return err_sys(err, ENOMEM, "reading the configuration");
        r = spec_read_json(text, size, &spec->json, err);
        if (r < 0)
                return r;
        ctx.arena = &spec->arena;
        if (process_only) {
                spec->process = arena_new(&spec->arena, struct spec_process, 1);
                if (!spec->process)
                        return err_sys(err, ENOMEM, "reading the process");
                strcpy(ctx.path, "process");
        }
        r = fields_read(&ctx, spec->json, fields, process_only ? (void *)spec->process : (void *)spec);
        if (r < 0)
                return r;
        r = process_only ? spec_check_process(spec->process, err) : spec_check(spec, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(spec);
        return 0;
}

int spec_parse(const char *text, size_t size, struct spec **ret, struct err **err)
{
        return parse_document(text, size, config_fields, false, ret, err);
}

int spec_parse_process(const char *text, size_t size, struct spec **ret, struct err **err)
{
        return parse_document(text, size, process_fields, true, ret, err);
}

int spec_load(int dirfd, const char *path, struct spec **ret, struct err **err)
{
        _cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        _cleanup_free_ char *text = NULL;
        struct stat st;
        size_t n = 0;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, errno, "opening '%s'", path);
        if (!S_ISREG(st.st_mode))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' is not a regular file", path);
        if (st.st_size > DOCUMENT_MAX)
                return err_set(err, ERR_BAD_CONFIG, EFBIG, "'%s' is larger than %d MiB", path, DOCUMENT_MAX >> 20);
        text = malloc((size_t)st.st_size + 1);
        if (!text)
                return err_sys(err, ENOMEM, "reading '%s'", path);
        while (n < (size_t)st.st_size) {
                const ssize_t got = read(fd, text + n, (size_t)st.st_size - n);

                if (got < 0)
                        return err_sys(err, errno, "reading '%s'", path);
                if (got == 0)
                        break;
                n += (size_t)got;
        }
        r = spec_parse(text, n, ret, err);
        if (r < 0)
                return err_wrap(err, r, "'%s'", path);
        (*ret)->text = TAKE_PTR(text);
        (*ret)->text_size = n;
        return 0;
}

struct spec *spec_free(struct spec *spec)
{
        if (spec) {
                arena_release(&spec->arena);
                json_decref(spec->json);
                free(spec->text);
                free(spec);
        }
        return NULL;
}

const char *spec_annotation(const struct spec *spec, const char *key)
{
        return json_string_value(json_object_get(spec->annotations, key));
}
