/* Registers:
 *
 *     0x510  selector, 16 bits, little-endian, write-only: chooses an item and rewinds it
 *     0x511  data, 8 bits: the item's next byte; zeros beyond its end
 *     0x514  DMA address, 64 bits, big-endian: high half at 0x514, low half at 0x518; the store of the low half starts it
 *
 * The DMA descriptor in guest memory, big-endian: u32 control (0 error, 1 read, 2 skip, 3 select, 4 write, 31-16 key),
 * u32 length, u64 address. Control is written back: 0, or 1 for an error. */
#include "dev/fw_cfg.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ITEMS_MAX (FW_CFG_FILE_FIRST + FW_CFG_FILES_MAX)
#define ITEM_SIZE_MAX (256 * MIB)
#define FW_CFG_VERSION_TRADITIONAL 1u
#define FW_CFG_VERSION_DMA 2u

#define DMA_ERROR 1u
#define DMA_READ 2u
#define DMA_SKIP 4u
#define DMA_SELECT 8u
#define DMA_WRITE 16u
#define DMA_SIGNATURE 0x51454d5520434647ULL /* what a read of the address register gives: "QEMU CFG" */

struct item {
        u8 *data;
        u32 len;
        char name[FW_CFG_NAME_MAX]; /* files only */
};

/* The layout of the file directory's entries. */
struct directory_entry {
        u32 size_be;
        u16 select_be;
        u16 reserved;
        char name[FW_CFG_NAME_MAX];
} _packed_;

struct fw_cfg {
        struct device dev;
        struct device_env *env;
        struct item item[ITEMS_MAX];
        unsigned n_files;
        u16 selected;
        u32 position; /* in the selected item */
        u32 dma_high;
};

static const struct item *selected_item(const struct fw_cfg *fw_cfg)
{
        static const struct item none;

        return fw_cfg->selected < ITEMS_MAX ? &fw_cfg->item[fw_cfg->selected] : &none;
}

static void item_select(struct fw_cfg *fw_cfg, u16 key)
{
        fw_cfg->selected = key;
        fw_cfg->position = 0;
}

/* ---- DMA ---- */

/* Copies the next @len bytes of the item to guest memory, zeros after its end. */
static bool dma_read(struct fw_cfg *fw_cfg, u64 address, u32 len)
{
        static const u8 zeros[4096];
        const struct item *item = selected_item(fw_cfg);
        const u32 there = item->len - MIN(fw_cfg->position, item->len), n = MIN(len, there);
        struct guest_memory *memory = fw_cfg->env->memory;

        if (n && guest_memory_write(memory, address, item->data + fw_cfg->position, n) < 0)
                return false;
        /* Past the end of RAM the first failing write ends this, so the guest's memory size bounds it. */
        for (u64 done = n; done < len;) {
                const u64 chunk = MIN(len - done, (u64)sizeof(zeros));

                if (guest_memory_write(memory, address + done, zeros, chunk) < 0)
                        return false;
                done += chunk;
        }
        fw_cfg->position += n;
        return true;
}

static void dma_run(struct fw_cfg *fw_cfg, u64 descriptor)
{
        struct guest_memory *memory = fw_cfg->env->memory;
        struct {
                u32 control_be, length_be;
                u64 address_be;
        } d;
        u32 control, length, result = 0;

        if (guest_memory_read(memory, descriptor, &d, sizeof(d)) < 0)
                return;
        control = be32toh(d.control_be);
        length = be32toh(d.length_be);
        if (control & DMA_SELECT)
                item_select(fw_cfg, (u16)(control >> 16));
        if (control & DMA_READ) {
                if (!dma_read(fw_cfg, be64toh(d.address_be), length))
                        result = DMA_ERROR;
        } else if (control & DMA_WRITE) {
                result = DMA_ERROR;
        } else if (control & DMA_SKIP) {
                const u32 len = selected_item(fw_cfg)->len;

                fw_cfg->position += MIN(length, len - MIN(fw_cfg->position, len));
        }
        d.control_be = htobe32(result);
        (void)guest_memory_write(memory, descriptor, &d.control_be, sizeof(d.control_be));
}

/* ---- registers ---- */

