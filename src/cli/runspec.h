/* What stands behind docker's options about containers, read into the instance contract: "8080:80/udp" becomes ports,
 * "type=bind,src=/a,dst=/b" a mount. Every function appends to the configuration, or changes it; what it makes lives in the
 * arena. A text that is wrong is an error that names the option, and nothing was appended. */
#pragma once

#include "base/arena.h"
#include "instance/instance.h"
#include "options.h"

struct runspec {
        struct instance_config *config;
        struct arena *arena;
};

typedef int runspec_fn(struct runspec *runspec, const char *text, struct err **err);

runspec_fn runspec_publish;     /* [IP:][PORT[-PORT]:]PORT[-PORT][/tcp|udp|sctp] */
runspec_fn runspec_expose;      /* PORT[-PORT][/PROTOCOL] */
runspec_fn runspec_volume;      /* [SOURCE:]TARGET[:OPTIONS] */
runspec_fn runspec_mount;       /* type=bind|volume|tmpfs,KEY=VALUE,... */
runspec_fn runspec_tmpfs;       /* TARGET[:OPTIONS] */
runspec_fn runspec_device;      /* DEVICE[:TARGET][:rwm] */
runspec_fn runspec_ulimit;      /* NAME=SOFT[:HARD] */
runspec_fn runspec_env;         /* NAME=VALUE, or NAME with our environment's value */
runspec_fn runspec_env_file;    /* lines of such */
runspec_fn runspec_label;       /* KEY[=VALUE] */
runspec_fn runspec_label_file;  /* lines of such */
runspec_fn runspec_annotation;  /* KEY=VALUE */
runspec_fn runspec_sysctl;      /* NAME=VALUE */
runspec_fn runspec_network;     /* NAME, bridge, none, host, container:NAME, or name=NAME,ip=...,alias=... */
runspec_fn runspec_add_host;    /* NAME:ADDRESS or NAME=ADDRESS */
runspec_fn runspec_restart;     /* no, always, unless-stopped, on-failure[:N] */
runspec_fn runspec_log_option;  /* max-size=SIZE, max-file=N */
runspec_fn runspec_read_bps, runspec_write_bps, runspec_read_iops, runspec_write_iops; /* DEVICE:RATE */

/* Appends @word, and what runspec_env makes of "NAME" or "NAME=VALUE". */
int runspec_strings_add(struct arena *arena, struct instance_strings *list, const char *word, struct err **err);
int runspec_env_add(struct arena *arena, struct instance_strings *env, const char *text, struct err **err);
/* The lines of the file @path but empty ones and comments, each through @add. */
int runspec_env_file_add(struct arena *arena, struct instance_strings *env, const char *path, struct err **err);

/* "on-failure:3"; into what run and update have in common. */
int runspec_restart_parse(const char *text, enum instance_restart *ret, s64 *ret_max, struct err **err);

/* Adds another name to the first network. */
runspec_fn runspec_network_alias;
/* Gives @details (ip, ip6, mac) to the first network; one without details becomes the network mode. */
int runspec_networks_finish(struct runspec *runspec, const struct instance_network *details, struct err **err);
runspec_fn runspec_security; /* seccomp=FILE|unconfined, ...: a file is made absolute */
