/* `strata run`, `create`, `start` and `attach`: containers and who is connected to them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "container_cli.h"
#include "image_cli.h"
#include "run_options.h"

#define DETACH_KEYS_HELP "leave it running with these (default: ctrl-p,ctrl-q)"

/* --- the image ----------------------------------------------------------------------------------------------------- */

/* Of another platform than this host's: whoever did not ask for it may not know. */
static void warn_of_platform(const struct image *image)
{
        _cleanup_(err_freep) struct err *other = NULL;

        if (image_check_platform(image, NULL, &other) < 0)
                fprintf(stderr, "strata: warning: %s; --platform says which one is wanted\n", err_message(other));
}

static int get_image(struct image_store *store, const char *name, const struct run_options *options, struct image **ret,
        struct err **err)
{
        _cleanup_(image_bars_freep) struct image_bars *bars = NULL;
        struct image_pull_options pull = { .policy = (enum image_pull_policy)options->pull,
                .platform = options->platform };
        int r;

        if (pull.policy == IMAGE_PULL_MISSING) {
                _cleanup_(err_freep) struct err *own = NULL;

                pull.policy = IMAGE_PULL_NEVER;
                r = image_get(store, name, &pull, ret, &own);
                if (r < 0 && r != -ENOENT) {
                        *err = TAKE_PTR(own);
                        return r;
                }
                if (r < 0 && !options->quiet)
                        fprintf(stderr, "The image '%s' is not here: pulling it\n", name);
                pull.policy = IMAGE_PULL_ALWAYS;
        }
        if (!*ret) {
                bars = image_bars_new(options->quiet);
                pull.progress = image_bars_progress(bars);
                r = image_get(store, name, &pull, ret, err);
                if (r < 0)
                        return r;
        }
        if (options->platform) /* a registry that has one for one platform gives that, whatever is asked for */
                return image_check_platform(*ret, options->platform, err);
        warn_of_platform(*ret);
        return 0;
}

/* --- creating ------------------------------------------------------------------------------------------------------ */

/* The file is made before the container: where it cannot be, nothing is. */
static int open_cidfile(const char *path, FILE **ret, struct err **err)
{
        int r;

        if (!path)
                return 0;
        *ret = fopen(path, "wxe");
        if (*ret)
                return 0;
        if (errno != EEXIST)
                return err_sys(err, errno, "--cidfile: making '%s'", path);
        r = err_set(err, ERR_BUSY, EEXIST, "--cidfile: '%s' is there already", path);
        return err_hint(err, r, "remove it when its container is not wanted any more");
}

static int create(struct instance_host *host, const char *image_name, const struct run_options *options,
        struct instance **ret, struct err **err)
{
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        _cleanup_fclose_ FILE *cidfile = NULL;
        int r = open_cidfile(options->cidfile, &cidfile, err);

        if (r < 0)
                return r;
        r = get_image(instance_host_images(host), image_name, options, &image, err);
        if (r == 0)
                r = instance_create(host, image, &options->config, &inst, err);
        if (r < 0) {
                if (cidfile)
                        unlink(options->cidfile);
                return r;
        }
        if (cidfile && (fputs(instance_id(inst), cidfile) < 0 || fflush(cidfile) != 0)) {
                r = err_sys(err, errno, "--cidfile: writing '%s'", options->cidfile);
                instance_remove(inst, INSTANCE_REMOVE_VOLUMES, NULL);
                unlink(options->cidfile);
                return r;
        }
        *ret = TAKE_PTR(inst);
        return 0;
}

static int create_command(int argc, char **argv, struct run_options *options, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        const char *image;
        int r = run_options_read(options, "strata create", false, argc, argv, &image, err);

        if (r == 0)
                r = instance_host_open(NULL, &host, err);
        if (r == 0)
                r = create(host, image, options, &inst, err);
        if (r == 0)
                puts(instance_id(inst));
        return MIN(r, 0);
}

int container_create_command(int argc, char **argv, struct err **err)
{
        struct run_options options = RUN_OPTIONS_EMPTY;
        int r = create_command(argc, argv, &options, err);

        run_options_clear(&options);
        return r;
}

/* --- being connected ----------------------------------------------------------------------------------------------- */

/* Copies until it ends or the user detaches; the exit status. */
static int relay(struct instance_session *session, unsigned streams, const char *detach_keys, bool forward_signals,
        struct err **err)
{
        const struct instance_relay_options options = { detach_keys, forward_signals };
        struct instance_relay_result result;
        int r = instance_session_relay(session, streams & INSTANCE_ATTACH_STDIN ? STDIN_FILENO : -1,
                streams & INSTANCE_ATTACH_STDOUT ? STDOUT_FILENO : -1,
                streams & INSTANCE_ATTACH_STDERR ? STDERR_FILENO : -1, &options, &result, err);

        if (r < 0)
                return r;
        return result.end == INSTANCE_END_DETACHED ? 0 : result.status;
}

static int run_detached(struct instance *inst, struct err **err)
{
        int r = instance_start(inst, 0, NULL, err);

        if (r < 0)
                return r;
        puts(instance_id(inst));
        return 0;
}

static int run_attached(struct instance *inst, const struct run_options *options, struct err **err)
{
        _cleanup_(instance_session_freep) struct instance_session *session = NULL;
        int r = instance_start(inst, options->streams | INSTANCE_ATTACH_CLEAN_UP, &session, err);

        if (r < 0)
                return r;
        return relay(session, options->streams, options->detach_keys, options->sig_proxy, err);
}