static u64 port_read(void *opaque, u64 offset, unsigned size)
{
        struct fw_cfg *fw_cfg = opaque;
        const struct item *item = selected_item(fw_cfg);

        if (offset == 0) /* the selector */
                return 0;
        return fw_cfg->position < item->len ? item->data[fw_cfg->position++] : 0;
}

static void port_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        if (offset == 0 && size == 2)
                item_select(opaque, (u16)value);
}

static const struct io_ops port_ops = { .read = port_read, .write = port_write, .max_size = 2 };

static u64 dma_register_read(void *opaque, u64 offset, unsigned size)
{
        /* The bytes in memory order of the big-endian number. */
        return be64toh(DMA_SIGNATURE) >> (offset * 8);
}

static void dma_register_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct fw_cfg *fw_cfg = opaque;

        if (offset == 0 && size == 8) {
                dma_run(fw_cfg, be64toh(value));
        } else if (offset == 0 && size == 4) {
                fw_cfg->dma_high = be32toh((u32)value);
        } else if (offset == 4 && size == 4) {
                const u64 high = fw_cfg->dma_high;

                fw_cfg->dma_high = 0;
                dma_run(fw_cfg, high << 32 | be32toh((u32)value));
        }
}

static const struct io_ops dma_ops = { .read = dma_register_read, .write = dma_register_write };

/* ---- filling ---- */

static int item_set(struct item *item, const void *data, u32 len, struct err **err)
{
        u8 *copy;

        if (len > ITEM_SIZE_MAX)
                return err_set(err, ERR_TOO_LARGE, EFBIG, "a firmware configuration item of %u bytes is too large", len);
        copy = malloc(len ? len : 1);
        if (!copy)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a firmware configuration item of %u bytes", len);
        if (len)
                memcpy(copy, data, len);
        free(item->data);
        item->data = copy;
        item->len = len;
        return 0;
}

int fw_cfg_set(struct fw_cfg *fw_cfg, u16 key, const void *data, u32 len, struct err **err)
{
        if (key >= FW_CFG_FILE_DIR)
                return err_set(err, ERR_INTERNAL, EINVAL, "firmware configuration key %#x cannot be set", key);
        return item_set(&fw_cfg->item[key], data, len, err);
}

int fw_cfg_set_u16(struct fw_cfg *fw_cfg, u16 key, u16 value, struct err **err)
{
        value = htole16(value);
        return fw_cfg_set(fw_cfg, key, &value, sizeof(value), err);
}

int fw_cfg_set_u64(struct fw_cfg *fw_cfg, u16 key, u64 value, struct err **err)
{
        value = htole64(value);
        return fw_cfg_set(fw_cfg, key, &value, sizeof(value), err);
}

/* The directory: big-endian count, then an entry for each file. */
static int directory_update(struct fw_cfg *fw_cfg, struct err **err)
{
        u8 buffer[4 + FW_CFG_FILES_MAX * sizeof(struct directory_entry)];
        const u32 count_be = htobe32(fw_cfg->n_files);
        u32 len = 4;

        memcpy(buffer, &count_be, 4);
        for (unsigned i = 0; i < fw_cfg->n_files; i++) {
                const struct item *item = &fw_cfg->item[FW_CFG_FILE_FIRST + i];
                struct directory_entry entry = {
                        .size_be = htobe32(item->len),
                        .select_be = htobe16((u16)(FW_CFG_FILE_FIRST + i)),
                };

                memcpy(entry.name, item->name, sizeof(entry.name));
                memcpy(buffer + len, &entry, sizeof(entry));
                len += (u32)sizeof(entry);
        }
        return item_set(&fw_cfg->item[FW_CFG_FILE_DIR], buffer, len, err);
}

