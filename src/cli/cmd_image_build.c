/* `strata image build`. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "image_cli.h"
#include "values.h"

static void print_step(void *opaque, const char *line)
{
        fprintf(stderr, "%s\n", line);
}

#define LIMITS "the build has the limits of who starts it: systemd-run, ulimit"

/* docker's others: without a daemon and intermediate containers some mean nothing, and some cannot be. */
static const struct cli_option dockers_options[] = {
        CLI_OPTION("rm", 0, IGNORED, 0, NULL, NULL),
        CLI_OPTION("force-rm", 0, IGNORED, 0, NULL, NULL),
        CLI_OPTION("compress", 0, IGNORED, 0, NULL, NULL),
        CLI_OPTION("load", 0, IGNORED, 0, NULL, NULL),
        CLI_OPTION("disable-content-trust", 0, IGNORED, 0, NULL, NULL),
        CLI_OPTION("progress", 0, IGNORED, 0, "TYPE", NULL),
        CLI_OPTION("cache-from", 0, IGNORED, 0, "IMAGE", NULL),
        CLI_OPTION("squash", 0, REFUSED, 0, NULL, "a stage that copies from another one has few layers"),
        CLI_OPTION("output", 'o', REFUSED, 0, "DEST", "'strata image save' writes an archive"),
        CLI_OPTION("push", 0, REFUSED, 0, NULL, "'strata image push' does it"),
        CLI_OPTION("ssh", 0, REFUSED, 0, "ID", "RUN --mount=type=ssh is not supported"),
        CLI_OPTION("isolation", 0, REFUSED, 0, "KIND", "RUN is in a container"),
        CLI_OPTION("security-opt", 0, REFUSED, 0, "OPTION", "RUN has docker's default rights"),
        CLI_OPTION("ulimit", 0, REFUSED, 0, "LIMIT", LIMITS),
        CLI_OPTION("memory", 'm', REFUSED, 0, "SIZE", LIMITS),
        CLI_OPTION("memory-swap", 0, REFUSED, 0, "SIZE", LIMITS),
        CLI_OPTION("cpu-shares", 'c', REFUSED, 0, "N", LIMITS),
        CLI_OPTION("cpu-period", 0, REFUSED, 0, "N", LIMITS),
        CLI_OPTION("cpu-quota", 0, REFUSED, 0, "N", LIMITS),
        CLI_OPTION("cpuset-cpus", 0, REFUSED, 0, "CPUS", LIMITS),
        CLI_OPTION("cpuset-mems", 0, REFUSED, 0, "NODES", LIMITS),
        CLI_OPTION("cgroup-parent", 0, REFUSED, 0, "GROUP", LIMITS),
        { 0 },
};

static int set_network(const char *network, struct image_build_options *build, struct err **err)
{
        build->no_network = network && strcmp(network, "none") == 0;
        if (!network || build->no_network || strcmp(network, "host") == 0 || strcmp(network, "default") == 0)
                return 0;
        return err_hint(err, err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "RUN cannot have the network '%s'", network),
                "there is: host, none");
}

static int write_id(const char *path, const char *id, struct err **err)
{
        _cleanup_fclose_ FILE *f = fopen(path, "we");

        return !f || fputs(id, f) < 0 || fflush(f) != 0 ? err_sys(err, errno, "writing '%s'", path) : 0;
}

int image_build_command(int argc, char **argv, struct err **err)
{
        const char *root = NULL;
        const char *network = NULL, *id_file = NULL, *shm_size = NULL;
        bool quiet = false;
        struct image_build_options build = { 0 };
        _cleanup_(cli_words_clear) struct cli_words names = { 0 }, args = { 0 }, labels = { 0 }, secrets = { 0 },
                                                    hosts = { 0 };
        const struct cli_option options[] = {
                CLI_LOCAL("tag", 't', LIST, &names, "NAME", "of the new image; several are possible"),
                CLI_LOCAL("file", 'f', TEXT, &build.dockerfile, "FILE",
                        "the Dockerfile (default: Dockerfile in the context; -: standard input)"),
                CLI_LOCAL("build-arg", 0, LIST, &args, "NAME[=VALUE]", "a value for an ARG"),
                CLI_LOCAL("label", 0, LIST, &labels, "NAME=VALUE", "one more label"),
                CLI_LOCAL("secret", 0, LIST, &secrets, "id=ID,src=FILE", "for RUN --mount=type=secret"),
                CLI_LOCAL("add-host", 0, LIST, &hosts, "NAME:ADDRESS", "a line in /etc/hosts of RUN"),
                CLI_LOCAL("network", 0, TEXT, &network, "NETWORK", "of RUN: host (the default) or none"),
                CLI_LOCAL("shm-size", 0, TEXT, &shm_size, "SIZE", "of /dev/shm of RUN (default 64m)"),
                CLI_LOCAL("platform", 0, TEXT, &build.platform, "OS/ARCH", "this host's; others are not built"),
                CLI_LOCAL("target", 0, TEXT, &build.target, "STAGE", "stop at this stage"),
                CLI_LOCAL("no-cache", 0, FLAG, &build.no_cache, NULL, "do everything again"),
                CLI_LOCAL("pull", 0, FLAG, &build.pull, NULL, "ask registries for newer base images"),
                CLI_LOCAL("runtime", 0, TEXT, &build.runtime, "PROGRAM",
                        "for RUN (default: strata-oci beside strata, else crun or runc)"),
                CLI_LOCAL("iidfile", 0, TEXT, &id_file, "FILE", "write the image's id there, too"),
                CLI_LOCAL("quiet", 'q', FLAG, &quiet, NULL, "no steps and no progress"),
                CLI_LOCAL("root", 0, TEXT, &root, "DIR",
                        "the image store (default: $STRATA_IMAGE_ROOT or the user's own)"),
                { 0 },
        };
        const struct cli_option_group groups[] = { { "options", options, 0 }, { NULL, dockers_options, 0 }, { 0 } };
        const struct cli_usage usage = { "strata image build", "[OPTION...] [CONTEXT|-]",
                "Build an image from a Dockerfile and a context: a directory, or - for an archive or a\n"
                "Dockerfile alone on standard input. Equal steps are done once; with SOURCE_DATE_EPOCH\n"
                "in the environment equal inputs give equal digests.",
                groups, 0, 1, false };
        s64 shm = 0;
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        _cleanup_(image_bars_freep) struct image_bars *bars = NULL;
        _cleanup_(image_freep) struct image *image = NULL;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = set_network(network, &build, err);
        if (r == 0 && shm_size)
                r = cli_parse_size(&shm, shm_size, err);
        if (r == 0)
                r = image_cli_open(root, &store, err);
        if (r < 0)
                return r;
        build.shm_size = (u64)shm;
        bars = image_bars_new(quiet);
        build.context = argv[first];
        build.names = names.item;
        build.args = args.item;
        build.labels = labels.item;
        build.secrets = secrets.item;
        build.hosts = hosts.item;
        build.log = quiet ? NULL : print_step;
        build.progress = image_bars_progress(bars);
        r = image_build(store, &build, &image, err);
        if (r == 0 && id_file)
                r = write_id(id_file, image_id(image), err);
        if (r == 0)
                puts(image_id(image));
        return r;
}
