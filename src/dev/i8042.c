/* Ports:
 *
 *     0x60  data            0x61  NMI status and control: 0 PIT gate 2, 1 speaker, 4 refresh toggle, 5 PIT output 2
 *     0x64  command/status  0x92  0 fast reset, 1 A20          0x80  POST code
 *
 * Every keyboard command is refused with "resend" at once: a driver that looks for a keyboard gives up without waiting for
 * time-outs. The interface test of the mouse port fails, so nobody looks for a mouse. A20 is a remembered bit: memory never
 * wraps. */
#include "dev/i8042.h"

#include <errno.h>
#include <stdlib.h>

#include "dev/guest_clock.h"

#define KEYBOARD_GSI 1

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM 0x04
#define STATUS_COMMAND 0x08
#define STATUS_UNLOCKED 0x10

#define CONFIG_KEYBOARD_IRQ 0x01
#define CONFIG_SYSTEM 0x04
#define CONFIG_KEYBOARD_OFF 0x10
#define CONFIG_MOUSE_OFF 0x20

#define OUTPUT_NO_RESET 0x01
#define OUTPUT_A20 0x02

#define KEYBOARD_RESEND 0xfe

#define PORT61_GATE 0x01
#define PORT61_SPEAKER 0x02
#define PORT61_REFRESH 0x10
#define PORT61_OUT 0x20
#define PORT61_BITS 0x0f
#define REFRESH_NS 15085 /* DRAM refresh request of the AT: each toggles the bit */

#define PORT92_RESET 0x01
#define PORT92_A20 0x02

struct i8042 {
        struct device dev;
        struct device_env *env;
        struct pit *pit;
        struct irq_line irq;
        u8 config;      /* command byte */
        u8 output_port;
        u8 data;        /* the output buffer */
        bool full;
        u8 expects;     /* command whose parameter byte comes next on 0x60; 0 for none */
        bool command_last;
        u8 port61, post_code;
};

static void irq_update(struct i8042 *kbc)
{
        irq_line_set(&kbc->irq, kbc->full && (kbc->config & CONFIG_KEYBOARD_IRQ));
}

static void respond(struct i8042 *kbc, u8 byte)
{
        kbc->data = byte;
        kbc->full = true;
}

static void machine_reset(struct i8042 *kbc)
{
        kbc->env->stop(kbc->env, MACHINE_RESET, 0);
}

static void output_port_write(struct i8042 *kbc, u8 value)
{
        kbc->output_port = value;
        if (!(value & OUTPUT_NO_RESET))
                machine_reset(kbc);
}

/* ---- 0x64 ---- */

static void cmd_read_config(struct i8042 *kbc, u8 command)
{
        respond(kbc, kbc->config);
}

static void cmd_expect(struct i8042 *kbc, u8 command)
{
        kbc->expects = command;
}

static void cmd_mouse_off(struct i8042 *kbc, u8 command)
{
        kbc->config |= CONFIG_MOUSE_OFF;
}

static void cmd_mouse_on(struct i8042 *kbc, u8 command)
{
        kbc->config &= (u8)~CONFIG_MOUSE_OFF;
}

static void cmd_mouse_test(struct i8042 *kbc, u8 command)
{
        respond(kbc, 0x02); /* clock line stuck high: nothing there */
}

static void cmd_self_test(struct i8042 *kbc, u8 command)
{
        kbc->config |= CONFIG_SYSTEM;
        respond(kbc, 0x55);
}

static void cmd_keyboard_test(struct i8042 *kbc, u8 command)
{
        respond(kbc, 0x00);
}

static void cmd_keyboard_off(struct i8042 *kbc, u8 command)
{
        kbc->config |= CONFIG_KEYBOARD_OFF;
}

static void cmd_keyboard_on(struct i8042 *kbc, u8 command)
{
        kbc->config &= (u8)~CONFIG_KEYBOARD_OFF;
}

static void cmd_read_output_port(struct i8042 *kbc, u8 command)
{
        respond(kbc, kbc->output_port);
}

