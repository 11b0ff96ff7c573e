/* The configuration as JSON and back: one table for both directions. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "box/spec/fields.h"
#include "box/spec/spec.h"
#include "ops.h"
#include "snapshot_internal.h"

_Static_assert(sizeof(struct spec_pairs) == sizeof(struct instance_pairs) &&
                       offsetof(struct spec_pair, value) == offsetof(struct instance_pair, value),
        "fields.h reads pairs as the runtime specification's");

#define CONFIG_FILE "config.json"

static const struct field mount_fields[] = {
        FIELD(STRING, struct instance_mount, type, "type", .required = true),
        FIELD(STRING, struct instance_mount, source, "source"),
        FIELD(STRING, struct instance_mount, target, "target", .required = true),
        FIELD(BOOL, struct instance_mount, read_only, "readOnly"),
        FIELD(BOOL, struct instance_mount, make_source, "makeSource"),
        FIELD(BOOL, struct instance_mount, no_recursive, "noRecursive"),
        FIELD(BOOL, struct instance_mount, no_copy, "noCopy"),
        FIELD(BOOL, struct instance_mount, id_map, "idMap"),
        FIELD(STRING, struct instance_mount, propagation, "propagation"),
        FIELD(STRING, struct instance_mount, options, "options"),
        { 0 },
};

static const struct field port_fields[] = {
        FIELD(STRING, struct instance_port, host_ip, "hostIp"),
        FIELD(UINT, struct instance_port, host_port, "hostPort"),
        FIELD(UINT, struct instance_port, host_port_last, "hostPortLast"),
        FIELD(UINT, struct instance_port, port, "port", .required = true),
        FIELD(STRING, struct instance_port, protocol, "protocol"),
        { 0 },
};

static const struct field network_fields[] = {
        FIELD(STRING, struct instance_network, name, "name", .required = true),
        FIELD(STRING, struct instance_network, ip, "ip"),
        FIELD(STRING, struct instance_network, ip6, "ip6"),
        FIELD(STRING, struct instance_network, mac, "mac"),
        FIELD(STRINGS, struct instance_network, aliases, "aliases"),
        { 0 },
};

static const struct field device_fields[] = {
        FIELD(STRING, struct instance_device, source, "source", .required = true),
        FIELD(STRING, struct instance_device, target, "target"),
        FIELD(STRING, struct instance_device, permissions, "permissions"),
        { 0 },
};

static const struct field ulimit_fields[] = {
        FIELD(STRING, struct instance_ulimit, name, "name", .required = true),
        FIELD(INT, struct instance_ulimit, soft, "soft"),
        FIELD(INT, struct instance_ulimit, hard, "hard"),
        { 0 },
};

static const struct field rate_fields[] = {
        FIELD(STRING, struct instance_io_rate, device, "device", .required = true),
        FIELD(UINT, struct instance_io_rate, rate, "rate"),
        { 0 },
};

static const struct field resource_fields[] = {
        FIELD(INT, struct instance_resources, memory, "memory"),
        FIELD(INT, struct instance_resources, memory_reservation, "memoryReservation"),
        FIELD(INT, struct instance_resources, memory_swap, "memorySwap"),
        FIELD(INT, struct instance_resources, memory_swappiness, "memorySwappiness"),
        FIELD(INT, struct instance_resources, nano_cpus, "nanoCpus"),
        FIELD(INT, struct instance_resources, cpu_shares, "cpuShares"),
        FIELD(INT, struct instance_resources, cpu_period, "cpuPeriod"),
        FIELD(INT, struct instance_resources, cpu_quota, "cpuQuota"),
        FIELD(STRING, struct instance_resources, cpuset_cpus, "cpusetCpus"),
        FIELD(STRING, struct instance_resources, cpuset_mems, "cpusetMems"),
        FIELD(INT, struct instance_resources, pids, "pids"),
        FIELD(INT, struct instance_resources, blkio_weight, "blkioWeight"),
        FIELD_LIST(OBJECTS, struct instance_resources, read_bps, "readBps", .fields = rate_fields),
        FIELD_LIST(OBJECTS, struct instance_resources, write_bps, "writeBps", .fields = rate_fields),
        FIELD_LIST(OBJECTS, struct instance_resources, read_iops, "readIops", .fields = rate_fields),
        FIELD_LIST(OBJECTS, struct instance_resources, write_iops, "writeIops", .fields = rate_fields),
        FIELD(BOOL, struct instance_resources, oom_kill_disable, "oomKillDisable"),
        { 0 },
};

static const struct field health_fields[] = {
        FIELD(STRINGS, struct instance_health, test, "test"),
        FIELD(INT, struct instance_health, interval_ns, "interval"),
        FIELD(INT, struct instance_health, timeout_ns, "timeout"),
        FIELD(INT, struct instance_health, start_period_ns, "startPeriod"),
        FIELD(INT, struct instance_health, start_interval_ns, "startInterval"),
        FIELD(INT, struct instance_health, retries, "retries"),
        { 0 },
};

static const struct field log_fields[] = {
        FIELD(STRING, struct instance_log, driver, "driver"),
        FIELD(INT, struct instance_log, max_size, "maxSize"),
        FIELD(INT, struct instance_log, max_files, "maxFiles"),
        { 0 },
};

static const struct field config_fields[] = {
        FIELD(STRING, struct instance_config, id, "id"),
        FIELD(STRING, struct instance_config, name, "name"),
        FIELD(STRING, struct instance_config, image, "image"),
        FIELD(STRING, struct instance_config, image_id, "imageId"),
        FIELD(STRING, struct instance_config, image_digest, "imageDigest"),
        FIELD(STRING, struct instance_config, created, "created"),
        FIELD(STRING, struct instance_config, isolation, "isolation"),
        FIELD(STRINGS, struct instance_config, entrypoint, "entrypoint"),
        FIELD(STRINGS, struct instance_config, command, "command"),
        FIELD(STRINGS, struct instance_config, env, "env"),
        FIELD(STRING, struct instance_config, user, "user"),
        FIELD(STRINGS, struct instance_config, groups, "groups"),
        FIELD(STRING, struct instance_config, working_dir, "workingDir"),
        FIELD(BOOL, struct instance_config, tty, "tty"),
        FIELD(BOOL, struct instance_config, open_stdin, "openStdin"),
        FIELD(BOOL, struct instance_config, init, "init"),
        FIELD(STRING, struct instance_config, stop_signal, "stopSignal"),
        FIELD(INT, struct instance_config, stop_timeout, "stopTimeout"),
        FIELD(BOOL, struct instance_config, privileged, "privileged"),
        FIELD(BOOL, struct instance_config, read_only, "readOnly"),
        FIELD(STRINGS, struct instance_config, cap_add, "capAdd"),
        FIELD(STRINGS, struct instance_config, cap_drop, "capDrop"),
        FIELD(STRINGS, struct instance_config, security, "security"),
        FIELD(STRINGS, struct instance_config, device_rules, "deviceRules"),
        FIELD(PAIRS, struct instance_config, sysctls, "sysctls"),
        FIELD_LIST(OBJECTS, struct instance_config, devices, "devices", .fields = device_fields),
        FIELD_LIST(OBJECTS, struct instance_config, ulimits, "ulimits", .fields = ulimit_fields),
        FIELD(OBJECT, struct instance_config, resources, "resources", .fields = resource_fields),
        FIELD(INT, struct instance_config, oom_score_adj, "oomScoreAdj"),
        FIELD(STRING, struct instance_config, cgroup_parent, "cgroupParent"),
        FIELD_LIST(OBJECTS, struct instance_config, mounts, "mounts", .fields = mount_fields),
        FIELD(STRINGS, struct instance_config, volumes_from, "volumesFrom"),
        FIELD(INT, struct instance_config, shm_size, "shmSize"),
        FIELD(STRING, struct instance_config, pid_mode, "pidMode"),
        FIELD(STRING, struct instance_config, ipc_mode, "ipcMode"),
        FIELD(STRING, struct instance_config, uts_mode, "utsMode"),
        FIELD(STRING, struct instance_config, cgroupns_mode, "cgroupnsMode"),
        FIELD(STRING, struct instance_config, userns_mode, "usernsMode"),
        FIELD(STRING, struct instance_config, id_maps, "idMaps"),
        FIELD(STRING, struct instance_config, gid_maps, "gidMaps"),
        FIELD(STRING, struct instance_config, network_mode, "networkMode"),
        FIELD_LIST(OBJECTS, struct instance_config, networks, "networks", .fields = network_fields),
        FIELD_LIST(OBJECTS, struct instance_config, ports, "ports", .fields = port_fields),
        FIELD(BOOL, struct instance_config, publish_all, "publishAll"),
        FIELD(STRINGS, struct instance_config, exposed, "exposed"),
        FIELD(STRING, struct instance_config, hostname, "hostname"),
        FIELD(STRING, struct instance_config, domainname, "domainname"),
        FIELD(STRINGS, struct instance_config, extra_hosts, "extraHosts"),
        FIELD(STRINGS, struct instance_config, dns, "dns"),
        FIELD(STRINGS, struct instance_config, dns_search, "dnsSearch"),
        FIELD(STRINGS, struct instance_config, dns_options, "dnsOptions"),
        FIELD(BOOL, struct instance_config, auto_remove, "autoRemove"),
        FIELD(INT, struct instance_config, restart, "restart"),
        FIELD(INT, struct instance_config, restart_max, "restartMax"),
        FIELD(OBJECT, struct instance_config, health, "health", .fields = health_fields),
        FIELD(OBJECT, struct instance_config, log, "log", .fields = log_fields),
        FIELD(PAIRS, struct instance_config, labels, "labels"),
        FIELD(PAIRS, struct instance_config, annotations, "annotations"),
        { 0 },
};

/* --- writing ---------------------------------------------------------------------------------------------------- */

