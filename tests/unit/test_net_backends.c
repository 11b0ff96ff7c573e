/* Network backends: framing over a stream socket, a tap interface, passt. Runs in a network namespace of its own that has
 * nothing but loopback; tap and passt are skipped where that, /dev/net/tun or passt is not to be had. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "dev/net/net.h"
#include "fake_pci.h"

static bool isolated; /* the namespace could be made */

struct fixture {
        struct fake_env f;
        struct net_backend *backend;
        int peer; /* the other end of a stream */
        u8 last[70000];
        size_t last_len;
        unsigned received, writable, link_down;
        bool refuse;
        bool (*wanted)(const u8 *frame, size_t len); /* others are not recorded; NULL: all are */
};

static bool on_receive(void *opaque, const u8 *frame, size_t len)
{
        struct fixture *f = opaque;

        if (f->refuse)
                return false;
        if (f->wanted && !f->wanted(frame, len))
                return true;
        memcpy(f->last, frame, len);
        f->last_len = len;
        f->received++;
        return true;
}

static void on_writable(void *opaque)
{
        ((struct fixture *)opaque)->writable++;
}

static void on_link(void *opaque, bool up)
{
        ((struct fixture *)opaque)->link_down += !up;
}

static void attach(struct fixture *f)
{
        f->backend->client = (struct net_client){ on_receive, on_writable, on_link, f };
        assert_true(fake_env_wait(&f->f, fake_always, NULL));
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        fake_env_init(&f->f, MIB);
        f->peer = -1;
        *state = f;
        return 0;
}

static int setup_stream(void **state)
{
        struct fixture *f;
        int fds[2];

        setup(state);
        f = *state;
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        assert_int_equal(net_stream_new(&f->f.env, fds[0], &f->backend, NULL), 0);
        f->peer = fds[1];
        attach(f);
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        if (f->f.thread_runs) { /* backends outlive the loop's run */
                loop_stop(f->f.env.loop);
                pthread_join(f->f.thread, NULL);
                f->f.thread_runs = false;
        }
        net_backend_free(f->backend);
        if (f->peer >= 0)
                close(f->peer);
        fake_env_free(&f->f);
        free(f);
        return 0;
}

static int send_frame(struct fixture *f, const u8 *bytes, size_t len)
{
        struct iovec iov[2] = { { (void *)(uintptr_t)bytes, len / 2 }, { (u8 *)(uintptr_t)bytes + len / 2, len - len / 2 } };
        int r;

        fake_env_lock(&f->f);
        r = f->backend->ops->send(f->backend, iov, 2);
        fake_env_unlock(&f->f);
        return r;
}

static const u8 *frame_bytes(void)
{
        static u8 bytes[70000];

        for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (u8)(i * 31 + (i >> 8));
        return bytes;
}

/* ---- stream ---- */

static void peer_write(struct fixture *f, const void *bytes, size_t len)
{
        assert_int_equal(write(f->peer, bytes, len), len);
}

static void peer_write_length(struct fixture *f, u32 len)
{
        len = htonl(len);
        peer_write(f, &len, 4);
}

static void peer_read(struct fixture *f, void *bytes, size_t len)
{
        for (size_t done = 0; done < len;) {
                const ssize_t n = read(f->peer, (u8 *)bytes + done, len - done);

                assert_true(n > 0);
                done += (size_t)n;
        }
}

static void stream_sends_length_and_frame(void **state)
{
        struct fixture *f = *state;
        u8 buffer[104];
        u32 len;

        assert_int_equal(send_frame(f, frame_bytes(), 100), 0);
        peer_read(f, buffer, 104);
        memcpy(&len, buffer, 4);
        assert_int_equal(ntohl(len), 100);
        assert_memory_equal(buffer + 4, frame_bytes(), 100);
}

