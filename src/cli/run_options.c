/* From the command line to what the instance contract wants. Most options are a line of a table that fills the
 * configuration directly; those that may be given often are collected, and read in one order when all are known. */
#include "run_options.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "runspec.h"
#include "values.h"

#define CONFIG(member) offsetof(struct run_options, config.member)
#define OWN(member)    offsetof(struct run_options, member)
#define LIST(id)       offsetof(struct run_options, list[RUN_##id])

/* --- values of one option ------------------------------------------------------------------------------------------ */

static int parse_isolation(void *member, const char *text, struct err **err)
{
        static const char *const walls[] = { "container", "vm" };

        *(const char **)member = NULL;
        for (size_t i = 0; i < ARRAY_SIZE(walls); i++)
                if (strcmp(walls[i], text) == 0)
                        *(const char **)member = walls[i];
        if (*(const char **)member || strcmp(text, "default") == 0)
                return 0;
        return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "'%s' is no isolation", text), "there is: container, vm");
}

static int parse_pull(void *member, const char *text, struct err **err)
{
        static const struct {
                const char *name;
                enum image_pull_policy policy;
        } policies[] = { { "missing", IMAGE_PULL_MISSING }, { "always", IMAGE_PULL_ALWAYS },
                { "never", IMAGE_PULL_NEVER } };

        for (size_t i = 0; i < ARRAY_SIZE(policies); i++)
                if (strcmp(policies[i].name, text) == 0) {
                        *(s64 *)member = policies[i].policy;
                        return 0;
                }
        return err_hint(
                err, err_set(err, ERR_USAGE, EINVAL, "'%s' is no policy", text), "there is: missing, always, never");
}

static int parse_log_driver(void *member, const char *text, struct err **err)
{
        if (strcmp(text, "local") == 0)
                text = "json-file";
        if (strcmp(text, "json-file") != 0 && strcmp(text, "none") != 0)
                return err_hint(err, err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "there is no log driver '%s'", text),
                        "there is: json-file (the default), none");
        *(const char **)member = text;
        return 0;
}

static int parse_signal_name(void *member, const char *text, struct err **err)
{
        int number, r = cli_parse_signal(&number, text, err);

        if (r == 0)
                *(const char **)member = text;
        return r;
}

/* What must not be empty. */
static int parse_word(void *member, const char *text, struct err **err)
{
        if (!*text)
                return err_set(err, ERR_USAGE, EINVAL, "nothing is given");
        *(const char **)member = text;
        return 0;
}

static int parse_oom_score(void *member, const char *text, struct err **err)
{
        s64 score;
        int r = cli_parse_number(&score, text, err);

        if (r == 0 && (score < -1000 || score > 1000))
                r = err_set(err, ERR_USAGE, EINVAL, "%s is not between -1000 and 1000", text);
        if (r == 0)
                *(s64 *)member = score;
        return r;
}

/* --- tables -------------------------------------------------------------------------------------------------------- */

static const struct cli_option running_options[] = {
        CLI_OPTION("detach", 'd', FLAG, OWN(detach), NULL, "go to the background and print the id"),
        CLI_OPTION(
                "attach", 'a', LIST, OWN(attach), "STREAM", "connect stdin, stdout or stderr (default: the last two)"),
        CLI_PARSED("detach-keys", 0, OWN(detach_keys), "KEYS", "leave it running with these (default: ctrl-p,ctrl-q)",
                cli_parse_keys),
        CLI_OPTION("sig-proxy", 0, FLAG, OWN(sig_proxy), NULL,
                "pass on signals that come to this command (default: true)"),
        { 0 },
};

