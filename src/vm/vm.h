/* A machine: memory, CPUs, devices, and the threads that run them.
 *
 *         struct vm_config config = { .kernel = "vmlinuz", .memory = 512 * MIB, .n_cpus = 1, .engine = "auto" };
 *         r = vm_new(&config, &vm, err);   // everything is opened and loaded; nothing runs, no thread either: jail_enter goes here
 *         r = vm_start(vm, err);           // threads exist from here on
 *         poll(vm_done_fd(vm))             // until the guest or vm_stop() ends it
 *         vm_join(vm, &outcome);
 *         vm_free(vm);
 *
 * Threads: one for each vCPU, one ("io") for the event loop with all device callbacks, and the caller's own.
 * Functions here may be called by any thread that is none of these and holds no lock, except where it says
 * otherwise.
 *
 * Locks, in the order in which they are taken: pause lock, device lock, vm->lock; the console's is a leaf too.
 * Nothing is called with vm->lock held. A vCPU waits (parked or halted) without any lock. */
#pragma once

#include "agent.h"
#include "cpu/cpu.h"
#include "dev/dev.h"

#define VM_CPUS_MAX   255
#define VM_DISKS_MAX  16
#define VM_SHARES_MAX 8
#define VM_NETS_MAX   8
#define VM_MEMORY_MIN (2 * MIB)
#define VM_MEMORY_MAX (240 * GIB) /* RAM above 4 GiB ends below the 64-bit PCI window at 256 GiB */

enum vm_boot { VM_BOOT_AUTO, VM_BOOT_LINUX64, VM_BOOT_PVH, VM_BOOT_MULTIBOOT };
enum vm_disk_bus { VM_DISK_NVME, VM_DISK_VIRTIO };
enum vm_net { VM_NET_USER, VM_NET_TAP, VM_NET_FD };
enum vm_console { VM_CONSOLE_STDIO, VM_CONSOLE_NONE, VM_CONSOLE_FILE };

struct vm_disk_config {
        const char *spec; /* as block_options_parse takes it: path and options */
        enum vm_disk_bus bus;
};

/* A virtio-net device and where its frames go. */
struct vm_net_config {
        enum vm_net how;
        const char *tap; /* VM_NET_TAP */
        int fd;          /* VM_NET_FD: of a tap; it is the machine's from vm_new on */
        u8 mac[6];       /* all zero: one is chosen */
};

/* A directory of the host's that the guest mounts by its tag. */
struct vm_share_config {
        const char *tag, *path;
        bool read_only, is_private;
};

/* Strings are borrowed and must outlive the machine. */
struct vm_config {
        const char *restore; /* a snapshot's directory, instead of a kernel; NULL: none */
        const char *working_set; /* a file that says which memory such a machine writes first (vm_prefault); NULL: none */
        bool restore_code;   /* with its translations, which are host code */
        const char *kernel, *initrd, *append; /* the last two may be NULL */
        enum vm_boot boot;
        u64 memory;      /* with restore 0 is what the snapshot has */
        unsigned n_cpus; /* likewise */
        const char *engine;
        enum shadow_policy shadow;
        bool check; /* the translator is compared with the interpreter, block by block */
        struct vm_disk_config disks[VM_DISKS_MAX];
        size_t n_disks;
        struct vm_net_config nets[VM_NETS_MAX];
        size_t n_nets;
        u32 vsock_cid;            /* 0: no virtio socket device */
        const char *vsock_socket; /* where programs of the host connect */
        struct agent_config agent;
        struct vm_share_config shares[VM_SHARES_MAX];
        size_t n_shares;
        bool balloon;
        const char *control_socket; /* path; NULL: none */
        enum vm_console console;
        const char *console_file;
        bool console_virtio; /* the console is hvc0; without it the console is ttyS0 */
        bool debug_exit;
        bool start_paused; /* vm_start leaves it paused: a debugger will vm_resume it */
        int wait_fd;       /* a byte comes from it, once, when what the machine opens of the outside is there; 0: it is there */
        struct jail *jail; /* that the process goes into between vm_new and vm_start (jail.h); NULL: none */
};

