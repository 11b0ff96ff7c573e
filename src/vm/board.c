/* The board: which parts there are and how they are wired. */
#include "board.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "boot.h"
#include "control_socket.h"
#include "cpu/kvm/kvm.h"
#include "dev/debug_exit.h"
#include "dev/fw_cfg.h"
#include "dev/i8042.h"
#include "dev/ioapic.h"
#include "dev/nvme.h"
#include "dev/pci.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/pm.h"
#include "dev/rtc.h"
#include "dev/virtio/balloon.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/console.h"
#include "dev/virtio/net.h"
#include "dev/virtio/rng.h"
#include "dev/vmgenid.h"
#include "firmware.h"

#define ISA_IRQ_FERR 13

/* ---- what devices ask of the machine (struct device_env) ---- */

static struct irq_line env_irq(struct device_env *env, unsigned gsi)
{
        struct vm *vm = env->machine;

        return irq_router_line(vm->board.router, gsi);
}

static void env_stop(struct device_env *env, enum machine_stop why, unsigned code)
{
        struct vm *vm = env->machine;

        if (why == MACHINE_SUSPEND)
                vm_suspend(vm);
        else
                vm_stop(vm, why, code);
}

static void env_add(struct device_env *env, struct device *dev)
{
        struct vm *vm = env->machine;

        for (const struct device *d = vm->devices; d; d = d->next)
                if (strcmp(d->ops->name, dev->ops->name) == 0 && d->instance >= dev->instance)
                        dev->instance = d->instance + 1;
        dev->next = NULL;
        *vm->devices_tail = dev;
        vm->devices_tail = &dev->next;
}

static int env_ioeventfd(struct device_env *env, bool port, u64 address, unsigned size, int fd, bool add)
{
        struct vm *vm = env->machine;

        return kvm_ioeventfd(vm->engine_machine, port, address, size, fd, add, NULL);
}

/* A message goes to whoever has the local APICs now. */
static void env_msi(void *opaque, u64 address, u32 data)
{
        struct vm *vm = opaque;

        counter_inc(&vm->device_counters, COUNTER_IRQS_RAISED);
        trace(IRQ_MSI, address, data);
        if (vm->engine_caps & ENGINE_CAP_KERNEL_IRQCHIP)
                kvm_msi_send(vm->engine_machine, address, data);
        else
                lapic_msi(vm->board.lapics, address, data);
}

static void fill_env(struct vm *vm)
{
        vm->env = (struct device_env){
                .memory = vm->memory,
                .ports = &vm->ports,
                .loop = vm->loop,
                .lock = &vm->device_lock,
                .counters = &vm->device_counters,
                .msi = { .send = env_msi, .opaque = vm },
                .irq = env_irq,
                .stop = env_stop,
                .add = env_add,
                .machine = vm,
        };
        if (vm->engine_caps & ENGINE_CAP_KERNEL_IRQCHIP)
                vm->env.ioeventfd = env_ioeventfd;
}

/* ---- the parts ---- */

/* The models exist also where the hypervisor has its own: idle ones cost nothing, and they are the form in which
 * this state is saved and moved between engines. */
static int add_interrupt_controllers(struct vm *vm, struct err **err)
{
        struct lapic_ops lapic_ops = vm_lapic_ops;
        struct board *b = &vm->board;
        struct irq_line intr, sinks[2];
        int r;

        lapic_ops.tsc_hz = clock_tsc_hz();
        r = lapic_set_new(&vm->env, vm->config.n_cpus, &lapic_ops, vm, &b->lapics, err);
        if (r < 0)
                return r;
        intr = (struct irq_line){ .set = lapic_extint_set, .opaque = b->lapics };
        r = pic_new(&vm->env, intr, &b->pic, err);
        if (r < 0)
                return r;
        lapic_attach_pic(b->lapics, pic_ack, b->pic);
        r = ioapic_new(&vm->env, b->lapics, 0, &b->ioapic, err);
        if (r < 0)
                return r;
        sinks[0] = (struct irq_line){ .set = pic_irq_set, .opaque = b->pic };
        sinks[1] = (struct irq_line){ .set = ioapic_gsi_set, .opaque = b->ioapic };
        return irq_router_new(&vm->env, sinks, ARRAY_SIZE(sinks), &b->router, err);
}

static void on_rtc_alarm(void *opaque)
{
        vm_wake(opaque);
}

