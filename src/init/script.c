#include "init/script.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#define FRAME_SPACE (INIT_FRAME_HEADER + (size_t)INIT_FRAME_MAX)
/* More than any machine is told; a script is held in memory. */
#define SCRIPT_MAX (16U * 1024 * 1024)
#define SHM_DEFAULT (64 * MIB)

static const char *or_empty(const char *text)
{
        return text ? text : "";
}

/* ---- frames behind one another ---- */

static bool begin(struct init_script *script, struct init_frame *frame, enum init_type type, u32 id)
{
        if (script->failed)
                return false;
        if (script->len + FRAME_SPACE > script->cap) {
                const size_t cap = script->cap * 2 + FRAME_SPACE;
                u8 *data = script->len < SCRIPT_MAX ? realloc(script->data, cap) : NULL;

                if (!data) {
                        script->failed = script->len < SCRIPT_MAX ? -ENOMEM : -E2BIG;
                        return false;
                }
                script->data = data;
                script->cap = cap;
        }
        init_frame_begin(frame, script->data + script->len, FRAME_SPACE, type, id);
        return true;
}

/* One that is answered by DONE or FAILED. */
static bool begin_request(struct init_script *script, struct init_frame *frame, enum init_type type)
{
        script->last_id = MAX(script->last_id, INIT_ID_MAIN) + 1;
        return begin(script, frame, type, script->last_id);
}

static void end(struct init_script *script, struct init_frame *frame)
{
        size_t size;

        if (init_frame_end(frame, &size) < 0)
                script->failed = -E2BIG;
        else
                script->len += size;
}

void init_script_system(struct init_script *script, const char *host_name, u64 unix_ns, const void *random, size_t n_random)
{
        struct init_frame frame;

        if (!begin_request(script, &frame, INIT_SYSTEM))
                return;
        init_put_text(&frame, or_empty(host_name));
        init_put_u64(&frame, unix_ns);
        init_put_bytes(&frame, random, n_random);
        end(script, &frame);
}

void init_script_mount(struct init_script *script, const char *source, const char *target, const char *type, u32 flags, const char *options)
{
        struct init_frame frame;

        if (!begin_request(script, &frame, INIT_MOUNT))
                return;
        init_put_text(&frame, or_empty(source));
        init_put_text(&frame, target);
        init_put_text(&frame, or_empty(type));
        init_put_u32(&frame, flags);
        init_put_text(&frame, or_empty(options));
        end(script, &frame);
}

void init_script_root(struct init_script *script, const char *target)
{
        struct init_frame frame;

        if (!begin_request(script, &frame, INIT_ROOT))
                return;
        init_put_text(&frame, target);
        end(script, &frame);
}

void init_script_file(struct init_script *script, const char *path, u32 mode, const void *data, size_t n)
{
        struct init_frame frame;

        if (!begin_request(script, &frame, INIT_FILE))
                return;
        init_put_text(&frame, path);
        init_put_u32(&frame, mode);
        init_put_bytes(&frame, data, n);
        end(script, &frame);
}

static void two_texts(struct init_script *script, enum init_type type, const char *first, const char *second)
{
        struct init_frame frame;

        if (!begin_request(script, &frame, type))
                return;
        init_put_text(&frame, first);
        init_put_text(&frame, second);
        end(script, &frame);
}

void init_script_link(struct init_script *script, const char *says, const char *path)
{
        two_texts(script, INIT_LINK, says, path);
}

void init_script_sysctl(struct init_script *script, const char *name, const char *value)
{
        two_texts(script, INIT_SYSCTL, name, value);
}

void init_script_address(struct init_script *script, const struct init_address *address)
{
        struct init_frame frame;

        if (!begin_request(script, &frame, INIT_ADDRESS))
                return;
        init_put_text(&frame, address->interface);
        init_put_text(&frame, or_empty(address->name));
        init_put_text(&frame, or_empty(address->mac));
        init_put_u32(&frame, address->mtu);
        init_put_list(&frame, address->addresses);
        init_put_list(&frame, address->gateways);
        end(script, &frame);
}

