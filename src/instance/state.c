/* What an instance is doing, from facts: whether a supervisor holds the lock on FILE_LOCK, what it wrote into FILE_STATE during
 * this boot, and whether the groups are frozen. A state that says "running" without a supervisor means that it was killed:
 * then the container is killed too and everything is taken away, by whoever sees it first.
 *
 *      FILE_STATE says      lock held                      lock free
 *      nothing, created     being started                  created
 *      starting, running,   what it says                   recovered: exited
 *      exiting, restarting
 *      exited               at its end                     exited */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#include "base/clock.h"
#include "base/log.h"
#include "ops.h"

/* --- locks ------------------------------------------------------------------------------------------------------ */

int instance_lock(const struct instance *inst, bool wait, int *ret, struct err **err)
{
        /* A description of its own: the lock belongs to it. */
        _cleanup_close_ int fd = openat(inst->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "the instance %.12s was removed", inst->id);
        while (flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB) < 0) {
                if (errno == EWOULDBLOCK)
                        return -EAGAIN;
                if (errno != EINTR)
                        return err_sys(err, errno, "locking the instance %.12s", inst->id);
        }
        *ret = TAKE_FD(fd);
        return 0;
}

bool supervisor_alive(const struct instance *inst)
{
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        _cleanup_close_ int fd = openat(inst->dir, FILE_LOCK, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

        return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

void supervisor_wait_gone(const struct instance *inst)
{
        struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
        _cleanup_close_ int fd = openat(inst->dir, FILE_LOCK, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

        while (fd >= 0 && fcntl(fd, F_OFD_SETLKW, &lock) < 0 && errno == EINTR)
                ;
}

int supervisor_lock(const struct instance *inst, int *ret, struct err **err)
{
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        _cleanup_close_ int fd = openat(inst->dir, FILE_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
                return err_sys(err, errno, "opening the supervisor's lock");
        if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
                return err_set(err, ERR_BUSY, EBUSY, "it is running");
        *ret = TAKE_FD(fd);
        return 0;
}

/* --- records ---------------------------------------------------------------------------------------------------- */

int record_load(const struct instance *inst, const char *file, struct record *ret)
{
        _cleanup_close_ int fd = openat(inst->dir, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        const ssize_t n = fd < 0 ? -1 : io_read_full(fd, ret->text, sizeof(ret->text) - 1);

        ret->text[MAX(n, 0)] = '\0';
        return n < 0 ? -ENOENT : 0;
}

int record_store(const struct instance *inst, const char *file, const struct record *record, struct err **err)
{
        char tmp[64];

        snprintf(tmp, sizeof(tmp), "%.32s.%d", file, (int)getpid());
        return file_replace(inst->dir, tmp, file, record->text, record_len(record), false, err);
}

bool state_is_of_another_boot(const struct instance *inst)
{
        struct record record;
        char boot[64] = "";

        record_load(inst, FILE_STATE, &record);
        return record_get(&record, "boot", boot, sizeof(boot)) && strcmp(boot, inst->host->boot_id) != 0;
}

int state_begin(const struct instance *inst, struct err **err)
{
        struct record old, record = { "" };

        record_load(inst, FILE_STATE, &old);
        record_put(&record, "status", "starting");
        record_put(&record, "boot", inst->host->boot_id);
        record_put_number(&record, "started", record_number(&old, "started", 0));
        record_put_number(&record, "finished", record_number(&old, "finished", 0));
        return record_store(inst, FILE_STATE, &record, err);
}

/* --- the truth -------------------------------------------------------------------------------------------------- */

static const struct {
        const char *name;
        enum instance_status status;
} statuses[] = {
        { "starting", INSTANCE_CREATED },
        { "running", INSTANCE_RUNNING },
        { "exiting", INSTANCE_EXITED },
        { "restarting", INSTANCE_RESTARTING },
        { "exited", INSTANCE_EXITED },
};

static const char *const status_names[] = {
        [INSTANCE_CREATED] = "created",
        [INSTANCE_RUNNING] = "running",
        [INSTANCE_PAUSED] = "paused",
        [INSTANCE_RESTARTING] = "restarting",
        [INSTANCE_REMOVING] = "removing",
        [INSTANCE_EXITED] = "exited",
        [INSTANCE_DEAD] = "dead",
};

const char *instance_status_name(enum instance_status status)
{
        return status_names[status];
}

static enum instance_status status_of(const struct record *record)
{
        char text[24] = "";

        record_get(record, "status", text, sizeof(text));
        for (size_t i = 0; i < ARRAY_SIZE(statuses); i++)
                if (strcmp(statuses[i].name, text) == 0)
                        return statuses[i].status;
        return INSTANCE_CREATED;
}

static bool says(const struct record *record, const char *key, const char *value)
{
        char text[64] = "";

        return record_get(record, key, text, sizeof(text)) && strcmp(text, value) == 0;
}

bool supervisor_is_ending(const struct instance *inst)
{
        struct record record;

        record_load(inst, FILE_STATE, &record);
        return (says(&record, "status", "exiting") || says(&record, "status", "exited")) && supervisor_alive(inst);
}

/* Whether somebody who does not live any more left something. */
static bool is_unfinished(const struct record *record)
{
        return record->text[0] && !says(record, "status", "exited");
}

/* Under the lock of the instance, with no supervisor. */
int state_recover(struct instance *inst, struct err **err)
{
        struct record old, record = { "" };
        s64 finished;
        int r;

        record_load(inst, FILE_STATE, &old);
        if (supervisor_alive(inst) || !is_unfinished(&old))
                return 0;
        r = launch_clean(inst, err);
        if (r < 0)
                return r;
        finished = record_number(&old, "finished", 0);
        if (!says(&old, "status", "exiting")) {
                struct timespec now;

                clock_gettime(CLOCK_REALTIME, &now);
                finished = (s64)now.tv_sec * (s64)NSEC_PER_SEC + now.tv_nsec;
        }
        record_put(&record, "status", "exited");
        record_put(&record, "boot", inst->host->boot_id);
        record_put_number(&record, "exit", says(&old, "status", "exiting") ? record_number(&old, "exit", 137) : 137);
        record_put_number(&record, "started", record_number(&old, "started", 0));
        record_put_number(&record, "finished", finished);
        record_put_number(&record, "restarts", record_number(&old, "restarts", 0));
        record_put_number(&record, "stopped", record_number(&old, "stopped", 0));
        record_put_number(&record, "lost", 1);
        r = record_store(inst, FILE_STATE, &record, err);
        if (r == 0 && !says(&old, "status", "exiting"))
                event_write(inst->host, "die", inst, 137, "the supervisor was killed");
        return r;
}

static const char *read_error(struct instance *inst)
{
        _cleanup_free_ char *text = NULL;
        const char *copy;

        if (io_read_file(inst->dir, FILE_ERROR, 65536, &text, NULL, NULL) < 0)
                return "";
        copy = arena_strdup(&inst->state_arena, text);
        return copy ? copy : "";
}

static const char *health_text(struct instance *inst, const struct record *record)
{
        char text[16] = "";
        const char *copy;

        record_get(record, "health", text, sizeof(text));
        copy = arena_strdup(&inst->state_arena, text);
        return copy ? copy : "";
}

int instance_get_state(struct instance *inst, const struct instance_state **ret, struct err **err)
{
        _cleanup_close_ int lock = -1;
        struct instance_state *s = &inst->state;
        struct record record;
        bool alive = supervisor_alive(inst);
        int r;

        record_load(inst, FILE_STATE, &record);
        if (!alive && is_unfinished(&record)) {
                /* Somebody else's lock: he is at it. */
                r = instance_lock(inst, false, &lock, NULL);
                if (r == 0) {
                        r = state_recover(inst, err);
                        if (r < 0)
                                return r;
                }
                record_load(inst, FILE_STATE, &record);
                alive = supervisor_alive(inst);
        }
        arena_release(&inst->state_arena);
        *s = (struct instance_state){ .status = status_of(&record),
                .pid = alive ? (pid_t)record_number(&record, "pid", 0) : 0,
                .exit_code = (int)record_number(&record, "exit", 0),
                .oom_killed = record_number(&record, "oom", 0),
                .error = read_error(inst),
                .started_ns = record_number(&record, "started", 0),
                .finished_ns = record_number(&record, "finished", 0),
                .restarts = (unsigned)record_number(&record, "restarts", 0),
                .stopped = record_number(&record, "stopped", 0),
                .health = alive ? health_text(inst, &record) : "",
                .health_failing = (unsigned)record_number(&record, "health_failing", 0) };
        if (s->status == INSTANCE_EXITED && s->started_ns == 0)
                s->status = INSTANCE_CREATED; /* it never ran */
        if (s->status == INSTANCE_CREATED && s->restarts > 0)
                s->status = INSTANCE_RESTARTING;
        if (s->status == INSTANCE_RUNNING && alive && inst->ops->is_frozen(inst))
                s->status = INSTANCE_PAUSED;
        *ret = s;
        return 0;
}