static int add_timers(struct vm *vm, struct err **err)
{
        const u64 low = MIN(vm->memory->ram_size, PCI_HOLE_START);
        const struct rtc_config rtc = {
                .ram_below_4g = low,
                .ram_above_4g = vm->memory->ram_size - low,
                .n_cpus = vm->config.n_cpus,
                .on_alarm = on_rtc_alarm,
                .on_alarm_opaque = vm,
        };
        int r;

        r = pit_new(&vm->env, &vm->board.pit, err);
        return r < 0 ? r : rtc_new(&vm->env, &rtc, &vm->board.rtc, err);
}

static int add_chipset(struct vm *vm, struct err **err)
{
        const struct pm_config pm = { .timer_32bit = true };
        struct board *b = &vm->board;
        struct i8042 *i8042;
        int r;

        r = pm_new(&vm->env, &pm, &b->pm, err);
        if (r < 0)
                return r;
        r = i8042_new(&vm->env, b->pit, &i8042, err);
        if (r < 0)
                return r;
        b->ferr = env_irq(&vm->env, ISA_IRQ_FERR);
        return pci_bus_new(&vm->env, &b->pci, err);
}

static int add_fw_cfg(struct vm *vm, struct err **err)
{
        struct fw_cfg *fw;
        int r;

        r = fw_cfg_new(&vm->env, &fw, err);
        if (r < 0)
                return r;
        vm->board.fw_cfg = fw;
        r = fw_cfg_set_u64(fw, FW_CFG_RAM_SIZE, vm->memory->ram_size, err);
        if (r == 0)
                r = fw_cfg_set_u16(fw, FW_CFG_NB_CPUS, (u16)vm->config.n_cpus, err);
        if (r == 0)
                r = fw_cfg_set_u16(fw, FW_CFG_MAX_CPUS, (u16)vm->config.n_cpus, err);
        return r;
}

static void uart_transmit(void *opaque, u8 byte)
{
        console_output(opaque, &byte, 1);
}

static void uart_discard(void *opaque, u8 byte)
{
}

static size_t uart_input(void *opaque, const u8 *data, size_t n)
{
        return uart_receive(opaque, data, n);
}

static void virtio_output(void *opaque, const u8 *data, size_t n)
{
        console_output(opaque, data, n);
}

static size_t virtio_input(void *opaque, const u8 *data, size_t n)
{
        return virtio_console_input(opaque, data, n);
}

/* COM1 is always there; the console is on it or on a virtio console. */
static int add_consoles(struct vm *vm, struct board_resources *res, struct err **err)
{
        struct uart_host uart = { .transmit = uart_transmit, .on_room = console_guest_ready };
        const struct virtio_console_config virtio = {
                .output = virtio_output,
                .input_ready = console_guest_ready,
        };
        struct virtio_console_config config = virtio;
        struct board *b = &vm->board;
        int r;

        r = console_new(
                vm->loop, res->console_fd, res->close_console, (bool (*)(void *))vm_has_ended, vm, &vm->console, err);
        if (r < 0)
                return r;
        res->close_console = false;
        uart.opaque = vm->console;
        config.opaque = vm->console;
        if (vm->config.console_virtio)
                uart = (struct uart_host){ .transmit = uart_discard };
        r = uart_new(&vm->env, UART_COM1_PORT, UART_COM1_GSI, 0, &uart, &b->uart, err);
        if (r < 0)
                return r;
        if (!vm->config.console_virtio) {
                uart_set_connected(b->uart, vm->config.console != VM_CONSOLE_NONE);
                console_set_guest(vm->console, uart_input, b->uart);
                return 0;
        }
        r = virtio_console_new(&vm->env, b->pci, &config, &b->virtio_console, err);
        if (r == 0)
                console_set_guest(vm->console, virtio_input, b->virtio_console);
        return r;
}

static int add_disk(struct vm *vm, size_t i, struct board_resources *res, struct err **err)
{
        struct virtio_blk_config virtio = { .block = res->disks[i] };
        const struct nvme_config nvme = { .disk = res->disks[i], .serial = virtio.serial };
        int r;

        /* /dev/disk/by-id tells them apart by these. */
        snprintf(virtio.serial, sizeof(virtio.serial), "strata-%zu", i);
        if (vm->config.disks[i].bus == VM_DISK_NVME)
                r = nvme_new(&vm->env, vm->board.pci, &nvme, err);
        else
                r = virtio_blk_new(&vm->env, vm->board.pci, &virtio, err);
        if (r == 0)
                res->disks[i] = NULL; /* the device owns it */
        return r;
}