/* 0xf0-0xff pulse the output port's bits that are 0 in the command; bit 0 is the processor's reset. */
static void cmd_pulse(struct i8042 *kbc, u8 command)
{
        if (!(command & OUTPUT_NO_RESET))
                machine_reset(kbc);
}

static const struct {
        u8 first, last;
        void (*run)(struct i8042 *kbc, u8 command);
} commands[] = {
        { 0x20, 0x20, cmd_read_config },
        { 0x60, 0x60, cmd_expect }, /* write the command byte */
        { 0xa7, 0xa7, cmd_mouse_off },
        { 0xa8, 0xa8, cmd_mouse_on },
        { 0xa9, 0xa9, cmd_mouse_test },
        { 0xaa, 0xaa, cmd_self_test },
        { 0xab, 0xab, cmd_keyboard_test },
        { 0xad, 0xad, cmd_keyboard_off },
        { 0xae, 0xae, cmd_keyboard_on },
        { 0xd0, 0xd0, cmd_read_output_port },
        { 0xd1, 0xd4, cmd_expect }, /* output port, keyboard buffer, mouse buffer, mouse */
        { 0xf0, 0xff, cmd_pulse },
};

static void command_write(struct i8042 *kbc, u8 command)
{
        kbc->expects = 0;
        kbc->command_last = true;
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
                if (command >= commands[i].first && command <= commands[i].last)
                        commands[i].run(kbc, command);
}

/* ---- 0x60 ---- */

static void data_write(struct i8042 *kbc, u8 byte)
{
        const u8 expects = kbc->expects;

        kbc->expects = 0;
        kbc->command_last = false;
        switch (expects) {
        case 0x60:
                kbc->config = byte;
                break;
        case 0xd1:
                output_port_write(kbc, byte);
                break;
        case 0xd2: /* comes back as if the keyboard, or the mouse that is not there, had sent it */
        case 0xd3:
                respond(kbc, byte);
                break;
        default: /* a byte for the keyboard or the mouse */
                respond(kbc, KEYBOARD_RESEND);
                break;
        }
}

static u8 data_read(struct i8042 *kbc)
{
        kbc->full = false;
        return kbc->data;
}

/* ---- 0x61, 0x92 ---- */

static u8 port61_read(struct i8042 *kbc)
{
        u8 value = kbc->port61 & (u8) ~(PORT61_GATE);

        /* Host time: this bit only has to alternate, it belongs to no saved state. */
        if (clock_now_ns() / REFRESH_NS & 1)
                value |= PORT61_REFRESH;
        if (kbc->pit ? pit_channel2_gate_get(kbc->pit) : kbc->port61 & PORT61_GATE)
                value |= PORT61_GATE;
        if (kbc->pit && pit_channel2_out(kbc->pit))
                value |= PORT61_OUT;
        return value;
}

static void port61_write(struct i8042 *kbc, u8 value)
{
        kbc->port61 = value & PORT61_BITS;
        if (kbc->pit)
                pit_channel2_gate(kbc->pit, value & PORT61_GATE);
}

static void port92_write(struct i8042 *kbc, u8 value)
{
        kbc->output_port = (kbc->output_port & (u8)~OUTPUT_A20) | (value & PORT92_A20 ? OUTPUT_A20 : 0);
        if (value & PORT92_RESET)
                machine_reset(kbc);
}

static u64 kbc_read(void *opaque, u64 offset, unsigned size)
{
        struct i8042 *kbc = opaque;
        const u8 value = data_read(kbc);

        irq_update(kbc);
        return value;
}

static void kbc_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct i8042 *kbc = opaque;

        data_write(kbc, (u8)value);
        irq_update(kbc);
}

static u64 status_read(void *opaque, u64 offset, unsigned size)
{
        const struct i8042 *kbc = opaque;

        return (kbc->full ? STATUS_OUTPUT_FULL : 0) | (kbc->config & CONFIG_SYSTEM ? STATUS_SYSTEM : 0) |
               (kbc->command_last ? STATUS_COMMAND : 0) | STATUS_UNLOCKED;
}

static void status_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct i8042 *kbc = opaque;

        command_write(kbc, (u8)value);
        irq_update(kbc);
}

