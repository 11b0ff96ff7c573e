/* virtio-vsock: packets of a hostile guest, which knows what ports there are, and programs at both kinds of sockets. What must hold:
 * no more connections than allowed, never more sent than the guest gave credit for, and the memory that a guest can take is bounded by
 * these. */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "board.h"
#include "dev/virtio/vsock_internal.h"

#define RAM_SIZE (256 * KIB)
#define PACKET 0x30000ULL
#define BUFFERS 0x20000ULL
#define HOST_SOCKETS 6
enum { RX, TX, EVENT };
enum { CID = 3, LOCAL_PORT = 2 };

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

struct machine {
        struct board board;
        struct vsock *vs;
        struct sockaddr_un address, served;
        int listener;
        int host[HOST_SOCKETS];
        unsigned n_given[3];
        struct vsock_local local_port;
        struct vsock_conn *local; /* of the program inside this process */
        u8 to_send;
};

static bool on_local_connected(void *opaque, struct vsock_conn *conn)
{
        struct machine *m = opaque;

        require(!m->local);
        m->local = conn;
        return true;
}

static void on_local_receive(void *opaque, const struct iovec *iov, unsigned n)
{
        struct machine *m = opaque;

        require(m->local);
        m->to_send++;
        vsock_local_wake(m->local);
}

static size_t on_local_fill(void *opaque, const struct iovec *iov, unsigned n)
{
        struct machine *m = opaque;

        if (!n || !m->to_send || !iov[0].iov_len)
                return 0;
        *(u8 *)iov[0].iov_base = m->to_send--;
        return 1;
}

static void on_local_closed(void *opaque)
{
        struct machine *m = opaque;

        require(m->local);
        m->local = NULL;
}

static const struct vsock_local_ops local_ops = { on_local_connected, on_local_receive, on_local_fill, on_local_closed };

static int bound_socket(const struct sockaddr_un *address)
{
        const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        unlink(address->sun_path);
        require(fd >= 0 && bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 && listen(fd, 8) == 0);
        return fd;
}

static void machine_new(struct machine *m)
{
                struct virtio_vsock_config config = { .cid = CID, .local = &m->local_port };

        m->local_port = (struct vsock_local){ .port = LOCAL_PORT, .ops = &local_ops, .opaque = m };
        m->address.sun_family = m->served.sun_family = AF_UNIX;
        snprintf(m->address.sun_path, sizeof(m->address.sun_path), "/tmp/fuzz-vsock-%d", (int)getpid());
        snprintf(m->served.sun_path, sizeof(m->served.sun_path), "/tmp/fuzz-vsock-%d_1", (int)getpid());
        m->listener = bound_socket(&m->served);
        require(unix_listener_new(m->address.sun_path, VSOCK_SUFFIX_MAX, &config.listener, NULL) == 0);
        board_init(&m->board, RAM_SIZE);
        require(virtio_vsock_new(&m->board.env, m->board.bus, &config, NULL) == 0);
        require(pci_assign_resources(m->board.bus, NULL) == 0);
        m->vs = container_of(m->board.vdev[0], struct vsock, vdev);
        for (unsigned i = 0; i < HOST_SOCKETS; i++)
                m->host[i] = -1;
        driver_set_up(&m->board, 0);
}

static void machine_free(struct machine *m)
{
        for (unsigned i = 0; i < HOST_SOCKETS; i++)
                if (m->host[i] >= 0)
                        close(m->host[i]);
        board_free(&m->board);
        close(m->listener);
        unlink(m->served.sun_path);
}

static void give(struct machine *m, unsigned queue, u64 gpa, u32 len, bool write)
{
        driver_give(&m->board, queue, m->n_given[queue]++, gpa, len, write);
        board_doorbell(&m->board, m->board.vdev[0], queue);
}

/* ---- operations ---- */

static void do_packet(struct machine *m, struct input *in)
{
        const u64 what = take(in, 2);
        struct vsock_header header = {
                .src_cid = what & 0x1000 ? take(in, 1) : CID,
                .dst_cid = what & 0x2000 ? take(in, 1) : VSOCK_CID_HOST,
                .src_port = (u32)(what >> 4 & 3),
                .dst_port = what & 0x80 ? 0x40000000U + (u32)(what >> 8 & 3) : what & 0x800 ? LOCAL_PORT : 1,
                .op = (u16)(what & 0xf),
                .type = what & 0x4000 ? (u16)take(in, 1) : VSOCK_TYPE_STREAM,
                .flags = (u32)take(in, 1),
                .len = (u32)take(in, 2),
                .buf_alloc = (u32)take(in, 2) << (what >> 10 & 3),
                .fwd_cnt = (u32)take(in, 2),
        };
        const struct vsock_conn *conn = vsock_conn_find(m->vs, header.src_port, header.dst_port);
        const u64 lie = take(in, 1);

        if (conn && lie & 1) /* an honest count */
                header.fwd_cnt = conn->sent;
        guest_memory_write(m->board.env.memory, PACKET, &header, sizeof(header));
        give(m, TX, PACKET, (u32)sizeof(header) + (lie & 2 ? (u32)take(in, 2) : header.len % 0x8000), false);
}

