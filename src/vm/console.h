/* The machine's console: between a serial port or virtio console and a terminal, pipe or file of the host.
 *
 * Output goes through a ring to a thread that may block in write(); when the ring is full the guest waits, but
 * never beyond the machine's end. Input comes from whoever reads the terminal (vmm_main.c) through another ring;
 * console_input never blocks. So neither a stalled reader nor a guest that ignores its input can keep the machine
 * from being stopped.
 *
 * Threads: console_output and console_guest_ready with the device lock held; console_input, console_input_room
 * from one other thread. */
#pragma once

#include "base/err.h"
#include "base/loop.h"

struct console;

/* The guest's end: takes typed bytes, returns how many. Device lock held. */
typedef size_t console_guest_fn(void *opaque, const u8 *data, size_t n);

/* @out_fd: where output goes, owned by the console if @close_out; -1 drops it. @ended tells that output must not
 * wait any more. */
int console_new(struct loop *loop, int out_fd, bool close_out, bool (*ended)(void *opaque), void *opaque,
        struct console **ret, struct err **err);
/* Starts the thread that writes. */
int console_start(struct console *console, struct err **err);
/* Writes what is left, giving up when nobody takes it for a second; output is dropped from then on. */
void console_flush(struct console *console);
/* Flushes. Callbacks must have ended (loop stopped). NULL is fine. Returns NULL. */
struct console *console_free(struct console *console);

void console_set_guest(struct console *console, console_guest_fn *fn, void *opaque);

/* From the guest. */
void console_output(struct console *console, const u8 *data, size_t n);
/* The guest can take input (again). */
void console_guest_ready(void *console);

/* To the guest. Bytes without room are dropped: ask first, unless a person typed them. */
void console_input(struct console *console, const u8 *data, size_t n);
size_t console_input_room(struct console *console);
/* Readable when there is room again after console_input_room was less than asked for; read it to clear. */
int console_room_fd(const struct console *console);