/* How a machine ended. */
struct vm_outcome {
        enum machine_stop why;
        unsigned code;           /* MACHINE_DEBUG_EXIT: the byte written */
        const struct err *error; /* MACHINE_CRASH and failures of the VMM; owned by the machine */
};

struct vm;
struct console;

int vm_new(const struct vm_config *config, struct vm **ret, struct err **err);
/* NULL is fine. Returns NULL. */
struct vm *vm_free(struct vm *vm);
static inline void vm_freep(struct vm **vm)
{
        vm_free(*vm);
}

int vm_start(struct vm *vm, struct err **err);
/* Copies the memory that config.working_set lists, beside the machine that runs: lines "w OFFSET LENGTH", hexadecimal, of whole pages of RAM; others are passed over. */
void vm_prefault(struct vm *vm);
/* Asks the machine to end. From any thread, with or without the device lock. The first reason wins. */
void vm_stop(struct vm *vm, enum machine_stop why, unsigned code);
/* Readable (poll) once the machine has ended. */
int vm_done_fd(const struct vm *vm);
/* Waits until it ended, stops all its threads and tells how it ended. */
void vm_join(struct vm *vm, struct vm_outcome *ret);

/* Stops all vCPUs at instruction boundaries, then quiesces the devices; calls nest. Counterpart: vm_resume. While
 * paused, states and guest memory may be read and changed. */
void vm_pause(struct vm *vm);
/* The two halves: begin may be called by a vCPU's thread too and does not wait, finish waits and quiesces. */
void vm_pause_begin(struct vm *vm);
void vm_pause_finish(struct vm *vm);
void vm_resume(struct vm *vm);
/* While paused: this vCPU will not go on with the others. */
void vm_hold_vcpu(struct vm *vm, unsigned index, bool hold);

/* Whole machine except RAM contents, as sections; the machine is paused. vm_load expects a machine of the same
 * configuration; when it fails the machine is of no use any more. */
int vm_save(struct vm *vm, struct state_out *out, struct err **err);
int vm_load(struct vm *vm, const void *data, size_t len, struct err **err);
/* A snapshot (snapshot_files.h) of the machine, which goes on afterwards; one at a time. @diff: only what is not in the one that was last taken, or that it began as. For those
 * that cannot open files the first takes new ones; who gives them a name (with the layers that vm_snapshot_layers says, asked before) is the caller. */
struct vm_snapshot_fds {
        int state, memory;
        int code; /* for the engine's translations; -1: without them */
};
int vm_snapshot(struct vm *vm, const struct vm_snapshot_fds *fds, bool diff, struct err **err);
int vm_snapshot_to(struct vm *vm, const char *path, bool diff, struct err **err);
/* The layers below the next diff; owned by the machine. */
unsigned vm_snapshot_layers(const struct vm *vm, const int **ret_fds);
/* Moves all vCPUs of a paused machine to another engine; on failure all stay where they were. */
int vm_set_engine(struct vm *vm, const char *engine, struct err **err);

unsigned vm_n_vcpus(const struct vm *vm);
struct vcpu *vm_vcpu(struct vm *vm, unsigned index);
struct guest_memory *vm_memory(struct vm *vm);
struct console *vm_console(struct vm *vm);
/* NULL: none. */
struct agent *vm_agent(struct vm *vm);
/* A break condition on the serial line. */
void vm_console_break(struct vm *vm);
/* After vm_join: writes what the guest printed last. */
void vm_flush_console(struct vm *vm);
void vm_print_stats(struct vm *vm, FILE *out);
/* Pauses, prints every vCPU, goes on. */
void vm_print_vcpus(struct vm *vm, FILE *out);

/* For a debugger: called on a vCPU's thread, without locks, right after it stopped for EXIT_DEBUG. The vCPU runs
 * on unless the hook called vm_pause_begin. Set before vm_start, or while paused. */
void vm_set_debug_hook(struct vm *vm, void (*hook)(void *opaque, struct vcpu *vcpu), void *opaque);