static void do_receive_buffer(struct machine *m, struct input *in)
{
        give(m, RX, BUFFERS, (u32)take(in, 2) % 0x4000, true);
}

static void do_event_buffer(struct machine *m, struct input *in)
{
        give(m, EVENT, BUFFERS, (u32)take(in, 1), take(in, 1) & 1);
}

static void do_host_connect(struct machine *m, struct input *in)
{
        static const char *const lines[] = { "CONNECT 1\n", "CONNECT 2\nhello", "CONNECT", " 3\n", "nonsense\n", "" };
        int *fd = &m->host[take(in, 1) % HOST_SOCKETS];
        const char *line = lines[take(in, 1) % ARRAY_SIZE(lines)];

        if (*fd < 0) {
                *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
                if (*fd >= 0 && connect(*fd, (const struct sockaddr *)&m->address, sizeof(m->address)) < 0) {
                        close(*fd);
                        *fd = -1;
                }
        }
        if (*fd >= 0)
                (void)!send(*fd, line, strlen(line), MSG_NOSIGNAL);
}

static void do_host_accept(struct machine *m, struct input *in)
{
        int *fd = &m->host[take(in, 1) % HOST_SOCKETS];

        if (*fd < 0)
                *fd = accept4(m->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static void do_host_use(struct machine *m, struct input *in)
{
        static u8 data[70000];
        int *fd = &m->host[take(in, 1) % HOST_SOCKETS];
        const u64 what = take(in, 1), n = take(in, 2);

        if (*fd < 0)
                return;
        switch (what & 7) {
        case 0:
                close(*fd);
                *fd = -1;
                break;
        case 1:
                shutdown(*fd, (int)(n % 3));
                break;
        case 2:
                (void)!recv(*fd, data, n, 0);
                break;
        default:
                (void)!send(*fd, data, n, MSG_NOSIGNAL);
                break;
        }
}

static void do_loop(struct machine *m, struct input *in)
{
        /* What the event loop would do, without its thread: the sockets are looked at. */
        for (struct vsock_conn *conn = m->vs->all, *next; conn; conn = next) {
                next = conn->next;
                pthread_mutex_lock(&m->board.lock);
                conn->readable |= conn->state == VSOCK_OPEN;
                vsock_conn_update(conn);
                pthread_mutex_unlock(&m->board.lock);
        }
        pthread_mutex_lock(&m->board.lock);
        vsock_pump(m->vs);
        pthread_mutex_unlock(&m->board.lock);
}

static void do_life(struct machine *m, struct input *in)
{
        struct device *dev = &m->board.vdev[0]->pci.dev;
        const u64 what = take(in, 1);

        if (what & 1) {
                driver_set_up(&m->board, 0);
                memset(m->n_given, 0, sizeof(m->n_given));
                return;
        }
        pthread_mutex_lock(&m->board.lock);
        board_save_and_load(dev, what & 2 ? take(in, 2) : 0);
        pthread_mutex_unlock(&m->board.lock);
}

static void (*const operations[])(struct machine *m, struct input *in) = {
        do_packet, do_packet, do_packet, do_packet, do_receive_buffer, do_receive_buffer, do_event_buffer, do_host_connect,
        do_host_accept, do_host_use, do_host_use, do_loop, do_loop, do_life,
};

static void check(const struct machine *m)
{
        unsigned n[2] = { 0 };

        for (const struct vsock_conn *conn = m->vs->all; conn; conn = conn->next) {
                n[conn->from_guest]++;
                require(conn->n_buffered <= VSOCK_BUFFER);
                require(conn->received - conn->forwarded == conn->n_buffered);
                require(!conn->local || conn == m->local);
                require(conn->sent - conn->guest_forwarded <= 0x7fffffff);
        }
        require(n[0] == m->vs->n_conns[0] && n[1] == m->vs->n_conns[1]);
        require(n[0] <= VSOCK_CONNS_MAX && n[1] <= VSOCK_CONNS_MAX && m->vs->n_resets <= VSOCK_RESETS_MAX);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        struct input in = { data, len };
        struct machine m = { 0 };

        machine_new(&m);
        for (unsigned i = 0; i < 200 && in.left; i++) {
                operations[take(&in, 1) % ARRAY_SIZE(operations)](&m, &in);
                check(&m);
        }
        machine_free(&m);
        return 0;
}
