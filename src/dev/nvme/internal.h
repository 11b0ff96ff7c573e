/* Inside the NVMe controller. Section and figure numbers in these files are those of the NVM Express Base Specification 1.4.
 *
 *   nvme.c     the PCI function: registers, enable, reset, shutdown, saved state
 *   queue.c    submission and completion queues, doorbells, interrupts, command slots
 *   prp.c      from PRPs to host memory
 *   admin.c    admin commands; identify.c: what the controller says about itself; log.c: log pages, asynchronous events
 *   io.c       commands that move data
 *   state.c    saving and loading */
#pragma once

#include "dev/nvme.h"

#define NVME_IO_QUEUES 16U
#define NVME_QUEUES (NVME_IO_QUEUES + 1) /* 0 is the admin queue */
#define NVME_QUEUE_ENTRIES 1024U
#define NVME_COMMANDS 128U               /* that run at the same time; the rest waits in the queues */
#define NVME_EVENTS 4U                   /* asynchronous event requests outstanding */
#define NVME_PAGE 4096U
#define NVME_MDTS 7U                     /* a transfer has at most 2 to the power of this pages */
#define NVME_TRANSFER_MAX (NVME_PAGE << NVME_MDTS)
#define NVME_PRPS_MAX ((1U << NVME_MDTS) + 1)
#define NVME_RANGES_MAX 256U
#define NVME_NAMESPACE 1U
#define NVME_ALL_NAMESPACES 0xffffffffU

/* Status codes: type << 8 | code (figures 126 to 131). */
enum nvme_status {
        NVME_OK = 0x000,
        NVME_INVALID_OPCODE = 0x001,
        NVME_INVALID_FIELD = 0x002,
        NVME_DATA_TRANSFER_ERROR = 0x004,
        NVME_INTERNAL_ERROR = 0x006,
        NVME_INVALID_NAMESPACE = 0x00b,
        NVME_INVALID_PRP_OFFSET = 0x013,
        NVME_WRITE_PROTECTED = 0x020,
        NVME_LBA_OUT_OF_RANGE = 0x080,
        NVME_CAPACITY_EXCEEDED = 0x081,
        NVME_INVALID_CQ = 0x100,
        NVME_INVALID_QUEUE_ID = 0x101,
        NVME_INVALID_QUEUE_SIZE = 0x102,
        NVME_TOO_MANY_EVENTS = 0x105,
        NVME_INVALID_VECTOR = 0x108,
        NVME_INVALID_LOG_PAGE = 0x109,
        NVME_INVALID_QUEUE_DELETION = 0x10c,
        NVME_FEATURE_NOT_SAVEABLE = 0x10d,
        NVME_FEATURE_NOT_CHANGEABLE = 0x10e,
        NVME_WRITE_FAULT = 0x280,
        NVME_READ_ERROR = 0x281,

        NVME_DO_NOT_RETRY = 1 << 14,
        /* Not a status: the command goes on, or ends without a completion entry. */
        NVME_PENDING = -1,
};

/* A submission queue entry (figure 104), host order. */
struct nvme_sqe {
        u8 opcode, flags;
        u16 cid;
        u32 nsid;
        u64 prp1, prp2;
        u32 cdw10, cdw11, cdw12;
};

struct nvme_range {
        u64 lba;
        u32 blocks;
};

struct nvme;

/* One command that is being worked on. */
struct nvme_command {
        struct nvme *nvme;
        struct nvme_command *next; /* in the free list, or waiting for room in its completion queue */
        struct nvme_sqe sqe;
        u16 sqid;
        u16 status;
        u32 result;                /* dword 0 of the completion */
        u64 generation;            /* of the controller when it was fetched */
        struct block_request req;
        unsigned range, n_ranges;
        unsigned n_iov;
        union {
                struct {
                        struct iovec iov[NVME_PRPS_MAX];
                        u64 gpa[NVME_PRPS_MAX];
                };
                struct nvme_range ranges[NVME_RANGES_MAX];
        };
};

struct nvme_sq {
        bool exists, deleting;
        u16 cqid;
        u32 size, head, tail;
        u64 base;
        unsigned in_flight;       /* commands fetched whose completion was not written */
        struct nvme_command *deleter; /* the delete command that waits for in_flight to become 0 */
};

struct nvme_cq {
        bool exists, interrupts, phase;
        u16 vector;
        u32 size, head, tail;
        u64 base;
        struct nvme_command *waiting, **waiting_tail; /* the queue is full */
};

