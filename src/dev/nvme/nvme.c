/* The PCI function: registers (section 3.1), enabling, reset and shutdown (section 7.6).
 *
 * Reset: clearing CC.EN forgets all queues at once, but host I/O into guest memory may still be going on. CSTS.RDY, for which the driver
 * waits before it reuses its memory, is cleared when the last of it has ended. The same holds for a machine reset, which waits. */
#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

#define BAR_SIZE 0x4000U
#define DOORBELLS 0x1000U

enum {
        REG_CAP = 0x00,
        REG_VS = 0x08,
        REG_INTMS = 0x0c,
        REG_INTMC = 0x10,
        REG_CC = 0x14,
        REG_CSTS = 0x1c,
        REG_AQA = 0x24,
        REG_ASQ = 0x28,
        REG_ACQ = 0x30,
};

/* CAP: queue entries 0's based, contiguous queues required, time-out in half seconds; high half: NVM command set, 4 KiB pages. */
#define CAP_LOW ((NVME_QUEUE_ENTRIES - 1) | 1U << 16 | 40U << 24)
#define CAP_HIGH (1U << 5)

#define CC_WRITABLE 0x00fffff1U
#define AQA_WRITABLE 0x0fff0fffU
#define CC_SHUTDOWN(cc) bits(cc, 15, 14)

static struct nvme *to_nvme(struct device *dev)
{
        return container_of(dev, struct nvme, pci.dev);
}

void nvme_fatal(struct nvme *n)
{
        n->csts |= CSTS_FATAL;
}

/* ---- enable, reset, shutdown ---- */

static bool admin_queue_valid(const struct nvme *n, u64 base, u32 entries, u32 entry_bytes)
{
        return entries >= 2 && base % NVME_PAGE == 0 && guest_memory_is_ram(n->env->memory, base, (u64)entries * entry_bytes);
}

static void enable(struct nvme *n)
{
        const u32 sq_entries = (u32)bits(n->aqa, 11, 0) + 1, cq_entries = (u32)bits(n->aqa, 27, 16) + 1;

        n->csts &= ~(u32)CSTS_SHUTDOWN_MASK;
        /* Command set, page size and arbitration must be those of CAP: all 0. */
        if (bits(n->cc, 13, 4) != 0 || !admin_queue_valid(n, n->asq, sq_entries, 64) || !admin_queue_valid(n, n->acq, cq_entries, 16)) {
                nvme_fatal(n);
                return;
        }
        n->sq[0] = (struct nvme_sq){ .exists = true, .size = sq_entries, .base = n->asq };
        n->cq[0] = (struct nvme_cq){ .exists = true, .interrupts = true, .phase = true, .size = cq_entries, .base = n->acq,
                                     .waiting_tail = &n->cq[0].waiting };
        n->csts |= CSTS_READY;
}

void nvme_check_drained(struct nvme *n)
{
        if (!n->draining || n->in_flight > 0)
                return;
        n->draining = false;
        n->csts &= ~(u32)CSTS_READY;
        if (n->cc & CC_ENABLE)
                enable(n);
}

static void forget_everything(struct nvme *n)
{
        n->generation++;
        nvme_queues_reset(n);
        nvme_features_reset(n);
        n->error_event_masked = n->error_event_pending = false;
        n->intms = 0;
        n->csts &= ~(u32)(CSTS_FATAL | CSTS_SHUTDOWN_MASK);
        nvme_update_intx(n);
}

static void controller_reset(struct nvme *n)
{
        forget_everything(n);
        n->draining = true;
        nvme_check_drained(n);
}

static void shutdown_done(struct block_request *req)
{
        struct nvme *n = req->opaque;

        n->shutdown_running = false;
        if (n->shutdown_generation == n->generation)
                n->csts = (n->csts & ~(u32)CSTS_SHUTDOWN_MASK) | CSTS_SHUTDOWN_DONE;
}

