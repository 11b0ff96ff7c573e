/* `strata info`: this host as containers and machines find it, in docker's words where it has some. */
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "container_cli.h"

#ifndef STRATA_VERSION
#define STRATA_VERSION "unknown"
#endif

struct totals {
        json_int_t containers, running, paused, images;
};

static int count_container(void *opaque, struct instance *inst)
{
        struct totals *totals = opaque;
        const struct instance_state *state;

        if (instance_get_state(inst, &state, NULL) < 0)
                return 0;
        totals->containers++;
        totals->running += state->status == INSTANCE_RUNNING;
        totals->paused += state->status == INSTANCE_PAUSED;
        return 0;
}

static int count_image(void *opaque, const struct image_summary *image)
{
        ((struct totals *)opaque)->images++;
        return 0;
}

/* PRETTY_NAME="Debian GNU/Linux 12 (bookworm)" of os-release(5). */
static void read_os(char *ret, size_t size)
{
        _cleanup_fclose_ FILE *f = fopen("/etc/os-release", "re");
        char line[256];

        snprintf(ret, size, "Linux");
        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "PRETTY_NAME=\"%200[^\"\n]", ret) == 1)
                        return;
}

static const char *cgroup_version(void)
{
        struct statfs fs;

        return statfs("/sys/fs/cgroup", &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC ? "2" : "1";
}

static int collect(json_t **ret, struct err **err)
{
        const bool rootless = geteuid() != 0; /* before the user namespace is entered, in which one is root */
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        struct totals totals = { 0 };
        struct utsname uts = { 0 };
        struct sysinfo memory = { 0 };
        char os[208];
        int r = instance_host_open(NULL, &host, err);

        if (r == 0)
                r = instance_list(host, count_container, &totals, err);
        if (r == 0)
                r = image_list(instance_host_images(host), count_image, &totals, err);
        if (r < 0)
                return r;
        uname(&uts);
        sysinfo(&memory);
        read_os(os, sizeof(os));
        *ret = json_pack("{s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:s, s:b}",
                "Containers", totals.containers, "ContainersRunning", totals.running, "ContainersPaused", totals.paused,
                "ContainersStopped", totals.containers - totals.running - totals.paused, "Images", totals.images,
                "ServerVersion", STRATA_VERSION, "Driver", "overlay", "CgroupVersion", cgroup_version(),
                "KernelVersion", uts.release, "OperatingSystem", os, "OSType", "linux", "Architecture", uts.machine,
                "NCPU", (int)sysconf(_SC_NPROCESSORS_ONLN), "MemTotal",
                (json_int_t)memory.totalram * (json_int_t)memory.mem_unit, "RootDir", instance_host_root(host),
                "Rootless", rootless);
        return *ret ? 0 : err_sys(err, ENOMEM, "describing the host");
}

static void print_text(const json_t *info)
{
        static const struct {
                const char *title, *key;
        } lines[] = { { "Containers", "Containers" }, { " Running", "ContainersRunning" },
                { " Paused", "ContainersPaused" }, { " Stopped", "ContainersStopped" }, { "Images", "Images" },
                { "Version", "ServerVersion" }, { "Storage", "Driver" }, { "Cgroup version", "CgroupVersion" },
                { "Kernel", "KernelVersion" }, { "Operating system", "OperatingSystem" },
                { "Architecture", "Architecture" }, { "CPUs", "NCPU" } };

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                const json_t *value = json_object_get(info, lines[i].key);

                if (json_is_string(value))
                        printf("%s: %s\n", lines[i].title, json_string_value(value));
                else
                        printf("%s: %lld\n", lines[i].title, (long long)json_integer_value(value));
        }
        printf("Memory: %s\n", listing_size_binary((u64)json_integer_value(json_object_get(info, "MemTotal"))).text);
        printf("Root: %s%s\n", json_string_value(json_object_get(info, "RootDir")),
                json_is_true(json_object_get(info, "Rootless")) ? " (without root)" : "");
}

int system_info_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("format", 'f', TEXT, 0, "FORMAT", "json or a template as '{{.CgroupVersion}}'"), { 0 }
        };
        const struct cli_usage usage = { "strata info", "[OPTION...]", "Say what this host is and has.",
                CLI_OPTIONS(options), 0, 0, false };
        _cleanup_json_ json_t *list = json_array();
        const char *format = NULL;
        json_t *info;
        int first, r = cli_options_parse(&usage, argc, argv, &format, &first, err);

        if (r == 0)
                r = collect(&info, err);
        if (r != 0)
                return MIN(r, 0);
        json_array_append_new(list, info);
        if (format)
                return listing_inspect(list, format, stdout, err);
        print_text(info);
        return 0;
}
