/* `strata image`: options in, results out; the work is done by the image module. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "container_cli.h"
#include "image_cli.h"

#define OPTION_ROOT \
        CLI_LOCAL("root", 0, TEXT, &root, "DIR", "the image store (default: $STRATA_IMAGE_ROOT or the user's own)")
#define OPTION_QUIET CLI_LOCAL("quiet", 'q', FLAG, &quiet, NULL, "no progress")

/* --- registries ------------------------------------------------------------------------------------------------------------- */

/* What pull, push and login say about a registry. */
struct registry {
        const char *root, *creds, *jobs_text;
        bool quiet, plain_http, insecure;

        struct image_store *store;
        struct image_bars *bars;
        unsigned jobs;
};

#define REGISTRY_TRUST                                                                     \
        CLI_OPTION("plain-http", 0, FLAG, offsetof(struct registry, plain_http), NULL,     \
                "allow http:// (loopback needs no permission)"),                           \
                CLI_OPTION("insecure", 0, FLAG, offsetof(struct registry, insecure), NULL, \
                        "do not verify the registry's certificate")

static const struct cli_option registry_options[] = {
        CLI_OPTION("jobs", 'j', TEXT, offsetof(struct registry, jobs_text), "N", "layers at a time (default 4)"),
        CLI_OPTION("quiet", 'q', FLAG, offsetof(struct registry, quiet), NULL, "no progress"),
        CLI_OPTION("creds", 0, TEXT, offsetof(struct registry, creds), "USER:PASSWORD",
                "instead of those in docker's config.json"),
        REGISTRY_TRUST,
        CLI_OPTION("root", 0, TEXT, offsetof(struct registry, root), "DIR",
                "the image store (default: $STRATA_IMAGE_ROOT or the user's own)"),
        { 0 },
};

static void registry_clear(struct registry *registry)
{
        image_bars_free(registry->bars);
        image_store_close(registry->store);
}

static void registry_clearp(struct registry **registry)
{
        registry_clear(*registry);
}

/* The store and the progress bars, when the options have been read. */
static int registry_open(struct registry *registry, struct err **err)
{
        const char *text = registry->jobs_text;
        char *end;
        const unsigned long n = text ? strtoul(text, &end, 10) : 0;
        int r;

        if (text && (!*text || *end || n < 1 || n > 64))
                return err_set(err, ERR_USAGE, EINVAL, "--jobs takes a number from 1 to 64, not '%s'", text);
        registry->jobs = (unsigned)n;
        r = image_cli_open(registry->root, &registry->store, err);
        if (r == 0)
                registry->bars = image_bars_new(registry->quiet);
        return r;
}

struct pull {
        struct registry registry;
        const char *platform;
        bool missing;
};

static int pull(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("platform", 0, TEXT, offsetof(struct pull, platform), "OS/ARCH[/VARIANT]",
                        "of an image made for several (default: this host's)"),
                CLI_OPTION("missing", 0, FLAG, offsetof(struct pull, missing), NULL,
                        "do not ask the registry when the image is there"),
                { 0 },
        };
        static const struct cli_option_group groups[] = { { "options", options, 0 },
                { "the registry", registry_options, offsetof(struct pull, registry) }, { 0 } };
        const struct cli_usage usage = { "strata image pull", "[OPTION...] NAME",
                "Fetch an image from its registry and unpack it.", groups, 1, 1, false };
        struct pull pull = { 0 };
        _cleanup_(registry_clearp) struct registry *registry = &pull.registry;
        _cleanup_(image_freep) struct image *image = NULL;
        struct image_pull_options pull_options;
        int first, r = cli_options_parse(&usage, argc, argv, &pull, &first, err);

        if (r == 0)
                r = registry_open(registry, err);
        if (r != 0)
                return MIN(r, 0);
        pull_options = (struct image_pull_options){ .policy = pull.missing ? IMAGE_PULL_MISSING : IMAGE_PULL_ALWAYS,
                .platform = pull.platform,
                .credentials = registry->creds,
                .plain_http = registry->plain_http,
                .insecure_tls = registry->insecure,
                .jobs = registry->jobs,
                .progress = image_bars_progress(registry->bars) };
        r = image_get(registry->store, argv[first], &pull_options, &image, err);
        if (r < 0)
                return r;
        puts(image_id(image));
        return 0;
}

