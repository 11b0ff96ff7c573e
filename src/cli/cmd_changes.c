/* `strata diff`, `commit` and `export`: what a container wrote. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "container_cli.h"

/* --- diff ---------------------------------------------------------------------------------------------------------- */

static int print_change(void *opaque, char kind, const char *path)
{
        return printf("%c %s\n", kind, path) < 0;
}

int container_diff_command(int argc, char **argv, struct err **err)
{
        const struct cli_usage usage = { "strata diff", "CONTAINER",
                "List what is added (A), changed (C) and deleted (D) in a container's files.", NULL, 1, 1, false };
        _cleanup_(container_choice_clear) struct container_choice chosen = { 0 };
        int r = container_choose(&usage, argc, argv, NULL, &chosen, err);

        if (r == 0)
                r = instance_diff(chosen.inst, print_change, NULL, err);
        return MIN(r, 0);
}

/* --- commit -------------------------------------------------------------------------------------------------------- */

struct commit {
        struct image_commit_options options;
        struct cli_words changes;
        bool pause;
};

static int commit(struct commit *commit, const char *name, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        _cleanup_(image_freep) struct image *image = NULL;
        int r = container_open(name, &host, &inst, err);

        if (r == 0)
                r = instance_commit(inst, &commit->options, commit->pause, &image, err);
        if (r == 0)
                puts(image_id(image));
        return r;
}

int container_commit_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("author", 'a', TEXT, offsetof(struct commit, options.author), "NAME", "of the image"),
                CLI_OPTION("change", 'c', LIST, offsetof(struct commit, changes), "INSTRUCTION",
                        "of a Dockerfile, as 'CMD [\"sh\"]'"),
                CLI_OPTION("message", 'm', TEXT, offsetof(struct commit, options.comment), "TEXT", "for the history"),
                CLI_OPTION("pause", 'p', FLAG, offsetof(struct commit, pause), NULL,
                        "stop its clock meanwhile (default: true)"),
                { 0 },
        };
        const struct cli_usage usage = { "strata commit", "[OPTION...] CONTAINER [IMAGE[:TAG]]",
                "Make an image of what a container wrote, on top of its own. Prints the image's id.",
                CLI_OPTIONS(options), 1, 2, false };
        struct commit chosen = { .pause = true };
        int first, r = cli_options_parse(&usage, argc, argv, &chosen, &first, err);

        if (r == 0) {
                chosen.options.name = argv[first + 1];
                chosen.options.changes = chosen.changes.item;
                r = commit(&chosen, argv[first], err);
        }
        cli_words_clear(&chosen.changes);
        return MIN(r, 0);
}

/* --- export -------------------------------------------------------------------------------------------------------- */

static int export(const char *name, const char *path, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        _cleanup_close_ int fd = -1;
        int r = container_open(name, &host, &inst, err);

        if (r < 0)
                return r;
        if (!path && isatty(STDOUT_FILENO))
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "an archive is not printed on a terminal"),
                        "name a file with -o, or redirect the output");
        fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : dup(STDOUT_FILENO);
        if (fd < 0)
                return err_sys(err, errno, "opening '%s'", path ? path : "standard output");
        r = instance_export(inst, fd, err);
        if (r < 0 && path)
                unlink(path);
        return r;
}

int container_export_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("output", 'o', TEXT, 0, "FILE", "(default: standard output)"), { 0 }
        };
        const struct cli_usage usage = { "strata export", "[OPTION...] CONTAINER",
                "Write all files of a container as a tar archive.", CLI_OPTIONS(options), 1, 1, false };
        const char *path = NULL;
        int first, r = cli_options_parse(&usage, argc, argv, &path, &first, err);

        return r != 0 ? MIN(r, 0) : export(argv[first], path, err);
}
