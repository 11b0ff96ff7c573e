/* Log pages (section 5.14) and asynchronous events (section 5.2). */
#include "internal.h"

#include <string.h>

static void fill_error_log(struct nvme *n, u8 *page)
{
        (void)n;
        (void)page; /* one entry that was never used */
}

static void fill_health(struct nvme *n, u8 *page)
{
        const u64 *counted = n->env->counters->value;

        put_le(page + 1, 2, 273 + 35);  /* kelvin */
        page[3] = 100;                  /* percent of the spare blocks left */
        page[4] = 10;                   /* below this it is critical */
        /* In thousands of 512-byte units. The counters are those of all disks of the machine. */
        put_le(page + 32, 8, (counted[COUNTER_BLOCK_READ_BYTES] / 512 + 999) / 1000);
        put_le(page + 48, 8, (counted[COUNTER_BLOCK_WRITE_BYTES] / 512 + 999) / 1000);
        put_le(page + 112, 8, 1);       /* power cycles */
}

static void fill_firmware(struct nvme *n, u8 *page)
{
        (void)n;
        page[0] = 1; /* slot 1 is active */
        memcpy(page + 8, "1.0     ", 8);
}

static const struct log_page {
        u8 id;
        u16 bytes;
        void (*fill)(struct nvme *n, u8 *page);
} log_pages[] = {
        { 0x01, 64, fill_error_log },
        { 0x02, 512, fill_health },
        { 0x03, 512, fill_firmware },
};

int nvme_get_log_page(struct nvme_command *cmd)
{
        struct nvme *n = cmd->nvme;
        const u8 id = (u8)cmd->sqe.cdw10;
        const bool retain_event = cmd->sqe.cdw10 & BIT(15);
        const u64 bytes = ((u64)(cmd->sqe.cdw10 >> 16) + ((u64)(cmd->sqe.cdw11 & 0xffff) << 16) + 1) * 4;
        const u64 offset = cmd->sqe.cdw12;
        u8 page[512] = { 0 };

        for (size_t i = 0; i < ARRAY_SIZE(log_pages); i++) {
                const struct log_page *log = &log_pages[i];

                if (log->id != id)
                        continue;
                if (offset > log->bytes || offset % 4 != 0)
                        return NVME_INVALID_FIELD;
                log->fill(n, page);
                if (id == 0x01 && !retain_event)
                        n->error_event_masked = false;
                /* What lies behind the page is undefined and left as it is. */
                return nvme_copy_to_guest(cmd, page + offset, (u32)MIN(bytes, (u64)log->bytes - offset));
        }
        return NVME_INVALID_LOG_PAGE;
}

/* ---- asynchronous events ---- */

static void send_events(struct nvme *n)
{
        struct nvme_cq *cq = &n->cq[0];

        if (!n->error_event_pending || n->error_event_masked || n->n_event_cids == 0 || (cq->tail + 1) % cq->size == cq->head)
                return;
        n->error_event_pending = false;
        n->error_event_masked = true;
        /* Type 0 (error), what happened, log page 1. */
        nvme_complete_event(n, n->event_cid[--n->n_event_cids], (u32)n->error_event << 8 | 0x01U << 16);
}

void nvme_error_event(struct nvme *n, u8 info)
{
        n->error_event = info;
        n->error_event_pending = true;
        send_events(n);
}

/* The request does not keep its slot: its identifier is remembered until there is something to tell. */
int nvme_event_request(struct nvme_command *cmd)
{
        struct nvme *n = cmd->nvme;

        if (n->n_event_cids == NVME_EVENTS)
                return NVME_TOO_MANY_EVENTS;
        n->event_cid[n->n_event_cids++] = cmd->sqe.cid;
        n->sq[0].in_flight--;
        nvme_command_free(cmd);
        send_events(n);
        return NVME_PENDING;
}
