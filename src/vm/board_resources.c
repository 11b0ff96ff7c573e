#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "board.h"
#include "jail.h"

static int open_disk(struct vm *vm, const struct vm_disk_config *config, struct block_device **ret, struct err **err)
{
        _cleanup_free_ char *path = NULL;
        struct block_options options;
        int r;

        r = block_options_parse(config->spec, &options, &path, err);
        if (r < 0)
                return r;
        jail_need(vm->config.jail, JAIL_DISKS);
        r = block_open(&options, vm->loop, &vm->device_counters, ret, err);
        return r < 0 ? err_wrap(err, r, "attaching disk '%s'", path) : 0;
}

static int open_net(struct vm *vm, const struct vm_net_config *net, struct net_backend **ret, struct err **err)
{
        const struct net_passt_config passt = { 0 };
        int r = 0;

        switch (net->how) {
        case VM_NET_USER:
                r = net_passt_open(&vm->env, &passt, ret, err);
                return r < 0 ? err_wrap(err, r, "starting user-mode networking") : 0;
        case VM_NET_TAP:
                jail_need(vm->config.jail, JAIL_TAP);
                r = net_tap_open(&vm->env, net->tap, ret, err);
                return r < 0 ? err_wrap(err, r, "attaching the network to '%s'", net->tap) : 0;
        case VM_NET_FD:
                jail_need(vm->config.jail, JAIL_TAP);
                r = net_tap_from_fd(&vm->env, net->fd, ret, err);
                return r < 0 ? err_wrap(err, r, "attaching the network to descriptor %d", net->fd) : 0;
        }
        return r;
}

static int open_nets(struct vm *vm, struct board_resources *res, struct err **err)
{
        int r = 0;

        for (size_t i = 0; i < vm->config.n_nets && r == 0; i++)
                r = open_net(vm, &vm->config.nets[i], &res->nets[i], err);
        return r;
}

/* What the rest of the machine needs of the descriptors that the process may have. */
#define FDS_RESERVED 1024U
#define SHARE_FDS_MIN 256U
#define SHARE_FDS_MAX 32768U
/* A guest keeps more than this of its own memory for each file that it knows. */
#define GUEST_BYTES_PER_INODE 1024U

static unsigned share_fds(const struct vm *vm)
{
        struct rlimit limit;

        /* Only who waits with select(2) needs the small soft limit, and nobody here does. */
        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return SHARE_FDS_MIN;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur <= FDS_RESERVED)
                return SHARE_FDS_MIN;
        return (unsigned)MAX(MIN((limit.rlim_cur - FDS_RESERVED) / vm->config.n_shares, (rlim_t)SHARE_FDS_MAX),
                (rlim_t)SHARE_FDS_MIN);
}

static void keep_share(struct vm *vm, const struct fuse_server_config *config, const struct fuse_server *server)
{
        struct jail *jail = vm->config.jail;
        int root_fd, proc_fd;

        fuse_server_directories(server, &root_fd, &proc_fd);
        jail_keep_directory(jail, root_fd, config->path, config->read_only ? JAIL_READ : JAIL_WRITE);
        jail_keep_directory(jail, proc_fd, FUSE_SERVER_FDS, JAIL_WALK);
        jail_need(jail, JAIL_SHARES);
        if (config->read_only)
                return;
        jail_need(jail, JAIL_SHARE_WRITES);
        jail_keep_owners(jail);
}

static int open_shares(struct vm *vm, struct board_resources *res, struct err **err)
{
        const unsigned inodes = (unsigned)(vm->memory->ram_size / GUEST_BYTES_PER_INODE);
        int r = 0;

        for (size_t i = 0; i < vm->config.n_shares && r == 0; i++) {
                const struct fuse_server_config config = {
                        .path = vm->config.shares[i].path,
                        .read_only = vm->config.shares[i].read_only,
                        .is_private = vm->config.shares[i].is_private,
                        .fds = share_fds(vm),
                        .inodes = MIN(inodes, 1U << 20),
                };

                r = fuse_server_new(&config, &res->shares[i], err);
                if (r < 0)
                        r = err_wrap(err, r, "sharing '%s'", config.path);
                else
                        keep_share(vm, &config, res->shares[i]);
        }
        return r;
}

static int open_console(struct vm *vm, struct board_resources *res, struct err **err)
{
        switch (vm->config.console) {
        case VM_CONSOLE_STDIO:
                jail_need(vm->config.jail, JAIL_TERMINAL);
                res->console_fd = STDOUT_FILENO;
                break;
        case VM_CONSOLE_FILE:
                /* O_NONBLOCK only for the open: a fifo without a reader is an error and not a hang. */
                res->console_fd = open(vm->config.console_file,
                        O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);
                if (res->console_fd < 0)
                        return err_sys(err, errno, "opening the console file '%s'", vm->config.console_file);
                fcntl(res->console_fd, F_SETFL, 0);
                res->close_console = true;
                break;
        case VM_CONSOLE_NONE:
                break;
        }
        return 0;
}

static int wait_for_outside(const struct vm *vm, struct err **err)
{
        _cleanup_close_ int fd = vm->config.wait_fd > 0 ? vm->config.wait_fd : -1;
        ssize_t n;
        char byte;

        if (fd < 0)
                return 0;
        do
                n = read(fd, &byte, 1);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return err_sys(err, errno, "waiting for descriptor %d", fd);
        return n ? 0 : err_set(err, ERR_IO, EPIPE, "descriptor %d ended before it said that disks, networks and shares are there", fd);
}

int board_resources_open(struct vm *vm, struct board_resources *ret, struct err **err)
{
        struct board_resources res = { .console_fd = -1 };
        int r = wait_for_outside(vm, err);

        for (size_t i = 0; i < vm->config.n_disks && r == 0; i++)
                r = open_disk(vm, &vm->config.disks[i], &res.disks[i], err);
        if (r == 0)
                r = open_nets(vm, &res, err);
        if (r == 0)
                r = open_shares(vm, &res, err);
        if (r == 0 && vm->config.vsock_cid)
                r = unix_listener_new(vm->config.vsock_socket, VSOCK_SUFFIX_MAX, &res.vsock, err);
        if (r == 0 && vm->config.agent.socket)
                r = agent_new(&vm->config.agent, &res.agent, err);
        if (r == 0 && vm->config.control_socket)
                r = unix_listener_new(vm->config.control_socket, 0, &res.control, err);
        jail_keep_socket(vm->config.jail, res.vsock);
        jail_keep_socket(vm->config.jail, res.control);
        if (res.agent) {
                jail_keep_socket(vm->config.jail, agent_listener(res.agent));
                jail_need(vm->config.jail, JAIL_TERMINAL);
        }
        if (r == 0) /* last, because it leaves a file */
                r = open_console(vm, &res, err);
        if (r < 0) {
                board_resources_close(&res);
                return r;
        }
        *ret = res;
        return 0;
}

void board_resources_close(struct board_resources *res)
{
        for (size_t i = 0; i < VM_DISKS_MAX; i++)
                block_close(TAKE_PTR(res->disks[i]));
        for (size_t i = 0; i < VM_NETS_MAX; i++)
                net_backend_free(TAKE_PTR(res->nets[i]));
        for (size_t i = 0; i < VM_SHARES_MAX; i++)
                fuse_server_free(TAKE_PTR(res->shares[i]));
        unix_listener_free(TAKE_PTR(res->vsock));
        agent_free(TAKE_PTR(res->agent));
        unix_listener_free(TAKE_PTR(res->control));
        if (res->close_console)
                close(TAKE_FD(res->console_fd));
        res->close_console = false;
}
