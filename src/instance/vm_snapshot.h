/* A machine's part of snapshots (snapshot.h); for vm_launch.c and snapshot_take.c. */
#pragma once

#include "vm.h"

struct vm_snapshot {
        const char *path; /* the directory to be: vm/snapshot_files.h */
        bool diff;
        /* Called while the machine stands still: what is outside of it and belongs to that moment. */
        int (*meanwhile)(void *opaque, struct err **err);
        void *opaque;
};
int vm_snapshot(struct instance *inst, const struct vm_snapshot *snapshot, unsigned *ret_layers, struct err **err);

/* FILE_RESTORE. */
struct vm_restore {
        char *path; /* NULL: it is not to begin as a snapshot */
        bool same;
};
bool vm_restore_wanted(const struct instance *inst);
int vm_restore_load(const struct instance *inst, struct vm_restore *ret, struct err **err);
void vm_restore_release(struct vm_restore *restore);
/* Who it is now, instead of what vm_script_make says (which must have been called for what it does on the host). */
int vm_restore_script(struct launch_plan *plan, const struct vm_restore *restore, struct init_script *ret, struct err **err);
