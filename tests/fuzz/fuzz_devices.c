/* Every register of the platform devices, as a hostile guest would use them: the input is a sequence of accesses, mixed with what
 * the host side does (bytes for the serial port, interrupt acknowledge, save and load, pause, reset).
 *
 * A whole board is made for each input: LAPICs, PIC, IOAPIC, router, PIT, RTC, PM, UART, i8042, fw_cfg, test ports. The event
 * loop runs for a moment at the end, so that timers that are due fire. */
#include <stdlib.h>
#include <string.h>

#include "dev/debug_exit.h"
#include "dev/fw_cfg.h"
#include "dev/i8042.h"
#include "dev/ioapic.h"
#include "dev/irq_router.h"
#include "dev/kvmclock.h"
#include "dev/pic.h"
#include "dev/pm.h"
#include "dev/rtc.h"
#include "dev/uart.h"
#include "input.h"

#define CPUS 3

struct board {
        struct device_env env;
        pthread_mutex_t lock;
        struct counters counters;
        struct io_space ports;
        struct device *devices;
        struct lapic_set *lapics;
        struct ioapic *ioapic;
        struct pic *pic;
        struct pit *pit;
        struct rtc *rtc;
        struct pm *pm;
        struct uart *uart;
        struct irq_router *router;
        unsigned cpu;
        u64 tsc;
};

/* ---- what the board gives ---- */

static int current_cpu(void *opaque)
{
        return (int)((struct board *)opaque)->cpu;
}

static void post(void *opaque, unsigned cpu, enum lapic_post what)
{
        if (cpu >= CPUS)
                abort();
}

static u64 tsc_now(void *opaque, unsigned cpu)
{
        return ((struct board *)opaque)->tsc;
}

static struct irq_line env_irq(struct device_env *env, unsigned gsi)
{
        return irq_router_line(container_of(env, struct board, env)->router, gsi);
}

static void env_stop(struct device_env *env, enum machine_stop why, unsigned code)
{
}

static void env_add(struct device_env *env, struct device *dev)
{
        struct board *b = container_of(env, struct board, env);

        dev->next = b->devices;
        b->devices = dev;
}

static void transmit(void *opaque, u8 byte)
{
}

static void on_room(void *opaque)
{
        struct board *b = opaque;

        uart_receive(b->uart, (const u8 *)"room", 4);
}

static void require_ok(int r)
{
        if (r < 0)
                abort();
}

static struct board *board_new(void)
{
        struct board *b = calloc(1, sizeof(*b));
        const struct lapic_ops lapic_ops = { .current_cpu = current_cpu, .post = post, .tsc_now = tsc_now, .tsc_hz = 2000000000 };
        const struct rtc_config rtc = { .ram_below_4g = MIB, .n_cpus = CPUS };
        const struct pm_config pm = { .timer_32bit = false };
        const struct uart_host host = { .transmit = transmit, .on_room = on_room, .opaque = b };
        struct irq_line sinks[2];
        struct fw_cfg *fw_cfg;
        struct i8042 *i8042;

        if (!b)
                abort();
        pthread_mutex_init(&b->lock, NULL);
        io_space_init(&b->ports, &b->lock, &b->counters, true);
        b->env = (struct device_env){
                .ports = &b->ports, .lock = &b->lock, .counters = &b->counters, .irq = env_irq, .stop = env_stop, .add = env_add,
        };
        require_ok(guest_memory_new(64 * KIB, &b->lock, &b->counters, &b->env.memory, NULL));
        b->env.loop = loop_new(&b->lock, NULL);
        if (!b->env.loop)
                abort();
        require_ok(lapic_set_new(&b->env, CPUS, &lapic_ops, b, &b->lapics, NULL));
        require_ok(pic_new(&b->env, (struct irq_line){ lapic_extint_set, b->lapics, 0 }, &b->pic, NULL));
        lapic_attach_pic(b->lapics, pic_ack, b->pic);
        require_ok(ioapic_new(&b->env, b->lapics, 0, &b->ioapic, NULL));
        sinks[0] = (struct irq_line){ pic_irq_set, b->pic, 0 };
        sinks[1] = (struct irq_line){ ioapic_gsi_set, b->ioapic, 0 };
        require_ok(irq_router_new(&b->env, sinks, 2, &b->router, NULL));
        require_ok(pit_new(&b->env, &b->pit, NULL));
        require_ok(rtc_new(&b->env, &rtc, &b->rtc, NULL));
        require_ok(pm_new(&b->env, &pm, &b->pm, NULL));
        require_ok(pm_claim_reset_port(b->pm, NULL));
        require_ok(i8042_new(&b->env, b->pit, &i8042, NULL));
        require_ok(fw_cfg_new(&b->env, &fw_cfg, NULL));
        require_ok(fw_cfg_add_file(fw_cfg, "etc/fuzz", "fuzzing", 7, NULL));
        require_ok(uart_new(&b->env, UART_COM1_PORT, UART_COM1_GSI, 0, &host, &b->uart, NULL));
        require_ok(debug_exit_new(&b->env, NULL));
        require_ok(testdev_new(&b->env, NULL));
        return b;
}

static void board_free(struct board *b)
{
        while (b->devices) {
                struct device *dev = b->devices;

                b->devices = dev->next;
                dev->ops->destroy(dev);
        }
        loop_free(b->env.loop);
        guest_memory_free(b->env.memory);
        io_space_free(&b->ports);
        pthread_mutex_destroy(&b->lock);
        free(b);
}

