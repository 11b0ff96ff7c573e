/* The name servers that are asked what no container is called. */
#pragma once

#include <sys/socket.h>

#include "net/addr.h"

enum { SERVERS_MAX = 3 };

struct upstream {
        struct ip server[SERVERS_MAX];
        size_t n;
        bool fixed; /* given on the command line: resolv.conf does not count */
        s64 mtime_ns;
};

/* Reads the host's resolv.conf if it has changed. */
void upstream_refresh(struct upstream *upstream);
/* A socket that is connected (or being connected) to the server. -errno. */
int upstream_connect(const struct ip *server, int type);
