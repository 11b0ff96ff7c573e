/* The firmware configuration interface: how a board hands named blobs to firmware and test kernels.
 * Source: QEMU's public interface description, docs/specs/fw_cfg. Read-only: the guest can never change an item. */
#pragma once

#include "dev/dev.h"

#define FW_CFG_PORT 0x510 /* selector (2 bytes at 0x510), data (1 byte at 0x511) */
#define FW_CFG_DMA_PORT 0x514

/* Numbered items. */
enum {
        FW_CFG_SIGNATURE = 0x00,
        FW_CFG_ID = 0x01,
        FW_CFG_UUID = 0x02,
        FW_CFG_RAM_SIZE = 0x03,
        FW_CFG_NOGRAPHIC = 0x04,
        FW_CFG_NB_CPUS = 0x05,
        FW_CFG_KERNEL_ADDR = 0x07,
        FW_CFG_KERNEL_SIZE = 0x08,
        FW_CFG_INITRD_ADDR = 0x0a,
        FW_CFG_INITRD_SIZE = 0x0b,
        FW_CFG_MAX_CPUS = 0x0f,
        FW_CFG_CMDLINE_SIZE = 0x14,
        FW_CFG_CMDLINE_DATA = 0x15,
        FW_CFG_FILE_DIR = 0x19,
        FW_CFG_FILE_FIRST = 0x20,
};
#define FW_CFG_FILES_MAX 32
#define FW_CFG_NAME_MAX 56

struct fw_cfg;

int fw_cfg_new(struct device_env *env, struct fw_cfg **ret, struct err **err);
/* Sets a numbered item (below FW_CFG_FILE_FIRST, and not one that the device answers itself). Data is copied. */
int fw_cfg_set(struct fw_cfg *fw_cfg, u16 key, const void *data, u32 len, struct err **err);
int fw_cfg_set_u16(struct fw_cfg *fw_cfg, u16 key, u16 value, struct err **err);
int fw_cfg_set_u64(struct fw_cfg *fw_cfg, u16 key, u64 value, struct err **err);
/* Adds a file, e.g. "etc/e820". Names are kept sorted in the directory. Before the guest runs. */
int fw_cfg_add_file(struct fw_cfg *fw_cfg, const char *name, const void *data, u32 len, struct err **err);
