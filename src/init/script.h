/* What a machine is told, as frames one behind the other (protocol.h): made by the host before the machine starts, kept in a file, and
 * sent by the agent inside strata-vmm.
 *
 *         struct init_script script = { 0 };
 *         init_script_mount(&script, "root", "/newroot", "virtiofs", 0, "");
 *         init_script_root(&script, "/newroot");
 *         init_script_standard_mounts(&script);
 *         init_script_start(&script, &process);          // last: with INIT_ID_MAIN
 *         r = init_script_end(&script, err);              // says whether any of these failed
 *         ... script.data, script.len ...
 *         init_script_free(&script);
 *
 * Texts are not checked beyond what fits: the guest says what was wrong with them. */
#pragma once

#include "base/err.h"
#include "init/protocol.h"

struct init_script {
        u8 *data;
        size_t len, cap;
        u32 last_id; /* of what asks for an answer; the first is 2 */
        int failed;  /* 0 or -errno: too large, no memory */
};

struct init_rlimit {
        u32 resource; /* RLIMIT_* */
        u64 soft, hard;
};

/* A process to be started. */
struct init_process {
        const char *const *argv; /* the first is searched for in the environment's PATH when there is no slash in it */
        const char *const *env;  /* may be NULL */
        u32 uid, gid;
        const u32 *groups; /* supplementary */
        size_t n_groups;
        u32 flags;         /* INIT_START_* */
        const char *cwd;   /* NULL: / */
        const char *label; /* the host's word for it; NULL: argv[0] */
        u32 umask;
        const struct init_rlimit *rlimits;
        size_t n_rlimits;
        u64 capabilities; /* that it may ever have (the bounding set): bit n is CAP n. INIT_CAPABILITIES_ALL: as they are */
        int oom_score_adj;
        u16 columns, rows; /* of the terminal; 0: the guest's own idea */
};

#define INIT_CAPABILITIES_ALL UINT64_MAX
#define INIT_RLIMITS_MAX 32U

/* A network interface of the guest; "lo" is up from the beginning. */
struct init_address {
        const char *interface;        /* how it is found: by name (eth0) or by MAC (52:54:00:12:34:56) */
        const char *name, *mac;       /* what it gets; NULL: as it is */
        u32 mtu;                      /* 0: as it is */
        const char *const *addresses; /* "10.1.2.3/24", "fd00::3/64"; none: the interface is down */
        const char *const *gateways;  /* for everything else, one of each family */
};

/* @random: bytes for the random number generator, @unix_ns: 0 leaves the clock. */
void init_script_system(struct init_script *script, const char *host_name, u64 unix_ns, const void *random, size_t n_random);
/* As mount(2), and makes the target: a directory, or a file when a file is bound. */
void init_script_mount(struct init_script *script, const char *source, const char *target, const char *type, u32 flags,
        const char *options);
void init_script_root(struct init_script *script, const char *target);
void init_script_file(struct init_script *script, const char *path, u32 mode, const void *data, size_t n);
void init_script_link(struct init_script *script, const char *says, const char *path);
void init_script_sysctl(struct init_script *script, const char *name, const char *value);
void init_script_address(struct init_script *script, const struct init_address *address);
/* /proc, /sys, /dev with its links, /dev/pts, /dev/shm (@shm_bytes, 0: 64 MiB), /dev/mqueue, /sys/fs/cgroup: what a container has. */
void init_script_standard_mounts(struct init_script *script, u64 shm_bytes);
/* The main process. */
void init_script_start(struct init_script *script, const struct init_process *process);

int init_script_end(struct init_script *script, struct err **err);
void init_script_free(struct init_script *script);

/* A START frame in @buffer of INIT_FRAME_HEADER + INIT_FRAME_MAX bytes: 0 and its size, or -E2BIG. */
int init_start_frame(void *buffer, u32 id, const struct init_process *process, size_t *ret_size);
