/* What `docker inspect` prints about a container: the same names, so that scripts and templates find what they look for. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "health.h"

static json_t *list(const struct instance_strings *strings)
{
        json_t *json = json_array();

        for (size_t i = 0; i < strings->n; i++)
                json_array_append_new(json, json_string(strings->item[i]));
        return json;
}

/* docker's null where nothing was given. */
static json_t *list_or_null(const struct instance_strings *strings)
{
        return strings->n ? list(strings) : json_null();
}

static json_t *pairs(const struct instance_pairs *given)
{
        json_t *json = json_object();

        for (size_t i = 0; i < given->n; i++)
                json_object_set_new(json, given->item[i].key, json_string(given->item[i].value));
        return json;
}

static json_t *time_json(s64 ns)
{
        const time_t seconds = (time_t)(ns / (s64)NSEC_PER_SEC);
        struct tm tm;

        if (ns == 0)
                return json_string("0001-01-01T00:00:00Z");
        gmtime_r(&seconds, &tm);
        return json_sprintf("%04d-%02d-%02dT%02d:%02d:%02d.%09lldZ", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
                tm.tm_hour, tm.tm_min, tm.tm_sec, (long long)(ns % (s64)NSEC_PER_SEC));
}

static json_t *text(const char *value)
{
        return json_string(value ? value : "");
}

/* --- State ------------------------------------------------------------------------------------------------------ */

static json_t *state_json(const struct instance *inst, const struct instance_state *s)
{
        json_t *json = json_pack("{s:s, s:b, s:b, s:b, s:b, s:b, s:i, s:i, s:s, s:o, s:o}", "Status",
                instance_status_name(s->status), "Running",
                s->status == INSTANCE_RUNNING || s->status == INSTANCE_PAUSED, "Paused", s->status == INSTANCE_PAUSED,
                "Restarting", s->status == INSTANCE_RESTARTING, "OOMKilled", s->oom_killed, "Dead",
                s->status == INSTANCE_DEAD, "Pid", (int)s->pid, "ExitCode", s->exit_code, "Error", s->error,
                "StartedAt", time_json(s->started_ns), "FinishedAt", time_json(s->finished_ns));

        if (json && s->health[0])
                json_object_set_new(json, "Health",
                        json_pack("{s:s, s:i, s:o}", "Status", s->health, "FailingStreak", (int)s->health_failing,
                                "Log", health_log(inst)));
        return json;
}

/* --- Config ----------------------------------------------------------------------------------------------------- */

static json_t *exposed_json(const struct instance_config *c)
{
        json_t *json = json_object();

        for (size_t i = 0; i < c->exposed.n; i++)
                json_object_set_new(json, c->exposed.item[i], json_object());
        for (size_t i = 0; i < c->ports.n; i++) {
                char key[32];

                snprintf(key, sizeof(key), "%u/%s", c->ports.item[i].port,
                        c->ports.item[i].protocol ? c->ports.item[i].protocol : "tcp");
                json_object_set_new(json, key, json_object());
        }
        return json;
}

static json_t *volumes_json(const struct instance_config *c)
{
        json_t *json = json_object();

        for (size_t i = 0; i < c->mounts.n; i++)
                if (strcmp(c->mounts.item[i].type, "volume") == 0)
                        json_object_set_new(json, c->mounts.item[i].target, json_object());
        return json;
}

