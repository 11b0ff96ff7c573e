/* The run loop: into the guest, out of it, and what each exit wants. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cpu/msr.h"
#include "internal.h"

/* What a handler of an exit wants next: go on, or leave run() with this reason. */
#define RUN_AGAIN EXIT_COUNT

typedef enum exit_reason exit_fn(struct vcpu *vcpu, struct kvm_run *run);

static enum exit_reason exit_io(struct vcpu *vcpu, struct kvm_run *run)
{
        const size_t area = kvm_vcpu_of(vcpu)->machine->run_size;
        const u64 size = run->io.size, n = run->io.count;
        u8 *data = (u8 *)run + run->io.data_offset;

        /* The kernel is trusted; a check costs nothing. */
        if (run->io.data_offset > area || size * n > area - run->io.data_offset || size > 4) {
                err_set(&vcpu->error, ERR_INTERNAL, EINVAL, "KVM describes a port access that lies outside its area");
                return EXIT_FAILED;
        }
        for (u64 i = 0; i < n; i++, data += size) {
                u64 value = 0;

                if (run->io.direction == KVM_EXIT_IO_OUT) {
                        memcpy(&value, data, size);
                        io_write(vcpu->ports, run->io.port, value, (unsigned)size);
                } else {
                        io_read(vcpu->ports, run->io.port, (unsigned)size, &value);
                        memcpy(data, &value, size);
                }
        }
        kvm_vcpu_of(vcpu)->io_pending = true;
        return RUN_AGAIN;
}

static enum exit_reason exit_mmio(struct vcpu *vcpu, struct kvm_run *run)
{
        const unsigned size = MIN(run->mmio.len, 8u);
        u64 value = 0;

        if (run->mmio.is_write) {
                memcpy(&value, run->mmio.data, size);
                io_write(&vcpu->memory->mmio, run->mmio.phys_addr, value, size);
        } else {
                io_read(&vcpu->memory->mmio, run->mmio.phys_addr, size, &value);
                memcpy(run->mmio.data, &value, size);
        }
        kvm_vcpu_of(vcpu)->io_pending = true;
        return RUN_AGAIN;
}

/* MSRs that the kernel does not handle for us: constants of the model, and those of no model. */
static enum exit_reason exit_rdmsr(struct vcpu *vcpu, struct kvm_run *run)
{
        u64 value = 0;

        run->msr.error = cpu_msr_read(vcpu, run->msr.index, &value) < 0;
        if (run->msr.index == MSR_ARCH_CAPABILITIES)
                value &= kvm_vcpu_of(vcpu)->machine->host.arch_capabilities;
        run->msr.data = value;
        kvm_vcpu_of(vcpu)->io_pending = true;
        return RUN_AGAIN;
}

static enum exit_reason exit_wrmsr(struct vcpu *vcpu, struct kvm_run *run)
{
        run->msr.error = cpu_msr_write(vcpu, run->msr.index, run->msr.data) < 0;
        kvm_vcpu_of(vcpu)->io_pending = true;
        return RUN_AGAIN;
}

static enum exit_reason exit_again(struct vcpu *vcpu, struct kvm_run *run)
{
        return RUN_AGAIN;
}

static enum exit_reason exit_debug(struct vcpu *vcpu, struct kvm_run *run)
{
        return kvm_debug_exit(vcpu) ? EXIT_DEBUG : RUN_AGAIN;
}

static enum exit_reason exit_shutdown(struct vcpu *vcpu, struct kvm_run *run)
{
        return EXIT_TRIPLE_FAULT;
}

static enum exit_reason exit_fail_entry(struct vcpu *vcpu, struct kvm_run *run)
{
        err_set(&vcpu->error, ERR_IO, EIO, "the hardware refused to enter the guest on vCPU %u: reason 0x%" PRIx64,
                vcpu->index, (u64)run->fail_entry.hardware_entry_failure_reason);
        return EXIT_FAILED;
}