static void stream_receives_frames_in_any_pieces(void **state)
{
        struct fixture *f = *state;
        u8 two[2 * 64];
        u32 len = htonl(60);

        for (unsigned i = 0; i < 4; i++) {
                peer_write(f, (u8 *)&len + i, 1);
                usleep(1000);
        }
        peer_write(f, frame_bytes(), 10);
        usleep(1000);
        fake_env_lock(&f->f);
        assert_int_equal(f->received, 0);
        fake_env_unlock(&f->f);
        peer_write(f, frame_bytes() + 10, 50);
        wait_locked(&f->f, f->received == 1);
        assert_int_equal(f->last_len, 60);
        assert_memory_equal(f->last, frame_bytes(), 60);
        for (unsigned i = 0; i < 2; i++) {
                memcpy(two + 64 * i, &len, 4);
                memcpy(two + 64 * i + 4, frame_bytes(), 60);
        }
        peer_write(f, two, sizeof(two));
        wait_locked(&f->f, f->received == 3);
        peer_write_length(f, NET_FRAME_MAX);
        peer_write(f, frame_bytes(), NET_FRAME_MAX);
        wait_locked(&f->f, f->received == 4);
        assert_int_equal(f->last_len, NET_FRAME_MAX);
        assert_memory_equal(f->last, frame_bytes(), NET_FRAME_MAX);
}

static void stream_drops_runts_and_goes_on(void **state)
{
        struct fixture *f = *state;

        peer_write_length(f, 5);
        peer_write(f, frame_bytes(), 5);
        peer_write_length(f, 60);
        peer_write(f, frame_bytes(), 60);
        wait_locked(&f->f, f->received == 1);
        assert_int_equal(f->last_len, 60);
}

static void stream_keeps_a_refused_frame(void **state)
{
        struct fixture *f = *state;

        fake_env_lock(&f->f);
        f->refuse = true;
        fake_env_unlock(&f->f);
        for (u32 i = 0; i < 3; i++) {
                peer_write_length(f, 60 + i);
                peer_write(f, frame_bytes(), 60 + i);
        }
        usleep(20000);
        fake_env_lock(&f->f);
        assert_int_equal(f->received, 0);
        f->refuse = false;
        f->backend->ops->receive_ready(f->backend);
        fake_env_unlock(&f->f);
        wait_locked(&f->f, f->received == 3);
        assert_int_equal(f->last_len, 62);
}

static void stream_finishes_partial_writes_before_anything_else(void **state)
{
        struct fixture *f = *state;
        static u8 buffer[4 + 60000];
        unsigned sent = 0;
        int r;

        while ((r = send_frame(f, frame_bytes() + sent, 60000)) == 0 && sent < 1000)
                sent++;
        assert_int_equal(r, -EAGAIN);
        for (unsigned i = 0; i < sent; i++) {
                u32 len;

                peer_read(f, buffer, sizeof(buffer));
                memcpy(&len, buffer, 4);
                assert_int_equal(ntohl(len), 60000);
                assert_memory_equal(buffer + 4, frame_bytes() + i, 60000);
        }
        wait_locked(&f->f, f->writable == 1);
        assert_int_equal(send_frame(f, frame_bytes(), 60), 0);
}

static void stream_impossible_length_takes_the_link_down(void **state)
{
        struct fixture *f = *state;

        peer_write_length(f, NET_FRAME_MAX + 1);
        wait_locked(&f->f, f->link_down == 1);
        assert_int_equal(send_frame(f, frame_bytes(), 60), -ENETDOWN);
}

static void stream_end_takes_the_link_down(void **state)
{
        struct fixture *f = *state;

        close(f->peer);
        f->peer = -1;
        wait_locked(&f->f, f->link_down == 1);
        assert_int_equal(send_frame(f, frame_bytes(), 60), -ENETDOWN);
}

static void stream_refuses_frames_that_are_too_long(void **state)
{
        struct fixture *f = *state;

        assert_int_equal(send_frame(f, frame_bytes(), NET_FRAME_MAX + 1), -EMSGSIZE);
        assert_int_equal(send_frame(f, frame_bytes(), NET_FRAME_MAX), 0);
}

/* ---- tap ---- */