static const struct cli_option container_options[] = {
        CLI_PARSED("name", 0, CONFIG(name), "NAME", "of the container (default: one is made up)", parse_word),
        CLI_OPTION("rm", 0, FLAG, CONFIG(auto_remove), NULL, "remove it and its anonymous volumes when it has ended"),
        CLI_OPTION("restart", 0, TEXT, OWN(restart), "POLICY", "no, always, unless-stopped, on-failure[:N]"),
        CLI_PARSED("isolation", 0, CONFIG(isolation), "WALL",
                "container or vm (default: $STRATA_ISOLATION, the image's, container)", parse_isolation),
        CLI_OPTION("label", 'l', LIST, LIST(LABEL), "KEY=VALUE", "a label"),
        CLI_OPTION("label-file", 0, LIST, LIST(LABEL_FILE), "FILE", "labels, one a line"),
        CLI_OPTION("annotation", 0, LIST, LIST(ANNOTATION), "KEY=VALUE", "for the runtime"),
        CLI_OPTION("cidfile", 0, TEXT, OWN(cidfile), "FILE", "write the id to this new file"),
        CLI_PARSED("pull", 0, OWN(pull), "POLICY", "the image: missing (the default), always, never", parse_pull),
        CLI_OPTION("platform", 0, TEXT, OWN(platform), "OS/ARCH", "of an image made for several"),
        CLI_OPTION("quiet", 'q', FLAG, OWN(quiet), NULL, "pull without saying so"),
        CLI_PARSED("stop-signal", 0, CONFIG(stop_signal), "SIGNAL", "what stop sends (default: the image's, or TERM)",
                parse_signal_name),
        CLI_PARSED("stop-timeout", 0, CONFIG(stop_timeout), "SECONDS", "after which stop kills (default: 10)",
                cli_parse_number),
        CLI_PARSED("log-driver", 0, CONFIG(log.driver), "DRIVER", "json-file or none", parse_log_driver),
        CLI_OPTION("log-opt", 0, LIST, LIST(LOG_OPTION), "KEY=VALUE", "max-size=SIZE, max-file=N: rotation"),
        CLI_OPTION("runtime", 0, REFUSED, 0, "NAME",
                "containers are made by strata itself; podman takes strata-oci as its runtime"),
        CLI_OPTION("gpus", 0, REFUSED, 0, "GPUS", "give the devices with --device"),
        CLI_OPTION("storage-opt", 0, REFUSED, 0, "OPTION", "overlayfs has no such options"),
        CLI_OPTION("use-api-socket", 0, REFUSED, 0, NULL, "there is no socket of an API in containers"),
        CLI_OPTION("disable-content-trust", 0, IGNORED, 0, NULL, NULL),
        { 0 },
};

static const struct cli_option process_options[] = {
        CLI_OPTION("interactive", 'i', FLAG, CONFIG(open_stdin), NULL, "give it standard input"),
        CLI_OPTION("tty", 't', FLAG, CONFIG(tty), NULL, "give it a terminal"),
        CLI_OPTION("env", 'e', LIST, LIST(ENV), "NAME[=VALUE]", "a variable of the environment"),
        CLI_OPTION("env-file", 0, LIST, LIST(ENV_FILE), "FILE", "variables, one a line"),
        CLI_OPTION("entrypoint", 0, TEXT, OWN(entrypoint), "PROGRAM", "instead of the image's; '' for none"),
        CLI_OPTION("user", 'u', TEXT, CONFIG(user), "USER[:GROUP]", "names or numbers"),
        CLI_OPTION("group-add", 0, LIST, LIST(GROUP_ADD), "GROUP", "one more group"),
        CLI_OPTION("workdir", 'w', TEXT, CONFIG(working_dir), "DIR", "where it starts"),
        CLI_OPTION("init", 0, FLAG, CONFIG(init), NULL, "a small first process that reaps others"),
        CLI_PARSED("oom-score-adj", 0, CONFIG(oom_score_adj), "N", "-1000 to 1000", parse_oom_score),
        CLI_OPTION("ulimit", 0, LIST, LIST(ULIMIT), "NAME=SOFT[:HARD]", "as nofile=1024"),
        CLI_OPTION("sysctl", 0, LIST, LIST(SYSCTL), "NAME=VALUE", "of its namespaces"),
        { 0 },
};

static const struct cli_option file_options[] = {
        CLI_OPTION("volume", 'v', LIST, LIST(VOLUME), "[SOURCE:]TARGET[:OPTIONS]", "mount a directory or a volume"),
        CLI_OPTION("mount", 0, LIST, LIST(MOUNT), "type=...,src=...,dst=...", "mount a bind, volume or tmpfs"),
        CLI_OPTION("tmpfs", 0, LIST, LIST(TMPFS), "TARGET[:OPTIONS]", "mount a tmpfs"),
        CLI_OPTION("volumes-from", 0, LIST, LIST(VOLUMES_FROM), "CONTAINER[:ro]", "mount what another has mounted"),
        CLI_OPTION("read-only", 0, FLAG, CONFIG(read_only), NULL, "nothing can be written but what is mounted"),
        CLI_PARSED("shm-size", 0, CONFIG(shm_size), "SIZE", "of /dev/shm (default: 64m)", cli_parse_size),
        CLI_OPTION("device", 0, LIST, LIST(DEVICE), "DEVICE[:TARGET][:rwm]", "a device of the host"),
        CLI_OPTION("device-cgroup-rule", 0, LIST, LIST(DEVICE_RULE), "RULE", "as 'c 1:3 rwm'"),
        CLI_OPTION("volume-driver", 0, REFUSED, 0, "DRIVER", "volumes are directories of this host"),
        { 0 },
};

