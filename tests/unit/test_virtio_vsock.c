/* virtio-vsock: a driver that sends packets by hand, and programs at the unix sockets of the host. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "dev/virtio/virtio.h"
#include "dev/virtio/vsock_internal.h"
#include "virtio_driver.h"

enum { RX = 0, TX = 1, EVENT = 2, QUEUES = 3, SIZE = 64 };
enum { GUEST_CID = 42, LOCAL_PORT = 1022 };
#define RX_BUFFERS 0x400000ULL
#define RX_STEP 0x2000ULL
#define RX_BYTES 4140U
#define TX_BUFFER 0x600000ULL
#define EVENT_BUFFER 0x700000ULL

struct fixture {
        struct fake_machine *m;
        struct driver d;
        char dir[32], path[40];
        unsigned rx_added;
        u32 forwarded; /* what the next packets say */
        u32 buffer;
        /* The program inside this process, at port LOCAL_PORT. */
        struct vsock_local local;
        struct vsock_conn *local_conn;
        char heard[64]; /* what the guest sent it */
        const char *to_say;
        unsigned n_closed;
};

/* ---- the program inside this process; the lock is held ---- */

static bool local_connected(void *opaque, struct vsock_conn *conn)
{
        struct fixture *f = opaque;

        f->local_conn = conn;
        return true;
}

static void local_receive(void *opaque, const struct iovec *iov, unsigned n)
{
        struct fixture *f = opaque;

        for (unsigned i = 0; i < n; i++)
                strncat(f->heard, iov[i].iov_base, iov[i].iov_len);
        vsock_local_wake(f->local_conn);
}

static size_t local_fill(void *opaque, const struct iovec *iov, unsigned n)
{
        struct fixture *f = opaque;
        const size_t len = n && f->to_say ? MIN(strlen(f->to_say), iov[0].iov_len) : 0;

        if (len)
                memcpy(iov[0].iov_base, f->to_say, len);
        f->to_say = NULL;
        return len;
}

static void local_closed(void *opaque)
{
        struct fixture *f = opaque;

        f->local_conn = NULL;
        f->n_closed++;
}

static const struct vsock_local_ops local_ops = { local_connected, local_receive, local_fill, local_closed };