static void tap_needs_a_good_name(void **state)
{
        static const char *const names[] = { "", "a-name-that-is-too-long", "tap%d", "../x", "." };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                struct err *err = NULL;

                assert_true(net_tap_open(&f->f.env, names[i], &f->backend, &err) < 0);
                assert_int_equal(err_get_id(err), ERR_USAGE);
                err_free(err);
        }
}

static bool have_tap(void)
{
        const int fd = open("/dev/net/tun", O_RDWR);

        if (fd >= 0)
                close(fd);
        return isolated && fd >= 0;
}

/* A raw socket on the host's side of the interface. */
static int packet_socket(const char *ifname)
{
        struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
        const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));

        assert_true(fd >= 0);
        address.sll_ifindex = (int)if_nametoindex(ifname);
        assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        return fd;
}

/* The frames of this test have an EtherType of their own. */
#define OUR_TYPE 0x88b5
static void our_frame(u8 *frame, size_t len, u8 fill)
{
        memset(frame, fill, len);
        memset(frame, 0xff, 6);
        frame[12] = OUR_TYPE >> 8;
        frame[13] = OUR_TYPE & 0xff;
}

static bool is_our_frame(const u8 *frame, size_t len)
{
        return len == 112 && frame[24] == OUR_TYPE >> 8;
}

static void tap_moves_frames(void **state)
{
        struct fixture *f = *state;
        u8 frame[12 + 200] = { 0 }, buffer[2048];
        ssize_t n = 0;
        int fd;

        if (!have_tap())
                skip();
        assert_int_equal(net_tap_open(&f->f.env, "teststrata0", &f->backend, NULL), 0);
        assert_true(f->backend->vnet_header);
        assert_int_equal(f->backend->offloads & NET_OFFLOAD_CSUM, NET_OFFLOAD_CSUM);
        f->wanted = is_our_frame;
        attach(f);
        fd = packet_socket("teststrata0");

        our_frame(frame + 12, 200, 0x11);
        wait_for(send_frame(f, frame, sizeof(frame)) == 0);
        for (int i = 0; i < 100; i++) { /* the kernel has things of its own to say on a new interface */
                n = recv(fd, buffer, sizeof(buffer), 0);
                if (n == 200 && buffer[12] == OUR_TYPE >> 8)
                        break;
        }
        assert_int_equal(n, 200);
        assert_memory_equal(buffer, frame + 12, 200);

        our_frame(buffer, 100, 0x22);
        assert_int_equal(send(fd, buffer, 100, 0), 100);
        wait_locked(&f->f, f->received);
        assert_memory_equal(f->last + 12, buffer, 100);
        close(fd);
}

static int open_tun(const char *ifname, short flags)
{
        struct ifreq ifr = { .ifr_flags = flags };
        const int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

        assert_true(fd >= 0);
        snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", ifname);
        assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
        ifr.ifr_flags = IFF_UP;
        {
                const int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

                assert_int_equal(ioctl(control, SIOCSIFFLAGS, &ifr), 0);
                close(control);
        }
        return fd;
}

static void an_open_tap_moves_frames(void **state)
{
        struct fixture *f = *state;
        u8 frame[12 + 200] = { 0 }, buffer[2048];
        int fd;

        if (!have_tap())
                skip();
        assert_int_equal(net_tap_from_fd(&f->f.env, open_tun("teststrata3", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), &f->backend, NULL), 0);
        assert_true(f->backend->vnet_header);
        f->wanted = is_our_frame;
        attach(f);
        fd = packet_socket("teststrata3");
        our_frame(frame + 12, 200, 0x33);
        wait_for(send_frame(f, frame, sizeof(frame)) == 0);
        our_frame(buffer, 100, 0x44);
        assert_int_equal(send(fd, buffer, 100, 0), 100);
        wait_locked(&f->f, f->received);
        assert_memory_equal(f->last + 12, buffer, 100);
        close(fd);
}

