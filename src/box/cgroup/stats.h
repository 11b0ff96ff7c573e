/* What a container has used, as runc's `events --stats` object. */
#pragma once

#include "box/cgroup/internal.h"

/* The number behind "@key " in a file of such lines. 0 when the key is not there. */
int cgroup_read_keyed(int dir, const char *file, const char *key, u64 *ret, struct err **err);

int cgroup_v1_stats(const struct hierarchy *h, json_t *stats, struct err **err);
int cgroup_v2_stats(const struct hierarchy *h, json_t *stats, struct err **err);

/* The limits that are written the same way in both versions. */
/* @limit: the last part of the files' names, "limit_in_bytes" or "max". */
int cgroup_apply_hugetlb(
        const struct hierarchy *h, const struct cgroup_resources *res, const char *limit, u64 *done, struct err **err);
int cgroup_apply_rdma(const struct hierarchy *h, const struct cgroup_resources *res, u64 *done, struct err **err);
