/* Identify (section 5.15): the numbers are offsets in the figures 247 (namespace) and 251 (controller). */
#include "internal.h"

#include <string.h>

enum {
        CNS_NAMESPACE = 0x00,
        CNS_CONTROLLER = 0x01,
        CNS_ACTIVE_NAMESPACES = 0x02,
        CNS_NAMESPACE_DESCRIPTORS = 0x03,
};

/* Space-padded, without a terminating zero. */
static void put_text(u8 *p, size_t size, const char *text)
{
        const size_t len = MIN(strlen(text), size);

        memset(p, ' ', size);
        memcpy(p, text, len);
}

static int identify_controller(struct nvme *n, u32 nsid, u8 *page)
{
        (void)nsid;
        put_le(page + 0, 2, pci_config_get(&n->pci, PCI_VENDOR_ID, 2));
        put_le(page + 2, 2, pci_config_get(&n->pci, PCI_SUBSYSTEM_VENDOR_ID, 2));
        put_text(page + 4, 20, n->serial);
        put_text(page + 24, 40, n->model);
        put_text(page + 64, 8, "1.0");
        page[72] = 6;                            /* recommended arbitration burst */
        page[77] = NVME_MDTS;
        put_le(page + 80, 4, 0x00010400);        /* version */
        page[111] = 1;                           /* an I/O controller */
        page[258] = 3;                           /* abort command limit, 0's based */
        page[259] = NVME_EVENTS - 1;
        page[260] = 0x03;                        /* one firmware slot, read-only */
        put_le(page + 266, 2, 273 + 70);         /* warning and critical temperature */
        put_le(page + 268, 2, 273 + 100);
        page[512] = 0x66;                        /* queue entry sizes: 64 and 16 bytes */
        page[513] = 0x44;
        put_le(page + 516, 4, NVME_NAMESPACE);   /* highest namespace */
        put_le(page + 520, 2, 1 << 2 | 1 << 3);  /* dataset management, write zeroes */
        page[525] = 0x07;                        /* volatile write cache; flush takes all namespaces too */
        snprintf((char *)page + 768, 256, "nqn.2014-08.org.nvmexpress:uuid:"
                 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                 n->uuid[0], n->uuid[1], n->uuid[2], n->uuid[3], n->uuid[4], n->uuid[5], n->uuid[6], n->uuid[7], n->uuid[8],
                 n->uuid[9], n->uuid[10], n->uuid[11], n->uuid[12], n->uuid[13], n->uuid[14], n->uuid[15]);
        put_le(page + 2048, 2, 2500);            /* power state 0: 25 W */
        return NVME_OK;
}

static int identify_namespace(struct nvme *n, u32 nsid, u8 *page)
{
        const u64 blocks = block_size(n->disk) / BLOCK_SECTOR;
        const u32 granularity = block_discard_granularity(n->disk) / BLOCK_SECTOR;

        if (nsid != NVME_NAMESPACE && nsid != NVME_ALL_NAMESPACES)
                return NVME_INVALID_NAMESPACE;
        put_le(page + 0, 8, blocks);   /* size, capacity, utilization */
        put_le(page + 8, 8, blocks);
        put_le(page + 16, 8, blocks);
        page[24] = 1 << 4;             /* the preferred sizes below are valid */
        page[33] = 1 << 3;             /* write zeroes may deallocate; what deallocated blocks contain is not said */
        put_le(page + 64, 2, granularity - 1);  /* writes: preferred granularity and alignment */
        put_le(page + 66, 2, granularity - 1);
        put_le(page + 68, 2, granularity - 1);  /* deallocation: the same */
        put_le(page + 70, 2, granularity - 1);
        page[99] = block_read_only(n->disk);
        page[128 + 2] = 9;             /* the only format: 2 to the power of 9 bytes a block, no metadata */
        return NVME_OK;
}

static int identify_active_namespaces(struct nvme *n, u32 nsid, u8 *page)
{
        (void)n;
        if (nsid >= 0xfffffffeU)
                return NVME_INVALID_NAMESPACE;
        if (nsid < NVME_NAMESPACE)
                put_le(page, 4, NVME_NAMESPACE);
        return NVME_OK;
}

static int identify_descriptors(struct nvme *n, u32 nsid, u8 *page)
{
        if (nsid != NVME_NAMESPACE)
                return NVME_INVALID_NAMESPACE;
        page[0] = 3; /* a UUID, 16 bytes */
        page[1] = 16;
        memcpy(page + 4, n->uuid, 16);
        return NVME_OK;
}

static const struct {
        u8 cns;
        int (*fill)(struct nvme *n, u32 nsid, u8 *page);
} structures[] = {
        { CNS_NAMESPACE, identify_namespace },
        { CNS_CONTROLLER, identify_controller },
        { CNS_ACTIVE_NAMESPACES, identify_active_namespaces },
        { CNS_NAMESPACE_DESCRIPTORS, identify_descriptors },
};

int nvme_identify(struct nvme_command *cmd)
{
        u8 page[4096] = { 0 };

        for (size_t i = 0; i < ARRAY_SIZE(structures); i++) {
                int status;

                if (structures[i].cns != (u8)cmd->sqe.cdw10)
                        continue;
                status = structures[i].fill(cmd->nvme, cmd->sqe.nsid, page);
                return status == NVME_OK ? nvme_copy_to_guest(cmd, page, sizeof(page)) : status;
        }
        return NVME_INVALID_FIELD;
}