static json_t *strings_to_json(const struct instance_strings *list)
{
        json_t *json = json_array();

        for (size_t i = 0; i < list->n; i++)
                json_array_append_new(json, json_string(list->item[i]));
        return json;
}

static json_t *pairs_to_json(const struct instance_pairs *pairs)
{
        json_t *json = json_object();

        for (size_t i = 0; i < pairs->n; i++)
                json_object_set_new(json, pairs->item[i].key, json_string(pairs->item[i].value));
        return json;
}

static json_int_t read_number(const struct field *f, const void *member)
{
        if (f->size == sizeof(u16))
                return *(const u16 *)member;
        return *(const s64 *)member;
}

static json_t *fields_to_json(const struct field *fields, const void *in);

/* What all FIELD_OBJECTS members look like. */
struct any_list {
        void *item;
        size_t n;
};

static json_t *objects_to_json(const struct field *f, const struct any_list *list)
{
        json_t *json = json_array();

        for (size_t i = 0; i < list->n; i++)
                json_array_append_new(json, fields_to_json(f->fields, (const char *)list->item + i * f->size));
        return json;
}

/* NULL: nothing to be written. */
static json_t *member_to_json(const struct field *f, const void *member)
{
        switch (f->kind) {
        case FIELD_BOOL:
                return *(const bool *)member ? json_true() : NULL;
        case FIELD_STRING:
                return *(const char *const *)member ? json_string(*(const char *const *)member) : NULL;
        case FIELD_STRINGS:
                return ((const struct instance_strings *)member)->n ? strings_to_json(member) : NULL;
        case FIELD_PAIRS:
                return ((const struct instance_pairs *)member)->n ? pairs_to_json(member) : NULL;
        case FIELD_INT:
        case FIELD_UINT:
                return read_number(f, member) ? json_integer(read_number(f, member)) : NULL;
        case FIELD_OBJECT:
                return fields_to_json(f->fields, member);
        case FIELD_OBJECTS:
                return ((const struct any_list *)member)->n ? objects_to_json(f, member) : NULL;
        default:
                return NULL;
        }
}

