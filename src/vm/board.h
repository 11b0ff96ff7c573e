/* What the board opens on the host before it builds anything: only memory can run out after that. */
#pragma once

#include "dev/block/block.h"
#include "dev/net/net.h"
#include "dev/virtio/fs.h"
#include "dev/virtio/vsock.h"
#include "internal.h"

struct board_resources {
        struct block_device *disks[VM_DISKS_MAX];
        struct net_backend *nets[VM_NETS_MAX];
        struct fuse_server *shares[VM_SHARES_MAX];
        struct unix_listener *vsock, *control;
        struct agent *agent;
        int console_fd; /* -1: none */
        bool close_console;
};

int board_resources_open(struct vm *vm, struct board_resources *ret, struct err **err);
/* Closes what nobody has taken over. */
void board_resources_close(struct board_resources *res);