/* ---- what the guest and the host do ---- */

static const u16 port_bases[] = { 0x20, 0xa0, 0x4d0, 0x40, 0x60, 0x70, 0x80, 0x92, 0x600, 0x3f8, 0x510, 0x514, 0xf4, 0xe0,
                                  0x2000, 0xcf9 };

static void do_port(struct board *b, struct input *in)
{
        const u64 what = take(in, 2);
        const u64 port = port_bases[what & 15] + (what >> 4 & 31u);
        const unsigned size = 1u << (what >> 9 & 3);
        u64 value;

        if (port + size > 0x10000)
                return;
        if (what & 0x8000)
                io_write(&b->ports, port, take(in, size), size);
        else
                io_read(&b->ports, port, size, &value);
}

static void do_mmio(struct board *b, struct input *in)
{
        const u64 what = take(in, 2), offset = what & 0xfff;
        const unsigned size = 1u << (what >> 12 & 3);
        const u64 gpa = (what & 0x4000 ? IOAPIC_BASE + (offset & 0x1f) : LAPIC_DEFAULT_BASE + offset);
        u64 value;

        if (what & 0x8000)
                io_write(&b->env.memory->mmio, gpa, take(in, size), size);
        else
                io_read(&b->env.memory->mmio, gpa, size, &value);
}

static void do_msr(struct board *b, struct input *in)
{
        const u8 what = (u8)take(in, 1);
        const u32 msr = what == 0x40 ? 0x1b : what == 0x41 ? 0x6e0 : 0x800u + what % 0x50;
        u64 value;

        if (take(in, 1) & 1)
                lapic_msr_write(b->lapics, b->cpu, msr, take(in, 8));
        else
                lapic_msr_read(b->lapics, b->cpu, msr, &value);
}

static void do_cpu(struct board *b, struct input *in)
{
        const u8 what = (u8)take(in, 1);

        b->cpu = what % CPUS;
        if ((what & 0x10) && lapic_irq_pending(b->lapics, b->cpu) && lapic_irq_ack(b->lapics, b->cpu) > 255)
                abort();
        if (what & 0x20)
                lapic_cr8_write(b->lapics, b->cpu, take(in, 1));
        if (what & 0x40)
                lapic_init_signal(b->lapics, b->cpu);
        if (what & 0x80) {
                b->tsc = take(in, 8);
                lapic_tsc_changed(b->lapics, b->cpu);
        }
}

static void do_outside(struct board *b, struct input *in)
{
        const u8 what = (u8)take(in, 1);
        u8 bytes[8];

        for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (u8)take(in, 1);
        if (what & 1)
                uart_receive(b->uart, bytes, what >> 5);
        if (what & 2)
                uart_receive_break(b->uart);
        if (what & 4)
                uart_set_connected(b->uart, what & 8);
        if (what & 16)
                lapic_msi(b->lapics, LAPIC_DEFAULT_BASE + take(in, 3), (u32)take(in, 2));
        pm_power_button(b->pm);
        guest_memory_write(b->env.memory, bytes[0] * 64u, bytes, sizeof(bytes));
        kvmclock_wall_clock_update(b->env.memory, take(in, 8), take(in, 8));
}

/* Saves, changes some bytes, loads into a random device. */
static void do_state(struct board *b, struct input *in)
{
        const u8 what = (u8)take(in, 1);
        struct device *dev = b->devices;
        struct state_out out;
        struct state_in state;
        char name[STATE_NAME_MAX];
        u32 version;

        for (unsigned i = what & 15; i && dev->next; i--)
                dev = dev->next;
        if ((what & 0x10) && dev->ops->quiesce)
                dev->ops->quiesce(dev);
        if ((what & 0x20) && dev->ops->resume)
                dev->ops->resume(dev);
        if (what & 0x40)
                dev->ops->reset(dev);
        if (!(what & 0x80))
                return;
        state_out_init(&out);
        state_out_section_begin(&out, dev->ops->name, dev->ops->version);
        dev->ops->save(dev, &out);
        state_out_section_end(&out);
        for (unsigned i = (unsigned)take(in, 1) & 7; i && out.len > 40; i--)
                out.data[40 + take(in, 2) % (out.len - 40)] = (u8)take(in, 1);
        state_in_init(&state, out.data, out.len);
        if (state_in_section_next(&state, name, &version, NULL) == 1)
                dev->ops->load(dev, &state, version, NULL);
        state_out_free(&out);
}

static void stop_loop(void *opaque)
{
        loop_stop(((struct board *)opaque)->env.loop);
}

static void run_timers(struct board *b)
{
        struct loop_timer end;

        loop_timer_init(&end, b->env.loop, stop_loop, b);
        loop_timer_set(&end, clock_now_ns() + 100000);
        loop_run(b->env.loop, NULL);
        loop_timer_cancel(&end);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
        static void (*const actions[8])(struct board *b, struct input *in) = {
                do_port, do_port, do_mmio, do_mmio, do_msr, do_cpu, do_outside, do_state,
        };
        struct input in = { data, MIN(size, (size_t)4096) };
        struct board *b = board_new();

        while (in.left)
                actions[take(&in, 1) & 7](b, &in);
        run_timers(b);
        board_free(b);
        return 0;
}