static json_t *fields_to_json(const struct field *fields, const void *in)
{
        json_t *json = json_object();

        for (const struct field *f = fields; f->name; f++) {
                json_t *value = member_to_json(f, (const char *)in + f->offset);

                if (value)
                        json_object_set_new(json, f->name, value);
        }
        return json;
}

json_t *config_to_json(const struct instance_config *config)
{
        return fields_to_json(config_fields, config);
}

int config_adopt(struct instance *inst, json_t *json, struct err **err)
{
        struct fields_context ctx = { .arena = &inst->arena, .err = err };
        struct instance_config config = { 0 };
        int r;

        arena_release(&inst->arena);
        json_decref(inst->config_source);
        inst->config_source = json;
        inst->config = config;
        r = fields_read(&ctx, json, config_fields, &config);
        if (r == 0)
                r = instance_wall_find(config.isolation, &inst->ops, err);
        if (r == 0)
                inst->config = config;
        return r;
}

int config_read(struct arena *arena, const json_t *json, struct instance_config *ret, struct err **err)
{
        struct fields_context ctx = { .arena = arena, .err = err };
        struct instance_config config = { 0 };
        int r = fields_read(&ctx, json, config_fields, &config);

        if (r == 0)
                *ret = config;
        return r;
}

/* --- files ------------------------------------------------------------------------------------------------------ */

