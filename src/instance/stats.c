/* What an instance uses: what control groups say, the same for every wall. */
#include <errno.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "base/clock.h"
#include "ops.h"
#include "stats.h"

static u64 number_at(const json_t *json, const char *a, const char *b, const char *c)
{
        const json_t *value = json_object_get(json, a);

        value = b ? json_object_get(value, b) : value;
        value = c ? json_object_get(value, c) : value;
        return json_is_real(value) ? UINT64_MAX : (u64)json_integer_value(value);
}

static u64 host_memory(void)
{
        struct sysinfo info;

        return sysinfo(&info) == 0 ? (u64)info.totalram * info.mem_unit : 0;
}

static void read_memory(const json_t *stats, struct instance_stats *ret)
{
        const u64 usage = number_at(stats, "memory", "usage", "usage"), host = host_memory();
        u64 cache = number_at(stats, "memory", "raw", "total_inactive_file");

        if (!cache)
                cache = number_at(stats, "memory", "raw", "inactive_file");
        ret->memory = usage - MIN(cache, usage);
        ret->memory_limit = number_at(stats, "memory", "usage", "limit");
        if (ret->memory_limit == 0 || ret->memory_limit > host)
                ret->memory_limit = host;
}

static void read_block(const json_t *stats, struct instance_stats *ret)
{
        const json_t *list = json_object_get(json_object_get(stats, "blkio"), "ioServiceBytesRecursive");

        for (size_t i = 0; i < json_array_size(list); i++) {
                const json_t *entry = json_array_get(list, i);
                const char *op = json_string_value(json_object_get(entry, "op")) ?: "";
                const u64 value = (u64)json_integer_value(json_object_get(entry, "value"));

                if (strcasecmp(op, "read") == 0)
                        ret->block_read += value;
                else if (strcasecmp(op, "write") == 0)
                        ret->block_write += value;
        }
}

void stats_of_groups(const json_t *stats, struct instance_stats *ret)
{
        ret->cpu_ns = number_at(stats, "cpu", "usage", "total");
        ret->cpu_user_ns = number_at(stats, "cpu", "usage", "user");
        ret->cpu_system_ns = number_at(stats, "cpu", "usage", "kernel");
        ret->pids = number_at(stats, "pids", "current", NULL);
        ret->pids_limit = number_at(stats, "pids", "limit", NULL);
        read_memory(stats, ret);
        read_block(stats, ret);
}

int instance_get_stats(struct instance *inst, struct instance_stats *ret, struct err **err)
{
        const struct instance_state *state;
        struct instance_stats s = { .cpus = (unsigned)MAX(get_nprocs(), 1), .time_ns = (s64)clock_now_ns() };
        int r = instance_get_state(inst, &state, err);

        if (r == 0 && !state->pid)
                r = err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
        if (r == 0)
                r = inst->ops->stats(inst, state->pid, &s, err);
        if (r == 0)
                *ret = s;
        return r;
}

int instance_top(struct instance *inst, const struct instance_processes **ret, struct err **err)
{
        const struct instance_state *state;
        int r = instance_get_state(inst, &state, err);

        if (r == 0 && !state->pid)
                r = err_set(err, ERR_BUSY, ESRCH, "the instance '%s' is not running", inst->config.name);
        if (r < 0)
                return r;
        arena_release(&inst->top_arena);
        inst->processes = (struct instance_processes){ 0 };
        r = inst->ops->top(inst, &inst->processes, err);
        if (r == 0)
                *ret = &inst->processes;
        return r;
}
