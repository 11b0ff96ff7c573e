/* The directory of snapshots: names, lists, removal. Whole or not there: everything is made and removed under another name. */
#include "snapshot_internal.h"
#include "tree_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define PARTIAL       ".partial"
#define RECORD_MAX    INSTANCE_FILE_MAX
#define RANDOM_DIGITS 8

int snapshot_open_dir(struct instance_host *host, int *ret, struct err **err)
{
        int r = io_make_dir(host->fd, DIR_SNAPSHOTS, 0700, err);

        return r < 0 ? r : io_open_dir(host->fd, DIR_SNAPSHOTS, ret, err);
}

int snapshot_check_name(const char *name, struct err **err)
{
        /* As instances are called: no slash, no dot in front. */
        return strlen(name) > 128 ? err_set(err, ERR_USAGE, EINVAL, "the name of a snapshot has 128 letters at most") : name_check(name, err);
}

int snapshot_record_load(int directory, json_t **ret, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        json_error_t error;
        size_t len;
        int r = io_read_file(directory, SNAPSHOT_RECORD, RECORD_MAX, &text, &len, err);

        if (r < 0)
                return r;
        *ret = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
        if (*ret && json_is_object(*ret))
                return 0;
        json_decref(TAKE_PTR(*ret));
        return err_set(err, ERR_BAD_STATE, EINVAL, "%s is damaged", SNAPSHOT_RECORD);
}