static int push(int argc, char **argv, struct err **err)
{
        static const struct cli_option_group groups[] = { { "options", registry_options, 0 }, { 0 } };
        const struct cli_usage usage = { "strata image push", "[OPTION...] NAME [DESTINATION]",
                "Send an image to a registry.", groups, 1, 2, false };
        _cleanup_(registry_clear) struct registry registry = { 0 };
        _cleanup_free_ char *digest = NULL;
        struct image_push_options push_options;
        int first, r = cli_options_parse(&usage, argc, argv, &registry, &first, err);

        if (r == 0)
                r = registry_open(&registry, err);
        if (r != 0)
                return MIN(r, 0);
        push_options = (struct image_push_options){ .destination = argv[first + 1], /* NULL when there is none */
                .credentials = registry.creds,
                .plain_http = registry.plain_http,
                .insecure_tls = registry.insecure,
                .jobs = registry.jobs,
                .progress = image_bars_progress(registry.bars) };
        r = image_push(registry.store, argv[first], &push_options, &digest, err);
        if (r < 0)
                return r;
        puts(digest);
        return 0;
}

/* --- names ----------------------------------------------------------------------------------------------------------------- */

static int tag(int argc, char **argv, struct err **err)
{
        const char *root = NULL;
        const struct cli_option options[] = { OPTION_ROOT, { 0 } };
        const struct cli_usage usage = { "strata image tag", "[OPTION...] IMAGE NAME", "Give an image one more name.",
                CLI_OPTIONS(options), 2, 2, false };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = image_cli_open(root, &store, err);
        return r < 0 ? r : image_tag(store, argv[first], argv[first + 1], err);
}

static void print_removal(void *opaque, const char *what, const char *name)
{
        printf("%s: %s\n", what, name);
}

static int rm(int argc, char **argv, struct err **err)
{
        const char *root = NULL;
        bool force = false;
        const struct cli_option options[] = { CLI_LOCAL("force", 'f', FLAG, &force, NULL,
                                                      "all names of an image given by its id; missing ones are fine"),
                CLI_LOCAL("no-prune", 0, IGNORED, NULL, NULL, NULL), OPTION_ROOT, { 0 } };
        const struct cli_usage usage = { "strata image rm", "[OPTION...] IMAGE...",
                "Take names away from images, and remove the images that have none left.", CLI_OPTIONS(options), 1, -1,
                false };
        const struct image_removal removal = { print_removal, NULL };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = image_cli_open(root, &store, err);
        if (r < 0)
                return r;
        for (; first < argc; first++) { /* the others go whichever cannot */
                struct err *own = NULL;

                if (image_remove(store, argv[first], force, &removal, &own) < 0 &&
                        !(force && err_get_id(own) == ERR_NOT_FOUND))
                        r = container_report(&own);
                err_free(own);
        }
        return r;
}

static int prune(int argc, char **argv, struct err **err)
{
        const char *root = NULL;
        bool all = false, force = false;
        const struct cli_option options[] = {
                CLI_LOCAL("all", 'a', FLAG, &all, NULL,
                        "also images with a name, if no instance uses them, and the build cache"),
                CLI_LOCAL("force", 'f', FLAG, &force, NULL, "do not ask, which is done on a terminal"),
                CLI_LOCAL("filter", 0, REFUSED, NULL, "KEY=VALUE",
                        "'strata image ls -q --filter ...' finds what 'rm' takes"),
                OPTION_ROOT, { 0 }
        };
        const struct cli_usage usage = { "strata image prune", "[OPTION...]",
                "Remove images without a name and everything unused.", CLI_OPTIONS(options), 0, 0, false };
        const struct image_removal removal = { print_removal, NULL };
        struct image_prune_options chosen = { .removal = &removal };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        u64 bytes = 0;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        if (!force && isatty(STDIN_FILENO) &&
                !container_confirm(all ? "This removes all images that no container uses."
                                       : "This removes all images without a name that no container uses."))
                return 0;
        chosen.all = all;
        r = image_cli_open(root, &store, err);
        if (r == 0)
                r = image_prune(store, &chosen, &bytes, err);
        if (r == 0)
                printf("freed: %s\n", image_size_text(bytes).text);
        return r;
}

/* --- archives ---------------------------------------------------------------------------------------------------------------- */

static int open_input(const char *path, int *ret, struct err **err)
{
        const int fd = !path || strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);

        if (fd < 0)
                return err_sys(err, errno, "opening '%s'", path ? path : "-");
        if (isatty(fd)) {
                close(fd);
                return err_set(err, ERR_USAGE, EINVAL, "an archive is not read from a terminal");
        }
        *ret = fd;
        return 0;
}

static int open_output(const char *path, int *ret, struct err **err)
{
        const bool standard = !path || strcmp(path, "-") == 0;
        const int fd = standard ? dup(STDOUT_FILENO) : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

        if (fd < 0)
                return err_sys(err, errno, "opening '%s'", path);
        if (isatty(fd)) {
                close(fd);
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "an archive is not written to a terminal"),
                        "use --output FILE");
        }
        *ret = fd;
        return 0;
}