static const char *internal_error_name(u32 suberror)
{
        static const char *const names[] = {
                [KVM_INTERNAL_ERROR_EMULATION] = "it cannot emulate an instruction",
                [KVM_INTERNAL_ERROR_SIMUL_EX] = "exceptions at the same time",
                [KVM_INTERNAL_ERROR_DELIVERY_EV] = "an exit while delivering an event",
                [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an exit for an unknown reason",
        };

        return suberror < ARRAY_SIZE(names) && names[suberror] ? names[suberror] : "a defect of it";
}

static enum exit_reason exit_internal_error(struct vcpu *vcpu, struct kvm_run *run)
{
        struct kvm_regs regs = { 0 };
        struct kvm_sregs sregs = { 0 };
        u8 code[8] = { 0 };
        struct mmu_translation tr = { 0 };

        kvm_ioctl(kvm_vcpu_of(vcpu)->fd, KVM_GET_REGS, &regs);
        kvm_ioctl(kvm_vcpu_of(vcpu)->fd, KVM_GET_SREGS, &sregs);
        if (mmu_walk(vcpu->memory,
                     &(struct paging_state){ .cr0 = sregs.cr0, .cr3 = sregs.cr3, .cr4 = sregs.cr4, .efer = sregs.efer },
                     sregs.cs.base + regs.rip, MMU_FETCH, MMU_PEEK, &tr) == 0)
                guest_memory_read(vcpu->memory, tr.gpa, code, MIN(sizeof(code), PAGE_SIZE - (tr.gpa & ~PAGE_MASK)));
        err_set(&vcpu->error, ERR_IO, EIO,
                "KVM gave up on vCPU %u: %s (%u), rip 0x%" PRIx64 ", code %02x %02x %02x %02x %02x %02x %02x %02x",
                vcpu->index, internal_error_name(run->internal.suberror), run->internal.suberror, (u64)regs.rip, code[0],
                code[1], code[2], code[3], code[4], code[5], code[6], code[7]);
        return EXIT_FAILED;
}

/* KVM exits that we understand; all others fail the vCPU. @counted: under which reason they appear in statistics. */
static const struct {
        exit_fn *handle;
        enum exit_reason counted;
} exits[] = {
        [KVM_EXIT_IO] = { exit_io, EXIT_PIO },
        [KVM_EXIT_MMIO] = { exit_mmio, EXIT_MMIO },
        [KVM_EXIT_X86_RDMSR] = { exit_rdmsr, EXIT_MSR_READ },
        [KVM_EXIT_X86_WRMSR] = { exit_wrmsr, EXIT_MSR_WRITE },
        [KVM_EXIT_INTR] = { exit_again, EXIT_SIGNAL },
        [KVM_EXIT_IRQ_WINDOW_OPEN] = { exit_again, EXIT_IRQ_WINDOW },
        [KVM_EXIT_HLT] = { exit_again, EXIT_HLT },
        [KVM_EXIT_DEBUG] = { exit_debug, EXIT_OTHER },
        [KVM_EXIT_SHUTDOWN] = { exit_shutdown, EXIT_OTHER },
        [KVM_EXIT_FAIL_ENTRY] = { exit_fail_entry, EXIT_OTHER },
        [KVM_EXIT_INTERNAL_ERROR] = { exit_internal_error, EXIT_OTHER },
};

static enum exit_reason dispatch(struct vcpu *vcpu, struct kvm_run *run)
{
        const u32 reason = run->exit_reason;

        trace(VCPU_EXIT, vcpu->index, reason, 0);
        if (reason >= ARRAY_SIZE(exits) || !exits[reason].handle) {
                exit_count(&vcpu->counters, EXIT_OTHER);
                err_set(&vcpu->error, ERR_UNSUPPORTED, ENOTSUP, "vCPU %u left KVM for reason %u, which is not known",
                        vcpu->index, reason);
                return EXIT_FAILED;
        }
        exit_count(&vcpu->counters, exits[reason].counted);
        return exits[reason].handle(vcpu, run);
}

/* One KVM_RUN. RUN_AGAIN also when a signal came. */
static enum exit_reason enter(struct vcpu *vcpu, struct kvm_vcpu *kv)
{
        if (ioctl(kv->fd, KVM_RUN, NULL) == 0) {
                kv->io_pending = false;
                return dispatch(vcpu, kv->run);
        }
        if (errno == EINTR || errno == EAGAIN) { /* EAGAIN: an AP got its INIT or SIPI */
                kv->io_pending = false;
                exit_count(&vcpu->counters, EXIT_SIGNAL);
                return RUN_AGAIN;
        }
        err_sys(&vcpu->error, errno, "running vCPU %u under KVM", vcpu->index);
        return EXIT_FAILED;
}

/* The instruction of an I/O exit is not finished before the next KVM_RUN. With immediate_exit set that is all it does,
 * but a string instruction or an access across pages may want more I/O. Bounded by the size of such an access. */
static enum exit_reason complete_io(struct vcpu *vcpu, struct kvm_vcpu *kv)
{
        enum exit_reason reason = RUN_AGAIN;

        for (unsigned i = 0; kv->io_pending && reason == RUN_AGAIN && i < 4096; i++) {
                __atomic_store_n(&kv->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
                reason = enter(vcpu, kv);
        }
        return reason;
}

/* Serves what other threads posted. RUN_AGAIN, or why to leave. */
static enum exit_reason do_work(struct vcpu *vcpu, struct kvm_vcpu *kv)
{
        u32 work = __atomic_exchange_n(&vcpu->work, 0, __ATOMIC_SEQ_CST);

        /* Interrupts, INIT, SIPI and SMI are between the kernel's LAPICs; such bits are another engine's leftovers. */
        if (work & VCPU_WORK_NMI)
                kvm_ioctl(kv->fd, KVM_NMI, NULL);
        if (work & VCPU_WORK_STOP)
                return __atomic_load_n(&vcpu->machine_stopping, __ATOMIC_ACQUIRE) ? EXIT_MACHINE_STOP : EXIT_KICKED;
        return RUN_AGAIN;
}

static enum exit_reason loop(struct vcpu *vcpu, struct kvm_vcpu *kv)
{
        enum exit_reason reason = RUN_AGAIN;

        while (reason == RUN_AGAIN) {
                /* The order matters: see "kicks" in vcpu.c. */
                __atomic_store_n(&kv->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
                if (__atomic_load_n(&vcpu->work, __ATOMIC_SEQ_CST)) {
                        reason = do_work(vcpu, kv);
                        if (reason != RUN_AGAIN)
                                break;
                }
                reason = enter(vcpu, kv);
        }
        return reason;
}

/* The board may have blocked signals on its vCPU threads. */
static void unblock_kick_signal(void)
{
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, KVM_KICK_SIGNAL);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

enum exit_reason kvm_run(struct vcpu *vcpu)
{
        struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
        enum exit_reason reason, more;

        if (kv->load_needed && kvm_state_load(vcpu, &vcpu->error) < 0)
                return EXIT_FAILED;
        kv->load_needed = false;
        if (kvm_debug_enter(vcpu, &vcpu->error) < 0)
                return EXIT_FAILED;
        unblock_kick_signal();
        trace(VCPU_RUN, vcpu->index, vcpu->state.rip);
        __atomic_store_n(&kv->tid, gettid(), __ATOMIC_SEQ_CST);
        reason = loop(vcpu, kv);
        if (reason != EXIT_FAILED && reason != EXIT_TRIPLE_FAULT) {
                more = complete_io(vcpu, kv);
                if (more != RUN_AGAIN)
                        reason = more;
        }
        __atomic_store_n(&kv->tid, 0, __ATOMIC_SEQ_CST);
        kvm_debug_leave(vcpu);
        if (kvm_state_store(vcpu, &vcpu->error) < 0)
                return EXIT_FAILED;
        exit_count(&vcpu->counters, reason);
        trace(VCPU_EXIT, vcpu->index, reason, vcpu->state.rip);
        return reason;
}
