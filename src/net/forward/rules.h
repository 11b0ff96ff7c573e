/* What strata-forward is told, by forwarder.c: messages on its first descriptor, each an array of rules with one descriptor for each,
 * until the end. It answers with a byte when it has them all. */
#pragma once

#include "net/addr.h"

struct forward_rule {
        struct ip target; /* a container's */
        u16 port;
        u8 protocol; /* of the descriptor: TCP, which listens, or UDP, bound */
};

/* Its descriptors. */
enum { FORWARD_FD_RULES = 3, FORWARD_FD_LOCK, FORWARD_FD_CONTAINER };
