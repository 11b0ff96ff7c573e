/* Internal snapshots are neither made nor loaded here; their tables must only be known so that nothing overwrites them. */
#include <errno.h>

#include "qcow2.h"

/* Layout of an entry of the snapshot table, by offset; behind it follow extra data, id and name, padded to 8 bytes. */
enum {
        SNAPSHOT_L1_OFFSET = 0,   /* u64 */
        SNAPSHOT_L1_ENTRIES = 8,  /* u32 */
        SNAPSHOT_ID_BYTES = 12,   /* u16 */
        SNAPSHOT_NAME_BYTES = 14, /* u16 */
        SNAPSHOT_EXTRA_BYTES = 36, /* u32 */
        SNAPSHOT_FIXED = 40,
        SNAPSHOT_EXTRA_MAX = 1024,
};

int qcow2_claim_snapshots(struct qcow2 *q, u32 n_snapshots, u64 offset, struct err **err)
{
        const u64 start = offset;
        u64 end = offset;
        int r;

        if (n_snapshots == 0)
                return 0;
        if (n_snapshots > QCOW2_SNAPSHOTS_MAX)
                return err_set(err, ERR_BAD_IMAGE, EFBIG, "it claims to have %u snapshots", n_snapshots);
        for (u32 i = 0; i < n_snapshots; i++) {
                u8 fixed[SNAPSHOT_FIXED];
                u64 l1_offset, l1_entries;
                u32 extra;

                if (offset >= q->file.size || host_file_read(&q->file, fixed, sizeof(fixed), offset) < 0)
                        return err_set(err, ERR_BAD_IMAGE, EINVAL, "its snapshot table is cut off");
                l1_offset = be64_at(fixed + SNAPSHOT_L1_OFFSET);
                l1_entries = be32_at(fixed + SNAPSHOT_L1_ENTRIES);
                extra = be32_at(fixed + SNAPSHOT_EXTRA_BYTES);
                if (extra > SNAPSHOT_EXTRA_MAX || l1_entries > QCOW2_L1_ENTRIES_MAX)
                        return err_set(err, ERR_BAD_IMAGE, EINVAL, "entry %u of its snapshot table is damaged", i);
                if (l1_entries > 0) {
                        r = qcow2_claim(q, l1_offset, l1_entries * 8, "a snapshot's L1 table", err);
                        if (r < 0)
                                return r;
                }
                end = offset + SNAPSHOT_FIXED + extra + (u64)(fixed[SNAPSHOT_ID_BYTES] << 8 | fixed[SNAPSHOT_ID_BYTES + 1]) +
                      (u64)(fixed[SNAPSHOT_NAME_BYTES] << 8 | fixed[SNAPSHOT_NAME_BYTES + 1]);
                offset = ALIGN_UP(end, 8ULL); /* the last one need not be padded */
        }
        return qcow2_claim(q, start, end - start, "the snapshot table", err);
}