static int add_vsock(struct vm *vm, struct board_resources *res, struct err **err)
{
        const struct virtio_vsock_config vsock = {
                .cid = vm->config.vsock_cid ? vm->config.vsock_cid : AGENT_CID,
                .listener = res->vsock,
                .local = vm->board.agent ? agent_local(vm->board.agent) : NULL,
        };
        int r = virtio_vsock_new(&vm->env, vm->board.pci, &vsock, err);

        if (r == 0)
                res->vsock = NULL;
        return r;
}

static void agent_failed(void *opaque, struct err *error)
{
        vm_fail(opaque, MACHINE_CRASH, error);
}

static int add_agent(struct vm *vm, struct board_resources *res, struct err **err)
{
        const struct agent_events events = { agent_failed, vm };
        int r = agent_attach(res->agent, &vm->env, &events, err);

        if (r == 0)
                vm->board.agent = TAKE_PTR(res->agent);
        return r;
}

static int add_share(struct vm *vm, size_t i, struct board_resources *res, struct err **err)
{
        const struct virtio_fs_config fs = { .tag = vm->config.shares[i].tag, .server = res->shares[i] };
        int r = virtio_fs_new(&vm->env, vm->board.pci, &fs, err);

        if (r == 0)
                res->shares[i] = NULL;
        return r;
}

static int add_net(struct vm *vm, size_t i, struct board_resources *res, struct err **err)
{
        struct virtio_net_config net = { .backend = res->nets[i] };
        int r;

        memcpy(net.mac, vm->config.nets[i].mac, sizeof(net.mac));
        r = virtio_net_new(&vm->env, vm->board.pci, &net, err);
        if (r == 0)
                res->nets[i] = NULL;
        return r;
}

static int add_pci_devices(struct vm *vm, struct board_resources *res, struct err **err)
{
        int r = 0;

        for (size_t i = 0; i < vm->config.n_disks && r == 0; i++)
                r = add_disk(vm, i, res, err);
        for (size_t i = 0; i < vm->config.n_nets && r == 0; i++)
                r = add_net(vm, i, res, err);
        if (r == 0)
                r = virtio_rng_new(&vm->env, vm->board.pci, err);
        if (r == 0 && res->agent) /* before the device that it is reached by, which goes first at the end */
                r = add_agent(vm, res, err);
        if (r == 0 && (res->vsock || vm->board.agent))
                r = add_vsock(vm, res, err);
        for (size_t i = 0; i < vm->config.n_shares && r == 0; i++)
                r = add_share(vm, i, res, err);
        if (r == 0 && vm->config.balloon)
                r = virtio_balloon_new(&vm->env, vm->board.pci, &vm->board.balloon, err);
        return r < 0 ? r : pci_assign_resources(vm->board.pci, err);
}

/* For test kernels. */
static int add_test_devices(struct vm *vm, struct err **err)
{
        int r;

        if (!vm->config.debug_exit)
                return 0;
        r = debug_exit_new(&vm->env, err);
        return r < 0 ? r : testdev_new(&vm->env, err);
}

static int add_acpi_tables(struct vm *vm, struct err **err)
{
        int r = acpi_build(vm->config.n_cpus, &vm->board.acpi, err);

        if (r < 0 || vm->snapshot)
                return r;
        r = guest_memory_write(vm->memory, ACPI_BASE, vm->board.acpi.data, vm->board.acpi.len);
        return r < 0 ? err_set(err, ERR_INTERNAL, -r, "no memory at the ACPI tables' place") : 0;
}

static int load_kernel(struct vm *vm, enum vm_boot *ret_protocol, struct err **err)
{
        const struct boot_config boot = {
                .kernel_path = vm->config.kernel,
                .initrd_path = vm->config.initrd,
                .append = vm->config.append,
                .protocol = vm->config.boot,
                .rsdp = ACPI_BASE,
        };

        return boot_load(&boot, vm->memory, &vm->cpus[0].vcpu.state, ret_protocol, err);
}

static int add_generation_id(struct vm *vm, struct err **err)
{
        return vmgenid_new(&vm->env, ACPI_VMGENID, &vm->board.generation_id, err);
}

