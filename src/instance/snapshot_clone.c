/* Instances that begin as a snapshot: made as any other, of the image with the snapshot's layer, with a file that says where the first start finds the
 * machine's memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "ops.h"
#include "snapshot_internal.h"
#include "working_set.h"

/* What would be taken already, or said who it was. */
static void forget_identity(struct instance_config *c)
{
        c->hostname = NULL;
        for (size_t i = 0; i < c->networks.n; i++)
                c->networks.item[i].ip = c->networks.item[i].ip6 = c->networks.item[i].mac = NULL;
        for (size_t i = 0; i < c->ports.n; i++)
                c->ports.item[i].host_port = c->ports.item[i].host_port_last = 0;
}

/* The guest's mounts are as they were; what is behind them may be another directory. */
static int replace_mounts(struct instance_config *c, const struct instance_clone *clone, struct err **err)
{
        for (size_t i = 0; i < clone->n_mounts; i++) {
                const struct instance_mount *given = &clone->mounts[i];
                struct instance_mount *m = NULL;

                for (size_t k = 0; k < c->mounts.n && !m; k++)
                        if (strcmp(c->mounts.item[k].target, given->target) == 0)
                                m = &c->mounts.item[k];
                if (!m)
                        return err_hint(err,
                                err_set(err, ERR_USAGE, EINVAL,
                                        "the machine that was saved has nothing mounted at '%s'", given->target),
                                "what is behind one of its mounts can be changed, none can be added");
                if (strcmp(m->type, "tmpfs") == 0 || strcmp(given->type, "tmpfs") == 0)
                        return err_set(err, ERR_USAGE, EINVAL,
                                "'%s': a tmpfs is the machine's own memory, and goes on as it was saved",
                                given->target);
                *m = *given;
        }
        return 0;
}

static int read_config(struct arena *arena, const json_t *record, const struct instance_clone *clone, struct instance_config *ret, struct err **err)
{
        int r = config_read(arena, json_object_get(record, "config"), ret, err);

        if (r < 0)
                return r;
        if (!clone->same)
                forget_identity(ret);
        else if (!ret->hostname || !ret->hostname[0]) /* then it was its id, which cannot come back */
                ret->hostname = arena_printf(arena, "%.12s", json_string_value(json_object_get(record, "instanceId")) ?: "");
        if (clone->name || !clone->same)
                ret->name = clone->name;
        ret->auto_remove = clone->auto_remove;
        ret->volumes_from.n = 0; /* its mounts are among the others already */
        return replace_mounts(ret, clone, err);
}

static int write_restore(struct instance *inst, const char *snapshot, bool same, struct err **err)
{
        json_t *json = json_pack("{s:o, s:b}", "path",
                json_sprintf("%s/" DIR_SNAPSHOTS "/%s/" SNAPSHOT_MACHINE, inst->host->root, snapshot), "same", (int)same);
        int r = json ? json_save(inst, FILE_RESTORE, json, !inst->sync_later, err) : err_sys(err, ENOMEM, "making a clone");

        json_decref(json);
        return r;
}

static int create(struct instance_host *host, const char *snapshot, const struct instance_clone *clone, struct instance **ret, struct err **err)
{
        _cleanup_(arena_release) struct arena arena = { 0 };
        _cleanup_(image_freep) struct image *image = NULL;
        _cleanup_close_ int directory = -1;
        struct instance_config config;
        const char *pin;
        json_t *record = NULL;
        int r = snapshot_open_one(host, snapshot, &directory, &record, err);

        if (r < 0)
                return r;
        working_set_prefetch(directory);
        pin = json_string_value(json_object_get(record, "pin"));
        r = pin ? image_instance_image(host->images, pin, &image, err) : err_set(err, ERR_BAD_STATE, EINVAL, "%s is damaged", SNAPSHOT_RECORD);
        if (r == 0)
                r = read_config(&arena, record, clone, &config, err);
        if (r == 0)
                r = instance_create_to_start(host, image, &config, ret, err);
        json_decref(record);
        return r < 0 ? err_wrap(err, r, "the snapshot '%s'", snapshot) : 0;
}

int instance_clone(struct instance_host *host, const char *snapshot, const struct instance_clone *clone, struct instance **ret, struct err **err)
{
        _cleanup_(instance_freep) struct instance *inst = NULL;
        int r = create(host, snapshot, clone, &inst, err);

        if (r < 0)
                return r;
        r = write_restore(inst, snapshot, clone->same, err);
        if (r == 0)
                r = instance_start(inst, 0, NULL, err);
        if (r < 0) {
                instance_remove(inst, INSTANCE_REMOVE_FORCE, NULL);
                return r;
        }
        *ret = TAKE_PTR(inst);
        return 0;
}