static const struct cli_option network_options[] = {
        CLI_OPTION(
                "network", 0, LIST, LIST(NETWORK), "NETWORK", "bridge (default), none, host, container:NAME or a name"),
        CLI_OPTION("net", 0, LIST, LIST(NETWORK), "NETWORK", "the same"),
        CLI_OPTION("publish", 'p', LIST, LIST(PUBLISH), "[[IP:]PORT:]PORT", "open a port of the host for it"),
        CLI_OPTION("publish-all", 'P', FLAG, CONFIG(publish_all), NULL, "open a port for each that is exposed"),
        CLI_OPTION("expose", 0, LIST, LIST(EXPOSE), "PORT[/PROTOCOL]", "say that it listens"),
        CLI_OPTION("network-alias", 0, LIST, LIST(NETWORK_ALIAS), "NAME", "one more name on the network"),
        CLI_OPTION("net-alias", 0, LIST, LIST(NETWORK_ALIAS), "NAME", "the same"),
        CLI_OPTION("ip", 0, TEXT, OWN(ip), "ADDRESS", "of it (IPv4)"),
        CLI_OPTION("ip6", 0, TEXT, OWN(ip6), "ADDRESS", "of it (IPv6)"),
        CLI_OPTION("mac-address", 0, TEXT, OWN(mac), "MAC", "of its interface"),
        CLI_OPTION("hostname", 'h', TEXT, CONFIG(hostname), "NAME", "(default: the short id)"),
        CLI_OPTION("domainname", 0, TEXT, CONFIG(domainname), "NAME", "behind the host's name"),
        CLI_OPTION(
                "add-host", 0, LIST, LIST(ADD_HOST), "NAME:ADDRESS", "a line in /etc/hosts; host-gateway is this host"),
        CLI_OPTION("dns", 0, LIST, LIST(DNS), "ADDRESS", "a name server"),
        CLI_OPTION("dns-search", 0, LIST, LIST(DNS_SEARCH), "DOMAIN", "a search domain"),
        CLI_OPTION("dns-option", 0, LIST, LIST(DNS_OPTION), "OPTION", "of resolv.conf"),
        CLI_OPTION("link", 0, REFUSED, 0, "CONTAINER", "containers of a network of your own find each other by name"),
        CLI_OPTION("link-local-ip", 0, REFUSED, 0, "ADDRESS", "give an address with --ip"),
        { 0 },
};

#define RESOURCE(member) offsetof(struct instance_resources, member)

const struct cli_option run_resource_options[] = {
        CLI_PARSED("memory", 'm', RESOURCE(memory), "SIZE", "as 512m", cli_parse_size),
        CLI_PARSED("memory-reservation", 0, RESOURCE(memory_reservation), "SIZE", "a softer limit", cli_parse_size),
        CLI_PARSED("memory-swap", 0, RESOURCE(memory_swap), "SIZE", "memory and swap together; -1: no limit",
                cli_parse_swap),
        CLI_PARSED("cpus", 0, RESOURCE(nano_cpus), "N", "as 1.5", cli_parse_cpus),
        CLI_PARSED("cpu-shares", 'c', RESOURCE(cpu_shares), "N", "against others (default: 1024)", cli_parse_count),
        CLI_PARSED("cpu-period", 0, RESOURCE(cpu_period), "MICROSECONDS", "of the quota", cli_parse_count),
        CLI_PARSED("cpu-quota", 0, RESOURCE(cpu_quota), "MICROSECONDS", "in a period", cli_parse_number),
        CLI_OPTION("cpuset-cpus", 0, TEXT, RESOURCE(cpuset_cpus), "LIST", "as 0-3,5"),
        CLI_OPTION("cpuset-mems", 0, TEXT, RESOURCE(cpuset_mems), "LIST", "as 0"),
        CLI_PARSED("pids-limit", 0, RESOURCE(pids), "N", "processes and threads; -1: no limit", cli_parse_number),
        CLI_PARSED("blkio-weight", 0, RESOURCE(blkio_weight), "N", "10 to 1000", cli_parse_count),
        CLI_OPTION("cpu-rt-period", 0, REFUSED, 0, "N", "real-time scheduling is not limited"),
        CLI_OPTION("cpu-rt-runtime", 0, REFUSED, 0, "N", "real-time scheduling is not limited"),
        CLI_OPTION("kernel-memory", 0, REFUSED, 0, "SIZE", "the kernel's memory counts in --memory"),
        { 0 },
};