int json_save(const struct instance *inst, const char *file, const json_t *json, bool durable, struct err **err)
{
        _cleanup_free_ char *text = json_dumps(json, JSON_INDENT(1));
        char tmp[64];

        if (!text)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "%s: a text is not UTF-8", file);
        snprintf(tmp, sizeof(tmp), "%.40s.%d", file, (int)getpid());
        return file_replace(inst->dir, tmp, file, text, strlen(text), durable, err);
}

int json_load(const struct instance *inst, const char *file, json_t **ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        json_error_t error;
        json_t *json;
        size_t len;
        int r = io_read_file(inst->dir, file, INSTANCE_FILE_MAX, &text, &len, err);

        if (r < 0)
                return r;
        json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
        if (!json)
                return err_set(
                        err, ERR_BAD_STATE, EINVAL, "%s/%s, line %d: %s", inst->id, file, error.line, error.text);
        *ret = json;
        return 0;
}

int config_save(const struct instance *inst, struct err **err)
{
        json_t *json = config_to_json(&inst->config);
        int r = json ? json_save(inst, CONFIG_FILE, json, !inst->config.auto_remove && !inst->sync_later, err) : err_sys(err, ENOMEM, "writing the configuration");

        json_decref(json);
        return r;
}

bool config_exists(int dir)
{
        struct stat st;

        return fstatat(dir, CONFIG_FILE, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0;
}

int config_sync(struct instance *inst, struct err **err)
{
        static const char *const files[] = { CONFIG_FILE, FILE_RESTORE, "." };

        if (!inst->sync_later || inst->config.auto_remove)
                return 0;
        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                _cleanup_close_ int fd = openat(inst->dir, files[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

                if (fd < 0 ? errno != ENOENT : fsync(fd) < 0)
                        return err_sys(err, errno, "writing '%s'", files[i]);
        }
        inst->sync_later = false;
        return 0;
}

int config_load(struct instance *inst, struct err **err)
{
        json_t *json = NULL;
        int r = json_load(inst, CONFIG_FILE, &json, err);

        if (r == 0)
                r = config_adopt(inst, json, err);
        if (r == 0 && (!inst->config.id || strcmp(inst->config.id, inst->id) != 0 || !inst->config.name))
                r = err_set(err, ERR_BAD_STATE, EINVAL, "its configuration is another's");
        return r < 0 ? err_wrap(err, r, "instance %.12s", inst->id) : 0;
}
