/* Can this host run guests by KVM, and does it do so in hardware?
 *
 * Some hosts offer /dev/kvm on top of a hypervisor that gives them no hardware virtualization: their KVM interprets
 * guest kernel code, at half a microsecond an instruction. A loop of a few thousand instructions in a tiny guest tells. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "internal.h"

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
        int r;

        do
                r = ioctl(fd, request, arg);
        while (r < 0 && errno == EINTR);
        return r < 0 ? -errno : r;
}

/* Needed in every case; what is merely useful is asked for where it is used. */
static const struct {
        unsigned long cap;
        const char *name;
} needed[] = {
        { KVM_CAP_IRQCHIP, "IRQCHIP" },         { KVM_CAP_USER_MEMORY, "USER_MEMORY" },
        { KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT" }, { KVM_CAP_EXT_CPUID, "EXT_CPUID" },
        { KVM_CAP_MP_STATE, "MP_STATE" },       { KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS" },
        { KVM_CAP_XSAVE, "XSAVE" },             { KVM_CAP_XCRS, "XCRS" },
        { KVM_CAP_DEBUGREGS, "DEBUGREGS" },     { KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING" },
        { KVM_CAP_IRQFD, "IRQFD" },             { KVM_CAP_IOEVENTFD, "IOEVENTFD" },
        { KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI" },   { KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK" },
        { KVM_CAP_SREGS2, "SREGS2" },
};

int kvm_open(struct err **err)
{
        _cleanup_close_ int fd = -1;
        int r;

        fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
        if (fd < 0) {
                r = err_sys(err, errno, "cannot open /dev/kvm");
                if (r == -EACCES || r == -EPERM)
                        return err_hint(err, r, "add this user to the group that owns /dev/kvm");
                return err_hint(err, r, "this host offers no hardware virtualization; --engine interp needs none");
        }
        r = kvm_ioctl(fd, KVM_GET_API_VERSION, NULL);
        if (r != KVM_API_VERSION)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "/dev/kvm speaks version %d of its interface and not %d",
                               r, KVM_API_VERSION);
        for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
                if (kvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)needed[i].cap) <= 0)
                        return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "the host's KVM lacks KVM_CAP_%s",
                                       needed[i].name);
        return TAKE_FD(fd);
}

/* ---- the speed probe ---- */

#define PROBE_MEMORY 0x4000u
#define PROBE_PML4 0x1000u
#define PROBE_PDPT 0x2000u
#define PROBE_PD 0x3000u
#define PROBE_ITERATIONS 3000u
#define PROBE_INSTRUCTIONS (2 * PROBE_ITERATIONS)
#define PROBE_ROUNDS 3
#define PROBE_NS_PER_INSTRUCTION_MAX 50
#define PROBE_HOPELESS_NS (8ULL * PROBE_INSTRUCTIONS * PROBE_NS_PER_INSTRUCTION_MAX)

/* loop: dec ecx; jnz loop; hlt */
static const u8 probe_code[] = { 0xff, 0xc9, 0x75, 0xfc, 0xf4 };

struct probe_guest {
        int vm_fd, vcpu_fd;
        u8 *memory;
        struct kvm_run *run;
        size_t run_size;
};

static void probe_guest_clean(struct probe_guest *g)
{
        if (g->run)
                munmap(g->run, g->run_size);
        if (g->memory)
                munmap(g->memory, PROBE_MEMORY);
        closep(&g->vcpu_fd);
        closep(&g->vm_fd);
}

static void put64(u8 *memory, u32 at, u64 value)
{
        memcpy(memory + at, &value, sizeof(value));
}