static void rx_add(struct fixture *f, unsigned n)
{
        for (unsigned i = 0; i < n; i++, f->rx_added++)
                driver_add(&f->d, RX, &(struct driver_segment){ RX_BUFFERS + RX_STEP * (f->rx_added % SIZE), RX_BYTES, true }, 1);
        driver_kick(&f->d, RX);
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        struct virtio_vsock_config config = { .cid = GUEST_CID, .local = &f->local };

        assert_non_null(f);
        f->local = (struct vsock_local){ .port = LOCAL_PORT, .ops = &local_ops, .opaque = f };
        snprintf(f->dir, sizeof(f->dir), "/tmp/vsock.XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
        assert_int_equal(unix_listener_new(f->path, VSOCK_SUFFIX_MAX, &config.listener, NULL), 0);
        f->m = fake_machine_new();
        assert_int_equal(virtio_vsock_new(&f->m->f.env, f->m->bus, &config, NULL), 0);
        fake_machine_start(f->m);
        driver_probe(&f->d, f->m, 1);
        driver_start(&f->d, 0, QUEUES, SIZE);
        f->buffer = 100000;
        rx_add(f, SIZE / 2);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        char command[128];

        fake_machine_free(f->m);
        assert_int_not_equal(access(f->path, F_OK), 0); /* it goes with the machine */
        snprintf(command, sizeof(command), "rm -r %s", f->dir);
        assert_int_equal(system(command), 0);
        free(f);
        return 0;
}

/* ---- the guest ---- */

struct packet {
        struct vsock_header header;
        u8 data[RX_BYTES];
};

static void send_header(struct fixture *f, const struct vsock_header *header, const void *data, u32 bytes)
{
        memcpy(ram(f->m, TX_BUFFER), header, sizeof(*header));
        if (bytes)
                memcpy(ram(f->m, TX_BUFFER + sizeof(*header)), data, bytes);
        driver_add(&f->d, TX, &(struct driver_segment){ TX_BUFFER, (u32)sizeof(*header) + bytes, false }, 1);
        driver_kick(&f->d, TX);
}

static struct vsock_header header_of(struct fixture *f, enum vsock_op op, u32 guest_port, u32 host_port, u32 len)
{
        return (struct vsock_header){
                .src_cid = GUEST_CID, .dst_cid = VSOCK_CID_HOST, .src_port = guest_port, .dst_port = host_port, .len = len,
                .type = VSOCK_TYPE_STREAM, .op = (u16)op, .buf_alloc = f->buffer, .fwd_cnt = f->forwarded,
        };
}

static void send_packet(struct fixture *f, enum vsock_op op, u32 guest_port, u32 host_port, const void *data, u32 len)
{
        const struct vsock_header header = header_of(f, op, guest_port, host_port, len);

        send_header(f, &header, data, len);
}

static void send_shutdown(struct fixture *f, u32 guest_port, u32 host_port, u32 flags)
{
        struct vsock_header header = header_of(f, VSOCK_OP_SHUTDOWN, guest_port, host_port, 0);

        header.flags = flags;
        send_header(f, &header, NULL, 0);
}

static bool any_packet(struct fixture *f)
{
        return driver_used_idx(&f->d, RX) != f->d.q[RX].used_seen;
}

/* The next packet from the device. */
static struct packet *next_packet(struct fixture *f)
{
        static struct packet packet;
        u32 id, len;
        const u8 *at;

        wait_for(any_packet(f));
        assert_true(driver_used(&f->d, RX, &id, &len));
        at = ram(f->m, RX_BUFFERS + RX_STEP * id);
        assert_in_range(len, sizeof(packet.header), sizeof(packet));
        memcpy(&packet, at, len);
        assert_int_equal(packet.header.len, len - sizeof(packet.header));
        assert_int_equal(packet.header.dst_cid, GUEST_CID);
        rx_add(f, 1);
        return &packet;
}

static struct packet *expect(struct fixture *f, enum vsock_op op, u32 guest_port)
{
        struct packet *packet = next_packet(f);

        assert_int_equal(packet->header.op, op);
        assert_int_equal(packet->header.dst_port, guest_port);
        return packet;
}

static void expect_nothing(struct fixture *f)
{
        fake_sync(f->m);
        usleep(20000);
        fake_sync(f->m);
        assert_false(any_packet(f));
}

/* ---- the host ---- */

static struct sockaddr_un address(const char *path)
{
        struct sockaddr_un a = { .sun_family = AF_UNIX };

        snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
        return a;
}

static int host_listen(struct fixture *f, u32 port)
{
        const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr_un a;
        char path[sizeof(a.sun_path)];

        snprintf(path, sizeof(path), "%s_%u", f->path, port);
        a = address(path);
        assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
        assert_int_equal(listen(fd, 10), 0);
        return fd;
}

static int host_dial(struct fixture *f, const char *line)
{
        const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        const struct sockaddr_un a = address(f->path);

        assert_int_equal(connect(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
        assert_int_equal(write(fd, line, strlen(line)), strlen(line));
        return fd;
}

static bool readable(int fd)
{
        struct pollfd p = { .fd = fd, .events = POLLIN };

        return poll(&p, 1, 10000) == 1;
}

static ssize_t host_read(int fd, void *data, size_t n)
{
        assert_true(readable(fd));
        return recv(fd, data, n, MSG_DONTWAIT);
}

/* A connection from the guest's port 9 to the host's port 80: the host's end. */
static int connected(struct fixture *f, int listener)
{
        int fd;

        send_packet(f, VSOCK_OP_REQUEST, 9, 80, NULL, 0);
        expect(f, VSOCK_OP_RESPONSE, 9);
        fd = accept(listener, NULL, NULL);
        assert_true(fd >= 0);
        return fd;
}

/* ---- guest to host ---- */

static void the_guest_reaches_a_unix_socket(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        const int fd = connected(f, listener);
        struct packet *packet;
        char data[64];

        send_packet(f, VSOCK_OP_RW, 9, 80, "hello", 5);
        assert_int_equal(host_read(fd, data, sizeof(data)), 5);
        assert_memory_equal(data, "hello", 5);
        assert_int_equal(write(fd, "answer", 6), 6);
        packet = expect(f, VSOCK_OP_RW, 9);
        assert_int_equal(packet->header.len, 6);
        assert_memory_equal(packet->data, "answer", 6);
        assert_int_equal(packet->header.buf_alloc, VSOCK_BUFFER);
        assert_int_equal(packet->header.fwd_cnt, 5);
        close(fd);
        packet = expect(f, VSOCK_OP_SHUTDOWN, 9);
        assert_int_equal(packet->header.flags, VSOCK_SHUT_BOTH);
        send_packet(f, VSOCK_OP_RST, 9, 80, NULL, 0);
        /* The ports are free again. */
        close(connected(f, listener));
        close(listener);
}

static void the_guest_is_refused_where_nobody_listens(void **state)
{
        struct fixture *f = *state;

        send_packet(f, VSOCK_OP_REQUEST, 9, 81, NULL, 0);
        expect(f, VSOCK_OP_RST, 9);
}

static void each_half_closes_by_itself(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        const int fd = connected(f, listener);
        char data[8];

        send_shutdown(f, 9, 80, VSOCK_SHUT_SEND);
        assert_int_equal(host_read(fd, data, sizeof(data)), 0);
        assert_int_equal(write(fd, "late", 4), 4);
        expect(f, VSOCK_OP_RW, 9);
        shutdown(fd, SHUT_WR);
        assert_int_equal(expect(f, VSOCK_OP_SHUTDOWN, 9)->header.flags, VSOCK_SHUT_SEND | VSOCK_SHUT_RECEIVE);
        close(fd);
        close(listener);
}

static void what_the_host_has_not_read_survives_the_guest_s_close(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        const int fd = connected(f, listener);
        static u8 data[VSOCK_BUFFER], back[VSOCK_BUFFER];
        u64 sent = 0, got = 0;
        ssize_t n;

        /* More than the socket takes: the last packets stay in the connection's buffer. */
        for (unsigned i = 0; i < 100 && sent - got < 230000; i++) {
                memset(data, (int)i, 8192);
                send_packet(f, VSOCK_OP_RW, 9, 80, data, 8192);
                sent += 8192;
                while (any_packet(f))
                        assert_int_equal(next_packet(f)->header.op, VSOCK_OP_CREDIT_UPDATE);
                wait_locked(&f->m->f, true);
        }
        send_shutdown(f, 9, 80, VSOCK_SHUT_BOTH);
        expect(f, VSOCK_OP_RST, 9);
        while ((n = host_read(fd, back, sizeof(back))) > 0) {
                for (ssize_t i = 0; i < n; i++)
                        assert_int_equal(back[i], (got + (u64)i) / 8192);
                got += (u64)n;
        }
        assert_int_equal(n, 0);
        assert_int_equal(got, sent);
        close(fd);
        close(listener);
}

/* ---- credit ---- */

static void the_guest_gets_what_it_has_room_for(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        struct packet *packet;
        int fd;

        f->buffer = 10;
        fd = connected(f, listener);
        assert_int_equal(write(fd, "0123456789abcdef", 16), 16);
        packet = expect(f, VSOCK_OP_RW, 9);
        assert_int_equal(packet->header.len, 10);
        expect(f, VSOCK_OP_CREDIT_REQUEST, 9);
        expect_nothing(f);
        f->forwarded = 4;
        send_packet(f, VSOCK_OP_CREDIT_UPDATE, 9, 80, NULL, 0);
        packet = expect(f, VSOCK_OP_RW, 9);
        assert_int_equal(packet->header.len, 4);
        assert_memory_equal(packet->data, "abcd", 4);
        expect(f, VSOCK_OP_CREDIT_REQUEST, 9);
        /* An older count that comes late takes nothing back: there is room for one more byte, and no more. */
        f->forwarded = 2;
        f->buffer = 11;
        send_packet(f, VSOCK_OP_CREDIT_UPDATE, 9, 80, NULL, 0);
        assert_int_equal(expect(f, VSOCK_OP_RW, 9)->header.len, 1);
        expect(f, VSOCK_OP_CREDIT_REQUEST, 9);
        f->forwarded = 15;
        send_packet(f, VSOCK_OP_CREDIT_UPDATE, 9, 80, NULL, 0);
        assert_int_equal(expect(f, VSOCK_OP_RW, 9)->header.len, 1);
        close(fd);
        close(listener);
}

static void a_lie_about_received_bytes_ends_the_connection(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        const int fd = connected(f, listener);
        char byte;

        f->forwarded = 1; /* nothing was sent */
        send_packet(f, VSOCK_OP_CREDIT_UPDATE, 9, 80, NULL, 0);
        expect(f, VSOCK_OP_RST, 9);
        assert_int_equal(host_read(fd, &byte, 1), 0);
        close(fd);
        close(listener);
}

static void more_than_the_credit_ends_the_connection(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        const int fd = connected(f, listener);
        static u8 data[VSOCK_BUFFER];
        u32 sent = 0, told = 0;
        struct packet *packet = NULL;

        /* Nobody reads: by and by the socket is full, then the buffer. Within what we were told we are never refused. */
        for (;;) {
                const u32 room = VSOCK_BUFFER - (sent - told), n = MIN(room, 16384U);

                if (n) {
                        send_packet(f, VSOCK_OP_RW, 9, 80, data, n);
                        sent += n;
                } else {
                        send_packet(f, VSOCK_OP_RW, 9, 80, data, 1);
                }
                fake_sync(f->m);
                if (!any_packet(f) && n)
                        continue;
                packet = next_packet(f);
                if (packet->header.op == VSOCK_OP_RST)
                        break;
                assert_int_equal(packet->header.op, VSOCK_OP_CREDIT_UPDATE);
                told = packet->header.fwd_cnt;
                assert_true(sent - told <= VSOCK_BUFFER);
        }
        assert_int_equal(sent - told, VSOCK_BUFFER);
        close(fd);
        close(listener);
}

static void the_guest_is_told_about_room_again(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        const int fd = connected(f, listener);
        static u8 data[VSOCK_BUFFER];
        u64 sent = 0, got = 0;
        u32 told = 0;

        while (got < 1000000) {
                const u32 n = MIN(VSOCK_BUFFER - ((u32)sent - told), 20000U);
                ssize_t r;

                if (n) {
                        send_packet(f, VSOCK_OP_RW, 9, 80, data, n);
                        sent += n;
                }
                while ((r = recv(fd, data, sizeof(data), MSG_DONTWAIT)) > 0)
                        got += (u64)r;
                while (any_packet(f) || (u32)sent - told == VSOCK_BUFFER)
                        told = expect(f, VSOCK_OP_CREDIT_UPDATE, 9)->header.fwd_cnt;
        }
        send_packet(f, VSOCK_OP_CREDIT_REQUEST, 9, 80, NULL, 0);
        assert_int_equal(expect(f, VSOCK_OP_CREDIT_UPDATE, 9)->header.buf_alloc, VSOCK_BUFFER);
        close(fd);
        close(listener);
}

/* ---- nonsense ---- */

static void nonsense_is_answered_with_a_reset(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        struct vsock_header header;

        for (unsigned op = 0; op < 12; op++) {
                send_packet(f, (enum vsock_op)op, 5, 6, "x", 1); /* no such connection */
                if (op == VSOCK_OP_RST)
                        expect_nothing(f);
                else
                        expect(f, VSOCK_OP_RST, 5);
        }
        for (unsigned op = 0; op < 12; op++) {
                if (op >= VSOCK_OP_RST && op <= VSOCK_OP_CREDIT_REQUEST)
                        continue;
                close(connected(f, listener));
                assert_int_equal(expect(f, VSOCK_OP_SHUTDOWN, 9)->header.flags, VSOCK_SHUT_BOTH);
                send_packet(f, (enum vsock_op)op, 9, 80, NULL, 0); /* unknown, or a second REQUEST for the same ports */
                expect(f, VSOCK_OP_RST, 9);
        }
        header = header_of(f, VSOCK_OP_REQUEST, 9, 80, 0);
        header.type = 7;
        send_header(f, &header, NULL, 0);
        assert_int_equal(expect(f, VSOCK_OP_RST, 9)->header.type, 7);
        header = header_of(f, VSOCK_OP_REQUEST, 9, 80, 0);
        header.dst_cid = 77;
        send_header(f, &header, NULL, 0);
        assert_int_equal(expect(f, VSOCK_OP_RST, 9)->header.src_cid, 77);
        header = header_of(f, VSOCK_OP_REQUEST, 9, 80, 0);
        header.src_cid = 43;
        send_header(f, &header, NULL, 0);
        expect_nothing(f);
        close(listener);
}

static void a_length_beyond_the_buffer_breaks_the_device(void **state)
{
        struct fixture *f = *state;
        const struct vsock_header header = header_of(f, VSOCK_OP_RW, 9, 80, 2);

        send_header(f, &header, "x", 1);
        assert_true(driver_status(&f->d) & VIRTIO_STATUS_NEEDS_RESET);
}

static void resets_wait_for_buffers_without_end_of_memory(void **state)
{
        struct fixture *f = *state;
        unsigned resets = 0;

        /* Use up all receive buffers, then ask for more answers than are kept. */
        for (unsigned i = 0; i < 300; i++) {
                send_packet(f, VSOCK_OP_REQUEST, 1000 + i, 81, NULL, 0);
                if (i >= SIZE / 2 + VSOCK_RESETS_MAX)
                        assert_int_equal(driver_used_idx(&f->d, TX), SIZE / 2 + VSOCK_RESETS_MAX);
                if (i == SIZE / 2 + VSOCK_RESETS_MAX + 20)
                        break;
        }
        while (resets < SIZE / 2 + VSOCK_RESETS_MAX + 21)
                resets += next_packet(f)->header.op == VSOCK_OP_RST;
        expect_nothing(f);
}

/* ---- host to guest ---- */

static void the_host_reaches_the_guest(void **state)
{
        struct fixture *f = *state;
        const int fd = host_dial(f, "CONNECT 7\nearly");
        struct packet *packet = expect(f, VSOCK_OP_REQUEST, 7);
        const u32 host_port = packet->header.src_port;
        char line[64], wanted[64];

        send_packet(f, VSOCK_OP_RESPONSE, 7, host_port, NULL, 0);
        snprintf(wanted, sizeof(wanted), "OK %u\n", host_port);
        assert_int_equal(host_read(fd, line, sizeof(line)), strlen(wanted));
        assert_memory_equal(line, wanted, strlen(wanted));
        packet = expect(f, VSOCK_OP_RW, 7);
        assert_int_equal(packet->header.len, 5);
        assert_memory_equal(packet->data, "early", 5);
        send_packet(f, VSOCK_OP_RW, 7, host_port, "reply", 5);
        assert_int_equal(host_read(fd, line, sizeof(line)), 5);
        close(fd);
}

static void the_host_is_refused_by_the_guest(void **state)
{
        struct fixture *f = *state;
        const int fd = host_dial(f, "CONNECT 7\n");
        const u32 host_port = expect(f, VSOCK_OP_REQUEST, 7)->header.src_port;
        char byte;

        send_packet(f, VSOCK_OP_RST, 7, host_port, NULL, 0);
        assert_int_equal(host_read(fd, &byte, 1), 0);
        close(fd);
}

static void bad_lines_close_the_connection(void **state)
{
        static const char *const lines[] = {
                "CONNECT \n", "CONNECT x\n", "CONNECT 4294967296\n", "CONNECT 99999999999999999999\n", "connect 7\n", "\n",
                "CONNECT 7 \n", "CONNECT -1\n", "this is a line without an end and much too long for one",
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                const int fd = host_dial(f, lines[i]);
                char byte;

                assert_int_not_equal(host_read(fd, &byte, 1), 1);
                close(fd);
        }
        expect_nothing(f);
}

static void connections_are_limited(void **state)
{
        struct fixture *f = *state;
        static int fds[VSOCK_CONNS_MAX + 40];
        unsigned requests = 0;

        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
                fds[i] = host_dial(f, "CONNECT 7\n");
        while (requests < VSOCK_CONNS_MAX)
                requests += next_packet(f)->header.op == VSOCK_OP_REQUEST;
        expect_nothing(f);
        for (u32 i = 0; i < 40; i++) /* the guest gives up as many as wait */
                send_packet(f, VSOCK_OP_RST, 7, 0x40000000U + i, NULL, 0);
        for (u32 i = 0; i < 40; i++)
                expect(f, VSOCK_OP_REQUEST, 7);
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
                close(fds[i]);
}

/* ---- life ---- */

/* Saves and loads while paused; the guest's address is @cid then. */
static void save_and_load(struct fixture *f, u32 cid)
{
        struct device *dev = fake_env_device(&f->m->f, "virtio-vsock");
        struct state_out saved;

        fake_env_lock(&f->m->f);
        dev->ops->quiesce(dev);
        fake_save(dev, &saved);
        container_of(dev, struct vsock, vdev.pci.dev)->cid = cid;
        assert_int_equal(fake_load(dev, &saved, NULL), 0);
        dev->ops->resume(dev);
        fake_env_unlock(&f->m->f);
        state_out_free(&saved);
}

static void a_restored_machine_with_another_address_is_told_that_all_is_gone(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        const int fd = connected(f, listener);
        char byte;
        u32 id, len, event = 99;

        driver_add(&f->d, EVENT, &(struct driver_segment){ EVENT_BUFFER, 8, true }, 1);
        memcpy(ram(f->m, EVENT_BUFFER), &event, 4);
        driver_kick(&f->d, EVENT);
        fake_sync(f->m);
        assert_false(driver_used(&f->d, EVENT, &id, &len));
        save_and_load(f, GUEST_CID + 1);
        wait_for(driver_used_idx(&f->d, EVENT) == 1);
        assert_true(driver_used(&f->d, EVENT, &id, &len));
        assert_int_equal(len, 4);
        memcpy(&event, ram(f->m, EVENT_BUFFER), 4);
        assert_int_equal(event, 0);
        assert_int_equal(host_read(fd, &byte, 1), 0);
        assert_false(any_packet(f));
        close(fd);
        close(listener);
}

static void connections_of_a_restored_machine_are_shut_down(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        const int fd = connected(f, listener);
        char byte;

        save_and_load(f, GUEST_CID);
        assert_int_equal(expect(f, VSOCK_OP_SHUTDOWN, 9)->header.flags, VSOCK_SHUT_BOTH);
        assert_int_equal(host_read(fd, &byte, 1), 0);
        send_packet(f, VSOCK_OP_RST, 9, 80, NULL, 0);
        send_packet(f, VSOCK_OP_RW, 9, 80, "x", 1);
        expect(f, VSOCK_OP_RST, 9);
        close(fd);
        close(listener);
}

static void local_says(struct fixture *f, const char *text)
{
        fake_env_lock(&f->m->f);
        f->to_say = text;
        vsock_local_wake(f->local_conn);
        fake_env_unlock(&f->m->f);
}

static void a_port_inside_this_process_is_connected(void **state)
{
        struct fixture *f = *state;

        send_packet(f, VSOCK_OP_REQUEST, 9, LOCAL_PORT, NULL, 0);
        expect(f, VSOCK_OP_RESPONSE, 9);
        f->to_say = "answer";
        send_packet(f, VSOCK_OP_RW, 9, LOCAL_PORT, "question", 8);
        assert_memory_equal(expect(f, VSOCK_OP_RW, 9)->data, "answer", 6);
        assert_string_equal(f->heard, "question");
        local_says(f, "more");
        assert_memory_equal(expect(f, VSOCK_OP_RW, 9)->data, "more", 4);
        /* One at a time. */
        send_packet(f, VSOCK_OP_REQUEST, 10, LOCAL_PORT, NULL, 0);
        expect(f, VSOCK_OP_RST, 10);
        send_shutdown(f, 9, LOCAL_PORT, VSOCK_SHUT_SEND);
        expect(f, VSOCK_OP_RST, 9);
        assert_int_equal(f->n_closed, 1);
        send_packet(f, VSOCK_OP_REQUEST, 11, LOCAL_PORT, NULL, 0);
        expect(f, VSOCK_OP_RESPONSE, 11);
}

static void its_connection_is_saved_with_the_machine(void **state)
{
        struct fixture *f = *state;

        send_packet(f, VSOCK_OP_REQUEST, 9, LOCAL_PORT, NULL, 0);
        expect(f, VSOCK_OP_RESPONSE, 9);
        send_packet(f, VSOCK_OP_RW, 9, LOCAL_PORT, "before", 6);
        local_says(f, "12345");
        expect(f, VSOCK_OP_RW, 9);
        save_and_load(f, GUEST_CID);
        assert_non_null(f->local_conn);
        f->forwarded = 5; /* a connection that did not know what it had sent would take that for a lie */
        send_packet(f, VSOCK_OP_RW, 9, LOCAL_PORT, ", after", 7);
        fake_sync(f->m);
        assert_string_equal(f->heard, "before, after");
        local_says(f, "still here");
        assert_int_equal(expect(f, VSOCK_OP_RW, 9)->header.fwd_cnt, 13);
        expect_nothing(f);
}

static void nothing_moves_while_paused(void **state)
{
        struct fixture *f = *state;
        const int listener = host_listen(f, 80);
        const int fd = connected(f, listener);
        struct device *dev = fake_env_device(&f->m->f, "virtio-vsock");

        fake_env_lock(&f->m->f);
        dev->ops->quiesce(dev);
        fake_env_unlock(&f->m->f);
        assert_int_equal(write(fd, "x", 1), 1);
        expect_nothing(f);
        fake_env_lock(&f->m->f);
        dev->ops->resume(dev);
        fake_env_unlock(&f->m->f);
        expect(f, VSOCK_OP_RW, 9);
        close(fd);
        close(listener);
}

static void saved_state_is_checked(void **state)
{
        struct fixture *f = *state;

        fake_check_state(&f->m->f, fake_env_device(&f->m->f, "virtio-vsock"));
}

static void the_socket_is_the_owner_s_alone(void **state)
{
        struct fixture *f = *state;
        struct unix_listener *second = NULL;
        struct err *err = NULL;
        struct stat st;

        assert_int_equal(stat(f->path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(unix_listener_new(f->path, 0, &second, &err), -EADDRINUSE);
        assert_int_equal(err_get_id(err), ERR_BUSY);
        err_free(err);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(the_guest_reaches_a_unix_socket),
                TEST(the_guest_is_refused_where_nobody_listens),
                TEST(each_half_closes_by_itself),
                TEST(what_the_host_has_not_read_survives_the_guest_s_close),
                TEST(the_guest_gets_what_it_has_room_for),
                TEST(a_lie_about_received_bytes_ends_the_connection),
                TEST(more_than_the_credit_ends_the_connection),
                TEST(the_guest_is_told_about_room_again),
                TEST(nonsense_is_answered_with_a_reset),
                TEST(a_length_beyond_the_buffer_breaks_the_device),
                TEST(resets_wait_for_buffers_without_end_of_memory),
                TEST(the_host_reaches_the_guest),
                TEST(the_host_is_refused_by_the_guest),
                TEST(bad_lines_close_the_connection),
                TEST(connections_are_limited),
                TEST(a_restored_machine_with_another_address_is_told_that_all_is_gone),
                TEST(connections_of_a_restored_machine_are_shut_down),
                TEST(a_port_inside_this_process_is_connected),
                TEST(its_connection_is_saved_with_the_machine),
                TEST(nothing_moves_while_paused),
                TEST(saved_state_is_checked),
                TEST(the_socket_is_the_owner_s_alone),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
