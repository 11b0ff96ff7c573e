/* The runtime specification's document. */
#pragma once

#include "image/user.h"
#include "internal.h"

#define SPEC_INIT_PATH "/dev/init" /* --init: the supervisor's program in its other mode */

struct network;

struct launch_plan {
        struct instance *inst;
        int root;           /* the mounted root */
        const char *rootfs; /* its path */
        struct network *network;
        const char *network_path; /* of the network namespace; NULL: the host's */
        const char *hostname;
        json_t *mounts; /* volumes, files: OCI mounts, in order */
        void *begun;    /* what the wall's begin has made */
};
int spec_make(struct launch_plan *plan, json_t **ret, struct err **err);
/* Its process object alone. */
int spec_process_json(struct launch_plan *plan, json_t **ret, struct err **err);
/* shm.c. /dev/shm of the instance whose first process is @other, mounted in this process' own mount namespace at *ret_path (the caller's). */
int shm_borrow(const struct instance *inst, pid_t other, char **ret_path, struct err **err);
/* Appends an OCI mount; @options are separated by commas. */
void spec_add_mount(json_t *mounts, const char *type, const char *source, const char *target, const char *options);
/* linux.resources of what is given. */
int spec_resources(const struct instance_resources *resources, json_t **ret, struct err **err);
/* process.user of "name[:group]" by the files of @root. */
int spec_user(const struct instance_config *config, const char *name, int root, json_t **ret,
        struct build_user *ret_user, struct err **err);
/* process.env: @env and what every process has. @hostname may be NULL. */
json_t *spec_environment(const struct instance_strings *env, const char *home, const char *hostname, bool tty);
