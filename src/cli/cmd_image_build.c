/* `strata image build`. */
#include <getopt.h>
#include <stdio.h>

#include "image_cli.h"

static void print_step(void *opaque, const char *line)
{
        fprintf(stderr, "%s\n", line);
}

int image_build_command(int argc, char **argv, struct err **err)
{
        const char *root = NULL;
        bool quiet = false;
        struct image_build_options build = { 0 };
        _cleanup_(image_words_clear) struct image_words names = { 0 }, args = { 0 }, labels = { 0 }, secrets = { 0 };
        const struct image_option options[] = {
                { "tag", 't', "NAME", &names, true, "of the new image; several are possible" },
                { "file", 'f', "FILE", &build.dockerfile, false,
                        "the Dockerfile (default: Dockerfile in the context; -: standard input)" },
                { "build-arg", 0, "NAME[=VALUE]", &args, true, "a value for an ARG" },
                { "label", 0, "NAME=VALUE", &labels, true, "one more label" },
                { "secret", 0, "id=ID,src=FILE", &secrets, true, "for RUN --mount=type=secret" },
                { "target", 0, "STAGE", &build.target, false, "stop at this stage" },
                { "no-cache", 0, NULL, &build.no_cache, false, "do everything again" },
                { "pull", 0, NULL, &build.pull, false, "ask registries for newer base images" },
                { "runtime", 0, "PROGRAM", &build.runtime, false,
                        "for RUN (default: strata-oci beside strata, else crun or runc)" },
                { "quiet", 'q', NULL, &quiet, false, "no steps and no progress" },
                { "root", 0, "DIR", &root, false, "the image store (default: $STRATA_IMAGE_ROOT or the user's own)" },
                { 0 },
        };
        const struct image_usage usage = { "strata image build", "[OPTION...] [CONTEXT]",
                "Build an image from a Dockerfile. Equal steps are done once; with SOURCE_DATE_EPOCH\n"
                "in the environment equal inputs give equal digests.",
                options, 0, 1 };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        _cleanup_(image_bars_freep) struct image_bars *bars = NULL;
        _cleanup_(image_freep) struct image *image = NULL;
        int r = image_options_parse(&usage, argc, argv, err);

        if (r != 0)
                return MIN(r, 0);
        r = image_cli_open(root, &store, err);
        if (r < 0)
                return r;
        bars = image_bars_new(quiet);
        build.context = argv[optind];
        build.names = names.list;
        build.args = args.list;
        build.labels = labels.list;
        build.secrets = secrets.list;
        build.log = quiet ? NULL : print_step;
        build.progress = image_bars_progress(bars);
        r = image_build(store, &build, &image, err);
        if (r == 0)
                puts(image_id(image));
        return r;
}
