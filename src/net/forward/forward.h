/* strata-forward: what its parts share. main.c says how it works. */
#pragma once

#include "base/types.h"
#include "rules.h"

struct forwarder;

/* Something that epoll watches. */
struct source {
        int fd;
        u32 events; /* that it is watched for; 0: it is not watched */
        void (*ready)(struct forwarder *f, struct source *source, u32 events);
};

struct listener {
        struct source source;
        struct forward_rule rule;
};

enum { BUFFER_SIZE = 65536, SESSION_BUCKETS = 256 };

struct session;
struct connection;

struct forwarder {
        int epoll;
        struct listener *listener;
        size_t n_listeners, n_connections, max_connections, n_sessions, max_sessions;
        bool full;               /* no connection is accepted before one ends */
        struct connection *dead; /* freed when all events of a round were seen */
        u64 expire_ns;           /* when sessions are looked through again */
        struct session *session[SESSION_BUCKETS];
        u8 buffer[BUFFER_SIZE];
};

/* Watches for @events from here on, 0: not any more. */
void source_watch(struct forwarder *f, struct source *source, u32 events);
/* Socket to the rule's target; nothing waits. -errno. */
int target_connect(const struct forward_rule *rule, int type);

void tcp_accept(struct forwarder *f, struct source *listener, u32 events);
/* After each round. @quiet: for some time nothing has happened. */
void tcp_bury(struct forwarder *f, bool quiet);

/* The listener's socket says from now on to which address a datagram came. */
void udp_prepare(const struct listener *listener);
void udp_take(struct forwarder *f, struct source *listener, u32 events);
/* After each round: ends sessions that were silent, and the oldest when there are too many. */
void udp_expire(struct forwarder *f);