int fw_cfg_add_file(struct fw_cfg *fw_cfg, const char *name, const void *data, u32 len, struct err **err)
{
        struct item file = { 0 };
        unsigned at = 0;
        int r;

        if (strlen(name) >= FW_CFG_NAME_MAX)
                return err_set(err, ERR_USAGE, ENAMETOOLONG, "the firmware file name '%s' is longer than %d bytes", name,
                               FW_CFG_NAME_MAX - 1);
        if (fw_cfg->n_files == FW_CFG_FILES_MAX)
                return err_set(err, ERR_TOO_LARGE, ENOSPC, "more than %d firmware files", FW_CFG_FILES_MAX);
        memcpy(file.name, name, strlen(name));
        while (at < fw_cfg->n_files && strcmp(fw_cfg->item[FW_CFG_FILE_FIRST + at].name, name) < 0)
                at++;
        if (at < fw_cfg->n_files && strcmp(fw_cfg->item[FW_CFG_FILE_FIRST + at].name, name) == 0)
                return err_set(err, ERR_USAGE, EEXIST, "there are two firmware files named '%s'", name);
        r = item_set(&file, data, len, err);
        if (r < 0)
                return r;
        memmove(&fw_cfg->item[FW_CFG_FILE_FIRST + at + 1], &fw_cfg->item[FW_CFG_FILE_FIRST + at],
                (fw_cfg->n_files - at) * sizeof(file));
        fw_cfg->item[FW_CFG_FILE_FIRST + at] = file;
        fw_cfg->n_files++;
        return directory_update(fw_cfg, err);
}

/* ---- life ---- */

static void fw_cfg_reset(struct device *dev)
{
        struct fw_cfg *fw_cfg = container_of(dev, struct fw_cfg, dev);

        item_select(fw_cfg, FW_CFG_SIGNATURE);
        fw_cfg->dma_high = 0;
}

/* The items belong to the board's configuration and are not part of the state. */
static void fw_cfg_save(struct device *dev, struct state_out *out)
{
        const struct fw_cfg *fw_cfg = container_of(dev, struct fw_cfg, dev);

        state_put_u16(out, fw_cfg->selected);
        state_put_u32(out, fw_cfg->position);
        state_put_u32(out, fw_cfg->dma_high);
}

static int fw_cfg_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct fw_cfg *fw_cfg = container_of(dev, struct fw_cfg, dev);
        const u16 selected = state_get_u16(in);
        const u32 position = state_get_u32(in), dma_high = state_get_u32(in);

        if (state_in_error(in))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved firmware configuration state is truncated");
        fw_cfg->selected = selected; /* a position beyond the item reads as zeros */
        fw_cfg->position = position;
        fw_cfg->dma_high = dma_high;
        return 0;
}

static void fw_cfg_destroy(struct device *dev)
{
        struct fw_cfg *fw_cfg = container_of(dev, struct fw_cfg, dev);

        io_space_remove(fw_cfg->env->ports, FW_CFG_PORT, fw_cfg);
        io_space_remove(fw_cfg->env->ports, FW_CFG_DMA_PORT, fw_cfg);
        for (size_t i = 0; i < ITEMS_MAX; i++)
                free(fw_cfg->item[i].data);
        free(fw_cfg);
}

static const struct device_ops fw_cfg_device_ops = {
        .name = "fw-cfg",
        .version = 1,
        .reset = fw_cfg_reset,
        .save = fw_cfg_save,
        .load = fw_cfg_load,
        .destroy = fw_cfg_destroy,
};

int fw_cfg_new(struct device_env *env, struct fw_cfg **ret, struct err **err)
{
        struct fw_cfg *fw_cfg = calloc(1, sizeof(*fw_cfg));
        const u32 id = htole32(FW_CFG_VERSION_TRADITIONAL | FW_CFG_VERSION_DMA);
        int r;

        if (!fw_cfg)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the firmware configuration");
        fw_cfg->dev.ops = &fw_cfg_device_ops;
        fw_cfg->env = env;
        r = item_set(&fw_cfg->item[FW_CFG_SIGNATURE], "QEMU", 4, err); /* what drivers look for */
        if (r == 0)
                r = item_set(&fw_cfg->item[FW_CFG_ID], &id, sizeof(id), err);
        if (r == 0)
                r = directory_update(fw_cfg, err);
        if (r == 0)
                r = io_space_add(env->ports, FW_CFG_PORT, 2, &port_ops, fw_cfg, "fw-cfg", err);
        if (r == 0)
                r = io_space_add(env->ports, FW_CFG_DMA_PORT, 8, &dma_ops, fw_cfg, "fw-cfg-dma", err);
        if (r < 0) {
                fw_cfg_destroy(&fw_cfg->dev);
                return r;
        }
        fw_cfg_reset(&fw_cfg->dev);
        env->add(env, &fw_cfg->dev);
        *ret = fw_cfg;
        return 0;
}