static json_t *config_json(const struct instance *inst)
{
        const struct instance_config *c = &inst->config;
        json_t *json = json_pack("{s:o, s:o, s:o, s:b, s:b, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o}", "Hostname",
                c->hostname ? json_string(c->hostname) : json_stringn(inst->id, 12), "Domainname", text(c->domainname),
                "User", text(c->user), "Tty", c->tty, "OpenStdin", c->open_stdin, "Env", list(&c->env), "Cmd",
                list_or_null(&c->command), "Entrypoint", list_or_null(&c->entrypoint), "Image", c->image, "WorkingDir",
                text(c->working_dir), "Labels", pairs(&c->labels), "ExposedPorts", exposed_json(c), "Volumes",
                volumes_json(c), "StopSignal", text(c->stop_signal && c->stop_signal[0] ? c->stop_signal : "SIGTERM"));

        if (!json)
                return NULL;
        if (c->stop_timeout)
                json_object_set_new(json, "StopTimeout", json_integer(c->stop_timeout));
        if (c->health.test.n)
                json_object_set_new(json, "Healthcheck",
                        json_pack("{s:o, s:I, s:I, s:I, s:I, s:I}", "Test", list(&c->health.test), "Interval",
                                (json_int_t)c->health.interval_ns, "Timeout", (json_int_t)c->health.timeout_ns,
                                "StartPeriod", (json_int_t)c->health.start_period_ns, "StartInterval",
                                (json_int_t)c->health.start_interval_ns, "Retries",
                                (json_int_t)c->health.retries));
        return json;
}

/* --- HostConfig ------------------------------------------------------------------------------------------------- */

static const char *const restart_names[] = { "no", "on-failure", "always", "unless-stopped" };

static json_t *binds_json(const struct instance_config *c)
{
        json_t *json = json_array();

        for (size_t i = 0; i < c->mounts.n; i++) {
                const struct instance_mount *m = &c->mounts.item[i];

                if (strcmp(m->type, "tmpfs") != 0)
                        json_array_append_new(json, json_sprintf("%s:%s%s", m->source ? m->source : "", m->target,
                                                            m->read_only ? ":ro" : ""));
        }
        return json;
}

static json_t *bindings_json(const struct instance_port *item, size_t n)
{
        json_t *json = json_object();

        for (size_t i = 0; i < n; i++) {
                json_t *bindings;
                char key[32], port[16] = "";

                snprintf(key, sizeof(key), "%u/%s", item[i].port, item[i].protocol ? item[i].protocol : "tcp");
                if (item[i].host_port_last)
                        snprintf(port, sizeof(port), "%u-%u", item[i].host_port, item[i].host_port_last);
                else if (item[i].host_port)
                        snprintf(port, sizeof(port), "%u", item[i].host_port);
                bindings = json_object_get(json, key);
                if (!bindings) {
                        bindings = json_array();
                        json_object_set_new(json, key, bindings);
                }
                json_array_append_new(bindings,
                        json_pack("{s:s, s:s}", "HostIp", item[i].host_ip ? item[i].host_ip : "", "HostPort", port));
        }
        return json;
}

static json_t *ulimits_json(const struct instance_config *c)
{
        json_t *json = json_array();

        for (size_t i = 0; i < c->ulimits.n; i++)
                json_array_append_new(json,
                        json_pack("{s:s, s:I, s:I}", "Name", c->ulimits.item[i].name, "Soft",
                                (json_int_t)c->ulimits.item[i].soft, "Hard", (json_int_t)c->ulimits.item[i].hard));
        return json;
}

static json_t *devices_json(const struct instance_config *c)
{
        json_t *json = json_array();

        for (size_t i = 0; i < c->devices.n; i++) {
                const struct instance_device *d = &c->devices.item[i];

                json_array_append_new(json, json_pack("{s:s, s:s, s:s}", "PathOnHost", d->source, "PathInContainer",
                                                    d->target ? d->target : d->source, "CgroupPermissions",
                                                    d->permissions ? d->permissions : "rwm"));
        }
        return json;
}