/* Ring 0 in 64-bit mode with one identity-mapped 2 MiB page. */
static int probe_guest_init(int kvm_fd, struct probe_guest *g)
{
        struct kvm_userspace_memory_region slot = { .memory_size = PROBE_MEMORY };
        const struct kvm_segment code = { .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
        const struct kvm_segment data = { .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
        struct kvm_sregs sregs;
        int r;

        g->vm_fd = kvm_ioctl(kvm_fd, KVM_CREATE_VM, NULL);
        if (g->vm_fd < 0)
                return g->vm_fd;
        g->memory = mmap(NULL, PROBE_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (g->memory == MAP_FAILED) {
                g->memory = NULL;
                return -errno;
        }
        memcpy(g->memory, probe_code, sizeof(probe_code));
        put64(g->memory, PROBE_PML4, PROBE_PDPT | 3);
        put64(g->memory, PROBE_PDPT, PROBE_PD | 3);
        put64(g->memory, PROBE_PD, 0x83);
        slot.userspace_addr = (uintptr_t)g->memory;
        r = kvm_ioctl(g->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot);
        if (r < 0)
                return r;
        g->vcpu_fd = kvm_ioctl(g->vm_fd, KVM_CREATE_VCPU, NULL);
        if (g->vcpu_fd < 0)
                return g->vcpu_fd;
        r = kvm_ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
        if (r < 0)
                return r;
        g->run_size = (size_t)r;
        g->run = mmap(NULL, g->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu_fd, 0);
        if (g->run == MAP_FAILED) {
                g->run = NULL;
                return -errno;
        }
        r = kvm_ioctl(g->vcpu_fd, KVM_GET_SREGS, &sregs);
        if (r < 0)
                return r;
        sregs.cs = code;
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
        sregs.cr3 = PROBE_PML4;
        sregs.cr4 = CR4_PAE;
        sregs.cr0 = CR0_PE | CR0_PG | CR0_ET;
        sregs.efer = EFER_LME | EFER_LMA;
        return kvm_ioctl(g->vcpu_fd, KVM_SET_SREGS, &sregs);
}

/* Runs the loop @iterations times; nanoseconds in @ret_ns. */
static int probe_guest_time(struct probe_guest *g, u64 iterations, u64 *ret_ns)
{
        struct kvm_regs regs = { .rcx = iterations, .rflags = RFLAGS_FIXED };
        u64 start;
        int r;

        r = kvm_ioctl(g->vcpu_fd, KVM_SET_REGS, &regs);
        if (r < 0)
                return r;
        start = clock_now_ns();
        r = kvm_ioctl(g->vcpu_fd, KVM_RUN, NULL);
        if (r < 0)
                return r;
        *ret_ns = clock_now_ns() - start;
        return g->run->exit_reason == KVM_EXIT_HLT ? 0 : -EIO;
}

/* The best of a few rounds: a round may be preempted, none can be too fast. One that is far too slow settles it. */
static int measure(int kvm_fd, u64 *ret_ns)
{
        _cleanup_(probe_guest_clean) struct probe_guest g = { .vm_fd = -1, .vcpu_fd = -1 };
        u64 ns, best = UINT64_MAX;
        int r;

        r = probe_guest_init(kvm_fd, &g);
        if (r >= 0)
                r = probe_guest_time(&g, 10, &ns); /* the first entry builds shadow or nested page tables */
        for (unsigned i = 0; r >= 0 && i < PROBE_ROUNDS && (i == 0 || best < PROBE_HOPELESS_NS); i++) {
                r = probe_guest_time(&g, PROBE_ITERATIONS, &ns);
                best = MIN(best, ns);
        }
        if (r < 0)
                return r;
        *ret_ns = best;
        return 0;
}

/* The host does not change while we run: measured once. */
static struct {
        pthread_mutex_t lock;
        bool done;
        int result;
        u64 ns;
} speed = { .lock = PTHREAD_MUTEX_INITIALIZER };

int kvm_probe(unsigned *ret_caps, struct err **err)
{
        _cleanup_close_ int fd = -1;
        unsigned caps = kvm_engine.caps;
        int r;
        u64 ns;

        fd = kvm_open(err);
        if (fd < 0)
                return fd;
        pthread_mutex_lock(&speed.lock);
        if (!speed.done)
                speed.result = measure(fd, &speed.ns);
        speed.done = true;
        r = speed.result;
        ns = speed.ns;
        pthread_mutex_unlock(&speed.lock);
        if (r < 0)
                return err_sys(err, -r, "a small test guest does not run under the host's KVM");
        if (ns <= (u64)PROBE_INSTRUCTIONS * PROBE_NS_PER_INSTRUCTION_MAX)
                caps |= ENGINE_CAP_FAST;
        *ret_caps = caps;
        return 0;
}

int kvm_speed(u64 *ret_ps_per_instruction)
{
        unsigned caps;
        int r = kvm_probe(&caps, NULL);

        if (r < 0)
                return r;
        *ret_ps_per_instruction = speed.ns * 1000 / PROBE_INSTRUCTIONS;
        return 0;
}
