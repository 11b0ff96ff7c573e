/* The block in front of every entry (POSIX.1-2017, pax, "ustar Interchange Format"): texts and octal numbers. */
#pragma once

#include "tar.h"

struct header {
        char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
        char magic[6], version[2], user[32], group[32], major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct header) == TAR_BLOCK, "a header is a block");