/* Features that are a number (section 5.21). */
enum nvme_feature {
        FEATURE_ARBITRATION,
        FEATURE_POWER,
        FEATURE_TEMPERATURE,
        FEATURE_ERROR_RECOVERY,
        FEATURE_WRITE_CACHE,
        FEATURE_QUEUES,
        FEATURE_COALESCING,
        FEATURE_ATOMICITY,
        FEATURE_EVENTS,
        FEATURE_COUNT,
};

struct nvme {
        struct pci_device pci;
        struct device_env *env;
        struct block_device *disk;
        char serial[21], model[41];
        u8 uuid[16];

        /* Registers. */
        u32 cc, csts, aqa, intms;
        u64 asq, acq;

        u64 generation;          /* counts resets: commands of an earlier one end silently */
        bool draining;           /* CC.EN was cleared; CSTS.RDY follows when nothing is in flight */
        bool paused;             /* quiesced: nothing is fetched */
        bool starved;            /* a queue waits for a free command slot */
        struct nvme_sq sq[NVME_QUEUES];
        struct nvme_cq cq[NVME_QUEUES];
        unsigned next_sq;        /* round robin */
        u32 features[FEATURE_COUNT];
        u16 event_cid[NVME_EVENTS];
        unsigned n_event_cids;
        bool error_event_masked; /* until the log page was read */
        bool error_event_pending;
        u8 error_event;          /* its information field */

        struct nvme_command *commands, *free;
        unsigned in_flight;      /* slots in use */
        struct block_request shutdown_req;
        bool shutdown_running;
        u64 shutdown_generation;
        struct loop_timer kick;  /* starts the queues after a load */
};

enum {
        CC_ENABLE = 1 << 0,
        CSTS_READY = 1 << 0,
        CSTS_FATAL = 1 << 1,
        CSTS_SHUTDOWN_MASK = 3 << 2,
        CSTS_SHUTDOWN_BUSY = 1 << 2,
        CSTS_SHUTDOWN_DONE = 2 << 2,
};

/* Little-endian fields of structures in guest memory. */
static inline void put_le(u8 *p, unsigned size, u64 value)
{
        for (unsigned i = 0; i < size; i++, value >>= 8)
                p[i] = (u8)value;
}
static inline u64 get_le(const u8 *p, unsigned size)
{
        u64 value = 0;

        for (unsigned i = size; i-- > 0;)
                value = value << 8 | p[i];
        return value;
}

/* ---- nvme.c ---- */

/* The guest broke a rule that leaves the controller no way on: it stops until it is reset (CSTS.CFS). */
void nvme_fatal(struct nvme *n);
static inline bool nvme_running(const struct nvme *n)
{
        return (n->csts & (CSTS_READY | CSTS_FATAL)) == CSTS_READY && !n->draining;
}
/* Called when a command slot became free. */
void nvme_check_drained(struct nvme *n);

/* ---- queue.c ---- */

int nvme_queues_init(struct nvme *n, struct err **err);
void nvme_queues_free(struct nvme *n);
/* Forgets all queues and waiting completions. */
void nvme_queues_reset(struct nvme *n);
void nvme_doorbell(struct nvme *n, u32 index, u32 value);
/* Fetches and starts commands until the queues are empty or nothing more can be started. */
void nvme_process(struct nvme *n);
/* Ends a command: writes its completion, or waits for room. The command is not to be used any more. */
void nvme_complete(struct nvme_command *cmd, int status);
/* Gives the slot back without a completion. */
void nvme_command_free(struct nvme_command *cmd);
/* Writes a completion that needs no slot. */
void nvme_complete_event(struct nvme *n, u16 cid, u32 result);
void nvme_update_intx(struct nvme *n);
void nvme_delete_sq_start(struct nvme_command *cmd, u16 qid);

/* ---- prp.c ---- */

/* Fills cmd->iov, gpa and n_iov for a transfer of @bytes, at most NVME_TRANSFER_MAX. Returns a status. */
int nvme_map_prps(struct nvme_command *cmd, u32 bytes);
/* Copies between @buf and the command's buffer. Returns a status. */
int nvme_copy_to_guest(struct nvme_command *cmd, const void *buf, u32 bytes);
int nvme_copy_from_guest(struct nvme_command *cmd, void *buf, u32 bytes);
/* Tells the memory map what was written to the mapped buffer. */
void nvme_mark_written(struct nvme_command *cmd);

/* ---- commands: they return a status or NVME_PENDING ---- */

int nvme_admin_command(struct nvme_command *cmd);
int nvme_identify(struct nvme_command *cmd);
int nvme_get_log_page(struct nvme_command *cmd);
int nvme_io_command(struct nvme_command *cmd);
int nvme_event_request(struct nvme_command *cmd);
/* An asynchronous event of type "error" (figure 147). */
void nvme_error_event(struct nvme *n, u8 info);
void nvme_features_reset(struct nvme *n);