static void set_resources(json_t *json, const struct instance_resources *r)
{
        const struct {
                const char *name;
                s64 value;
        } numbers[] = { { "Memory", r->memory }, { "MemoryReservation", r->memory_reservation },
                { "MemorySwap", r->memory_swap }, { "NanoCpus", r->nano_cpus }, { "CpuShares", r->cpu_shares },
                { "CpuPeriod", r->cpu_period }, { "CpuQuota", r->cpu_quota }, { "PidsLimit", r->pids },
                { "BlkioWeight", r->blkio_weight } };

        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
                json_object_set_new(json, numbers[i].name, json_integer(numbers[i].value));
        json_object_set_new(
                json, "MemorySwappiness", r->memory_swappiness < 0 ? json_null() : json_integer(r->memory_swappiness));
        json_object_set_new(json, "CpusetCpus", text(r->cpuset_cpus));
        json_object_set_new(json, "CpusetMems", text(r->cpuset_mems));
        json_object_set_new(json, "OomKillDisable", json_boolean(r->oom_kill_disable));
}

static json_t *host_config_json(const struct instance *inst)
{
        const struct instance_config *c = &inst->config;
        const size_t restart = (size_t)c->restart < ARRAY_SIZE(restart_names) ? (size_t)c->restart : 0;
        json_t *json = json_pack("{s:b, s:{s:s, s:I}, s:s, s:{s:s, s:{}}, s:o, s:o, s:b, s:b, s:b, s:o, s:o, s:o, s:o}",
                "AutoRemove", c->auto_remove, "RestartPolicy", "Name", restart_names[restart], "MaximumRetryCount",
                (json_int_t)c->restart_max, "NetworkMode",
                c->network_mode && c->network_mode[0] ? c->network_mode : "bridge", "LogConfig", "Type",
                c->log.driver ? c->log.driver : "json-file", "Config", "Binds", binds_json(c), "PortBindings",
                bindings_json(c->ports.item, c->ports.n), "Privileged", c->privileged, "PublishAllPorts",
                c->publish_all, "ReadonlyRootfs", c->read_only, "CapAdd", list_or_null(&c->cap_add), "CapDrop",
                list_or_null(&c->cap_drop), "SecurityOpt", list_or_null(&c->security), "GroupAdd",
                list_or_null(&c->groups));

        if (!json)
                return NULL;
        json_object_set_new(json, "PidMode", text(c->pid_mode));
        json_object_set_new(json, "IpcMode", text(c->ipc_mode));
        json_object_set_new(json, "UTSMode", text(c->uts_mode));
        json_object_set_new(json, "CgroupnsMode", text(c->cgroupns_mode));
        json_object_set_new(json, "UsernsMode", text(c->userns_mode));
        json_object_set_new(json, "CgroupParent", text(c->cgroup_parent));
        json_object_set_new(json, "ShmSize", json_integer(c->shm_size ? c->shm_size : (s64)(64 * MIB)));
        json_object_set_new(json, "OomScoreAdj", json_integer(c->oom_score_adj));
        json_object_set_new(json, "Init", json_boolean(c->init));
        json_object_set_new(json, "Isolation", text(c->isolation ? c->isolation : "container"));
        json_object_set_new(json, "Dns", list(&c->dns));
        json_object_set_new(json, "DnsSearch", list(&c->dns_search));
        json_object_set_new(json, "DnsOptions", list(&c->dns_options));
        json_object_set_new(json, "ExtraHosts", list_or_null(&c->extra_hosts));
        json_object_set_new(json, "VolumesFrom", list_or_null(&c->volumes_from));
        json_object_set_new(json, "Sysctls", pairs(&c->sysctls));
        json_object_set_new(json, "Ulimits", ulimits_json(c));
        json_object_set_new(json, "Devices", devices_json(c));
        set_resources(json, &c->resources);
        return json;
}

/* --- Mounts, NetworkSettings ------------------------------------------------------------------------------------ */

