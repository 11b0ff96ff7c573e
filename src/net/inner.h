/* The network namespace in which the networks of a user who is not root are. Calls of net.h come here for them. */
#pragma once

#include "internal.h"

/* Calls @fn in a child that is in that namespace, with the store as it is seen from there; makes the namespace first for @container
 * (NULL: does not; without one it is 0 and nothing is called). No lock may be held. */
int inner_call(struct net_store *store, const char *container,
        int (*fn)(struct net_store *inner, void *opaque, struct err **err), void *opaque, struct err **err);
/* The store's records of that namespace, to be read; closed by inner_close_view. False when there is none. */
bool inner_view(struct net_store *store, struct net_store *ret);
void inner_close_view(struct net_store *view);
/* Whether @container has a place in it. */
bool inner_has(struct net_store *store, const char *container);
/* Takes it away when nobody is in it, or nobody can come to it any more. */
int inner_collect(struct net_store *store, struct err **err);
