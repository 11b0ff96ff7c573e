/* `strata image build`. */
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
        _cleanup_(cli_words_clear) struct cli_words names = { 0 }, args = { 0 }, labels = { 0 }, secrets = { 0 };
        const struct cli_option options[] = {
                CLI_LOCAL("tag", 't', LIST, &names, "NAME", "of the new image; several are possible"),
                CLI_LOCAL("file", 'f', TEXT, &build.dockerfile, "FILE",
                        "the Dockerfile (default: Dockerfile in the context; -: standard input)"),
                CLI_LOCAL("build-arg", 0, LIST, &args, "NAME[=VALUE]", "a value for an ARG"),
                CLI_LOCAL("label", 0, LIST, &labels, "NAME=VALUE", "one more label"),
                CLI_LOCAL("secret", 0, LIST, &secrets, "id=ID,src=FILE", "for RUN --mount=type=secret"),
                CLI_LOCAL("target", 0, TEXT, &build.target, "STAGE", "stop at this stage"),
                CLI_LOCAL("no-cache", 0, FLAG, &build.no_cache, NULL, "do everything again"),
                CLI_LOCAL("pull", 0, FLAG, &build.pull, NULL, "ask registries for newer base images"),
                CLI_LOCAL("runtime", 0, TEXT, &build.runtime, "PROGRAM",
                        "for RUN (default: strata-oci beside strata, else crun or runc)"),
                CLI_LOCAL("quiet", 'q', FLAG, &quiet, NULL, "no steps and no progress"),
                CLI_LOCAL("root", 0, TEXT, &root, "DIR",
                        "the image store (default: $STRATA_IMAGE_ROOT or the user's own)"),
                { 0 },
        };
        const struct cli_usage usage = { "strata image build", "[OPTION...] [CONTEXT]",
                "Build an image from a Dockerfile. Equal steps are done once; with SOURCE_DATE_EPOCH\n"
                "in the environment equal inputs give equal digests.",
                CLI_OPTIONS(options), 0, 1, false };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        _cleanup_(image_bars_freep) struct image_bars *bars = NULL;
        _cleanup_(image_freep) struct image *image = NULL;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = image_cli_open(root, &store, err);
        if (r < 0)
                return r;
        bars = image_bars_new(quiet);
        build.context = argv[first];
        build.names = names.item;
        build.args = args.item;
        build.labels = labels.item;
        build.secrets = secrets.item;
        build.log = quiet ? NULL : print_step;
        build.progress = image_bars_progress(bars);
        r = image_build(store, &build, &image, err);
        if (r == 0)
                puts(image_id(image));
        return r;
}
