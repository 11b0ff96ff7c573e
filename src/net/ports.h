/* Published ports: from what was asked to numbers that nobody else on the host has. */
#pragma once

#include "internal.h"

/* Sockets bound to the ports: while one is open no other program gets its port. */
struct port_holds {
        int *fd;
        size_t n;
        bool listen; /* they are to be used: those of TCP listen */
};
void port_holds_close(struct port_holds *holds);

/* Chooses the ports that are left open and binds to all. Into @endpoint's arena. ERR_BUSY: one is in use. */
int ports_settle(const struct network *network, const struct net_port *ports, size_t n, struct endpoint *endpoint,
        struct port_holds *holds, struct err **err);
/* Binds to ports that were settled before. */
int ports_hold_again(
        const struct network *network, const struct endpoint *endpoint, struct port_holds *holds, struct err **err);
/* Whether a second try may give other ports. */
bool ports_are_chosen(const struct net_port *ports, size_t n);