static u64 control_read(void *opaque, u64 offset, unsigned size)
{
        return port61_read(opaque);
}

static void control_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        port61_write(opaque, (u8)value);
}

static u64 fast_read(void *opaque, u64 offset, unsigned size)
{
        const struct i8042 *kbc = opaque;

        return kbc->output_port & OUTPUT_A20 ? PORT92_A20 : 0;
}

static void fast_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        port92_write(opaque, (u8)value);
}

static u64 post_read(void *opaque, u64 offset, unsigned size)
{
        const struct i8042 *kbc = opaque;

        return kbc->post_code;
}

static void post_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct i8042 *kbc = opaque;

        kbc->post_code = (u8)value;
}

static const struct {
        u16 port;
        struct io_ops ops;
        const char *name;
} ports[] = {
        { 0x60, { kbc_read, kbc_write, 1 }, "i8042-data" },
        { 0x61, { control_read, control_write, 1 }, "system-control-b" },
        { 0x64, { status_read, status_write, 1 }, "i8042-command" },
        { 0x80, { post_read, post_write, 1 }, "post-code" },
        { 0x92, { fast_read, fast_write, 1 }, "system-control-a" },
};

/* ---- life ---- */

static void i8042_reset(struct device *dev)
{
        struct i8042 *kbc = container_of(dev, struct i8042, dev);

        kbc->config = CONFIG_SYSTEM;
        kbc->output_port = OUTPUT_NO_RESET | OUTPUT_A20;
        kbc->data = kbc->expects = kbc->port61 = kbc->post_code = 0;
        kbc->full = kbc->command_last = false;
        irq_update(kbc);
}

static void i8042_save(struct device *dev, struct state_out *out)
{
        const struct i8042 *kbc = container_of(dev, struct i8042, dev);

        state_put_u8(out, kbc->config);
        state_put_u8(out, kbc->output_port);
        state_put_u8(out, kbc->data);
        state_put_bool(out, kbc->full);
        state_put_u8(out, kbc->expects);
        state_put_bool(out, kbc->command_last);
        state_put_u8(out, kbc->port61);
        state_put_u8(out, kbc->post_code);
}

static int i8042_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct i8042 *kbc = container_of(dev, struct i8042, dev);
        struct i8042 s = *kbc;

        s.config = state_get_u8(in);
        s.output_port = state_get_u8(in);
        s.data = state_get_u8(in);
        s.full = state_get_bool(in);
        s.expects = state_get_u8(in);
        s.command_last = state_get_bool(in);
        s.port61 = state_get_u8(in);
        s.post_code = state_get_u8(in);
        if (state_in_error(in) || (s.port61 & ~PORT61_BITS))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved keyboard controller state is damaged");
        *kbc = s;
        irq_update(kbc);
        return 0;
}

static void i8042_destroy(struct device *dev)
{
        struct i8042 *kbc = container_of(dev, struct i8042, dev);

        for (size_t i = 0; i < ARRAY_SIZE(ports); i++)
                io_space_remove(kbc->env->ports, ports[i].port, kbc);
        free(kbc);
}

static const struct device_ops i8042_device_ops = {
        .name = "i8042",
        .version = 1,
        .reset = i8042_reset,
        .save = i8042_save,
        .load = i8042_load,
        .destroy = i8042_destroy,
};

int i8042_new(struct device_env *env, struct pit *pit, struct i8042 **ret, struct err **err)
{
        struct i8042 *kbc = calloc(1, sizeof(*kbc));
        int r;

        if (!kbc)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the keyboard controller");
        kbc->dev.ops = &i8042_device_ops;
        kbc->env = env;
        kbc->pit = pit;
        for (size_t i = 0; i < ARRAY_SIZE(ports); i++) {
                r = io_space_add(env->ports, ports[i].port, 1, &ports[i].ops, kbc, ports[i].name, err);
                if (r < 0) {
                        i8042_destroy(&kbc->dev);
                        return r;
                }
        }
        kbc->irq = env->irq(env, KEYBOARD_GSI);
        i8042_reset(&kbc->dev);
        env->add(env, &kbc->dev);
        *ret = kbc;
        return 0;
}