static json_t *mounts_json(const struct instance *inst)
{
        const struct instance_config *c = &inst->config;
        json_t *json = json_array();

        for (size_t i = 0; i < c->mounts.n; i++) {
                const struct instance_mount *m = &c->mounts.item[i];
                const bool volume = strcmp(m->type, "volume") == 0;
                _cleanup_free_ char *path = volume && m->source ? volume_path(inst->host, m->source) : NULL;
                json_t *entry = json_pack("{s:s, s:s, s:s, s:b, s:s}", "Type", m->type, "Source",
                        path        ? path
                        : m->source ? m->source
                                    : "",
                        "Destination", m->target, "RW", !m->read_only, "Propagation",
                        m->propagation ? m->propagation
                        : volume       ? ""
                                       : "rprivate");

                if (volume && m->source) {
                        json_object_set_new(entry, "Name", json_string(m->source));
                        json_object_set_new(entry, "Driver", json_string("local"));
                }
                json_array_append_new(json, entry);
        }
        return json;
}

static json_t *endpoint_json(const struct instance_endpoint *e)
{
        return json_pack("{s:s, s:s, s:i, s:s, s:s}", "IPAddress", e->ip, "Gateway", e->gateway, "IPPrefixLen",
                (int)e->prefix_len, "MacAddress", e->mac, "GlobalIPv6Address", e->ip6);
}

static int network_json(struct instance *inst, json_t **ret, struct err **err)
{
        const struct instance_endpoints *endpoints;
        const struct instance_port *ports;
        json_t *json, *networks;
        size_t n;
        int r = instance_get_ports(inst, &ports, &n, err);

        if (r < 0)
                return r;
        json = json_pack("{s:o}", "Ports", bindings_json(ports, n));
        r = instance_get_endpoints(inst, &endpoints, err);
        if (r < 0) {
                json_decref(json);
                return r;
        }
        networks = json_object();
        for (size_t i = 0; i < endpoints->n; i++)
                json_object_set_new(networks, endpoints->item[i].network, endpoint_json(&endpoints->item[i]));
        if (endpoints->n) { /* the first one once more, where scripts have looked for it since before there were networks */
                json_t *first = endpoint_json(&endpoints->item[0]);

                json_object_update(json, first);
                json_decref(first);
        }
        json_object_set_new(json, "Networks", networks);
        *ret = json;
        return 0;
}

/* --- all -------------------------------------------------------------------------------------------------------- */

int instance_inspect(struct instance *inst, bool size, json_t **ret, struct err **err)
{
        const struct instance_config *c = &inst->config;
        const struct instance_state *state;
        struct instance_strings argv;
        json_t *json, *network = NULL, *args;
        _cleanup_free_ char *log = instance_path(inst, FILE_LOG);
        u64 layer = 0, total = 0;
        int r = instance_get_state(inst, &state, err);

        if (r == 0)
                r = config_argv(&inst->path_arena, c, &argv, err);
        if (r == 0)
                r = network_json(inst, &network, err);
        if (r < 0)
                return r;
        args = list(&argv);
        json_array_remove(args, 0);
        json = json_pack("{s:s, s:s, s:s, s:o, s:o, s:s, s:s, s:i, s:s, s:o, s:o, s:o, s:o}", "Id", inst->id, "Created",
                c->created, "Path", argv.n ? argv.item[0] : "", "Args", args, "State", state_json(inst, state), "Image",
                c->image_id, "LogPath", log ? log : "", "RestartCount", (int)state->restarts, "Driver", "overlay",
                "HostConfig", host_config_json(inst), "Mounts", mounts_json(inst), "Config", config_json(inst),
                "NetworkSettings", network);
        if (!json)
                return err_sys(err, ENOMEM, "inspecting '%s'", c->name);
        json_object_set_new(json, "Name", json_sprintf("/%s", c->name));
        json_object_set_new(json, "ImageDigest", text(c->image_digest));
        if (size) {
                r = instance_size(inst, &layer, &total, err);
                if (r < 0) {
                        json_decref(json);
                        return r;
                }
                json_object_set_new(json, "SizeRw", json_integer((json_int_t)layer));
                json_object_set_new(json, "SizeRootFs", json_integer((json_int_t)total));
        }
        *ret = json;
        return 0;
}