static int save(int argc, char **argv, struct err **err)
{
        const char *root = NULL, *output = NULL, *format = NULL;
        const struct cli_option options[] = {
                CLI_LOCAL("output", 'o', TEXT, &output, "FILE", "instead of standard output"),
                CLI_LOCAL("format", 0, TEXT, &format, "FORMAT",
                        "docker-archive (the default; OCI tools read it too) or oci-archive"),
                OPTION_ROOT,
                { 0 },
        };
        const struct cli_usage usage = { "strata image save", "[OPTION...] IMAGE...", "Write images to an archive.",
                CLI_OPTIONS(options), 1, -1, false };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        enum image_archive_format chosen = IMAGE_ARCHIVE_DOCKER;
        _cleanup_close_ int fd = -1;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        if (format && strcmp(format, "oci-archive") == 0)
                chosen = IMAGE_ARCHIVE_OCI;
        else if (format && strcmp(format, "docker-archive") != 0)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "'%s' is not a format", format),
                        "there is: docker-archive, oci-archive");
        r = image_cli_open(root, &store, err);
        /* Before anything is overwritten. */
        for (int i = first; r == 0 && i < argc; i++) {
                struct image *image = NULL;

                r = image_find(store, argv[i], &image, err);
                image_free(image);
        }
        if (r == 0)
                r = open_output(output, &fd, err);
        return r < 0 ? r : image_save(store, (const char *const *)argv + first, chosen, fd, err);
}

static void print_loaded(void *opaque, const char *name)
{
        printf("loaded: %s\n", name);
}

static int load(int argc, char **argv, struct err **err)
{
        const char *root = NULL, *input = NULL;
        bool quiet = false;
        const struct cli_option options[] = { CLI_LOCAL(
                                                      "input", 'i', TEXT, &input, "FILE", "instead of standard input"),
                OPTION_QUIET, OPTION_ROOT, { 0 } };
        const struct cli_usage usage = { "strata image load", "[OPTION...]",
                "Read images from a docker or OCI archive.", CLI_OPTIONS(options), 0, 0, false };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        _cleanup_(image_bars_freep) struct image_bars *bars = NULL;
        _cleanup_close_ int fd = -1;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = open_input(input, &fd, err);
        if (r == 0)
                r = image_cli_open(root, &store, err);
        if (r < 0)
                return r;
        bars = image_bars_new(quiet);
        return image_load(store, fd, image_bars_progress(bars), print_loaded, NULL, err);
}

static int import(int argc, char **argv, struct err **err)
{
        const char *root = NULL, *message = NULL;
        _cleanup_(cli_words_clear) struct cli_words changes = { 0 };
        const struct cli_option options[] = {
                CLI_LOCAL("change", 'c', LIST, &changes, "INSTRUCTION",
                        "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR, ... as in a Dockerfile"),
                CLI_LOCAL("message", 'm', TEXT, &message, "TEXT", "a comment in the image's history"),
                OPTION_ROOT,
                { 0 },
        };
        const struct cli_usage usage = { "strata image import", "[OPTION...] FILE|- [NAME]",
                "Make an image of a root file system's archive (tar, also gzip or zstd).", CLI_OPTIONS(options), 1, 2,
                false };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        _cleanup_(image_freep) struct image *image = NULL;
        struct image_import_options import_options = { 0 };
        _cleanup_close_ int fd = -1;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        import_options.name = argv[first + 1];
        import_options.comment = message;
        import_options.changes = changes.item;
        r = open_input(argv[first], &fd, err);
        if (r == 0)
                r = image_cli_open(root, &store, err);
        if (r == 0)
                r = image_import(store, fd, &import_options, &image, err);
        if (r == 0)
                puts(image_id(image));
        return r;
}

/* --- the store ------------------------------------------------------------------------------------------------------------------ */

static void print_problem(void *opaque, const char *text)
{
        printf("%s\n", text);
}

static int check(int argc, char **argv, struct err **err)
{
        const char *root = NULL;
        bool quick = false;
        const struct cli_option options[] = {
                CLI_LOCAL("quick", 0, FLAG, &quick, NULL, "do not read the layers' blobs"), OPTION_ROOT, { 0 }
        };
        const struct cli_usage usage = { "strata image check", "[OPTION...]",
                "Say what is damaged or half-made in the store. The status is 0 when it is whole, else 1.",
                CLI_OPTIONS(options), 0, 0, false };
        _cleanup_(image_store_closep) struct image_store *store = NULL;
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        if (r != 0)
                return MIN(r, 0);
        r = image_cli_open(root, &store, err);
        if (r == 0)
                r = image_check(store, !quick, print_problem, NULL, err);
        if (r == 0)
                puts("whole");
        return r > 0 ? 1 : r;
}

