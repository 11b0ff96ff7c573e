/* Whole writes. */
#pragma once

#include <errno.h>
#include <sys/types.h>
#include <unistd.h>

#include "types.h"

/* 0, or -errno. */
static inline int io_write_all(int fd, const void *data, size_t len)
{
        for (const char *p = data; len;) {
                const ssize_t n = write(fd, p, len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                p += n;
                len -= (size_t)n;
        }
        return 0;
}

/* The same from @offset on; where the file is read or written next does not change. */
static inline int io_pwrite_all(int fd, const void *data, size_t len, u64 offset)
{
        for (const char *p = data; len;) {
                const ssize_t n = pwrite(fd, p, len, (off_t)offset);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                p += n;
                len -= (size_t)n;
                offset += (u64)n;
        }
        return 0;
}
