/* What the files of a virtual machine's wall share. vm_launch.c begins with who makes what.
 *
 *      DIR_VM/  agent    the socket of the agent inside strata-vmm (init/client.h)
 *               control  the machine's control socket (docs/machine.md)
 *               script   what the guest is told at its start (init/script.h)
 *               files/   a mount point: the directory that the guest gets volumes and files from
 *               machine.json  what of the start is needed later */
#pragma once

#include "box/spec/spec.h"
#include "init/client.h"
#include "ops.h"

#define VM_AGENT   DIR_VM "/agent"
#define VM_CONTROL DIR_VM "/control"
#define VM_SCRIPT  DIR_VM "/script"
#define VM_FILES   DIR_VM "/files"
#define VM_MACHINE DIR_VM "/machine.json"

/* Where the guest has its control groups. */
#define VM_GROUPS "/sys/fs/cgroup"

/* The tags of its shares. */
#define VM_TAG_ROOT  "root"
#define VM_TAG_FILES "files"

/* --- the machine that runs (vm.c) ------------------------------------------------------------------------------- */

/* What cannot be read from the outside of a machine that runs. */
struct vm_machine {
        u64 memory; /* bytes, as it was started */
        unsigned cpus;
        u64 root_dev, root_ino; /* of its root directory, as strata-vmm sees it */
        pid_t pid;              /* of strata-vmm; 0: not started yet */
        u64 pid_start;          /* proc(5), stat, field 22: with the number, whose process it is */
        struct cgroup *cgroup;
};

/* The size that a configuration asks for. */
u64 vm_memory_of(const struct instance_config *config);
unsigned vm_cpus_of(const struct instance_config *config);
/* The resources of strata-vmm's own control groups. */
int vm_cgroup_resources(const struct instance *inst, struct cgroup_resources **ret, struct err **err);

int vm_machine_save(const struct instance *inst, const struct vm_machine *machine, struct err **err);
int vm_machine_load(const struct instance *inst, struct vm_machine *ret, struct err **err);
void vm_machine_release(struct vm_machine *machine);
/* The field of /proc/PID/stat; 0 when there is no such process. */
u64 vm_process_start(pid_t pid);

/* --- what the guest is told (vm_script.c) ------------------------------------------------------------------------ */

/* The runtime specification's process as strata-init starts it; what it points to lives with *ret_spec. */
int vm_process_parse(
        const json_t *process, u32 flags, struct spec **ret_spec, struct init_process *ret, struct err **err);
/* Everything that the guest is to do before its command runs, and the command. The sources of bind mounts are mounted below
 * @files, the directory that is shared as VM_TAG_FILES. */
int vm_script_make(struct launch_plan *plan, int files, struct init_script *ret, struct err **err);

/* One interface of it, found by its name or MAC address. @mac: what it gets, and it keeps its name (it is up); NULL: it has it, and gets its name. */
struct network_vm_interface;
void vm_script_add_interface(struct init_script *script, const struct network_vm_interface *interface, const char *found_by, const char *mac);

/* --- starting and using it --------------------------------------------------------------------------------------- */

int vm_prepare(struct instance *inst, struct err **err);
int vm_begin(struct launch_plan *plan, struct err **err);
int vm_launch(struct launch_plan *plan, struct err **err);
void vm_end(struct launch_plan *plan);

int vm_connect(const struct instance *inst, struct init_client **ret, struct err **err);
int vm_exec(struct instance *inst, const struct instance_exec *exec, const json_t *process, int *ret_status,
        struct err **err);
int vm_spawn(struct instance *inst, const json_t *process, int output, pid_t *ret, struct err **err);
void vm_unspawn(pid_t pid);
int vm_stats(struct instance *inst, pid_t pid, struct instance_stats *ret, struct err **err);
int vm_top(struct instance *inst, struct instance_processes *ret, struct err **err);
