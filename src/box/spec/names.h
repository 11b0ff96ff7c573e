/* Tables of names in config.json and the kernel's numbers for them. */
#pragma once

#include "base/types.h"

struct name {
        const char *text;
        s64 value;
};

/* Ends with a NULL text. Returns NULL when there is none of that name. */
const struct name *name_find(const struct name *table, const char *text);

extern const struct name spec_capability_names[];
extern const struct name spec_rlimit_names[];
extern const struct name spec_namespace_names[];
extern const struct name spec_sched_policies[];
extern const struct name spec_sched_flags[];
extern const struct name spec_io_classes[];
extern const struct name spec_personalities[];
extern const struct name spec_mempolicy_modes[];
extern const struct name spec_mempolicy_flags[];
extern const struct name spec_propagations[]; /* MS_* */

/* "0-3,7" as bits of @mask, which has room for @bits. -EINVAL: no such list, or beyond the room. */
int spec_id_list(const char *text, unsigned long *mask, size_t bits);
