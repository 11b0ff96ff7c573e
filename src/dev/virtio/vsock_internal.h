/* Shared by vsock.c (the device), vsock_conn.c (connections), vsock_host.c (the listening socket), vsock_local.c (a program inside this
 * process) and vsock_state.c (saved connections). Source: virtio 1.2, 5.10. */
#pragma once

#include "dev/virtio/virtio.h"
#include "dev/virtio/vsock.h"

enum vsock_op {
        VSOCK_OP_REQUEST = 1,
        VSOCK_OP_RESPONSE = 2,
        VSOCK_OP_RST = 3,
        VSOCK_OP_SHUTDOWN = 4,
        VSOCK_OP_RW = 5,
        VSOCK_OP_CREDIT_UPDATE = 6,
        VSOCK_OP_CREDIT_REQUEST = 7,
        VSOCK_OPS,
};
enum { VSOCK_TYPE_STREAM = 1 };
enum { VSOCK_SHUT_RECEIVE = 1, VSOCK_SHUT_SEND = 2, VSOCK_SHUT_BOTH = 3 };

struct vsock_header {
        u64 src_cid, dst_cid;
        u32 src_port, dst_port;
        u32 len;
        u16 type, op;
        u32 flags;
        u32 buf_alloc, fwd_cnt;
} _packed_;

_Static_assert(sizeof(struct vsock_header) == 44, "virtio 1.2, 5.10.6");

/* What a guest may send on a connection before the host's program reads it: kept here, so this times twice the connections is
 * the most memory that a guest can make us use. */
#define VSOCK_BUFFER (64U * 1024)
/* Connections that were begun by one side. */
#define VSOCK_CONNS_MAX 512U
#define VSOCK_BUCKETS 256U
/* "CONNECT 4294967295\n" and some room. */
#define VSOCK_LINE_MAX 32U
/* Resets that wait for a buffer of the guest's. */
#define VSOCK_RESETS_MAX 128U

enum vsock_conn_state {
        VSOCK_CONNECTING, /* from the guest: the host's program is behind with accepting */
        VSOCK_HANDSHAKE, /* from the host: the CONNECT line is not complete; no ports yet */
        VSOCK_REQUESTED, /* from the host: the guest has not answered */
        VSOCK_OPEN,
        VSOCK_CLOSING,   /* the host's side is gone; the guest is to confirm by a reset */
        VSOCK_DRAINING,  /* the guest's side is gone; the host's program has yet to read the rest. No ports any more */
};

struct vsock;

struct vsock_conn {
        struct vsock *vs;
        struct vsock_conn *next, **pprev; /* all of a device */
        struct vsock_conn *next_in_bucket;
        struct vsock_conn *next_ready;
        bool hashed, ready;
        bool from_guest;
        enum vsock_conn_state state;
        u32 guest_port, host_port;
        int fd; /* the unix socket; -1 when CONNECTING or CLOSING, and with: */
        const struct vsock_local *local;
        bool in_local;           /* one of its callbacks runs */
        struct loop_fd *watch;
        struct loop_timer timer; /* HANDSHAKE, REQUESTED, CLOSING: how long */
        u32 owed;                /* bit n: a packet with op n has to be sent to the guest */
        u8 guest_shut;           /* VSOCK_SHUT_*: what the guest will no more do */
        u8 host_shut;            /* what we will no more do, as the guest has been or is to be told */
        bool readable;           /* the socket has bytes, or its end, for the guest */
        bool credit_asked;
        char line[VSOCK_LINE_MAX]; /* HANDSHAKE: what has come of it */
        u8 n_line;
        u16 tries;               /* CONNECTING: that have failed */
        /* Guest to host. Counts are modulo 2^32, as in the packets. */
        u8 *buffer;              /* a ring of VSOCK_BUFFER bytes, while there is something in it */
        u32 first, n_buffered;
        u32 received, forwarded; /* bytes; the difference is n_buffered */
        u32 told_forwarded;      /* as the guest knows it */
        /* Host to guest. */
        u32 sent, guest_forwarded, guest_buffer;
};

struct vsock {
        struct virtio_device vdev;
        u32 cid;
        struct unix_listener *listener; /* NULL: none */
        const struct vsock_local *local; /* NULL: none */
        bool local_in_use;
        struct loop_fd *listen_watch;
        struct loop_timer listen_retry;
        u32 next_host_port;
        struct vsock_conn *all;
        struct vsock_conn *buckets[VSOCK_BUCKETS];
        unsigned n_conns[2];                          /* [from_guest] */
        struct vsock_conn *ready_first, **ready_last; /* which have something for the guest, in turn */
        struct vsock_header resets[VSOCK_RESETS_MAX]; /* a ring */
        unsigned first_reset, n_resets;
        bool reset_event_owed;
        bool stopped; /* quiesced: no socket is looked at */
};

