/* The machine's inside. machine.c owns life and threads, pause.c stopping and going on, platform.c what CPUs ask,
 * paravirt.c what guests that know KVM ask, board.c the parts, state.c saving, stats.c printing. */
#pragma once

#include "acpi.h"
#include "console.h"
#include "dev/irq_router.h"
#include "dev/lapic.h"
#include "dev/uart.h"
#include "snapshot.h"
#include "vm.h"

/* The parts that somebody talks to after assembly; all owned by the machine's device list. */
struct board {
        struct lapic_set *lapics;
        struct pic *pic;
        struct ioapic *ioapic;
        struct pit *pit;
        struct rtc *rtc;
        struct pm *pm;
        struct irq_router *router;
        struct fw_cfg *fw_cfg;
        struct uart *uart;
        struct pci_bus *pci;
        struct virtio_console *virtio_console;
        struct virtio_balloon *balloon;        /* NULL: none */
        struct vmgenid *generation_id;
        struct control_socket *control_socket; /* NULL: none */
        struct agent *agent;                   /* NULL: none */
        struct irq_line ferr; /* IRQ 13 */
        struct acpi_tables acpi;
        u64 start_ns;      /* clock_now_ns() at which the guest's kvmclock was 0 */
        u64 start_wall_ns; /* the same moment as UTC since 1970 */
        u64 sample_tsc, sample_ns; /* the host's clocks at one moment, which all kvmclock pages are made from */
};

struct vm_cpu {
        struct vcpu vcpu;
        struct vm *vm;
        pthread_t thread;
        bool started;
        bool held; /* under vm->lock */
        /* The thread's own: */
        int schedstat_fd;
        u64 run_delay;        /* as far as the guest has been told */
        u64 steal_updated_ns;
};

struct vm {
        struct vm_config config;
        struct guest_memory *memory;
        struct io_space ports;
        struct counters device_counters;
        struct device_env env;
        struct device *devices, **devices_tail; /* in creation order */
        struct loop *loop;
        struct console *console;
        int task_fd; /* /proc/self/task, -1: there is none */
        struct board board;
        struct vm_chain chain;
        struct snapshot *snapshot; /* what it is made from, while it is made */
        char *prefault;            /* what config.working_set says, until vm_prefault; NULL: nothing */

        const struct cpu_engine *engine;
        void *engine_machine;
        unsigned engine_caps;
        struct vm_cpu *cpus;
        unsigned n_cpus; /* whose vCPU has an engine */

        pthread_mutex_t pause_lock;  /* 1st: one thread at a time pauses and resumes */
        pthread_mutex_t device_lock; /* 2nd: all devices; also the loop's */
        pthread_mutex_t lock;        /* 3rd: what follows */
        pthread_cond_t changed;
        unsigned n_running; /* vCPU threads that are neither parked nor gone */
        unsigned pause_depth;
        bool quiesced;  /* under pause_lock */
        bool suspended; /* ACPI S3; vCPUs are parked until wake_requested */
        bool wake_requested;
        bool ended; /* atomic for readers without the lock */
        struct vm_outcome outcome;
        int done_fd;

        pthread_t io_thread;
        bool io_started;
        void (*debug_hook)(void *opaque, struct vcpu *vcpu);
        void *debug_opaque;
};

/* ---- machine.c ---- */

bool vm_has_ended(struct vm *vm);
/* Ends the machine because of @error, which it takes over. */
void vm_fail(struct vm *vm, enum machine_stop why, struct err *error);
/* The vCPU on whose thread we are, NULL on other threads. */
struct vcpu *vm_current_vcpu(void);

/* ---- pause.c ---- */

/* On a vCPU's thread: parks while the machine is paused or asleep. False when the machine has ended. */
bool vm_cpu_may_run(struct vm_cpu *cpu);
/* Makes all vCPUs leave guest code and look at the machine's state. */
void vm_kick_all(struct vm *vm);
/* From a device, device lock held: the guest entered S3; it is to wake up again. */
void vm_suspend(struct vm *vm);
void vm_wake(struct vm *vm);

/* ---- platform.c ---- */

extern const struct cpu_platform_ops vm_platform_ops;
extern const struct lapic_ops vm_lapic_ops;
/* Reset state plus what firmware programs into every CPU. */
void vm_cpu_power_up(struct vcpu *vcpu);

/* ---- paravirt.c ---- */

/* Writes the paravirtual clock pages anew, after a time in which the guest did not run. */
void vm_refresh_clocks(struct vm *vm);
void vm_sample_clocks(struct vm *vm);
/* A vCPU's thread, around all it does and around a halt. */
void vm_cpu_thread_begin(struct vm_cpu *cpu);
void vm_cpu_thread_end(struct vm_cpu *cpu);
void vm_cpu_sleep_begin(struct vm_cpu *cpu);
void vm_cpu_sleep_end(struct vm_cpu *cpu);
/* Tells the guest from time to time how long the host kept the thread waiting. */
void vm_cpu_account(struct vm_cpu *cpu);
void vm_kvm_msr_written(void *opaque, struct vcpu *vcpu, u32 msr, u64 value);
u64 vm_hypercall(void *opaque, struct vcpu *vcpu, u64 nr, const u64 args[4]);

/* ---- state.c ---- */

/* Every engine looks at its vCPUs' states anew. They are parked. */
void vm_tell_engines(struct vm *vm);

/* ---- board.c ---- */

/* Assembles all devices and loads the kernel (a snapshot has its own). Before threads exist. */
int board_assemble(struct vm *vm, struct err **err);
/* Wires interrupts to where the machine's engine wants them: our models or the hypervisor's. Device lock held or
 * no threads. */
void board_connect_interrupts(struct vm *vm);
void board_devices_reset(struct vm *vm);
void board_devices_quiesce(struct vm *vm);
void board_devices_resume(struct vm *vm);
void board_destroy(struct vm *vm);

/* ---- irqchip.c: the kernel's interrupt controllers, when the engine has them ---- */

int vm_irqchip_to_models(struct vm *vm, struct err **err);
int vm_irqchip_from_models(struct vm *vm, struct err **err);