/* --- registries ------------------------------------------------------------------------------------------------------------------ */

/* One line from standard input, unseen when that is a terminal. */
static int read_password(char *buf, size_t size, struct err **err)
{
        struct termios old, silent;
        const bool terminal = tcgetattr(STDIN_FILENO, &old) == 0;
        bool got;

        if (terminal) {
                fputs("Password: ", stderr);
                silent = old;
                silent.c_lflag &= ~(tcflag_t)ECHO;
                tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent);
        }
        got = fgets(buf, (int)size, stdin);
        if (terminal) {
                tcsetattr(STDIN_FILENO, TCSAFLUSH, &old);
                fputc('\n', stderr);
        }
        if (!got)
                return err_set(err, ERR_USAGE, EINVAL, "no password on standard input");
        buf[strcspn(buf, "\r\n")] = '\0';
        return 0;
}

static int login(int argc, char **argv, struct err **err)
{
        const char *user = NULL, *password = NULL;
        bool from_stdin = false;
        const struct cli_option options[] = {
                CLI_LOCAL("username", 'u', TEXT, &user, "NAME", "who"),
                CLI_LOCAL(
                        "password", 'p', TEXT, &password, "PASSWORD", "others on this machine can see it; better is:"),
                CLI_LOCAL("password-stdin", 0, FLAG, &from_stdin, NULL, "read it from standard input (the default)"),
                REGISTRY_TRUST,
                { 0 },
        };
        struct registry registry = { 0 };
        const struct cli_usage usage = { "strata image login", "[OPTION...] -u NAME [REGISTRY]",
                "Check credentials with a registry and keep them in docker's config.json.", CLI_OPTIONS(options), 0, 1,
                false };
        struct image_pull_options pull_options = { 0 };
        char typed[512];
        int first, r = cli_options_parse(&usage, argc, argv, &registry, &first, err);

        if (r != 0)
                return MIN(r, 0);
        if (!user)
                return err_set(err, ERR_USAGE, EINVAL, "strata image login needs --username");
        if (!password) {
                r = read_password(typed, sizeof(typed), err);
                if (r < 0)
                        return r;
                password = typed;
        }
        pull_options.plain_http = registry.plain_http;
        pull_options.insecure_tls = registry.insecure;
        r = image_login(argv[first], user, password, &pull_options, err);
        if (r == 0)
                puts("login succeeded");
        return r;
}

static int logout(int argc, char **argv, struct err **err)
{
        const struct cli_option options[] = { { 0 } };
        const struct cli_usage usage = { "strata image logout", "[REGISTRY]", "Forget a registry's credentials.",
                CLI_OPTIONS(options), 0, 1, false };
        int first, r = cli_options_parse(&usage, argc, argv, NULL, &first, err);

        return r != 0 ? MIN(r, 0) : image_logout(argv[first], err);
}

const struct command cli_image_commands[] = {
        { "build", "[OPTION...] [CONTEXT]", "build an image from a Dockerfile", image_build_command, NULL },
        { "pull", "[OPTION...] NAME", "fetch an image from its registry", pull, NULL },
        { "push", "[OPTION...] NAME [DESTINATION]", "send an image to a registry", push, NULL },
        { "ls", "[OPTION...] [NAME]", "list images", image_ls_command, NULL },
        { "inspect", "[OPTION...] IMAGE...", "everything about images, as JSON", image_inspect_command, NULL },
        { "history", "[OPTION...] IMAGE", "how an image was made", image_history_command, NULL },
        { "tag", "[OPTION...] IMAGE NAME", "give an image one more name", tag, NULL },
        { "rm", "[OPTION...] IMAGE...", "remove names and images", rm, NULL },
        { "prune", "[OPTION...]", "remove what is not used", prune, NULL },
        { "save", "[OPTION...] IMAGE...", "write images to an archive", save, NULL },
        { "load", "[OPTION...]", "read images from an archive", load, NULL },
        { "import", "[OPTION...] FILE|- [NAME]", "make an image of a root file system's tar", import, NULL },
        { "check", "[OPTION...]", "whether the store is whole", check, NULL },
        { "login", "[OPTION...] -u NAME [REGISTRY]", "keep a registry's credentials", login, NULL },
        { "logout", "[REGISTRY]", "forget them", logout, NULL },
        { 0 },
};
