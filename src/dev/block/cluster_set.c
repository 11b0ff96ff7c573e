/* A hash set with linear probing. */
#include <errno.h>
#include <stdlib.h>

#include "qcow2.h"

enum { SLOT_EMPTY, SLOT_REMOVED, SLOT_BIAS };

static size_t slot_of(const struct cluster_set *set, u64 cluster)
{
        return (size_t)((cluster * 0x9e3779b97f4a7c15ULL) >> 20) & (set->n_slots - 1);
}

/* The slot that holds @cluster, or the empty one where the search ended. There always is an empty one. */
static size_t find(const struct cluster_set *set, u64 cluster)
{
        size_t i = slot_of(set, cluster);

        while (set->slots[i] != SLOT_EMPTY && set->slots[i] != cluster + SLOT_BIAS)
                i = (i + 1) & (set->n_slots - 1);
        return i;
}

static int rehash(struct cluster_set *set)
{
        struct cluster_set bigger = { 0 };

        bigger.n_slots = 64;
        while (bigger.n_slots < set->n_used * 4)
                bigger.n_slots *= 2;
        bigger.slots = calloc(bigger.n_slots, sizeof(*bigger.slots));
        if (!bigger.slots)
                return -ENOMEM;
        for (size_t i = 0; i < set->n_slots; i++) {
                if (set->slots[i] < SLOT_BIAS)
                        continue;
                bigger.slots[find(&bigger, set->slots[i] - SLOT_BIAS)] = set->slots[i];
                bigger.n_used++;
        }
        free(set->slots);
        *set = bigger;
        return 0;
}

int cluster_set_add(struct cluster_set *set, u64 cluster)
{
        size_t i;
        int r;

        if (cluster_set_has(set, cluster))
                return 0;
        if (set->n_used >= QCOW2_METADATA_CLUSTERS_MAX)
                return -EFBIG;
        if ((set->n_used + set->n_removed + 1) * 2 > set->n_slots) {
                r = rehash(set);
                if (r < 0)
                        return r;
        }
        i = find(set, cluster);
        set->slots[i] = cluster + SLOT_BIAS;
        set->n_used++;
        return 1;
}

void cluster_set_remove(struct cluster_set *set, u64 cluster)
{
        size_t i;

        if (set->n_slots == 0)
                return;
        i = find(set, cluster);
        if (set->slots[i] == SLOT_EMPTY)
                return;
        set->slots[i] = SLOT_REMOVED;
        set->n_used--;
        set->n_removed++;
}

bool cluster_set_has(const struct cluster_set *set, u64 cluster)
{
        return set->n_slots > 0 && set->slots[find(set, cluster)] != SLOT_EMPTY;
}

void cluster_set_free(struct cluster_set *set)
{
        free(set->slots);
        *set = (struct cluster_set){ 0 };
}
