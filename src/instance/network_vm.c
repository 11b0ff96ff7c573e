#include "network_vm.h"

#include <errno.h>
#include <string.h>

#include "network_internal.h"

#define MODE_USER "user"

/* What src/dev/net/passt.c gives to a guest. */
static const struct net_attachment user_attachment = {
        .network = MODE_USER,
        .network_id = "",
        .ifname = "",
        .host_ifname = "",
        .mac = "52:54:00:12:34:56", /* of a virtio-net device that was told none */
        .ip = "10.0.2.15",
        .prefix_len = 24,
        .gateway = "10.0.2.2",
        .ip6 = "",
        .gateway6 = "",
        .dns = "",
        .default_route = true,
        .tap_fd = -1,
};

static int refuse(const char *mode, const char *why, struct err **err)
{
        return err_hint(err,
                err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "a machine cannot have --network %s: %s", mode, why),
                "it can be on networks (--network NAME), on none, or on the host's by --network user");
}

static int connect_user(struct network *network, struct err **err)
{
        if (network_publishes(network->inst))
                return err_hint(err,
                        err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "a machine with --network user cannot publish ports"),
                        "the default network can");
        network->user = user_attachment;
        network->attachment[network->n++] = &network->user;
        return 0;
}

/* What strata-init is to set up, from what the networks gave. */
static void describe(struct network *network)
{
        static const char *const names[] = { "eth0", "eth1", "eth2", "eth3", "eth4", "eth5", "eth6", "eth7" };

        for (size_t i = 0; i < network->n; i++) {
                const struct net_attachment *a = network->attachment[i];

                if (a->tap_fd < 0 && a != &network->user)
                        continue; /* "none" */
                network->interface[network->n_interfaces] = (struct network_vm_interface){
                        .tap_fd = a->tap_fd,
                        .mac = a->mac,
                        .ifname = names[network->n_interfaces],
                        .mtu = a->mtu,
                        .ip = a->ip,
                        .ip6 = a->ip6,
                        .prefix_len = a->prefix_len,
                        .prefix_len6 = a->prefix_len6,
                        .gateway = a->default_route ? a->gateway : "",
                        .gateway6 = a->default_route ? a->gateway6 : "",
                };
                if (++network->n_interfaces == ARRAY_SIZE(names))
                        break;
        }
}

int network_vm_connect(struct instance *inst, const char *hostname, struct network **ret, struct err **err)
{
        enum { DEVICES_MAX = 8 }; /* VM_NETS_MAX of strata-vmm */
        _cleanup_(network_closep) struct network *network = calloc(1, sizeof(*network));
        const char *mode = network_mode_of(inst);
        const bool listed = inst->config.networks.n > 0;
        int r = 0;

        if (!network)
                return err_sys(err, ENOMEM, "connecting to networks");
        network->inst = inst;
        network->fd = -1;
        network->machine = true;
        if (!listed && strncmp(mode, "container:", 10) == 0)
                return refuse(mode, "its network devices are its own", err);
        if (!listed && strcmp(mode, "host") == 0)
                return refuse(mode, "it has a kernel of its own, with a network of its own", err);
        if (inst->config.networks.n > DEVICES_MAX)
                return err_set(err, ERR_USAGE, E2BIG, "a machine cannot be on more than %d networks", DEVICES_MAX);
        if (!listed && strcmp(mode, MODE_USER) == 0)
                r = connect_user(network, err);
        else if (listed || strcmp(mode, "none") != 0)
                r = network_attach_all(network, hostname, err);
        if (r < 0)
                return r;
        describe(network);
        *ret = TAKE_PTR(network);
        return 0;
}

size_t network_vm_interfaces(const struct network *network, const struct network_vm_interface **ret)
{
        *ret = network->interface;
        return network->n_interfaces;
}
