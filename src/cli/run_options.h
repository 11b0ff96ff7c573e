/* The options of `strata run` and `strata create`, and those of them that other commands have too. */
#pragma once

#include "base/arena.h"
#include "image/image.h"
#include "instance/instance.h"
#include "options.h"

/* Options that may be given often, in the order in which they take effect. */
enum run_list {
        RUN_ENV_FILE,
        RUN_ENV,
        RUN_LABEL_FILE,
        RUN_LABEL,
        RUN_ANNOTATION,
        RUN_PUBLISH,
        RUN_EXPOSE,
        RUN_VOLUME,
        RUN_MOUNT,
        RUN_TMPFS,
        RUN_VOLUMES_FROM,
        RUN_NETWORK,
        RUN_NETWORK_ALIAS,
        RUN_ADD_HOST,
        RUN_DNS,
        RUN_DNS_SEARCH,
        RUN_DNS_OPTION,
        RUN_DEVICE,
        RUN_DEVICE_RULE,
        RUN_ULIMIT,
        RUN_SYSCTL,
        RUN_READ_BPS,
        RUN_WRITE_BPS,
        RUN_READ_IOPS,
        RUN_WRITE_IOPS,
        RUN_CAP_ADD,
        RUN_CAP_DROP,
        RUN_SECURITY,
        RUN_GROUP_ADD,
        RUN_LOG_OPTION,
        RUN_LIST_COUNT,
};

struct run_options {
        struct instance_config config;
        struct arena arena; /* what the configuration points to, besides argv */

        struct cli_words list[RUN_LIST_COUNT];
        struct cli_words attach;
        const char *entrypoint, *restart, *health_command;
        const char *ip, *ip6, *mac;
        bool no_health_check;

        /* how it is run */
        bool detach, sig_proxy, quiet;
        const char *detach_keys, *cidfile;
        s64 pull; /* enum image_pull_policy */
        const char *platform;
        unsigned streams; /* out: INSTANCE_ATTACH_* of them */
};

#define RUN_OPTIONS_EMPTY                                                                      \
        {                                                                                      \
                .config = INSTANCE_CONFIG_EMPTY, .sig_proxy = true, .pull = IMAGE_PULL_MISSING \
        }

/* Reads the command line of `strata @command`: --option..., the image's name, *ret_image, and the command. @can_run adds the
 * options that say how it is run. Returns 1 when --help was answered. */
int run_options_read(struct run_options *options, const char *command, bool can_run, int argc, char **argv,
        const char **ret_image, struct err **err);
void run_options_clear(struct run_options *options);

/* "strata update" has these too; they fill a struct instance_resources. */
extern const struct cli_option run_resource_options[];

/* --attach's words as INSTANCE_ATTACH_*. */
int run_attach_streams(const struct cli_words *words, unsigned *ret, struct err **err);
/* A terminal was asked for: standard input must be one when it is attached. */
int run_check_terminal(bool tty, unsigned streams, struct err **err);
