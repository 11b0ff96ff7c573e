/* What the control socket is asked and cannot do at once, because the io thread must not wait for the machine: done by a thread of its own, one at a time.
 *
 * All functions run on the io thread with the device lock held, or when that thread is gone. */
#pragma once

#include "vm.h"

#define CONTROL_FILES_MAX 3U

enum control_job_kind { CONTROL_PAUSE, CONTROL_RESUME, CONTROL_SNAPSHOT, CONTROL_SNAPSHOT_DIFF };

struct control_job_request {
        enum control_job_kind kind;
        const char *path; /* of a snapshot; "-": into @files */
        const int *files; /* a snapshot's state, memory and perhaps translations: taken over on success */
        unsigned n_files;
};

struct control_job;

/* @done is called on the io thread when a job is done; it calls control_job_end. NULL: no memory. */
struct control_job *control_job_new(struct vm *vm, void (*done)(void *opaque), void *opaque);
/* Waits for the job that runs. NULL is fine. Returns NULL. */
struct control_job *control_job_free(struct control_job *job);
/* -EBUSY while there is one already. */
int control_job_start(struct control_job *job, const struct control_job_request *request, struct err **err);
/* Whether the machine stands still because of one. While none runs. */
bool control_job_is_paused(const struct control_job *job);
/* What became of it. @ret_layers: after a snapshot into files those below it, the job's until the next one; NULL after others. */
int control_job_end(struct control_job *job, const int **ret_layers, unsigned *ret_n, struct err **err);
