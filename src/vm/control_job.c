#include "control_job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "internal.h"

#define JOB_STACK (256 * KIB)

struct control_job {
        struct vm *vm;
        void (*done)(void *opaque);
        void *opaque;
        pthread_t thread;
        bool busy;
        bool paused; /* by a request; the thread's */
        enum control_job_kind kind;
        char *path; /* NULL: into files */
        int files[CONTROL_FILES_MAX];
        unsigned n_files;
        int layers[SNAPSHOT_LAYERS_MAX];
        unsigned n_layers;
        int result;
        struct err *error;
};

static void close_all(int *fds, unsigned *n)
{
        while (*n)
                close(fds[--*n]);
}

/* ---- on the job's thread ---- */

static int run_pause(struct control_job *job, struct err **err)
{
        (void)err;
        if (!job->paused)
                vm_pause(job->vm);
        job->paused = true;
        return 0;
}

static int run_resume(struct control_job *job, struct err **err)
{
        if (!job->paused)
                return err_set(err, ERR_USAGE, EINVAL, "the machine is not paused");
        vm_resume(job->vm);
        job->paused = false;
        return 0;
}

/* The layers below are asked for before, as a snapshot becomes one itself. */
static int copy_layers(struct control_job *job, struct err **err)
{
        const int *fds;
        const unsigned n = vm_snapshot_layers(job->vm, &fds);

        for (unsigned i = 0; i < n; i++) {
                const int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);

                if (fd < 0)
                        return err_sys(err, errno, "handing out the files of the snapshot before this one");
                job->layers[job->n_layers++] = fd;
        }
        return 0;
}

static int run_snapshot(struct control_job *job, struct err **err)
{
        const bool diff = job->kind == CONTROL_SNAPSHOT_DIFF;
        const struct vm_snapshot_fds files = { job->files[0], job->files[1], job->n_files > 2 ? job->files[2] : -1 };
        int r;

        if (job->path)
                return vm_snapshot_to(job->vm, job->path, diff, err);
        r = diff ? copy_layers(job, err) : 0;
        return r < 0 ? r : vm_snapshot(job->vm, &files, diff, err);
}

static int (*const kinds[])(struct control_job *job, struct err **err) = {
        [CONTROL_PAUSE] = run_pause,
        [CONTROL_RESUME] = run_resume,
        [CONTROL_SNAPSHOT] = run_snapshot,
        [CONTROL_SNAPSHOT_DIFF] = run_snapshot,
};

static void *job_main(void *arg)
{
        struct control_job *job = arg;

        job->result = kinds[job->kind](job, &job->error);
        loop_post(job->vm->loop, job->done, job->opaque);
        return NULL;
}

/* ---- on the io thread ---- */

struct control_job *control_job_new(struct vm *vm, void (*done)(void *opaque), void *opaque)
{
        struct control_job *job = calloc(1, sizeof(*job));

        if (job)
                *job = (struct control_job){ .vm = vm, .done = done, .opaque = opaque };
        return job;
}

static void forget(struct control_job *job)
{
        close_all(job->files, &job->n_files);
        close_all(job->layers, &job->n_layers);
        free(TAKE_PTR(job->path));
        job->error = err_free(job->error);
}

struct control_job *control_job_free(struct control_job *job)
{
        if (!job)
                return NULL;
        if (job->busy)
                pthread_join(job->thread, NULL);
        forget(job);
        free(job);
        return NULL;
}

static int check_request(const struct control_job_request *request, struct err **err)
{
        const bool into_files = request->path && strcmp(request->path, "-") == 0;

        if (request->path && !*request->path)
                return err_set(err, ERR_USAGE, EINVAL, "a snapshot needs the name of a directory");
        if (into_files ? request->n_files < 2 : request->n_files > 0)
                return err_set(err, ERR_USAGE, EINVAL, into_files ? "two files must come with the line, or three" : "no files are wanted");
        return 0;
}

int control_job_start(struct control_job *job, const struct control_job_request *request, struct err **err)
{
        pthread_attr_t attr;
        int r = job->busy ? err_set(err, ERR_BUSY, EBUSY, "another request is not done yet") : check_request(request, err);

        if (r < 0)
                return r;
        forget(job);
        job->kind = request->kind;
        if (request->path && !request->n_files) {
                job->path = strdup(request->path);
                if (!job->path)
                        return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a request");
        }
        if (request->n_files)
                memcpy(job->files, request->files, request->n_files * sizeof(*job->files));
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, JOB_STACK);
        r = pthread_create(&job->thread, &attr, job_main, job);
        pthread_attr_destroy(&attr);
        if (r)
                return err_sys(err, r, "starting a thread");
        pthread_setname_np(job->thread, "control");
        job->n_files = request->n_files;
        job->busy = true;
        return 0;
}

bool control_job_is_paused(const struct control_job *job)
{
        return job->paused;
}

int control_job_end(struct control_job *job, const int **ret_layers, unsigned *ret_n, struct err **err)
{
        pthread_join(job->thread, NULL);
        job->busy = false;
        if (job->result < 0 && err)
                *err = TAKE_PTR(job->error);
        *ret_layers = job->n_files ? job->layers : NULL;
        *ret_n = job->n_layers;
        return job->result;
}
