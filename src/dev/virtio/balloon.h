/* virtio-balloon: memory that the guest lends back to the host. The pages of an inflated balloon, and pages that the guest reports
 * as free, leave the host's memory; when the guest touches them again they read as zeros. */
#pragma once

#include "dev/pci.h"

struct virtio_balloon;

/* What the guest tells about its memory (virtio 1.2, 5.5.6.3): BALLOON_STAT(id, tag, name). Sizes in bytes, faults in number. */
#define BALLOON_STATS_TABLE                                                                                            \
        BALLOON_STAT(SWAP_IN, 0, "swap-in")                                                                            \
        BALLOON_STAT(SWAP_OUT, 1, "swap-out")                                                                          \
        BALLOON_STAT(MAJOR_FAULTS, 2, "major-faults")                                                                  \
        BALLOON_STAT(MINOR_FAULTS, 3, "minor-faults")                                                                  \
        BALLOON_STAT(FREE, 4, "free")                                                                                  \
        BALLOON_STAT(TOTAL, 5, "total")                                                                                \
        BALLOON_STAT(AVAILABLE, 6, "available")                                                                        \
        BALLOON_STAT(DISK_CACHES, 7, "disk-caches")                                                                    \
        BALLOON_STAT(HUGETLB_ALLOCATIONS, 8, "hugetlb-allocations")                                                    \
        BALLOON_STAT(HUGETLB_FAILURES, 9, "hugetlb-failures")

enum balloon_stat {
#define BALLOON_STAT(id, tag, name) BALLOON_STAT_##id = tag,
        BALLOON_STATS_TABLE
#undef BALLOON_STAT
        BALLOON_STATS,
};

struct balloon_info {
        u64 target, actual; /* bytes: what the host wants the balloon to be, and what the guest says it is */
        u32 stats_known;    /* bit n: stats[n] came with the latest report */
        u64 stats[BALLOON_STATS];
};

/* @ret stays borrowed. */
int virtio_balloon_new(struct device_env *env, struct pci_bus *bus, struct virtio_balloon **ret, struct err **err);

/* All with the device lock held. */

/* Sets the size; rounded down to pages, at most the guest's RAM. */
void virtio_balloon_set_target(struct virtio_balloon *balloon, u64 bytes);
void virtio_balloon_info(const struct virtio_balloon *balloon, struct balloon_info *ret);
/* Asks the guest for fresh statistics; @fn is called when they are there, which may be never. False: it has no way to tell. */
bool virtio_balloon_ask(struct virtio_balloon *balloon, void (*fn)(void *opaque), void *opaque);
