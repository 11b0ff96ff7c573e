/* Registers. Source: PC16550D datasheet, table II:
 *
 *     0  RBR read / THR write (DLAB: divisor low)     4  MCR
 *     1  IER (DLAB: divisor high)                     5  LSR (read-only)
 *     2  IIR read / FCR write                         6  MSR (read-only)
 *     3  LCR                                          7  SCR
 *
 * The line has no speed: THR is empty again as soon as it was written. The divisor only decides how long the receiver waits
 * before it reports fewer bytes than the trigger level (the character timeout, four character times). */
#include "dev/uart.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIFO_SIZE 16
#define UART_REGISTERS 8

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RECEIVE 0x01
#define IER_TRANSMIT 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08
#define IER_BITS 0x0f

#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_TRANSMIT 0x02
#define IIR_RECEIVE 0x04
#define IIR_LINE 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO 0xc0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RECEIVE 0x02
#define FCR_BITS 0xc9

#define LCR_DLAB 0x80

#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_BITS 0x1f

#define LSR_DATA 0x01
#define LSR_OVERRUN 0x02
#define LSR_BREAK 0x10
#define LSR_ERRORS 0x1e
#define LSR_THR_EMPTY 0x20
#define LSR_IDLE 0x40

#define MSR_CONNECTED 0xb0 /* DCD, DSR, CTS */
#define MSR_RING 0x40

struct uart {
        struct device dev;
        struct device_env *env;
        struct irq_line irq;
        struct uart_host host;
        u16 port;
        struct loop_timer timeout;
        bool was_full;     /* the host waits to hear of room */
        bool connected;

        u8 ier, fcr, lcr, mcr, scr;
        u8 lsr_errors;     /* LSR bits that a read clears */
        u8 msr;
        u16 divisor;
        u8 fifo[FIFO_SIZE];
        u8 head, count;
        bool transmit_pending; /* the "THR empty" interrupt waits to be seen */
        bool timeout_pending;
};

