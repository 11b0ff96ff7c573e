/* What attaching has in common whatever serves the network. */
#pragma once

#include "internal.h"
#include "ports.h"

/* Opens in the namespace @netns_fd: a socket of rtnetlink; with @dns also the resolver's (udp, tcp), who is asked at
 * RESOLVER_ADDRESS from then on. */
struct inside {
        int route, udp, tcp;
};
#define INSIDE_CLOSED      \
        {                  \
                -1, -1, -1 \
        }
int inside_open(int netns_fd, bool dns, struct inside *ret, struct err **err);
/* The same for a machine, which has no namespace of ours: a new one, that lives as long as the sockets, for a resolver at port 53 of
 * whatever address the namespace gets. *ret_netns is the caller's. */
int inside_new(int *ret_netns, struct inside *ret, struct err **err);
void inside_close(struct inside *inside);

/* resolver.c: the process that answers names in a container. Fine when there is one. A machine's is at an address of its network, behind
 * an interface of its own (service.c). */
#define RESOLVER_ADDRESS "127.0.0.11"
bool resolver_is_service(const struct endpoint *endpoint);
int resolver_start(
        struct net_store *store, const struct endpoint *endpoint, const struct inside *inside, struct err **err);
bool resolver_runs(struct net_store *store, const char *container);
void resolver_stop(struct net_store *store, const char *container);

/* service.c: the resolver of a machine, and its interface. endpoint->dns is its address. */
struct service_ifname {
        char text[IFNAMSIZ];
};
struct service_ifname service_ifname(const struct endpoint *endpoint);
int service_start(
        struct net_store *store, struct kernel *kernel, int bridge, const struct endpoint *endpoint, struct err **err);

/* forwarder.c: the process that passes on what comes to the ports of an endpoint of inner.c. @holds: sockets that were bound to them in the
 * host's namespace, listening; they stay the caller's. At most one a container. */
int forwarder_start(
        struct net_store *store, const struct endpoint *endpoint, const struct port_holds *holds, struct err **err);
/* The same for ports that an endpoint was given after it was made: those of @published. */
int forwarder_publish(struct net_store *inner, const char *container, const char *key, const struct endpoint *published,
        const struct port_holds *holds, struct err **err);
bool forwarder_runs(struct net_store *store, const char *container);
void forwarder_stop(struct net_store *store, const char *container);

#define PASTA_DNS "10.0.2.3" /* who answers through it */
/* pasta.c: the default network of a user who is not root. Fills in what @endpoint lacks. */
int pasta_start(
        struct net_store *store, const struct net_attach_request *request, struct endpoint *endpoint, struct err **err);
bool pasta_runs(struct net_store *store, const char *container);
void pasta_stop(struct net_store *store, const char *container);

/* Takes away everything that the record names, then the record. @dir: the container's, locked. @has_ended: so its
 * interface may be left to the kernel. */
int endpoint_undo(struct net_store *store, struct kernel *kernel, int dir, const struct endpoint *endpoint,
        bool has_ended, struct err **err);
/* The container has no endpoint any more: helpers and directory go. */
void container_forget(struct net_store *store, int dir, const char *container);
/* What attach gives and lists show. Takes the sockets of @holds (NULL: none). */
int attachment_of(
        const struct endpoint *endpoint, struct port_holds *holds, struct net_attachment **ret, struct err **err);