static int run_command(int argc, char **argv, struct run_options *options, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        const char *image;
        int r = run_options_read(options, "strata run", true, argc, argv, &image, err);

        if (r > 0)
                return 0;
        if (r == 0)
                r = run_check_terminal(options->config.tty, options->streams, err);
        if (r == 0)
                r = instance_host_open(NULL, &host, err);
        if (r == 0)
                r = create(host, image, options, &inst, err);
        if (r == 0)
                r = options->detach ? run_detached(inst, err) : run_attached(inst, options, err);
        if (r < 0 && inst && options->config.auto_remove)
                instance_remove(inst, INSTANCE_REMOVE_FORCE | INSTANCE_REMOVE_VOLUMES, NULL);
        return r;
}

int container_run_command(int argc, char **argv, struct err **err)
{
        struct run_options options = RUN_OPTIONS_EMPTY;
        int r = run_command(argc, argv, &options, err);

        run_options_clear(&options);
        return r < 0 ? container_run_failed(err) : r;
}

/* Connects to @name, or starts it so: @begin gives the session. The exit status. */
struct connection {
        bool use_stdin, sig_proxy;
        const char *detach_keys;
        int (*begin)(struct instance *inst, unsigned streams, struct instance_session **ret, struct err **err);
};

static int connect_to(const char *name, const struct connection *connection, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        _cleanup_(instance_session_freep) struct instance_session *session = NULL;
        unsigned streams = INSTANCE_ATTACH_STDOUT | INSTANCE_ATTACH_STDERR;
        const struct instance_config *config;
        int r = container_open(name, &host, &inst, err);

        if (r < 0)
                return r;
        config = instance_get_config(inst);
        if (connection->use_stdin && config->open_stdin)
                streams |= INSTANCE_ATTACH_STDIN;
        r = run_check_terminal(config->tty, streams, err);
        if (r == 0)
                r = connection->begin(inst, streams, &session, err);
        return r < 0 ? r : relay(session, streams, connection->detach_keys, connection->sig_proxy, err);
}

/* --- start --------------------------------------------------------------------------------------------------------- */

struct start {
        bool attach, interactive, sig_proxy;
        const char *detach_keys;
};

static int start_one(struct instance_host *host, struct instance *inst, void *opaque, struct err **err)
{
        return instance_start(inst, 0, NULL, err);
}

static int start_connected(struct instance *inst, unsigned streams, struct instance_session **ret, struct err **err)
{
        return instance_start(inst, streams | INSTANCE_ATTACH_CLEAN_UP, ret, err);
}

int container_start_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("attach", 'a', FLAG, offsetof(struct start, attach), NULL,
                        "connect stdout and stderr, pass on signals"),
                CLI_OPTION(
                        "interactive", 'i', FLAG, offsetof(struct start, interactive), NULL, "connect standard input"),
                CLI_PARSED("detach-keys", 0, offsetof(struct start, detach_keys), "KEYS", DETACH_KEYS_HELP,
                        cli_parse_keys),
                CLI_OPTION("sig-proxy", 0, FLAG, offsetof(struct start, sig_proxy), NULL,
                        "pass on signals (default: true)"),
                CLI_OPTION("checkpoint", 0, REFUSED, 0, "NAME", "containers are not restored from checkpoints yet"),
                { 0 },
        };
        const struct cli_usage usage = { "strata start", "[OPTION...] CONTAINER...",
                "Start containers that do not run. With -a the exit status is the container's.", CLI_OPTIONS(options),
                1, -1, false };
        struct start start = { .sig_proxy = true };
        int first, r = cli_options_parse(&usage, argc, argv, &start, &first, err);

        if (r != 0)
                return MIN(r, 0);
        if (!start.attach && !start.interactive)
                return container_each(argv + first, start_one, NULL, 0, err);
        if (argc - first > 1)
                return err_set(err, ERR_USAGE, EINVAL, "'strata start' can be connected to one container at a time");
        r = connect_to(argv[first],
                &(struct connection){ start.interactive, start.sig_proxy, start.detach_keys, start_connected }, err);
        return r < 0 ? container_exec_failed(r, err) : r;
}

/* --- attach -------------------------------------------------------------------------------------------------------- */

struct attach {
        bool no_stdin, sig_proxy;
        const char *detach_keys;
};

int container_attach_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("no-stdin", 0, FLAG, offsetof(struct attach, no_stdin), NULL, "only listen"),
                CLI_OPTION("sig-proxy", 0, FLAG, offsetof(struct attach, sig_proxy), NULL,
                        "pass on signals (default: true)"),
                CLI_PARSED("detach-keys", 0, offsetof(struct attach, detach_keys), "KEYS", DETACH_KEYS_HELP,
                        cli_parse_keys),
                { 0 },
        };
        const struct cli_usage usage = { "strata attach", "[OPTION...] CONTAINER",
                "Connect standard input, output and error to a running container. The exit status is its own.",
                CLI_OPTIONS(options), 1, 1, false };
        struct attach attach = { .sig_proxy = true };
        int first, r = cli_options_parse(&usage, argc, argv, &attach, &first, err);

        if (r != 0)
                return MIN(r, 0);
        return connect_to(argv[first],
                &(struct connection){ !attach.no_stdin, attach.sig_proxy, attach.detach_keys, instance_attach }, err);
}