static const struct cli_option more_resource_options[] = {
        CLI_PARSED("memory-swappiness", 0, RESOURCE(memory_swappiness), "N", "0 to 100", cli_parse_count),
        CLI_OPTION("oom-kill-disable", 0, FLAG, RESOURCE(oom_kill_disable), NULL, "wait instead (cgroup v1)"),
        { 0 },
};

static const struct cli_option rate_options[] = {
        CLI_OPTION("device-read-bps", 0, LIST, LIST(READ_BPS), "DEVICE:RATE", "bytes a second"),
        CLI_OPTION("device-write-bps", 0, LIST, LIST(WRITE_BPS), "DEVICE:RATE", "bytes a second"),
        CLI_OPTION("device-read-iops", 0, LIST, LIST(READ_IOPS), "DEVICE:RATE", "operations a second"),
        CLI_OPTION("device-write-iops", 0, LIST, LIST(WRITE_IOPS), "DEVICE:RATE", "operations a second"),
        CLI_OPTION("cgroup-parent", 0, TEXT, CONFIG(cgroup_parent), "PATH", "the control group that its own is in"),
        CLI_OPTION("blkio-weight-device", 0, REFUSED, 0, "DEVICE:N", "weights are for all devices: --blkio-weight"),
        { 0 },
};

static const struct cli_option rights_options[] = {
        CLI_OPTION("cap-add", 0, LIST, LIST(CAP_ADD), "CAPABILITY", "as NET_ADMIN; ALL"),
        CLI_OPTION("cap-drop", 0, LIST, LIST(CAP_DROP), "CAPABILITY", "as CHOWN; ALL"),
        CLI_OPTION("privileged", 0, FLAG, CONFIG(privileged), NULL, "all rights, all devices: no wall"),
        CLI_OPTION(
                "security-opt", 0, LIST, LIST(SECURITY), "OPTION", "seccomp=FILE|unconfined, no-new-privileges, ..."),
        CLI_OPTION("userns", 0, TEXT, CONFIG(userns_mode), "MODE", "host, auto or UID:HOST:N; without root also keep-id, nomap"),
        CLI_OPTION("pid", 0, TEXT, CONFIG(pid_mode), "MODE", "host, container:NAME"),
        CLI_OPTION("ipc", 0, TEXT, CONFIG(ipc_mode), "MODE", "private, shareable, none, host, container:NAME"),
        CLI_OPTION("uts", 0, TEXT, CONFIG(uts_mode), "MODE", "host"),
        CLI_OPTION("cgroupns", 0, TEXT, CONFIG(cgroupns_mode), "MODE", "private, host"),
        { 0 },
};

static const struct cli_option health_options[] = {
        CLI_OPTION(
                "health-cmd", 0, TEXT, OWN(health_command), "COMMAND", "a shell command that says whether it is well"),
        CLI_PARSED("health-interval", 0, CONFIG(health.interval_ns), "TIME", "between two (default: 30s)",
                cli_parse_duration),
        CLI_PARSED(
                "health-timeout", 0, CONFIG(health.timeout_ns), "TIME", "for one (default: 30s)", cli_parse_duration),
        CLI_PARSED("health-retries", 0, CONFIG(health.retries), "N", "failures in a row (default: 3)", cli_parse_count),
        CLI_PARSED("health-start-period", 0, CONFIG(health.start_period_ns), "TIME", "in which failures do not count",
                cli_parse_duration),
        CLI_PARSED("health-start-interval", 0, CONFIG(health.start_interval_ns), "TIME",
                "between two in that period, if it is less (default: 5s)", cli_parse_duration),
        CLI_OPTION("no-healthcheck", 0, FLAG, OWN(no_health_check), NULL, "not even the image's"),
        { 0 },
};

