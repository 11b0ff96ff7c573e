/* "monitor ..." of the debugger. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdb_session.h"

static void print_help(struct gdb_session *s, FILE *out);

static void print_info(struct gdb_session *s, FILE *out)
{
        for (unsigned i = 0; i < s->ops->n_vcpus(s->opaque); i++) {
                fprintf(out, "vCPU %u:\n", i);
                cpu_state_print(&s->ops->vcpu(s->opaque, i)->state, out);
        }
}

static void print_stats(struct gdb_session *s, FILE *out)
{
        if (s->ops->print_stats)
                s->ops->print_stats(s->opaque, out);
}

static void quit(struct gdb_session *s, FILE *out)
{
        s->ops->quit(s->opaque);
}

static const struct {
        const char *name, *help;
        void (*fn)(struct gdb_session *s, FILE *out);
} commands[] = {
        { "help", "this list", print_help },
        { "info", "the CPUs' registers, segments and control registers", print_info },
        { "stats", "counters and exits so far", print_stats },
        { "quit", "end the machine", quit },
};

static void print_help(struct gdb_session *s, FILE *out)
{
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
                fprintf(out, "%-6s %s\n", commands[i].name, commands[i].help);
}

static void run_command(struct gdb_session *s, const char *line, FILE *out)
{
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
                if (strcmp(commands[i].name, line) == 0) {
                        commands[i].fn(s, out);
                        return;
                }
        fprintf(out, "unknown command '%s'; these exist:\n", line);
        print_help(s, out);
}

/* Output goes as O packets in front of the reply. */
static void send_output(struct gdb_session *s, const char *text, size_t n)
{
        const size_t step = GDB_PACKET_MAX / 2 - 1;
        char frame[GDB_FRAME_MAX];

        for (size_t pos = 0; pos < n; pos += step) {
                s->reply.len = 0;
                gdb_reply_text(&s->reply, "O");
                gdb_reply_hex(&s->reply, text + pos, MIN(step, n - pos));
                s->send(s->send_opaque, frame, gdb_frame(&s->reply, frame));
        }
        s->reply.len = 0;
}

void gdb_monitor(struct gdb_session *s, const char *hex)
{
        char line[64] = { 0 }, *text = NULL;
        const size_t n = strlen(hex) / 2;
        size_t len;
        FILE *out;

        if (n >= sizeof(line) || !gdb_hex_bytes(&hex, line, n) || *hex) {
                gdb_reply_error(s, EINVAL);
                return;
        }
        out = open_memstream(&text, &len);
        if (!out) {
                gdb_reply_error(s, ENOMEM);
                return;
        }
        run_command(s, line, out);
        if (fclose(out) == 0)
                send_output(s, text, len);
        free(text);
        gdb_reply_ok(s);
}
