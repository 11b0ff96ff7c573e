#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "box/cgroup/internal.h"

#define TEXT_MAX (1 << 20)

int cgroup_write(int dir, const char *file, const char *value, struct err **err)
{
        _cleanup_close_ int fd = openat(dir, file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        ssize_t n;

        if (fd < 0)
                return err_sys(err, errno, "opening '%s'", file);
        /* One write: the kernel takes each as a whole order. */
        do
                n = write(fd, value, strlen(value));
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return err_sys(err, errno, "writing '%s' to '%s'", value, file);
        return 0;
}

int cgroup_write_number(int dir, const char *file, s64 value, struct err **err)
{
        char text[24];

        snprintf(text, sizeof(text), "%lld", (long long)value);
        return cgroup_write(dir, file, text, err);
}

int cgroup_read(int dir, const char *file, char **ret, struct err **err)
{
        _cleanup_close_ int fd = openat(dir, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        _cleanup_free_ char *text = NULL;
        size_t len = 0, cap = 0;
        ssize_t n;

        if (fd < 0)
                return err_sys(err, errno, "opening '%s'", file);
        do {
                if (cap - len < 2048) {
                        char *grown = realloc(text, cap += MAX(cap, 4096));

                        if (!grown)
                                return err_sys(err, ENOMEM, "reading '%s'", file);
                        text = grown;
                }
                n = read(fd, text + len, cap - len - 1);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return err_sys(err, errno, "reading '%s'", file);
                len += (size_t)n;
        } while (n != 0 && len < TEXT_MAX);
        while (len && text[len - 1] == '\n')
                len--;
        text[len] = 0;
        *ret = TAKE_PTR(text);
        return 0;
}

int cgroup_read_number(int dir, const char *file, u64 *ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        int r = cgroup_read(dir, file, &text, err);
        char *end;

        if (r < 0)
                return r;
        if (strcmp(text, "max") == 0 || strcmp(text, "-1") == 0) {
                *ret = UINT64_MAX;
                return 0;
        }
        errno = 0;
        *ret = strtoull(text, &end, 10);
        if (errno || end == text)
                return err_set(err, ERR_IO, EIO, "'%s' holds '%.40s', which is no number", file, text);
        return 0;
}

bool cgroup_has(int dir, const char *file)
{
        return faccessat(dir, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

char *cgroup_next_line(char **pos)
{
        char *line = *pos, *end;

        if (!line || !*line)
                return NULL;
        end = strchr(line, '\n');
        if (end)
                *end++ = 0;
        *pos = end;
        return line;
}

int cgroup_write_device(int dir, const char *file, u32 major, u32 minor, u64 value, struct err **err)
{
        char text[64];

        snprintf(text, sizeof(text), "%u:%u %llu", major, minor, (unsigned long long)value);
        return cgroup_write(dir, file, text, err);
}