int snapshot_open_one(struct instance_host *host, const char *name, int *ret_directory, json_t **ret_record, struct err **err)
{
        _cleanup_close_ int all = -1, directory = -1;
        int r = snapshot_check_name(name, err);

        if (r == 0)
                r = snapshot_open_dir(host, &all, err);
        if (r < 0)
                return r;
        directory = openat(all, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (directory < 0 && errno == ENOENT)
                return err_hint(err, err_set(err, ERR_NOT_FOUND, ENOENT, "there is no snapshot '%s'", name), "strata snapshot ls lists them");
        if (directory < 0)
                return err_sys(err, errno, "opening the snapshot '%s'", name);
        r = snapshot_record_load(directory, ret_record, err);
        if (r < 0)
                return err_wrap(err, r, "the snapshot '%s'", name);
        *ret_directory = TAKE_FD(directory);
        return 0;
}

/* --- drafts ------------------------------------------------------------------------------------------------------- */

/* The pin of its layer, and the directory. */
static int remove_draft(struct instance_host *host, int all, const char *partial, int directory, struct err **err)
{
        json_t *record = NULL;
        const char *pin;
        int r = 0;

        if (snapshot_record_load(directory, &record, NULL) == 0) {
                pin = json_string_value(json_object_get(record, "pin"));
                r = pin ? image_instance_remove(host->images, pin, err) : 0;
                json_decref(record);
        }
        return r < 0 ? r : io_remove_tree(all, partial, err);
}

struct sweep {
        struct instance_host *host;
        int all;
};

static int sweep_one(void *opaque, int dirfd, const char *name, struct err **err)
{
        const struct sweep *sweep = opaque;
        const size_t len = strlen(name), end = strlen(PARTIAL);
        _cleanup_close_ int directory = -1;

        (void)dirfd;
        (void)err;
        if (name[0] != '.' || len <= end || strcmp(name + len - end, PARTIAL) != 0)
                return 0;
        directory = openat(sweep->all, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (directory >= 0 && flock(directory, LOCK_EX | LOCK_NB) == 0)
                remove_draft(sweep->host, sweep->all, name, directory, NULL);
        return 0;
}

static int partial_name(const char *name, char ret[NAME_MAX + 1], struct err **err)
{
        char random[RANDOM_DIGITS + 1];
        int r = random_hex(random, RANDOM_DIGITS, err);

        if (r == 0)
                snprintf(ret, NAME_MAX + 1, ".%.128s.%s" PARTIAL, name, random);
        return r;
}

int snapshot_draft_new(struct instance_host *host, const char *name, struct snapshot_draft *ret, struct err **err)
{
        struct snapshot_draft draft = SNAPSHOT_DRAFT_NONE;
        struct sweep sweep = { .host = host };
        struct stat st = { 0 };
        int r = snapshot_check_name(name, err);

        draft.host = host;
        if (r == 0)
                r = snapshot_open_dir(host, &draft.all, err);
        if (r < 0)
                return r;
        sweep.all = draft.all;
        io_list_dir(draft.all, ".", sweep_one, &sweep, NULL);
        /* Somebody who sweeps may come between making and locking it. */
        do {
                closep(&draft.directory);
                draft.directory = -1;
                r = partial_name(name, draft.partial, err);
                if (r == 0)
                        r = io_make_dir(draft.all, draft.partial, 0700, err);
                if (r == 0 && (draft.directory = openat(draft.all, draft.partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)) >= 0 &&
                    (flock(draft.directory, LOCK_EX) < 0 || fstat(draft.directory, &st) < 0))
                        r = err_sys(err, errno, "making a snapshot");
        } while (r == 0 && st.st_nlink == 0);
        if (r < 0) {
                snapshot_draft_release(&draft);
                return r;
        }
        *ret = draft;
        return 0;
}

int snapshot_draft_commit(struct snapshot_draft *draft, const char *name, struct err **err)
{
        bool replaced = false;

        /* Before there is a name for it everything is on the disk. */
        if (fsync(draft->directory) < 0)
                return err_sys(err, errno, "writing the snapshot '%s'", name);
        if (renameat2(draft->all, draft->partial, draft->all, name, RENAME_NOREPLACE) < 0) {
                if (errno != EEXIST || renameat2(draft->all, draft->partial, draft->all, name, RENAME_EXCHANGE) < 0)
                        return err_sys(err, errno, "giving the snapshot '%s' its name", name);
                replaced = true;
        }
        fsync(draft->all);
        if (replaced) {
                _cleanup_close_ int old = openat(draft->all, draft->partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

                /* If not now, then when the next one is made. */
                if (old >= 0)
                        remove_draft(draft->host, draft->all, draft->partial, old, NULL);
        }
        draft->partial[0] = '\0';
        return 0;
}

void snapshot_draft_release(struct snapshot_draft *draft)
{
        if (draft->partial[0] && draft->directory >= 0)
                remove_draft(draft->host, draft->all, draft->partial, draft->directory, NULL);
        closep(&draft->directory);
        closep(&draft->all);
        draft->directory = draft->all = -1;
}

int instance_snapshot_remove(struct instance_host *host, const char *name, struct err **err)
{
        _cleanup_close_ int all = -1, directory = -1;
        char partial[NAME_MAX + 1];
        json_t *record = NULL;
        int r = snapshot_open_one(host, name, &directory, &record, err);

        json_decref(record);
        if (r == 0)
                r = snapshot_open_dir(host, &all, err);
        if (r == 0)
                r = partial_name(name, partial, err);
        if (r < 0)
                return r;
        if (flock(directory, LOCK_EX | LOCK_NB) < 0 || renameat(all, name, all, partial) < 0)
                return err_sys(err, errno, "removing the snapshot '%s'", name);
        return remove_draft(host, all, partial, directory, err);
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

static int collect_name(void *opaque, int dirfd, const char *name, struct err **err)
{
        (void)dirfd;
        if (name[0] != '.' && json_object_set_new(opaque, name, json_null()) < 0)
                return err_sys(err, ENOMEM, "listing snapshots");
        return 0;
}

static u64 bytes_of(int directory)
{
        char path[40];

        snprintf(path, sizeof(path), "/proc/self/fd/%d/" SNAPSHOT_MACHINE, directory);
        return tree_size(path);
}

static int by_name(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

static const char *text_of(const json_t *record, const char *key)
{
        const char *text = json_string_value(json_object_get(record, key));

        return text ? text : "";
}

static int tell(struct instance_host *host, const char *name, int (*fn)(void *opaque, const struct instance_snapshot *snapshot), void *opaque)
{
        _cleanup_close_ int directory = -1;
        struct instance_snapshot snapshot;
        json_t *record = NULL;
        int r;

        if (snapshot_open_one(host, name, &directory, &record, NULL) < 0)
                return 0; /* gone meanwhile, or not one of ours */
        snapshot = (struct instance_snapshot){ .name = name,
                .instance = text_of(record, "instance"),
                .image = text_of(json_object_get(record, "config"), "image"),
                .created = text_of(record, "created"),
                .memory = (u64)json_integer_value(json_object_get(record, "memory")),
                .layers = (unsigned)json_integer_value(json_object_get(record, "layers")),
                .bytes = bytes_of(directory) };
        r = fn(opaque, &snapshot);
        json_decref(record);
        return r;
}

int instance_snapshot_list(struct instance_host *host, int (*fn)(void *opaque, const struct instance_snapshot *snapshot), void *opaque, struct err **err)
{
        _cleanup_free_ const char **names = NULL;
        json_t *all = json_object(), *value;
        const char *name;
        size_t n = 0;
        int r = all ? io_list_dir(host->fd, DIR_SNAPSHOTS, collect_name, all, err) : err_sys(err, ENOMEM, "listing snapshots");

        if (r == 0) {
                names = calloc(json_object_size(all) + 1, sizeof(*names));
                r = names ? 0 : err_sys(err, ENOMEM, "listing snapshots");
        }
        if (r == 0)
                json_object_foreach (all, name, value)
                        names[n++] = name;
        if (n)
                qsort(names, n, sizeof(*names), by_name);
        for (size_t i = 0; r == 0 && i < n; i++)
                r = tell(host, names[i], fn, opaque);
        json_decref(all);
        return r;
}

int instance_snapshot_inspect(struct instance_host *host, const char *name, json_t **ret, struct err **err)
{
        _cleanup_close_ int directory = -1;
        json_t *record = NULL;
        int r = snapshot_open_one(host, name, &directory, &record, err);

        if (r < 0)
                return r;
        json_object_set_new(record, "name", json_string(name));
        json_object_set_new(record, "bytes", json_integer((json_int_t)bytes_of(directory)));
        *ret = record;
        return 0;
}