void init_script_standard_mounts(struct init_script *script, u64 shm_bytes)
{
        char shm[48];
        const struct {
                const char *source, *target, *type;
                u32 flags;
                const char *options;
        } mounts[] = {
                { "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "" },
                { "sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "" },
                { "devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=755" },
                { "devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5" },
                { "shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, shm },
                { "mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, "" },
                /* The limits of a group that is somebody's root are not his. */
                { "cgroup", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate" },
        };
        static const char *const links[][2] = {
                { "/proc/self/fd", "/dev/fd" },
                { "/proc/self/fd/0", "/dev/stdin" },
                { "/proc/self/fd/1", "/dev/stdout" },
                { "/proc/self/fd/2", "/dev/stderr" },
                { "/proc/kcore", "/dev/core" },
        };

        snprintf(shm, sizeof(shm), "mode=1777,size=%llu", (unsigned long long)(shm_bytes ? shm_bytes : SHM_DEFAULT));
        for (size_t i = 0; i < ARRAY_SIZE(mounts); i++)
                init_script_mount(script, mounts[i].source, mounts[i].target, mounts[i].type, mounts[i].flags, mounts[i].options);
        for (size_t i = 0; i < ARRAY_SIZE(links); i++)
                init_script_link(script, links[i][0], links[i][1]);
}

/* ---- processes ---- */

static void put_process(struct init_frame *frame, const struct init_process *p)
{
        u64 numbers[MAX(INIT_GROUPS_MAX, 3 * INIT_RLIMITS_MAX)];

        init_put_list(frame, p->argv);
        init_put_list(frame, p->env);
        init_put_u32(frame, p->uid);
        init_put_u32(frame, p->gid);
        init_put_u32(frame, p->flags);
        init_put_text(frame, p->cwd ? p->cwd : "/");
        init_put_text(frame, p->label ? p->label : p->argv[0]);
        init_put_u32(frame, p->umask);
        for (size_t i = 0; i < p->n_groups; i++)
                numbers[i] = p->groups[i];
        init_put_numbers(frame, numbers, p->n_groups);
        for (size_t i = 0; i < p->n_rlimits; i++) {
                numbers[3 * i] = p->rlimits[i].resource;
                numbers[3 * i + 1] = p->rlimits[i].soft;
                numbers[3 * i + 2] = p->rlimits[i].hard;
        }
        init_put_numbers(frame, numbers, 3 * p->n_rlimits);
        init_put_u64(frame, p->capabilities);
        init_put_u32(frame, (u32)p->oom_score_adj);
        init_put_u32(frame, p->columns);
        init_put_u32(frame, p->rows);
}

int init_start_frame(void *buffer, u32 id, const struct init_process *process, size_t *ret_size)
{
        struct init_frame frame;

        if (!process->argv || !process->argv[0])
                return -EINVAL;
        if (process->n_groups > INIT_GROUPS_MAX || process->n_rlimits > INIT_RLIMITS_MAX)
                return -E2BIG;
        init_frame_begin(&frame, buffer, FRAME_SPACE, INIT_START, id);
        put_process(&frame, process);
        return init_frame_end(&frame, ret_size) < 0 ? -E2BIG : 0;
}

void init_script_start(struct init_script *script, const struct init_process *process)
{
        struct init_frame space;
        size_t size = 0;
        int r;

        if (!begin(script, &space, INIT_START, INIT_ID_MAIN))
                return;
        r = init_start_frame(space.data, INIT_ID_MAIN, process, &size);
        if (r < 0)
                script->failed = r;
        else
                script->len += size;
}

/* ---- the end ---- */

int init_script_end(struct init_script *script, struct err **err)
{
        switch (script->failed) {
        case 0:
                return 0;
        case -ENOMEM:
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for what the machine is to be told");
        case -EINVAL:
                return err_set(err, ERR_USAGE, EINVAL, "there is no command");
        default:
                return err_set(err, ERR_TOO_LARGE, E2BIG, "arguments, environment or files are more than a machine can be told");
        }
}

void init_script_free(struct init_script *script)
{
        free(script->data);
        *script = (struct init_script){ 0 };
}