static size_t capacity(const struct uart *uart)
{
        return uart->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static u8 trigger_level(const struct uart *uart)
{
        static const u8 levels[4] = { 1, 4, 8, 14 };

        return uart->fcr & FCR_ENABLE ? levels[uart->fcr >> 6] : 1;
}

/* ---- interrupts ---- */

/* The interrupt of highest priority, as IIR shows it. Source: datasheet, table IV. */
static u8 interrupt_id(const struct uart *uart)
{
        if ((uart->ier & IER_LINE) && uart->lsr_errors)
                return IIR_LINE;
        if ((uart->ier & IER_RECEIVE) && uart->count >= trigger_level(uart))
                return IIR_RECEIVE;
        if ((uart->ier & IER_RECEIVE) && uart->timeout_pending)
                return IIR_TIMEOUT;
        if ((uart->ier & IER_TRANSMIT) && uart->transmit_pending)
                return IIR_TRANSMIT;
        if ((uart->ier & IER_MODEM) && (uart->msr & 0x0f))
                return IIR_MODEM;
        return IIR_NONE;
}

/* On a PC, OUT2 connects the chip to the interrupt wire. */
static void irq_update(struct uart *uart)
{
        irq_line_set(&uart->irq, interrupt_id(uart) != IIR_NONE && (uart->mcr & MCR_OUT2) && !(uart->mcr & MCR_LOOP));
}

static void timeout_restart(struct uart *uart)
{
        /* Four characters of up to 12 bits at 115200 / divisor bits a second, within sane bounds. */
        const u64 ns = 4 * 12 * (u64)MAX(uart->divisor, 1) * NSEC_PER_SEC / 115200;

        uart->timeout_pending = false;
        if (uart->count && (uart->fcr & FCR_ENABLE))
                loop_timer_set(&uart->timeout, clock_now_ns() + MIN(MAX(ns, 100000ULL), 100000000ULL));
        else
                loop_timer_cancel(&uart->timeout);
}

static void on_timeout(void *opaque)
{
        struct uart *uart = opaque;

        uart->timeout_pending = uart->count > 0;
        irq_update(uart);
}

/* ---- receiver ---- */

static void fifo_push(struct uart *uart, u8 byte)
{
        if (uart->count >= capacity(uart)) {
                uart->lsr_errors |= LSR_OVERRUN;
                return;
        }
        uart->fifo[(uart->head + uart->count) % FIFO_SIZE] = byte;
        uart->count++;
}

static void fifo_clear(struct uart *uart)
{
        uart->head = uart->count = 0;
        timeout_restart(uart);
}

/* Last action of a register access: the host may call back into uart_receive. */
static void room_tell(struct uart *uart)
{
        if (!uart->was_full || uart->count > capacity(uart) / 2 || (uart->mcr & MCR_LOOP))
                return;
        uart->was_full = false;
        if (uart->host.on_room)
                uart->host.on_room(uart->host.opaque);
}

size_t uart_receive_room(const struct uart *uart)
{
        return uart->mcr & MCR_LOOP ? 0 : capacity(uart) - MIN(uart->count, capacity(uart));
}

size_t uart_receive(struct uart *uart, const u8 *data, size_t len)
{
        const size_t n = MIN(len, uart_receive_room(uart));

        for (size_t i = 0; i < n; i++) {
                trace(UART_IN, data[i]);
                fifo_push(uart, data[i]);
        }
        uart->was_full = uart_receive_room(uart) == 0;
        if (n)
                timeout_restart(uart);
        irq_update(uart);
        return n;
}

void uart_receive_break(struct uart *uart)
{
        if (uart_receive_room(uart)) /* a break comes with a zero character */
                fifo_push(uart, 0);
        uart->was_full = uart_receive_room(uart) == 0;
        uart->lsr_errors |= LSR_BREAK;
        timeout_restart(uart);
        irq_update(uart);
}

/* ---- modem lines ---- */

/* Recomputes MSR 7-4 and marks what changed in 3-0; the ring bit counts only when it falls. */
static void modem_update(struct uart *uart)
{
        u8 now = uart->connected ? MSR_CONNECTED : 0, changed;

        if (uart->mcr & MCR_LOOP) /* DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD */
                now = (u8)((uart->mcr & 1) << 5 | (uart->mcr & 2) << 3 | (uart->mcr & 4) << 4 | (uart->mcr & 8) << 4);
        changed = (u8)((now ^ uart->msr) & 0xf0);
        if (now & MSR_RING)
                changed &= (u8)~MSR_RING;
        uart->msr = (u8)(now | (uart->msr & 0x0f) | changed >> 4);
}

void uart_set_connected(struct uart *uart, bool connected)
{
        uart->connected = connected;
        modem_update(uart);
        irq_update(uart);
}

/* ---- registers ---- */

static u8 data_read(struct uart *uart)
{
        u8 byte;

        if (!uart->count)
                return 0;
        byte = uart->fifo[uart->head];
        uart->head = (u8)((uart->head + 1) % FIFO_SIZE);
        uart->count--;
        timeout_restart(uart);
        return byte;
}

static u8 iir_read(struct uart *uart)
{
        const u8 id = interrupt_id(uart);

        if (id == IIR_TRANSMIT) /* seeing it clears it */
                uart->transmit_pending = false;
        return id | (uart->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static u8 lsr_read(struct uart *uart)
{
        const u8 lsr = uart->lsr_errors | LSR_THR_EMPTY | LSR_IDLE | (uart->count ? LSR_DATA : 0);

        uart->lsr_errors = 0;
        return lsr;
}

static u8 msr_read(struct uart *uart)
{
        const u8 msr = uart->msr;

        uart->msr &= 0xf0;
        return msr;
}

static u64 uart_read(void *opaque, u64 offset, unsigned size)
{
        struct uart *uart = opaque;
        const bool dlab = uart->lcr & LCR_DLAB;
        u8 value;

        switch (offset) {
        case REG_DATA:
                value = dlab ? (u8)uart->divisor : data_read(uart);
                break;
        case REG_IER:
                value = dlab ? (u8)(uart->divisor >> 8) : uart->ier;
                break;
        case REG_IIR_FCR:
                value = iir_read(uart);
                break;
        case REG_LCR:
                value = uart->lcr;
                break;
        case REG_MCR:
                value = uart->mcr;
                break;
        case REG_LSR:
                value = lsr_read(uart);
                break;
        case REG_MSR:
                value = msr_read(uart);
                break;
        default:
                value = uart->scr;
                break;
        }
        irq_update(uart);
        room_tell(uart);
        return value;
}

static void data_write(struct uart *uart, u8 byte)
{
        if (uart->mcr & MCR_LOOP) {
                fifo_push(uart, byte);
                timeout_restart(uart);
        } else {
                trace(UART_OUT, byte);
                if (uart->host.transmit)
                        uart->host.transmit(uart->host.opaque, byte);
        }
        uart->transmit_pending = true;
}

static void ier_write(struct uart *uart, u8 value)
{
        /* Enabling the transmitter interrupt while THR is empty raises it; it always is. */
        if ((value & IER_TRANSMIT) && !(uart->ier & IER_TRANSMIT))
                uart->transmit_pending = true;
        uart->ier = value & IER_BITS;
}

static void fcr_write(struct uart *uart, u8 value)
{
        const bool switched = (value ^ uart->fcr) & FCR_ENABLE;

        uart->fcr = value & FCR_ENABLE ? value & FCR_BITS : 0;
        if (switched || (value & FCR_CLEAR_RECEIVE))
                fifo_clear(uart);
}

static void divisor_write(struct uart *uart, u16 divisor)
{
        uart->divisor = divisor;
}

static void uart_write(void *opaque, u64 offset, u64 value, unsigned size)
{
        struct uart *uart = opaque;
        const bool dlab = uart->lcr & LCR_DLAB;
        const u8 byte = (u8)value;

        switch (offset) {
        case REG_DATA:
                if (dlab)
                        divisor_write(uart, (uart->divisor & 0xff00) | byte);
                else
                        data_write(uart, byte);
                break;
        case REG_IER:
                if (dlab)
                        divisor_write(uart, (u16)((uart->divisor & 0xff) | byte << 8));
                else
                        ier_write(uart, byte);
                break;
        case REG_IIR_FCR:
                fcr_write(uart, byte);
                break;
        case REG_LCR:
                uart->lcr = byte;
                break;
        case REG_MCR:
                uart->mcr = byte & MCR_BITS;
                modem_update(uart);
                break;
        case REG_SCR:
                uart->scr = byte;
                break;
        default: /* LSR and MSR */
                break;
        }
        irq_update(uart);
        room_tell(uart);
}

static const struct io_ops uart_io_ops = { .read = uart_read, .write = uart_write, .max_size = 1 };

/* ---- life ---- */

static void uart_reset(struct device *dev)
{
        struct uart *uart = container_of(dev, struct uart, dev);

        uart->ier = uart->fcr = uart->lcr = uart->mcr = uart->scr = uart->lsr_errors = 0;
        uart->msr = uart->connected ? MSR_CONNECTED : 0;
        uart->divisor = 12; /* 9600; the chip itself leaves it undefined */
        uart->transmit_pending = false;
        fifo_clear(uart);
        irq_update(uart);
        room_tell(uart);
}

static void uart_save(struct device *dev, struct state_out *out)
{
        const struct uart *uart = container_of(dev, struct uart, dev);

        state_put_u8(out, uart->ier);
        state_put_u8(out, uart->fcr);
        state_put_u8(out, uart->lcr);
        state_put_u8(out, uart->mcr);
        state_put_u8(out, uart->scr);
        state_put_u8(out, uart->lsr_errors);
        state_put_u8(out, uart->msr);
        state_put_u16(out, uart->divisor);
        state_put_bool(out, uart->transmit_pending);
        state_put_bool(out, uart->timeout_pending);
        state_put_u8(out, uart->head);
        state_put_u8(out, uart->count);
        state_put_bytes(out, uart->fifo, sizeof(uart->fifo));
}

static int uart_load(struct device *dev, struct state_in *in, u32 version, struct err **err)
{
        struct uart *uart = container_of(dev, struct uart, dev);
        struct uart s = { .ier = 0 };

        s.ier = state_get_u8(in);
        s.fcr = state_get_u8(in);
        s.lcr = state_get_u8(in);
        s.mcr = state_get_u8(in);
        s.scr = state_get_u8(in);
        s.lsr_errors = state_get_u8(in);
        s.msr = state_get_u8(in);
        s.divisor = state_get_u16(in);
        s.transmit_pending = state_get_bool(in);
        s.timeout_pending = state_get_bool(in);
        s.head = state_get_u8(in);
        s.count = state_get_u8(in);
        state_get_bytes(in, s.fifo, sizeof(s.fifo));
        if (state_in_error(in) || (s.ier & ~IER_BITS) || (s.fcr & ~FCR_BITS) || (s.mcr & ~MCR_BITS) ||
            (s.lsr_errors & ~LSR_ERRORS) || s.head >= FIFO_SIZE || s.count > capacity(&s))
                return err_set(err, ERR_BAD_STATE, EINVAL, "the saved serial port state is damaged");

        uart->ier = s.ier;
        uart->fcr = s.fcr;
        uart->lcr = s.lcr;
        uart->mcr = s.mcr;
        uart->scr = s.scr;
        uart->lsr_errors = s.lsr_errors;
        uart->msr = s.msr;
        uart->divisor = s.divisor;
        uart->transmit_pending = s.transmit_pending;
        uart->head = s.head;
        uart->count = s.count;
        memcpy(uart->fifo, s.fifo, sizeof(s.fifo));
        uart->was_full = uart_receive_room(uart) == 0;
        timeout_restart(uart);
        uart->timeout_pending = s.timeout_pending && s.count;
        modem_update(uart); /* another terminal may be there now */
        irq_update(uart);
        return 0;
}

static void uart_quiesce(struct device *dev)
{
        loop_timer_cancel(&container_of(dev, struct uart, dev)->timeout);
}

static void uart_resume(struct device *dev)
{
        struct uart *uart = container_of(dev, struct uart, dev);
        const bool pending = uart->timeout_pending;

        timeout_restart(uart);
        uart->timeout_pending = pending;
}

static void uart_destroy(struct device *dev)
{
        struct uart *uart = container_of(dev, struct uart, dev);

        loop_timer_cancel(&uart->timeout);
        io_space_remove(uart->env->ports, uart->port, uart);
        free(uart);
}

static const struct device_ops uart_device_ops = {
        .name = "uart",
        .version = 1,
        .reset = uart_reset,
        .save = uart_save,
        .load = uart_load,
        .destroy = uart_destroy,
        .quiesce = uart_quiesce,
        .resume = uart_resume,
};

int uart_new(struct device_env *env, u16 port, unsigned gsi, unsigned instance, const struct uart_host *host,
             struct uart **ret, struct err **err)
{
        struct uart *uart = calloc(1, sizeof(*uart));
        int r;

        if (!uart)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a serial port");
        uart->dev.ops = &uart_device_ops;
        uart->dev.instance = instance;
        uart->env = env;
        uart->host = *host;
        uart->port = port;
        uart->connected = true;
        loop_timer_init(&uart->timeout, env->loop, on_timeout, uart);
        r = io_space_add(env->ports, port, UART_REGISTERS, &uart_io_ops, uart, "uart", err);
        if (r < 0) {
                free(uart);
                return r;
        }
        uart->irq = env->irq(env, gsi);
        uart_reset(&uart->dev);
        env->add(env, &uart->dev);
        *ret = uart;
        return 0;
}
