#include "mount_options.h"

#include <errno.h>
#include <string.h>

#include "spec/names.h"

enum option_kind { OPTION_ATTR, OPTION_FLAG };

static const struct option {
        const char *name;
        enum option_kind kind;
        u64 set, clear;
} options[] = {
#define MOUNT_ATTR_OPTION(name, set, clear) { name, OPTION_ATTR, set, clear },
#define MOUNT_FLAG_OPTION(name, flag)       { name, OPTION_FLAG, flag, 0 },
#include "mount_options.def"
#undef MOUNT_ATTR_OPTION
#undef MOUNT_FLAG_OPTION
};

static const struct option *find(const char *name)
{
        for (size_t i = 0; i < ARRAY_SIZE(options); i++)
                if (strcmp(options[i].name, name) == 0)
                        return &options[i];
        return NULL;
}

const char *mount_options_known(size_t i)
{
        return i < ARRAY_SIZE(options) ? options[i].name : NULL;
}

static void set_attr(u64 *set, u64 *clear, const struct option *option)
{
        /* The last one that says something about a bit counts. */
        *set = (*set & ~(option->clear | option->set)) | option->set;
        *clear = (*clear & ~option->set) | option->clear;
}

int mount_options_parse(
        struct arena *arena, const struct spec_strings *list, struct mount_options *ret, struct err **err)
{
        struct mount_options o = { 0 };
        const char **data = arena_new(arena, const char *, list->n + 1);

        if (!data)
                return err_sys(err, ENOMEM, "reading mount options");
        o.data.item = data;
        for (size_t i = 0; i < list->n; i++) {
                const char *text = list->item[i];
                const struct option *option = find(text);
                const struct name *propagation = name_find(spec_propagations, text);

                if (option && option->kind == OPTION_FLAG) {
                        o.flags |= (unsigned)option->set;
                } else if (option) {
                        set_attr(&o.set, &o.clear, option);
                } else if (propagation) {
                        o.propagation = (unsigned long)propagation->value;
                } else if (text[0] == 'r' && (option = find(text + 1)) && option->kind == OPTION_ATTR) {
                        set_attr(&o.all_set, &o.all_clear, option);
                } else if (strncmp(text, "idmap=", 6) == 0 || strncmp(text, "ridmap=", 7) == 0) {
                        o.flags |= MOUNT_IDMAP | (text[0] == 'r' ? MOUNT_IDMAP_RECURSIVE : 0);
                        o.id_maps[0] = strchr(text, '=') + 1;
                } else if (text[0]) {
                        data[o.data.n++] = text;
                }
        }
        *ret = o;
        return 0;
}
