/* What the files of this module share: the store, networks as they are inside, endpoints' records. */
#pragma once

#include <errno.h>
#include <jansson.h>
#include <sys/file.h>

#include "addr.h"
#include "base/arena.h"
#include "base/cleanup.h"
#include "link.h"
#include "net.h"

enum {
        KEY_LEN = 12, /* digits of a network's id that name its run-time files */
        CONTAINER_MAX = 128,
        PORTS_MAX = 4096, /* of one container */
};

/* ROOT/networks/NAME.json       definitions
 * ROOT/lock                     shared: somebody attaches or detaches;
 *                               exclusive: definitions, bridges and repairs change
 * ROOT/run/BOOT-NETNS/          what is true in this boot and network namespace; nothing in it is ever synced:
 *   bridges/KEY                 a link whose target is the interface that we made for that network
 *   endpoints/CONTAINER/KEY.json  the records, each written before anything of the endpoint is made, removed as the
 *                               last; the directory's lock is the container's
 *   addresses/KEY/ADDRESS       a link whose target is "CONTAINER NAME": who creates it has the address
 *   names/KEY/NAME/CONTAINER    a link whose target is "ADDRESS[ ADDRESS]": what the resolver answers
 *   leaving/INTERFACE           left to the kernel, which takes it away with its namespace (leaving.c)
 *   helpers/CONTAINER.KIND      locked by a resolver as long as it lives; pasta.c has its own way
 *   inner                       a link to the state of a user's own network namespace (inner.c)
 *   forwarding                  a link: which of the host's forwarding switches we turned on, and the interfaces of
 * then
 *
 * A store elsewhere than root's own has another table and default bridge, so that two of them do not meet. */
struct net_store {
        char *root;
        int fd, run;
        bool rootless;
        char table[24];        /* the nftables table's name */
        char bridge[IFNAMSIZ]; /* the default network's */
        void (*notice)(void *opaque, const char *text);
        void *opaque;
};

#define DIR_NETWORKS  "networks"
#define DIR_BRIDGES   "bridges"
#define DIR_ENDPOINTS "endpoints"
#define DIR_ADDRESSES "addresses"
#define DIR_NAMES     "names"
#define DIR_HELPERS   "helpers"
#define DIR_LEAVING   "leaving"

/* --- store.c ------------------------------------------------------------------------------------------------------ */

/* @operation: LOCK_SH, LOCK_EX. *ret_fd is closed to unlock. */
int net_store_lock(struct net_store *store, int operation, int *ret_fd, struct err **err);
void store_notice(struct net_store *store, const char *fmt, ...) _printf_(2, 3);
/* The directory below @dirfd, made when it is not there. */
int store_open_dir(int dirfd, const char *path, int *ret, struct err **err);
/* Calls @fn for each name in the directory but those with a dot in front, until it returns other than 0. A directory
 * that is not there is empty. */
int store_list_dir(int dirfd, const char *path, int (*fn)(void *opaque, int dirfd, const char *name, struct err **err),
        void *opaque, struct err **err);
/* Whether nothing is in the directory, or it is not there. */
bool store_is_empty(int dirfd, const char *path);
/* The file has the document afterwards, or what it had before. @durable: also after a power failure. */
int store_write_json(int dirfd, const char *path, const json_t *json, bool durable, struct err **err);
/* -ENOENT without an error when there is no such file. */
int store_read_json(int dirfd, const char *path, json_t **ret, struct err **err);
/* Removes a directory of run-time state with what is in it. */
void store_remove_dir(int dirfd, const char *path);
/* Removes what a process that was killed in store_write_json left there. Under the exclusive lock. */
void store_remove_temporary(int dirfd, const char *path);
/* "BOOT-NETNS", this boot's directory in run/ */
int store_run_name(char *ret, size_t size, struct err **err);
/* run/NAME and what is in it, made when it is not there. */
int store_open_run(struct net_store *store, const char *name, int *ret, struct err **err);
/* Letters, digits, "_.-", beginning with a letter or digit, at most @max. */
bool store_is_name(const char *text, size_t max);
/* The target of the link @path, NUL-terminated. Its length, or -errno. */
int store_read_link(int dirfd, const char *path, char *buf, size_t size);

/* --- networks: definition.c (documents), network.c (the calls) ---------------------------------------------------- */

struct subnet {
        struct cidr cidr; /* ip.len 0: none of this family */
        struct ip gateway;
        struct cidr range;
};

enum { V4, V6 };

struct network {
        struct net_network pub;
        struct arena arena;
        char key[KEY_LEN + 1];
        struct subnet subnet[2]; /* V4, V6 */
        bool is_bridge;
        bool masquerade, icc;
        struct ip host_ip; /* where ports without an address are published; none: everywhere */
};

static inline struct network *network_of(struct net_network *pub)
{
        return (struct network *)pub;
}
struct network *network_free(struct network *network);
static inline void network_freep(struct network **network)
{
        network_free(*network);
}
/* What @options ask for, checked; a subnet that is not given stays empty. */
int network_define(struct net_store *store, const char *name, const struct net_create_options *options,
        struct network **ret, struct err **err);
