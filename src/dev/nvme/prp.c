/* Physical region pages (section 4.3): how a command names its buffer. The first entry may start inside a page, all others are whole
 * pages; more than two are in a list whose last entry, when the list goes on, points to its next page. */
#include "internal.h"

#include <string.h>

/* A walk through a command's PRPs. */
struct prp_walk {
        struct nvme_command *cmd;
        u32 left; /* bytes not mapped yet */
};

static int add_page(struct prp_walk *w, u64 gpa)
{
        struct nvme_command *cmd = w->cmd;
        const u32 len = MIN(w->left, NVME_PAGE - (u32)(gpa % NVME_PAGE));
        void *hva = guest_memory_dma(cmd->nvme->env->memory, gpa, len);
        struct iovec *last = cmd->n_iov > 0 ? &cmd->iov[cmd->n_iov - 1] : NULL;

        if (!hva)
                return NVME_DATA_TRANSFER_ERROR;
        w->left -= len;
        if (last && (u8 *)last->iov_base + last->iov_len == hva && cmd->gpa[cmd->n_iov - 1] + last->iov_len == gpa) {
                last->iov_len += len;
                return NVME_OK;
        }
        if (cmd->n_iov == NVME_PRPS_MAX)
                return NVME_INTERNAL_ERROR;
        cmd->iov[cmd->n_iov] = (struct iovec){ .iov_base = hva, .iov_len = len };
        cmd->gpa[cmd->n_iov++] = gpa;
        return NVME_OK;
}

static int add_whole_page(struct prp_walk *w, u64 gpa)
{
        return gpa % NVME_PAGE != 0 ? NVME_INVALID_PRP_OFFSET : add_page(w, gpa);
}

/* Each page of the list maps at least one page of data, except that the first may hold nothing but the pointer to the
 * second: so this ends. */
static int walk_list(struct prp_walk *w, u64 list)
{
        u8 entries[NVME_PAGE];
        int status = NVME_OK;

        if (list % 8 != 0)
                return NVME_INVALID_PRP_OFFSET;
        while (status == NVME_OK && w->left > 0) {
                const u32 n = (NVME_PAGE - (u32)(list % NVME_PAGE)) / 8;
                const u32 pages = (w->left + NVME_PAGE - 1) / NVME_PAGE, used = MIN(n, pages);

                if (guest_memory_read(w->cmd->nvme->env->memory, list, entries, used * 8) < 0)
                        return NVME_DATA_TRANSFER_ERROR;
                for (u32 i = 0; status == NVME_OK && i < used - (pages > n); i++)
                        status = add_whole_page(w, get_le(entries + i * 8, 8));
                if (pages > n)
                        list = get_le(entries + (n - 1) * 8, 8);
                if (pages > n && list % NVME_PAGE != 0)
                        return NVME_INVALID_PRP_OFFSET;
        }
        return status;
}

int nvme_map_prps(struct nvme_command *cmd, u32 bytes)
{
        struct prp_walk w = { .cmd = cmd, .left = bytes };
        int status;

        cmd->n_iov = 0;
        if (bytes > NVME_TRANSFER_MAX)
                return NVME_INVALID_FIELD;
        if (cmd->sqe.prp1 % 4 != 0)
                return NVME_INVALID_PRP_OFFSET;
        status = add_page(&w, cmd->sqe.prp1);
        if (status != NVME_OK || w.left == 0)
                return status;
        return w.left <= NVME_PAGE ? add_whole_page(&w, cmd->sqe.prp2) : walk_list(&w, cmd->sqe.prp2);
}

int nvme_copy_to_guest(struct nvme_command *cmd, const void *buf, u32 bytes)
{
        const u8 *p = buf;
        const int status = nvme_map_prps(cmd, bytes);

        if (status != NVME_OK)
                return status;
        for (unsigned i = 0; i < cmd->n_iov; p += cmd->iov[i++].iov_len)
                memcpy(cmd->iov[i].iov_base, p, cmd->iov[i].iov_len);
        nvme_mark_written(cmd);
        return NVME_OK;
}

int nvme_copy_from_guest(struct nvme_command *cmd, void *buf, u32 bytes)
{
        u8 *p = buf;
        const int status = nvme_map_prps(cmd, bytes);

        if (status != NVME_OK)
                return status;
        for (unsigned i = 0; i < cmd->n_iov; p += cmd->iov[i++].iov_len)
                memcpy(p, cmd->iov[i].iov_base, cmd->iov[i].iov_len);
        return NVME_OK;
}

void nvme_mark_written(struct nvme_command *cmd)
{
        for (unsigned i = 0; i < cmd->n_iov; i++)
                guest_memory_written(cmd->nvme->env->memory, cmd->gpa[i], cmd->iov[i].iov_len);
}