static void shutdown_start(struct nvme *n)
{
        n->csts = (n->csts & ~(u32)CSTS_SHUTDOWN_MASK) | CSTS_SHUTDOWN_BUSY;
        n->shutdown_generation = n->generation;
        if (n->shutdown_running)
                return;
        n->shutdown_running = true;
        n->shutdown_req = (struct block_request){ .op = BLOCK_OP_FLUSH, .done = shutdown_done, .opaque = n };
        block_submit(n->disk, &n->shutdown_req);
}

static void write_cc(struct nvme *n, u32 value)
{
        const u32 old = n->cc;

        n->cc = value & CC_WRITABLE;
        if ((old & CC_ENABLE) && !(n->cc & CC_ENABLE))
                controller_reset(n);
        else if (!(old & CC_ENABLE) && (n->cc & CC_ENABLE) && !n->draining)
                enable(n);
        if (CC_SHUTDOWN(n->cc) != 0 && CC_SHUTDOWN(old) == 0)
                shutdown_start(n);
}

/* ---- registers ---- */

static u32 read32(const struct nvme *n, u64 offset)
{
        switch (offset) {
        case REG_CAP:
                return CAP_LOW;
        case REG_CAP + 4:
                return CAP_HIGH;
        case REG_VS:
                return 0x00010400;
        case REG_INTMS:
        case REG_INTMC:
                return n->intms;
        case REG_CC:
                return n->cc;
        case REG_CSTS:
                return n->csts;
        case REG_AQA:
                return n->aqa;
        case REG_ASQ:
                return (u32)n->asq;
        case REG_ASQ + 4:
                return (u32)(n->asq >> 32);
        case REG_ACQ:
                return (u32)n->acq;
        case REG_ACQ + 4:
                return (u32)(n->acq >> 32);
        default:
                return 0;
        }
}

static u64 with_low(u64 old, u32 value)
{
        return (old & ~0xffffffffULL) | (value & ~(u32)(NVME_PAGE - 1));
}

static u64 with_high(u64 old, u32 value)
{
        return (u32)old | (u64)value << 32;
}

static void write32(struct nvme *n, u64 offset, u32 value)
{
        switch (offset) {
        case REG_INTMS:
                n->intms |= value;
                nvme_update_intx(n);
                break;
        case REG_INTMC:
                n->intms &= ~value;
                nvme_update_intx(n);
                break;
        case REG_CC:
                write_cc(n, value);
                break;
        case REG_AQA:
                n->aqa = value & AQA_WRITABLE;
                break;
        case REG_ASQ:
                n->asq = with_low(n->asq, value);
                break;
        case REG_ASQ + 4:
                n->asq = with_high(n->asq, value);
                break;
        case REG_ACQ:
                n->acq = with_low(n->acq, value);
                break;
        case REG_ACQ + 4:
                n->acq = with_high(n->acq, value);
                break;
        default:
                if (offset >= DOORBELLS)
                        nvme_doorbell(n, (u32)(offset - DOORBELLS) / 4, value);
        }
}

static u64 bar_read(void *opaque, u64 offset, unsigned size)
{
        const struct nvme *n = opaque;
        const u64 value = read32(n, offset & ~3ULL) | (size == 8 ? (u64)read32(n, (offset & ~3ULL) + 4) << 32 : 0);

        return value >> (offset % 4 * 8);
}

/* Only aligned writes of whole registers mean anything (section 3.1). */
static void bar_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct nvme *n = opaque;

        if (offset % 4 != 0 || size < 4)
                return;
        write32(n, offset, (u32)value);
        if (size == 8)
                write32(n, offset + 4, (u32)(value >> 32));
}

static const struct io_ops bar_ops = { .read = bar_read, .write = bar_write };

/* ---- the device ---- */

static void nvme_reset(struct device *dev)
{
        struct nvme *n = to_nvme(dev);

        forget_everything(n);
        n->cc = 0;
        n->draining = true;
        block_drain(n->disk);
        nvme_check_drained(n);
        n->csts = n->aqa = 0;
        n->asq = n->acq = 0;
        pci_device_reset(&n->pci);
}

static void nvme_quiesce(struct device *dev)
{
        struct nvme *n = to_nvme(dev);

        n->paused = true;
        block_drain(n->disk);
}