/* What reads the collected texts, and for those that are taken as they are where they go. */
static const struct {
        runspec_fn *read;
        size_t strings;
} lists[RUN_LIST_COUNT] = {
        [RUN_ENV_FILE] = { .read = runspec_env_file },
        [RUN_ENV] = { .read = runspec_env },
        [RUN_LABEL_FILE] = { .read = runspec_label_file },
        [RUN_LABEL] = { .read = runspec_label },
        [RUN_ANNOTATION] = { .read = runspec_annotation },
        [RUN_PUBLISH] = { .read = runspec_publish },
        [RUN_EXPOSE] = { .read = runspec_expose },
        [RUN_VOLUME] = { .read = runspec_volume },
        [RUN_MOUNT] = { .read = runspec_mount },
        [RUN_TMPFS] = { .read = runspec_tmpfs },
        [RUN_VOLUMES_FROM] = { .strings = CONFIG(volumes_from) },
        [RUN_NETWORK] = { .read = runspec_network },
        [RUN_NETWORK_ALIAS] = { .read = runspec_network_alias },
        [RUN_ADD_HOST] = { .read = runspec_add_host },
        [RUN_DNS] = { .strings = CONFIG(dns) },
        [RUN_DNS_SEARCH] = { .strings = CONFIG(dns_search) },
        [RUN_DNS_OPTION] = { .strings = CONFIG(dns_options) },
        [RUN_DEVICE] = { .read = runspec_device },
        [RUN_DEVICE_RULE] = { .strings = CONFIG(device_rules) },
        [RUN_ULIMIT] = { .read = runspec_ulimit },
        [RUN_SYSCTL] = { .read = runspec_sysctl },
        [RUN_READ_BPS] = { .read = runspec_read_bps },
        [RUN_WRITE_BPS] = { .read = runspec_write_bps },
        [RUN_READ_IOPS] = { .read = runspec_read_iops },
        [RUN_WRITE_IOPS] = { .read = runspec_write_iops },
        [RUN_CAP_ADD] = { .strings = CONFIG(cap_add) },
        [RUN_CAP_DROP] = { .strings = CONFIG(cap_drop) },
        [RUN_SECURITY] = { .read = runspec_security },
        [RUN_GROUP_ADD] = { .strings = CONFIG(groups) },
        [RUN_LOG_OPTION] = { .read = runspec_log_option },
};

/* --- all of them --------------------------------------------------------------------------------------------------- */

static int read_lists(struct run_options *options, struct err **err)
{
        struct runspec runspec = { &options->config, &options->arena };
        int r = 0;

        for (size_t i = 0; i < RUN_LIST_COUNT; i++)
                for (size_t k = 0; r == 0 && k < options->list[i].n; k++) {
                        const char *text = options->list[i].item[k];

                        if (lists[i].read)
                                r = lists[i].read(&runspec, text, err);
                        else
                                r = runspec_strings_add(&options->arena,
                                        (struct instance_strings *)((char *)options + lists[i].strings), text, err);
                }
        return r;
}