/* ---- vsock.c ---- */

/* Answers @header with a reset. There must be room (vsock_resets_full). */
void vsock_reset_send(struct vsock *vs, const struct vsock_header *header);
static inline bool vsock_resets_full(const struct vsock *vs)
{
        return vs->n_resets == VSOCK_RESETS_MAX;
}
/* Sends what is owed to the guest, as far as it has buffers. */
void vsock_pump(struct vsock *vs);

/* ---- vsock_conn.c ---- */

/* Takes @fd, which may be -1, over on success. NULL when there are too many or no memory. */
struct vsock_conn *vsock_conn_new(struct vsock *vs, bool from_guest, int fd);
struct vsock_conn *vsock_conn_free(struct vsock_conn *conn);
void vsock_conn_free_all(struct vsock *vs);
/* Its socket, when it had none. False: no memory; @fd is the caller's. */
bool vsock_conn_attach(struct vsock_conn *conn, int fd);
/* Gives it its ports; from then on packets find it. */
void vsock_conn_bind(struct vsock_conn *conn, u32 guest_port, u32 host_port);
struct vsock_conn *vsock_conn_find(const struct vsock *vs, u32 guest_port, u32 host_port);
/* Frees it and tells the guest. */
void vsock_conn_reset(struct vsock_conn *conn);
/* A packet with op @op is to be sent. */
void vsock_conn_owe(struct vsock_conn *conn, enum vsock_op op);
/* What the guest says in every packet about its buffer. False: it lies, the connection was reset. */
bool vsock_conn_credit(struct vsock_conn *conn, const struct vsock_header *header);
/* Bytes from the guest, at most VSOCK_BUFFER and within its credit; false: it was not, the connection was reset. */
bool vsock_conn_receive(struct vsock_conn *conn, struct iovec *iov, unsigned n, u32 len);
/* The guest said SHUTDOWN with these flags. */
void vsock_conn_guest_shutdown(struct vsock_conn *conn, u32 flags);
/* The guest said RST. */
void vsock_conn_guest_reset(struct vsock_conn *conn);
/* The next packet for the guest: fills @ret_header and what of @data it needs (the iovecs are changed). False: there is none
 * after all. */
bool vsock_conn_packet(struct vsock_conn *conn, struct iovec *data, unsigned n, struct vsock_header *ret_header);
/* Puts it among those that vsock_pump asks, or takes it away; watches the socket for what can be used now. To be called after
 * anything changed. */
void vsock_conn_update(struct vsock_conn *conn);
/* Its socket, or the program inside this process, has bytes (POLLIN) or takes some (POLLOUT). */
void vsock_conn_ready(struct vsock_conn *conn, int revents);
/* Nobody is at the host's end: the guest is told, and confirms by a reset. */
void vsock_conn_abandon(struct vsock_conn *conn);
/* (Re-)starts its timer: the connection is reset then; one that is CONNECTING tries again. */
void vsock_conn_deadline(struct vsock_conn *conn, u64 ns);

/* ---- vsock_local.c ---- */

/* A connection of the guest's to its port; false: refused. */
bool vsock_local_connect(struct vsock_conn *conn);
void vsock_local_disconnect(struct vsock_conn *conn);
ssize_t vsock_local_read(struct vsock_conn *conn, const struct iovec *iov, unsigned n);
void vsock_local_write(struct vsock_conn *conn, const struct iovec *iov, unsigned n);

/* ---- vsock_state.c ---- */

void vsock_state_save(const struct vsock *vs, struct state_out *out);
/* All connections, of which there are none yet. -EINVAL: what was saved is damaged; -ENOMEM. None then. */
int vsock_state_load(struct vsock *vs, struct state_in *in);

/* ---- vsock_host.c: when there is a listener ---- */

int vsock_host_init(struct vsock *vs, struct err **err);
void vsock_host_free(struct vsock *vs);
/* Watches the listening socket, as long as a connection could be taken. */
void vsock_host_update(struct vsock *vs);
/* The socket of a HANDSHAKE connection is readable. */
void vsock_host_handshake(struct vsock_conn *conn);
/* Tells the program that the guest accepted. False: it is gone. */
bool vsock_host_accepted(const struct vsock_conn *conn);
/* Connects a connection of the guest's to PATH_port, now or by and by; resets it when nobody listens there. */
void vsock_host_connect(struct vsock_conn *conn);
/* Closes a socket that was watched, once the loop has forgotten it: until then the number must not be used again. */
void vsock_close_later(struct loop *loop, int fd);