/* The texts of what is in @network->subnet. */
int network_fill_texts(struct network *network, struct err **err);
json_t *network_to_json(const struct network *network);
int network_from_json(struct net_store *store, const json_t *json, struct network **ret, struct err **err);
/* Anywhere: by name, id or beginning of it. */
int network_find(struct net_store *store, const char *name, struct network **ret, struct err **err);
/* Under a lock: whether nobody has removed it meanwhile. */
bool network_exists(struct net_store *store, const struct network *network);
/* By key; -ENOENT without an error when it was removed. */
int network_by_key(struct net_store *store, const char *key, struct network **ret, struct err **err);
int network_each(struct net_store *store, int (*fn)(void *opaque, struct network *network, struct err **err),
        void *opaque, struct err **err);

/* --- bridge.c: a network in the kernel ---------------------------------------------------------------------------- */

/* Sockets to the kernel of the host's namespace. */
struct kernel {
        int route, nft; /* nft -1: not opened yet */
};
#define KERNEL_CLOSED  \
        {              \
                -1, -1 \
        }
int kernel_open(struct kernel *kernel, struct err **err);
void kernel_close(struct kernel *kernel);
int kernel_nft(struct kernel *kernel, struct err **err);

/* Whether bridge and table are there: *ret_index of the bridge. 0: no. */
int bridge_is_up(struct net_store *store, struct kernel *kernel, const struct network *network, int *ret_index,
        struct err **err);
/* Under the exclusive lock. Fine when it is up. */
int bridge_up(struct net_store *store, struct kernel *kernel, const struct network *network, struct err **err);
/* Under the exclusive lock: the bridge if we made it, its elements, and with the last one table and forwarding. */
int bridge_down(struct net_store *store, struct kernel *kernel, const char *key, struct err **err);
/* The firewall's sets from the records. Under the exclusive lock. */
int bridge_rebuild_firewall(struct net_store *store, struct kernel *kernel, struct err **err);
/* Whether anybody is on it. */
bool network_is_used(struct net_store *store, const char *key);

/* --- ipam.c, names.c ---------------------------------------------------------------------------------------------- */

/* Takes @wanted, or the next free address when that is none. ERR_BUSY: taken; none left. */
int ipam_take(struct net_store *store, const struct network *network, int family, const struct ip *wanted,
        const char *container, const char *name, struct ip *ret, struct err **err);
void ipam_release(struct net_store *store, const char *key, const struct ip *address, const char *container);

/* leaving.c. Takes the interface away; or, when the container @has_ended, leaves that to the kernel. */
int leaving_remove(
        struct net_store *store, struct kernel *kernel, const char *ifname, bool has_ended, struct err **err);
/* Looks after those that were left to the kernel. */
int leaving_collect(struct net_store *store, struct kernel *kernel, struct err **err);
/* Whether it has left its namespaces; false for 0, a process that nobody named. */
bool process_has_ended(pid_t pid);
bool leaving_is(struct net_store *store, const char *ifname);

struct endpoint;
int names_add(struct net_store *store, const struct endpoint *endpoint, struct err **err);
void names_remove(struct net_store *store, const struct endpoint *endpoint);

/* --- endpoint.c: records ------------------------------------------------------------------------------------------ */

struct published {
        u8 protocol;
        struct ip host_ip; /* none: all addresses */
        u16 host_port, container_port;
};

struct endpoint {
        struct arena arena;
        const char *container, *name;
        const char *network, *key, *network_id; /* of the network */
        const char *ifname, *host_ifname, *mac;
        struct ip ip[2], gateway[2];
        u8 prefix_len[2];
        unsigned mtu;
        const char *dns;
        const char **names;   /* all that the resolver answers; ends with NULL */
        const char **servers; /* that the resolver asks; NULL or none: the host's */
        struct published *ports;
        size_t n_ports;
        bool ports_pending; /* whether they are open is not known: one may be another container's */
        bool forwarded;     /* they are strata-forward's (forwarder.c), not the firewall's */
        bool internal;      /* of the network; not in the record */
        bool default_route;
        pid_t pid; /* the container's; 0 */
        u64 netns; /* inode of its network namespace */
};
struct endpoint *endpoint_free(struct endpoint *endpoint);
static inline void endpoint_freep(struct endpoint **endpoint)
{
        endpoint_free(*endpoint);
}
/* The container's directory below run/endpoints, locked; made when @make. -ENOENT without an error when it is not
 * there. */
int endpoint_lock(struct net_store *store, const char *container, bool make, int *ret_dir, struct err **err);
int endpoint_write(int dir, const struct endpoint *endpoint, struct err **err);
/* -ENOENT without an error; -EINVAL for a damaged one. */
int endpoint_read(int dir, const char *key, struct endpoint **ret, struct err **err);
/* Calls @fn with the records (whole ones) of @container, NULL: of all. */
int endpoint_each(struct net_store *store, const char *container,
        int (*fn)(void *opaque, struct endpoint *endpoint, struct err **err), void *opaque, struct err **err);

/* Interfaces that we make are called so, and bridges. */
#define VETH_PREFIX   "sv"
#define BRIDGE_PREFIX "st-"