/* Options that say nothing to one another. */
static int check_conflicts(const struct run_options *options, struct err **err)
{
        const struct instance_config *config = &options->config;
        const struct {
                bool both;
                const char *text;
        } conflicts[] = {
                { config->auto_remove && config->restart != INSTANCE_RESTART_NO, "--rm and --restart" },
                { options->detach && options->attach.n > 0, "--detach and --attach" },
                { config->resources.nano_cpus && (config->resources.cpu_quota || config->resources.cpu_period),
                        "--cpus and --cpu-quota or --cpu-period" },
                { options->no_health_check && options->health_command, "--no-healthcheck and --health-cmd" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(conflicts); i++)
                if (conflicts[i].both)
                        return err_set(err, ERR_USAGE, EINVAL, "%s cannot be given together", conflicts[i].text);
        return 0;
}

static int read_health(struct run_options *options, struct err **err)
{
        struct instance_strings *test = &options->config.health.test;
        int r = 0;

        if (options->no_health_check)
                return runspec_strings_add(&options->arena, test, "NONE", err);
        if (options->health_command) {
                r = runspec_strings_add(&options->arena, test, "CMD-SHELL", err);
                if (r == 0)
                        r = runspec_strings_add(&options->arena, test, options->health_command, err);
        }
        return r;
}

/* What was said of one network by options of their own belongs to the first. */
static int read_networks(struct run_options *options, struct err **err)
{
        struct runspec runspec = { &options->config, &options->arena };
        const struct instance_network details = { NULL, options->ip, options->ip6, options->mac, { 0 } };

        return runspec_networks_finish(&runspec, &details, err);
}

static int read_streams(struct run_options *options, struct err **err)
{
        int r = run_attach_streams(&options->attach, &options->streams, err);

        if (r < 0 || options->detach) {
                options->streams = 0;
                return r;
        }
        if (options->attach.n == 0)
                options->streams = INSTANCE_ATTACH_STDOUT | INSTANCE_ATTACH_STDERR |
                                   (options->config.open_stdin ? INSTANCE_ATTACH_STDIN : 0);
        return 0;
}

static int read_command(struct run_options *options, char *const *words, struct err **err)
{
        int r = 0;

        if (options->entrypoint)
                r = runspec_strings_add(&options->arena, &options->config.entrypoint, options->entrypoint, err);
        for (; r == 0 && *words; words++)
                r = runspec_strings_add(&options->arena, &options->config.command, *words, err);
        return r;
}

static int finish(struct run_options *options, char *const *words, struct err **err)
{
        struct runspec runspec = { &options->config, &options->arena };
        int r = read_lists(options, err);

        if (r == 0 && options->restart)
                r = runspec_restart(&runspec, options->restart, err);
        if (r == 0)
                r = read_health(options, err);
        if (r == 0)
                r = read_networks(options, err);
        if (r == 0)
                r = read_streams(options, err);
        if (r == 0)
                r = check_conflicts(options, err);
        return r < 0 ? r : read_command(options, words, err);
}

int run_options_read(struct run_options *options, const char *command, bool can_run, int argc, char **argv,
        const char **ret_image, struct err **err)
{
        const struct cli_option_group groups[] = {
                { "the container", container_options, 0 },
                { "its process", process_options, 0 },
                { "files and devices", file_options, 0 },
                { "network", network_options, 0 },
                { "limits", run_resource_options, CONFIG(resources) },
                { "more limits", more_resource_options, CONFIG(resources) },
                { "limits of devices", rate_options, 0 },
                { "rights and namespaces", rights_options, 0 },
                { "health", health_options, 0 },
                { can_run ? "running" : NULL, can_run ? running_options : NULL, 0 },
                { 0 },
        };
        const struct cli_usage usage = { command, "[OPTION...] IMAGE [COMMAND...]",
                can_run ? "Make a container of an image and run a command in it. The exit status is the command's;\n"
                          "125: nothing was run, 126: the command cannot be executed, 127: it does not exist."
                        : "Make a container of an image, without starting it. Prints its id.",
                groups, 1, -1, true };
        const char *wall = getenv("STRATA_ISOLATION");
        int first = 0, r = wall && wall[0] ? parse_isolation(&options->config.isolation, wall, err) : 0;

        if (r < 0)
                return err_wrap(err, r, "STRATA_ISOLATION");
        r = cli_options_parse(&usage, argc, argv, options, &first, err);
        if (r != 0)
                return r;
        *ret_image = argv[first];
        return finish(options, argv + first + 1, err);
}

void run_options_clear(struct run_options *options)
{
        for (size_t i = 0; i < RUN_LIST_COUNT; i++)
                cli_words_clear(&options->list[i]);
        cli_words_clear(&options->attach);
        arena_release(&options->arena);
}

int run_attach_streams(const struct cli_words *words, unsigned *ret, struct err **err)
{
        static const struct {
                const char *name;
                unsigned stream;
        } streams[] = { { "stdin", INSTANCE_ATTACH_STDIN }, { "stdout", INSTANCE_ATTACH_STDOUT },
                { "stderr", INSTANCE_ATTACH_STDERR } };
        unsigned chosen = 0;

        for (size_t i = 0; i < words->n; i++) {
                size_t k = 0;

                while (k < ARRAY_SIZE(streams) && strcasecmp(streams[k].name, words->item[i]) != 0)
                        k++;
                if (k == ARRAY_SIZE(streams))
                        return err_hint(err,
                                err_set(err, ERR_USAGE, EINVAL, "--attach: '%s' is no stream", words->item[i]),
                                "there is: stdin, stdout, stderr");
                chosen |= streams[k].stream;
        }
        *ret = chosen;
        return 0;
}

int run_check_terminal(bool tty, unsigned streams, struct err **err)
{
        if (!tty || !(streams & INSTANCE_ATTACH_STDIN) || isatty(STDIN_FILENO))
                return 0;
        return err_hint(err, err_set(err, ERR_USAGE, ENOTTY, "the input is not a terminal"),
                "leave -t away when standard input is a pipe or a file");
}
