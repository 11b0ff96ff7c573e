/* All instances of a host: what killed processes left. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "internal.h"

static int drop_name_of(void *opaque, int dirfd, const char *name, struct err **err)
{
        const struct instance *inst = opaque;

        name_drop(inst->host, name, inst->id);
        return 0;
}

int instance_drop_incomplete(struct instance *inst, struct err **err)
{
        _cleanup_close_ int lock = -1, names = -1;
        int r = instance_lock(inst, false, &lock, NULL);

        if (r < 0 || config_exists(inst->dir) || supervisor_alive(inst))
                return 0;
        r = host_lock(inst->host, false, &names, err);
        if (r == -EAGAIN)
                return 0; /* the next one who comes by; or we ourselves have it */
        if (r == 0)
                r = launch_clean(inst, err);
        if (r == 0) /* its configuration is gone, and said which it was */
                r = io_list_dir(inst->host->fd, DIR_NAMES, drop_name_of, inst, err);
        return r < 0 ? r : instance_destroy(inst, true, err);
}

/* It ran when the host, or its supervisor, was killed: what would have come then, by its policy or --rm. */
static int go_on(struct instance *inst, struct err **err)
{
        const struct instance_config *c = &inst->config;
        struct record record;

        record_load(inst, FILE_STATE, &record);
        if (supervisor_alive(inst) || !record_number(&record, "lost", 0))
                return 0;
        if (c->auto_remove)
                return instance_remove(inst, INSTANCE_REMOVE_VOLUMES, err);
        if ((c->restart == INSTANCE_RESTART_ALWAYS || c->restart == INSTANCE_RESTART_UNLESS_STOPPED) &&
                !record_number(&record, "stopped", 0))
                return instance_start(inst, 0, NULL, err);
        return 0;
}

static int recover(void *opaque, struct instance_host *host, const char *id, struct err **err)
{
        _cleanup_(instance_freep) struct instance *inst = NULL;
        _cleanup_(err_freep) struct err *problem = NULL;
        const struct instance_state *state;
        int r = instance_open(host, id, &inst, NULL);

        if (r < 0)
                return 0; /* gone meanwhile */
        if (faccessat(inst->dir, "config.json", F_OK, 0) < 0)
                return instance_drop_incomplete(inst, err);
        r = config_load(inst, NULL);
        if (r < 0)
                return 0;
        r = instance_get_state(inst, &state, err);
        if (r == 0 && go_on(inst, &problem) < 0)
                log_warn("%s", err_message(problem));
        return r;
}

/* Pins of images whose instance is gone, or was never completed. */
static int collect_pin(void *opaque, const char *id, const char *image_digest)
{
        json_array_append_new(opaque, json_string(id));
        return 0;
}

static bool has_directory(struct instance_host *host, const char *id)
{
        char path[sizeof(DIR_INSTANCES) + ID_LEN + 2];

        snprintf(path, sizeof(path), DIR_INSTANCES "/%s", id);
        return faccessat(host->fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int drop_pins(struct instance_host *host, struct err **err)
{
        json_t *ids = json_array();
        int r = image_instance_list(host->images, collect_pin, ids, err);

        for (size_t i = 0; r == 0 && i < json_array_size(ids); i++) {
                const char *id = json_string_value(json_array_get(ids, i));

                if (id_is_valid(id) && !has_directory(host, id))
                        r = image_instance_remove(host->images, id, err);
        }
        json_decref(ids);
        return r;
}

static int drop_name(void *opaque, int dirfd, const char *name, struct err **err)
{
        struct instance_host *host = opaque;
        char id[ID_LEN + 2];
        const ssize_t n = readlinkat(dirfd, name, id, sizeof(id) - 1);

        id[MAX(n, 0)] = '\0';
        if (n >= 0 && !(id_is_valid(id) && has_directory(host, id)))
                unlinkat(dirfd, name, 0);
        return 0;
}

int instance_host_recover(struct instance_host *host, struct err **err)
{
        _cleanup_close_ int lock = -1;
        int r = host_each_id(host, recover, NULL, err);

        if (r == 0)
                r = drop_pins(host, err);
        if (r == 0)
                r = host_lock(host, true, &lock, err);
        return r < 0 ? r : io_list_dir(host->fd, DIR_NAMES, drop_name, host, err);
}
