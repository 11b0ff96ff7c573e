/* The criu program, spoken to over its RPC protocol: `criu swrk FD` serves one request on a socket and asks back
 * ("notifies") at the points where the runtime has something to do. The options are protobuf (criu's images/rpc.proto,
 * "criu_opts"); criu.def is the part of it that is used.
 *
 *         _cleanup_(criu_release) struct criu_request q = { .type = CRIU_DUMP };
 *         criu_int(&q, CRIU_PID, pid);
 *         criu_text(&q, CRIU_ROOT, "/container/rootfs");
 *         r = criu_run(runtime->criu, &q, &server, &pid, err);
 *
 * Images are criu's own files: who can write them decides what a restored process is. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

enum criu_type { CRIU_DUMP = 1, CRIU_RESTORE = 2, CRIU_PRE_DUMP = 4, CRIU_NOTIFY = 6, CRIU_VERSION = 10 };

enum criu_option {
#define CRIU_OPTION(id, number) CRIU_##id = number,
#include "box/criu.def"
#undef CRIU_OPTION
};

struct criu_bytes {
        u8 *data;
        size_t n, room;
        bool failed; /* out of memory: said once, at the end */
};

struct criu_request {
        enum criu_type type;
        struct criu_bytes options;
};

void criu_int(struct criu_request *q, enum criu_option option, s64 value);
void criu_text(struct criu_request *q, enum criu_option option, const char *value);
/* "KEY:VALUE" of --external, as printf makes it. */
void criu_textf(struct criu_request *q, enum criu_option option, const char *fmt, ...) _printf_(3, 4);
/* What criu finds by the name @key in its images is descriptor @fd of its own, which it has from us. */
void criu_inherit(struct criu_request *q, const char *key, int fd);
/* An existing namespace in place of a new one: @kind as in /proc/PID/ns. */
void criu_join(struct criu_request *q, const char *kind, const char *path);
void criu_cgroup_root(struct criu_request *q, const char *controller, const char *path);
void criu_page_server(struct criu_request *q, const char *address, u16 port);
void criu_release(struct criu_request *q);

/* The runtime's part of a request. */
struct criu_server {
        /* In the process that becomes criu, before it does; may be NULL. Below 0 ends it. */
        int (*prepare)(void *arg, struct err **err);
        /* At criu's point @name of its work on process @pid; @fd is what came along (a terminal's master), or -1. Below
         * 0 makes criu take back what it did. */
        int (*notify)(void *arg, const char *name, pid_t pid, int fd, struct err **err);
        void *arg;
        const int *fds; /* descriptors that requests name, by number; those below 0 are left out */
        size_t n_fds;
        const char *log; /* its log file, named when it fails; or NULL */
};

/* Refuses a criu that is missing or older than 4. @program: NULL for "criu" from PATH. */
int criu_check(const char *program, struct err **err);
/* *ret_pid: the restored first process, a child of ours; may be NULL. */
int criu_run(const char *program, const struct criu_request *q, const struct criu_server *server, pid_t *ret_pid,
        struct err **err);