static void a_descriptor_that_is_no_tap_is_refused(void **state)
{
        struct fixture *f = *state;
        int fds[3];

        if (!have_tap())
                skip();
        fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
        fds[1] = open_tun("teststrata4", IFF_TAP | IFF_NO_PI); /* frames without the header */
        fds[2] = open_tun("teststrata5", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR);
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
                struct err *err = NULL;

                assert_true(net_tap_from_fd(&f->f.env, fds[i], &f->backend, &err) < 0);
                assert_int_equal(err_get_id(err), ERR_USAGE);
                err_free(err);
                close(fds[i]); /* still ours */
                err = NULL;
                assert_int_equal(net_tap_from_fd(&f->f.env, fds[i], &f->backend, &err), -EBADF);
                err_free(err);
        }
}

static void tap_in_use_is_an_error_of_its_own(void **state)
{
        struct fixture *f = *state;
        struct net_backend *second = NULL;
        struct err *err = NULL;

        if (!have_tap())
                skip();
        assert_int_equal(net_tap_open(&f->f.env, "teststrata1", &f->backend, NULL), 0);
        assert_int_equal(net_tap_open(&f->f.env, "teststrata1", &second, &err), -EBUSY);
        assert_int_equal(err_get_id(err), ERR_BUSY);
        err = err_free(err);
        assert_true(net_tap_open(&f->f.env, "lo", &second, &err) < 0);
        assert_int_equal(err_get_id(err), ERR_USAGE);
        err_free(err);
}

