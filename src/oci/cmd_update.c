/* update: limits of a running container, as options or as a linux.resources object. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "box/spec/spec.h"
#include "oci.h"

struct update_options {
        const char *resources;
        const char *value[32]; /* by the line in limits[] */
        const char *cpus, *mems, *l3, *bandwidth;
};

enum limit_unit { UNIT_NUMBER, UNIT_BYTES };

/* One line an option: its name, where its number goes in linux.resources. Offsets are the line's. */
static const struct {
        const char *name;
        enum limit_unit unit;
        const char *section, *key;
        const char *help;
} limits[] = {
        { "blkio-weight", UNIT_NUMBER, "blockIO", "weight", "block I/O weight, 10 to 1000" },
        { "cpu-period", UNIT_NUMBER, "cpu", "period", "CPU period in microseconds" },
        { "cpu-quota", UNIT_NUMBER, "cpu", "quota", "CPU time in a period, in microseconds" },
        { "cpu-burst", UNIT_NUMBER, "cpu", "burst", "unused CPU time that may be saved up, in microseconds" },
        { "cpu-share", UNIT_NUMBER, "cpu", "shares", "CPU shares" },
        { "cpu-idle", UNIT_NUMBER, "cpu", "idle", "1: run only when nobody else wants to" },
        { "cpu-rt-period", UNIT_NUMBER, "cpu", "realtimePeriod", "realtime period in microseconds" },
        { "cpu-rt-runtime", UNIT_NUMBER, "cpu", "realtimeRuntime", "realtime in a period, in microseconds" },
        { "memory", UNIT_BYTES, "memory", "limit", "memory limit (512M, 1G, ...)" },
        { "memory-reservation", UNIT_BYTES, "memory", "reservation", "memory below which nothing is reclaimed first" },
        { "memory-swap", UNIT_BYTES, "memory", "swap", "memory and swap together; -1: no limit" },
        { "kernel-memory", UNIT_BYTES, "memory", "kernel", "kernel memory limit (v1)" },
        { "kernel-memory-tcp", UNIT_BYTES, "memory", "kernelTCP", "kernel memory limit for TCP buffers (v1)" },
        { "pids-limit", UNIT_NUMBER, "pids", "limit", "number of processes; -1: no limit" },
};

#define TEXT_OPTIONS                                                                                        \
        OPTION(STRING, struct update_options, resources, "resources", 'r',                                  \
                "a file with a linux.resources object; - for stdin"),                                       \
                OPTION(STRING, struct update_options, cpus, "cpuset-cpus", 0, "CPUs to run on"),            \
                OPTION(STRING, struct update_options, mems, "cpuset-mems", 0, "memory nodes to use"),       \
                OPTION(STRING, struct update_options, l3, "l3-cache-schema", 0, "Intel RDT: cache schema"), \
                OPTION(STRING, struct update_options, bandwidth, "mem-bw-schema", 0,                        \
                        "Intel RDT: memory bandwidth schema")

static const struct option_spec text_options[] = { TEXT_OPTIONS };
static struct option_spec all_options[ARRAY_SIZE(text_options) + ARRAY_SIZE(limits) + 1];

/* 10, 512M, 1g, -1. */
static int parse_value(const char *name, const char *text, enum limit_unit unit, s64 *ret, struct err **err)
{
        static const char suffixes[] = "kmgt";
        char *end;
        s64 value, factor = 1;

        errno = 0;
        value = strtoll(text, &end, 10);
        if (unit == UNIT_BYTES && end != text && *end) {
                const char *suffix = strchr(suffixes, *end | 0x20);

                if (suffix && *suffix) {
                        factor = 1LL << (10 * (suffix - suffixes + 1));
                        end++;
                }
                if ((*end | 0x20) == 'i')
                        end++;
                if ((*end | 0x20) == 'b')
                        end++;
        }
        if (errno || end == text || *end || __builtin_mul_overflow(value, factor, ret))
                return err_set(err, ERR_USAGE, EINVAL, "--%s: '%s' is not a %s", name, text,
                        unit == UNIT_BYTES ? "size" : "number");
        return 0;
}

static json_t *section(json_t *resources, const char *name)
{
        json_t *object = json_object_get(resources, name);

        if (!object) {
                object = json_object();
                json_object_set_new(resources, name, object);
        }
        return object;
}

static int from_options(const struct update_options *o, json_t *resources, struct err **err)
{
        s64 value = 0;
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
                if (!o->value[i] || !o->value[i][0])
                        continue;
                r = parse_value(limits[i].name, o->value[i], limits[i].unit, &value, err);
                if (r < 0)
                        return r;
                json_object_set_new(section(resources, limits[i].section), limits[i].key, json_integer(value));
        }
        if (o->cpus)
                json_object_set_new(section(resources, "cpu"), "cpus", json_string(o->cpus));
        if (o->mems)
                json_object_set_new(section(resources, "cpu"), "mems", json_string(o->mems));
        return 0;
}

static int read_resources(const char *path, json_t **ret, struct err **err)
{
        enum { SIZE_MAX_ = 1024 * 1024 };
        _cleanup_free_ char *text = malloc(SIZE_MAX_ + 1);
        _cleanup_fclose_ FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
        size_t n;
        int r;

        if (!text || !f)
                return err_sys(err, errno, "opening '%s'", path);
        n = fread(text, 1, SIZE_MAX_ + 1, f);
        if (n > SIZE_MAX_)
                return err_set(err, ERR_BAD_CONFIG, EFBIG, "'%s' is larger than 1 MiB", path);
        r = spec_read_json(text, n, ret, err);
        return r < 0 ? err_wrap(err, r, "'%s'", path) : 0;
}

static void fill_options(void)
{
        size_t n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(text_options); i++)
                all_options[n++] = text_options[i];
        for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
                all_options[n++] = (struct option_spec){
                        .name = limits[i].name,
                        .kind = OPTION_STRING,
                        .offset = offsetof(struct update_options, value) + i * sizeof(const char *),
                        .help = limits[i].help,
                };
}

static int run_update(struct oci *oci, int argc, char **argv, struct err **err)
{
        struct update_options o = { 0 };
        json_t *resources = NULL;
        char **words;
        int n, r;

        _Static_assert(ARRAY_SIZE(limits) <= ARRAY_SIZE(o.value), "a slot for every limit");
        fill_options();
        r = oci_options(&oci_update, argc, argv, &o, 1, 1, &words, &n, err);
        if (r)
                return MIN(r, 0);
        if (o.resources)
                r = read_resources(o.resources, &resources, err);
        else if (!(resources = json_object()))
                r = err_sys(err, ENOMEM, "update");
        if (r == 0 && !o.resources)
                r = from_options(&o, resources, err);
        if (r == 0)
                r = box_update(&oci->runtime, words[0], resources, err);
        if (r == 0 && (o.l3 || o.bandwidth))
                r = box_update_rdt(&oci->runtime, words[0], o.l3, o.bandwidth, err);
        json_decref(resources);
        return r;
}

const struct oci_command oci_update = { "update", "CONTAINER", "change a container's limits", run_update, all_options,
        false };
