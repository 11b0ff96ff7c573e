/* What a container may be told: the names and addresses on the networks that it is on now, read from the store's
 * run-time files (internal.h of the module says which) at every question. No memory is kept. */
#pragma once

#include "net/addr.h"

enum { ADDRESSES_MAX = 64, NETWORKS_MAX = 16 };

struct lookup {
        int run;               /* the run-time directory */
        const char *container; /* who asks */
};

/* The addresses of @name (a plain one): their number, 0 when there is no such name. */
size_t lookup_name(const struct lookup *lookup, const char *name, struct ip ret[ADDRESSES_MAX]);
/* The name of who has the address. */
bool lookup_address(const struct lookup *lookup, const struct ip *ip, char *ret, size_t size);
/* Whether a network of the container's lets questions out: not all are internal. */
bool lookup_may_ask_outside(const struct lookup *lookup);
