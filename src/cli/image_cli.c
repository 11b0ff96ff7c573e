#include "image_cli.h"

#include <stdio.h>

int image_cli_open(const char *root, struct image_store **ret, struct err **err)
{
        const struct image_store_options options = { .root = root };
        int r = image_enter_user_namespace(err);

        return r < 0 ? r : image_store_open(&options, ret, err);
}

struct image_size image_size_text(u64 bytes)
{
        static const char *const units[] = { "B", "kB", "MB", "GB", "TB", "PB", "EB" };
        double value = (double)bytes;
        struct image_size size;
        unsigned unit = 0;

        while (value >= 1000 && unit + 1 < ARRAY_SIZE(units)) {
                value /= 1000;
                unit++;
        }
        snprintf(size.text, sizeof(size.text),
                value < 10 && unit > 0    ? "%.2f %s"
                : value < 100 && unit > 0 ? "%.1f %s"
                                          : "%.0f %s",
                value, units[unit]);
        return size;
}
