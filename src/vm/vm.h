/* A machine: memory, CPUs, devices, and the threads that run them.
 *
 *         struct vm_config config = { .kernel = "vmlinuz", .memory = 512 * MIB, .n_cpus = 1, .engine = "auto" };
 *         r = vm_new(&config, &vm, err);   // everything is opened and loaded; nothing runs
 *         r = vm_start(vm, err);           // threads exist from here on
 *         vm_wait(vm, &outcome);           // until the guest or vm_stop() ends it
 *         vm_free(vm);
 *
 * Threads: one for each vCPU, one ("io") for the event loop with all device callbacks, and the caller's own. Functions here may be
 * called by any thread that is none of these and holds no lock, except where it says otherwise.
 *
 * Locks, in the order in which they are taken: device lock, then vm->lock. Nothing is called with vm->lock held. A vCPU waits (parked, halted)
 * without any lock. */
#pragma once

#include "cpu/cpu.h"
#include "dev/dev.h"

#define VM_CPUS_MAX 255
#define VM_DISKS_MAX 16
#define VM_MEMORY_MIN (4 * MIB)
#define VM_MEMORY_MAX (1024 * GIB)

enum vm_boot { VM_BOOT_AUTO, VM_BOOT_LINUX64, VM_BOOT_PVH, VM_BOOT_MULTIBOOT };
enum vm_disk_bus { VM_DISK_NVME, VM_DISK_VIRTIO };
enum vm_net { VM_NET_NONE, VM_NET_USER, VM_NET_TAP };

struct vm_disk_config {
        const char *path;
        const char *format; /* NULL: look at the file */
        enum vm_disk_bus bus;
        bool read_only;
};

/* Strings are borrowed and must outlive the machine. */
struct vm_config {
        const char *kernel, *initrd, *append;
        enum vm_boot boot;
        u64 memory;
        unsigned n_cpus;
        const char *engine;
        struct vm_disk_config disks[VM_DISKS_MAX];
        size_t n_disks;
        enum vm_net net;
        const char *net_tap;
        const char *console;        /* "stdio", "none" or a file */
        bool console_virtio;        /* the console is hvc0 and not ttyS0 */
        bool debug_exit;
        bool start_paused;          /* a debugger will start it */
};

/* How a machine ended. */
struct vm_outcome {
        enum machine_stop why;
        unsigned code;              /* MACHINE_DEBUG_EXIT: the byte written */
        struct err *error;          /* MACHINE_CRASH and failures of the VMM; owned by the machine */
};

struct vm;

int vm_new(const struct vm_config *config, struct vm **ret, struct err **err);
struct vm *vm_free(struct vm *vm);

int vm_start(struct vm *vm, struct err **err);
/* Asks the machine to end. From any thread, with or without the device lock. The first reason wins. */
void vm_stop(struct vm *vm, enum machine_stop why, unsigned code);
/* Readable (poll) once the machine has ended. */
int vm_done_fd(const struct vm *vm);
/* Waits until it ended, then stops all threads. */
void vm_wait(struct vm *vm, struct vm_outcome *ret);

/* Stops all vCPUs at instruction boundaries, then quiesces the devices; calls nest. Counterpart: vm_resume. While paused, states and
 * guest memory may be read and changed. */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);

/* Whole machine except RAM contents, as sections; the machine is paused. vm_load expects a machine of the same configuration. */
int vm_save(struct vm *vm, struct state_out *out, struct err **err);
int vm_load(struct vm *vm, const void *data, size_t len, struct err **err);
/* Moves all vCPUs of a paused machine to another engine; on failure all stay where they were. */
int vm_set_engine(struct vm *vm, const char *engine, struct err **err);

unsigned vm_n_vcpus(const struct vm *vm);
struct vcpu *vm_vcpu(struct vm *vm, unsigned index);
struct guest_memory *vm_memory(struct vm *vm);
void vm_print_stats(struct vm *vm, FILE *out);
/* Pauses, prints every vCPU, goes on. */
void vm_print_vcpus(struct vm *vm, FILE *out);

/* Debugger: called on a vCPU's thread right after it stopped for EXIT_DEBUG; the whole machine is about to stop too. */
void vm_set_debug_hook(struct vm *vm, void (*hook)(void *opaque, struct vcpu *vcpu), void *opaque);