static void tap_without_permission_is_an_error_of_its_own(void **state)
{
        struct fixture *f = *state;
        pid_t pid;
        int status;

        if (!have_tap() || getuid() != 0)
                skip();
        pid = fork();
        if (pid == 0) {
                struct err *err = NULL;

                if (setuid(65534) < 0 || net_tap_open(&f->f.env, "teststrata2", &f->backend, &err) >= 0 ||
                    err_get_id(err) != ERR_NO_PERMISSION || !err_get_hint(err))
                        _exit(1);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

/* ---- passt ---- */

static bool have_passt(void)
{
        return isolated && system("command -v passt >/dev/null 2>&1") == 0;
}

static u16 internet_checksum(const u8 *bytes, size_t len, u32 sum)
{
        for (size_t i = 0; i < len; i += 2)
                sum += (u32)(bytes[i] << 8 | (i + 1 < len ? bytes[i + 1] : 0));
        while (sum >> 16)
                sum = (sum & 0xffff) + (sum >> 16);
        return (u16)~sum;
}

static void put16(u8 *p, unsigned value)
{
        p[0] = (u8)(value >> 8);
        p[1] = (u8)value;
}

/* A TCP SYN from 10.0.2.15:40000 to 10.0.2.2:@port. */
static void syn_frame(u8 frame[static 54], u16 port)
{
        static const u8 addresses[8] = { 10, 0, 2, 15, 10, 0, 2, 2 };
        u8 *ip = frame + 14, *tcp = ip + 20;
        u8 pseudo[12 + 20] = { 0 };

        memset(frame, 0, 54);
        memcpy(frame, "\x52\x55\x0a\x00\x02\x02\x52\x54\x00\x12\x34\x56\x08\x00", 14);
        ip[0] = 0x45;
        put16(ip + 2, 40);
        ip[8] = 64;
        ip[9] = IPPROTO_TCP;
        memcpy(ip + 12, addresses, 8);
        put16(ip + 10, internet_checksum(ip, 20, 0));
        put16(tcp, 40000);
        put16(tcp + 2, port);
        tcp[7] = 1;
        tcp[12] = 5 << 4;
        tcp[13] = 0x02;
        put16(tcp + 14, 65535);
        memcpy(pseudo, addresses, 8);
        pseudo[9] = IPPROTO_TCP;
        pseudo[11] = 20;
        memcpy(pseudo + 12, tcp, 20);
        put16(tcp + 16, internet_checksum(pseudo, sizeof(pseudo), 0));
}

static bool is_tcp(const u8 *frame, size_t len)
{
        return len >= 54 && frame[12] == 8 && frame[23] == IPPROTO_TCP;
}

/* A server on the host's 127.0.0.1 is at the gateway's address for the guest, also without any other interface. */
static void passt_reaches_the_host_s_loopback(void **state)
{
        struct fixture *f = *state;
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t len = sizeof(address);
        struct err *err = NULL;
        u8 syn[54];
        int server;

        if (!have_passt())
                skip();
        server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(server, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(server, 5), 0);
        assert_int_equal(getsockname(server, (struct sockaddr *)&address, &len), 0);

        if (net_passt_open(&f->f.env, NULL, &f->backend, &err) < 0)
                fail_msg("%s", err_message(err));
        f->wanted = is_tcp;
        attach(f);
        syn_frame(syn, ntohs(address.sin_port));
        assert_int_equal(send_frame(f, syn, sizeof(syn)), 0);
        wait_locked(&f->f, f->received);
        assert_int_equal(f->last[47] & 0x17, 0x12); /* SYN, ACK */
        assert_int_equal(f->last[34] << 8 | f->last[35], ntohs(address.sin_port));
        close(server);
}

static void passt_that_is_missing_is_told_with_a_hint(void **state)
{
        struct fixture *f = *state;
        char *path = strdup(getenv("PATH"));
        struct err *err = NULL;

        setenv("PATH", "/nonexistent", 1);
        assert_int_equal(net_passt_open(&f->f.env, NULL, &f->backend, &err), -ENOENT);
        setenv("PATH", path, 1);
        free(path);
        assert_int_equal(err_get_id(err), ERR_NOT_FOUND);
        assert_string_equal(err_get_hint(err), "apt install passt");
        err_free(err);
}

static void passt_s_own_complaint_is_passed_on(void **state)
{
        static const char *const nonsense[] = { "tcp:not-a-port", NULL };
        static const char *const unknown[] = { "sctp:80", NULL };
        struct fixture *f = *state;
        struct err *err = NULL;

        assert_int_equal(net_passt_open(&f->f.env, &(struct net_passt_config){ unknown }, &f->backend, &err), -EINVAL);
        err = err_free(err);
        if (!have_passt())
                skip();
        assert_int_equal(net_passt_open(&f->f.env, &(struct net_passt_config){ nonsense }, &f->backend, &err), -EIO);
        assert_non_null(strstr(err_message(err), "not-a-port"));
        assert_null(strchr(err_message(err), '\n'));
        err_free(err);
}

/* ---- */

static void isolate(void)
{
        struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
        int fd;

        isolated = unshare(CLONE_NEWNET) == 0;
        if (!isolated)
                return;
        fd = socket(AF_INET, SOCK_DGRAM, 0);
        if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
                isolated = false;
        if (fd >= 0)
                close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_STREAM(name) cmocka_unit_test_setup_teardown(name, setup_stream, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST_STREAM(stream_sends_length_and_frame),
                TEST_STREAM(stream_receives_frames_in_any_pieces),
                TEST_STREAM(stream_drops_runts_and_goes_on),
                TEST_STREAM(stream_keeps_a_refused_frame),
                TEST_STREAM(stream_finishes_partial_writes_before_anything_else),
                TEST_STREAM(stream_impossible_length_takes_the_link_down),
                TEST_STREAM(stream_end_takes_the_link_down),
                TEST_STREAM(stream_refuses_frames_that_are_too_long),
                TEST(tap_needs_a_good_name),
                TEST(tap_moves_frames),
                TEST(an_open_tap_moves_frames),
                TEST(a_descriptor_that_is_no_tap_is_refused),
                TEST(tap_in_use_is_an_error_of_its_own),
                TEST(tap_without_permission_is_an_error_of_its_own),
                TEST(passt_reaches_the_host_s_loopback),
                TEST(passt_that_is_missing_is_told_with_a_hint),
                TEST(passt_s_own_complaint_is_passed_on),
        };

        isolate();
        return cmocka_run_group_tests(tests, NULL, NULL);
}
