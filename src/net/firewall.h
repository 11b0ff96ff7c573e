/* The nftables table `inet strata`: rules that never change, and sets that say for whom. docs/networks.md shows it. */
#pragma once

#include "internal.h"

/* Forwarding of these families is on because of us: what the host did not forward between its interfaces before is
 * dropped. */
struct firewall_guard {
        bool v4, v6;
        char uplinks[4000]; /* the interfaces of then, with blanks between */
};

/* 0, -ENOENT when it is not there. */
int firewall_find(const struct net_store *store, int nft);
/* Makes the table if it is not there, and its sets what the store's bridges and endpoints say, in one transaction. */
int firewall_rebuild(struct net_store *store, int nft, const struct firewall_guard *guard, struct err **err);
/* Fine when it is not there. */
int firewall_remove(const struct net_store *store, int nft, struct err **err);

/* ERR_BUSY: another container has one of the ports. All or nothing. */
int firewall_open_ports(const struct net_store *store, int nft, const struct endpoint *endpoint, struct err **err);
/* Fine when they are not open. */
int firewall_close_ports(const struct net_store *store, int nft, const struct endpoint *endpoint, struct err **err);
/* How many elements there are that no endpoint asks for, or that one lacks. */
int firewall_compare(struct net_store *store, int nft, unsigned *ret, struct err **err);

/* Tells the operator when the host's own chains may drop what is published, or are passed by. */
void firewall_tell(struct net_store *store, int nft);
