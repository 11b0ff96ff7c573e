/* Taking a snapshot. The order is that in which things can be found again after a kill: the draft (locked by its maker), its record, which says the
 * pin, the pin, the machine; and last the name. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ops.h"
#include "snapshot_internal.h"
#include "vm_snapshot.h"

struct taking {
        struct instance *inst;
        struct snapshot_draft draft;
        json_t *record;
        char pin[32];
};

static int write_record(const struct taking *t, struct err **err)
{
        _cleanup_free_ char *text = json_dumps(t->record, JSON_INDENT(1));

        if (!text)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "a text of the configuration is not UTF-8");
        return file_replace(t->draft.directory, SNAPSHOT_RECORD ".new", SNAPSHOT_RECORD, text, strlen(text), true, err);
}

static int begin_record(struct taking *t, struct err **err)
{
        char random[16 + 1], created[40];
        const time_t now = time(NULL);
        struct tm tm;
        int r = random_hex(random, 16, err);

        if (r < 0)
                return r;
        snprintf(t->pin, sizeof(t->pin), "snapshot-%s", random);
        gmtime_r(&now, &tm);
        strftime(created, sizeof(created), "%Y-%m-%dT%H:%M:%SZ", &tm);
        t->record = json_pack("{s:s, s:s, s:s, s:s, s:I, s:o*}", "instance", t->inst->config.name, "instanceId", t->inst->id, "created", created, "pin",
                t->pin, "memory", (json_int_t)vm_memory_of(&t->inst->config), "config", config_to_json(&t->inst->config));
        if (!t->record || !json_object_get(t->record, "config"))
                return err_sys(err, ENOMEM, "making a snapshot");
        return write_record(t, err);
}

/* The writable layer, at the machine's own moment. An image without a name, that the pin keeps. */
static int keep_layer(void *opaque, struct err **err)
{
        struct taking *t = opaque;
        const struct image_commit_options options = { .comment = "a snapshot's writable layer" };
        struct image_store *images = t->inst->host->images;
        _cleanup_(image_freep) struct image *image = NULL;
        int r = image_instance_commit(images, t->inst->id, &options, &image, err);

        if (r == 0)
                r = image_instance_create(images, image, t->pin, err);
        return r;
}

static int take(struct taking *t, unsigned flags, struct err **err)
{
        _cleanup_free_ char *path = NULL;
        struct vm_snapshot machine = { .diff = flags & INSTANCE_SNAPSHOT_DIFF, .meanwhile = keep_layer, .opaque = t };
        unsigned layers = 0;
        int r = begin_record(t, err);

        if (r < 0)
                return r;
        if (asprintf(&path, "/proc/self/fd/%d/" SNAPSHOT_MACHINE, t->draft.directory) < 0)
                return err_sys(err, ENOMEM, "making a snapshot");
        machine.path = path;
        r = vm_snapshot(t->inst, &machine, &layers, err);
        if (r < 0)
                return r;
        json_object_set_new(t->record, "layers", json_integer(layers));
        return write_record(t, err);
}

static int check_possible(struct instance *inst, struct err **err)
{
        const struct instance_state *state;
        int r;

        if (inst->ops != &vm_ops)
                return err_hint(err,
                        err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "'%s' is a container: only machines (--isolation vm) have snapshots", inst->config.name),
                        "strata commit keeps its files");
        r = instance_get_state(inst, &state, err);
        if (r == 0 && state->status != INSTANCE_RUNNING)
                r = err_set(err, ERR_BUSY, EBUSY, "the instance '%s' %s", inst->config.name,
                        state->status == INSTANCE_PAUSED ? "is paused" : "does not run");
        return r;
}

int instance_snapshot(struct instance *inst, const char *name, unsigned flags, struct err **err)
{
        struct taking t = { .inst = inst, .draft = SNAPSHOT_DRAFT_NONE };
        _cleanup_close_ int lock = -1;
        int r = instance_lock(inst, true, &lock, err);

        if (r == 0)
                r = config_load(inst, err);
        if (r == 0)
                r = check_possible(inst, err);
        if (r == 0)
                r = snapshot_draft_new(inst->host, name, &t.draft, err);
        if (r < 0)
                return r;
        r = take(&t, flags, err);
        if (r == 0)
                r = snapshot_draft_commit(&t.draft, name, err);
        snapshot_draft_release(&t.draft);
        json_decref(t.record);
        if (r == 0)
                event_write(inst->host, "snapshot", inst, 0, name);
        return r;
}
