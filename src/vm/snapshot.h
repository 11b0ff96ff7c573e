/* The machine's side of snapshots; snapshot.c tells how, snapshot_files.h what is on disk. Inside of the machine only: vm.h is the face. */
#pragma once

#include "snapshot_files.h"

struct vm;

/* What the machine's RAM is compared with by a diff. By who takes snapshots, one at a time. */
struct vm_chain {
        int layers[SNAPSHOT_LAYERS_MAX];
        unsigned n; /* 0: there is none */
        struct snapshot_map map;
        u64 *dirty; /* pages written since, as far as collected. NULL: not tracked, or memory is private */
};

void vm_chain_forget(struct vm *vm);
void vm_chain_free(struct vm *vm);

/* With a hypervisor that writes guest memory unseen: before dirty pages are collected or it goes; after it came. Nothing happens while they are not tracked. */
int vm_dirty_sync(struct vm *vm, struct err **err);
int vm_dirty_start_engine(struct vm *vm, struct err **err);

/* The steps of vm_new with config.restore: before there is anything; instead of new memory; after everything else, which leaves it paused. */
int vm_restore_open(struct vm *vm, struct err **err);
/* prefault.c: reads config.working_set, before the jail. */
int vm_prefault_open(struct vm *vm, struct err **err);
int vm_restore_memory(struct vm *vm, struct err **err);
int vm_restore_state(struct vm *vm, struct err **err);
/* The translations, if there are any and the machine is to have them. Its vCPUs exist. */
int vm_restore_code(struct vm *vm, struct err **err);