static int add_control_socket(struct vm *vm, struct board_resources *res, struct err **err)
{
        int r = res->control ? control_socket_new(vm, res->control, &vm->board.control_socket, err) : 0;

        if (r == 0)
                res->control = NULL;
        return r;
}

static int add_parts(struct vm *vm, struct board_resources *res, struct err **err)
{
        int r;

        (void)((r = add_interrupt_controllers(vm, err)) < 0 || /* local APICs, PIC pair, IOAPIC */
                (r = add_timers(vm, err)) < 0 ||               /* PIT, RTC */
                (r = add_chipset(vm, err)) < 0 ||              /* ACPI PM, i8042, PCI host bridge */
                (r = add_fw_cfg(vm, err)) < 0 || (r = add_consoles(vm, res, err)) < 0 || /* COM1, virtio console */
                (r = add_pci_devices(vm, res, err)) < 0 || /* NVMe, virtio-* */
                (r = add_test_devices(vm, err)) < 0 ||     /* debug-exit, testdev */
                (r = add_acpi_tables(vm, err)) < 0 || (r = add_generation_id(vm, err)) < 0 || (r = add_control_socket(vm, res, err)) < 0);
        return r;
}

int board_assemble(struct vm *vm, struct err **err)
{
        struct board_resources res;
        struct timespec now;
        enum vm_boot protocol = VM_BOOT_AUTO;
        int r;

        r = vm->snapshot ? 0 : load_kernel(vm, &protocol, err);
        if (r < 0)
                return r;
        fill_env(vm);
        r = board_resources_open(vm, &res, err);
        if (r < 0)
                return r;
        r = add_parts(vm, &res, err);
        if (r == 0 && protocol == VM_BOOT_MULTIBOOT)
                r = firmware_leave_pc(vm, err);
        board_resources_close(&res);
        clock_gettime(CLOCK_REALTIME, &now);
        vm->board.start_wall_ns = (u64)now.tv_sec * NSEC_PER_SEC + (u64)now.tv_nsec;
        vm_sample_clocks(vm);
        vm->board.start_ns = vm->board.sample_ns;
        return r;
}

static void kernel_gsi_set(void *opaque, unsigned gsi, bool level)
{
        kvm_irq_set(opaque, gsi, level);
}

void board_connect_interrupts(struct vm *vm)
{
        struct board *b = &vm->board;
        const struct irq_line models[] = {
                { .set = pic_irq_set, .opaque = b->pic },
                { .set = ioapic_gsi_set, .opaque = b->ioapic },
        };
        const struct irq_line kernel[] = {
                { .set = kernel_gsi_set, .opaque = vm->engine_machine },
        };

        if (vm->engine_caps & ENGINE_CAP_KERNEL_IRQCHIP)
                irq_router_set_sinks(b->router, kernel, ARRAY_SIZE(kernel));
        else
                irq_router_set_sinks(b->router, models, ARRAY_SIZE(models));
}

/* ---- all devices together; device lock held, or no threads ---- */

void board_devices_quiesce(struct vm *vm)
{
        for (struct device *d = vm->devices; d; d = d->next)
                if (d->ops->quiesce)
                        d->ops->quiesce(d);
}

void board_devices_resume(struct vm *vm)
{
        for (struct device *d = vm->devices; d; d = d->next)
                if (d->ops->resume)
                        d->ops->resume(d);
}

/* What a PC keeps in S3: the clock, and the power management registers that say why it woke. */
static bool is_always_powered(const struct vm *vm, const struct device *dev)
{
        return dev == (struct device *)vm->board.rtc || dev == (struct device *)vm->board.pm;
}

void board_devices_reset(struct vm *vm)
{
        for (struct device *d = vm->devices; d; d = d->next)
                if (d->ops->reset && !is_always_powered(vm, d))
                        d->ops->reset(d);
}

static void destroy_last(struct vm *vm)
{
        struct device **p = &vm->devices;
        struct device *last;

        while ((*p)->next)
                p = &(*p)->next;
        last = TAKE_PTR(*p);
        last->ops->destroy(last);
}

void board_destroy(struct vm *vm)
{
        vm->board.control_socket = control_socket_free(vm->board.control_socket);
        while (vm->devices)
                destroy_last(vm);
        vm->devices_tail = &vm->devices;
        acpi_tables_free(&vm->board.acpi);
}
