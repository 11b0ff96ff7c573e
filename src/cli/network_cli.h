/* `strata network` and `strata volume`. */
#pragma once

#include <jansson.h>

#include "base/err.h"
#include "instance/instance.h"
#include "net/net.h"
#include "options.h"

/* The store of networks that @host's instances use. */
int network_cli_open(struct instance_host *host, struct net_store **ret, struct err **err);
/* What docker's inspect prints about a network or a volume. */
int network_inspect_json(struct instance_host *host, const char *name, json_t **ret, struct err **err);
int volume_inspect_json(struct instance_host *host, const char *name, json_t **ret, struct err **err);

/* Removes what nothing uses and @filters (as filter_check_prune has them) let pass, and prints it; for `prune` and `system prune`. Adds to *@bytes. */
int network_prune(struct instance_host *host, const struct cli_words *filters, struct err **err);
int volume_prune(struct instance_host *host, bool all, const struct cli_words *filters, u64 *bytes, struct err **err);
