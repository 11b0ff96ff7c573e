/* A 16550A serial port.
 *
 * Transmitted bytes go to a sink at once, so the transmitter is never busy. Received bytes come from uart_receive; the
 * receive buffer is the 16-byte FIFO and no more, so a source has to wait for room (back-pressure): it asks
 * uart_receive_room() and is told through on_room when there is room again.
 *
 * Source: National Semiconductor PC16550D datasheet. Device lock held in every call. */
#pragma once

#include "dev/dev.h"

#define UART_COM1_PORT 0x3f8
#define UART_COM1_GSI 4

struct uart;

struct uart_host {
        /* A byte from the guest. */
        void (*transmit)(void *opaque, u8 byte);
        /* Optional: the receiver has room again after it was full. */
        void (*on_room)(void *opaque);
        void *opaque;
};

int uart_new(struct device_env *env, u16 port, unsigned gsi, unsigned instance, const struct uart_host *host,
             struct uart **ret, struct err **err);
/* How many bytes uart_receive would take now. */
size_t uart_receive_room(const struct uart *uart);
/* Bytes from the host; returns how many were taken. */
size_t uart_receive(struct uart *uart, const u8 *data, size_t len);
/* A break condition on the line. */
void uart_receive_break(struct uart *uart);
/* Modem lines as seen by the guest: is a terminal there? (DCD, DSR and CTS together). */
void uart_set_connected(struct uart *uart, bool connected);
