/* Users as an image names them. */
#pragma once

#include "base/err.h"

/* "user[:group]" by the passwd and group files of the root, which may be hostile. */
struct build_user {
        u32 uid, gid;
        char home[256];
        u32 groups[64];
        size_t n_groups;
};
int build_user_find(int root, const char *text, struct build_user *ret, struct err **err);
