/* config.json: whatever the bytes are, it is refused with a message or gives a spec that keeps its promises. */
#include <stdlib.h>
#include <string.h>

#include "box/idmap.h"
#include "box/mount_options.h"
#include "box/spec/names.h"
#include "box/spec/spec.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

static void check_strings(const struct spec_strings *s)
{
        for (size_t i = 0; i < s->n; i++)
                if (!s->item[i] || strlen(s->item[i]) > 16 * MIB)
                        abort();
        if (s->item && s->item[s->n])
                abort();
}

static void check_process(const struct spec_process *p)
{
        check_strings(&p->args);
        check_strings(&p->env);
        if (!p->args.n || !p->cwd || p->cwd[0] != '/')
                abort();
}

static void check_id_maps(struct arena *arena, const char *text, const struct spec_linux *base)
{
        struct spec_id_maps uids = { 0 }, gids = { 0 };

        if (idmap_parse_option(arena, text, base, &uids, &gids, NULL) == 0)
                for (size_t i = 0; i < uids.n; i++)
                        idmap_to_host(&uids, uids.item[i].container_id);
}

static void check_lists(const struct spec *spec)
{
        const struct spec_cpu_affinity *affinity = spec->process ? spec->process->cpu_affinity : NULL;
        unsigned long mask[16];

        if (affinity && affinity->initial)
                spec_id_list(affinity->initial, mask, sizeof(mask) * 8);
        if (spec->linux_.memory_policy && spec->linux_.memory_policy->nodes)
                spec_id_list(spec->linux_.memory_policy->nodes, mask, sizeof(mask) * 8);
}

static void check(struct spec *spec)
{
        struct arena arena = { 0 };

        if (spec->process)
                check_process(spec->process);
        if (spec->namespaces_new & spec->namespaces_joined)
                abort();
        for (size_t i = 0; i < spec->mounts.n; i++) {
                struct mount_options options;

                check_strings(&spec->mounts.item[i].options);
                if (mount_options_parse(&arena, &spec->mounts.item[i].options, &options, NULL) < 0)
                        continue;
                if (options.set & options.clear & MOUNT_ATTR_RDONLY)
                        abort();
                if (options.id_maps[0])
                        check_id_maps(&arena, options.id_maps[0], &spec->linux_);
        }
        for (int point = 0; point < HOOK_COUNT; point++)
                for (size_t i = 0; i < spec->hooks[point].n; i++)
                        if (spec->hooks[point].item[i].path[0] != '/')
                                abort();
        check_lists(spec);
        arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        struct err *err = NULL;
        struct spec *spec = NULL;

        if (spec_parse((const char *)data, len, &spec, &err) == 0)
                check(spec);
        else if (spec || !err || !err_message(err)[0])
                abort();
        spec_free(spec);
        spec = NULL;
        err = err_free(err);
        if (spec_parse_process((const char *)data, len, &spec, &err) == 0)
                check_process(spec->process);
        spec_free(spec);
        err_free(err);
        return 0;
}