static void nvme_resume(struct device *dev)
{
        struct nvme *n = to_nvme(dev);

        n->paused = false;
        nvme_process(n);
}

static void nvme_destroy(struct device *dev)
{
        struct nvme *n = to_nvme(dev);

        loop_timer_cancel(&n->kick);
        n->paused = true;
        block_close(n->disk);
        pci_device_release(&n->pci);
        nvme_queues_free(n);
        free(n);
}

static int nvme_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct nvme *n = to_nvme(dev);
        struct nvme_saved *saved;
        int r;

        (void)version;
        r = nvme_saved_read(n, in, &saved, err);
        if (r < 0)
                return r;
        forget_everything(n);
        block_drain(n->disk);
        n->draining = false;
        nvme_saved_apply(n, saved);
        loop_timer_set(&n->kick, clock_now_ns());
        return 0;
}

static void nvme_save(struct device *dev, struct state_out *out)
{
        nvme_saved_write(to_nvme(dev), out);
}

static const struct device_ops nvme_ops = {
        .name = "nvme",
        .version = 1,
        .reset = nvme_reset,
        .save = nvme_save,
        .load = nvme_load,
        .destroy = nvme_destroy,
        .quiesce = nvme_quiesce,
        .resume = nvme_resume,
};

/* MSI-X may have been switched on or off. */
static void config_written(struct pci_device *pci, unsigned offset, unsigned size)
{
        (void)offset;
        (void)size;
        nvme_update_intx(container_of(pci, struct nvme, pci));
}

static const struct pci_device_ops nvme_pci_ops = { .config_written = config_written };

static void on_kick(void *opaque)
{
        nvme_process(opaque);
}

/* Names stay the same from one start to the next, so that /dev/disk/by-id does. */
static void make_names(struct nvme *n, const struct nvme_config *config)
{
        u64 h = 0xcbf29ce484222325ULL; /* FNV-1a */

        if (config->serial)
                snprintf(n->serial, sizeof(n->serial), "%s", config->serial);
        else
                snprintf(n->serial, sizeof(n->serial), "strata-nvme-%u", n->pci.slot);
        snprintf(n->model, sizeof(n->model), "%s", config->model ? config->model : "Strata NVMe disk");
        for (unsigned i = 0; i < 16; i++) {
                h = (h ^ (u8)n->serial[i]) * 0x100000001b3ULL;
                n->uuid[i] = (u8)(h >> 32);
        }
        n->uuid[6] = (u8)((n->uuid[6] & 0x0f) | 0x80); /* version 8: made in a way of our own (RFC 9562) */
        n->uuid[8] = (u8)((n->uuid[8] & 0x3f) | 0x80);
}

int nvme_new(struct device_env *env, struct pci_bus *bus, const struct nvme_config *config, struct err **err)
{
        /* The identifiers of QEMU's controller: drivers choose by the class code, and nothing else is expected of them. */
        static const struct pci_id id = {
                .vendor = 0x1b36, .device = 0x0010, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .revision = 1,
                .class_code = 0x010802, .intx = true,
        };
        struct nvme *n = calloc(1, sizeof(*n));
        int r;

        if (!n)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for an NVMe controller");
        n->env = env;
        loop_timer_init(&n->kick, env->loop, on_kick, n);
        r = pci_device_init(&n->pci, bus, &id, &nvme_ops, &nvme_pci_ops, err);
        if (r < 0) {
                free(n);
                return r;
        }
        r = pci_bar_add(&n->pci, 0, PCI_BAR_MEM64, BAR_SIZE, &bar_ops, n, "nvme", err);
        if (r == 0)
                r = pci_msix_init(&n->pci, 4, NVME_QUEUES, err);
        if (r == 0)
                r = nvme_queues_init(n, err);
        if (r < 0) {
                pci_device_release(&n->pci);
                nvme_queues_free(n);
                free(n);
                return r;
        }
        nvme_features_reset(n);
        make_names(n, config);
        n->disk = config->disk;
        env->add(env, &n->pci.dev);
        return 0;
}
