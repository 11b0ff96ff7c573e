#include "gdb_session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdb_regs.h"

enum { SIGNAL_INT = 2, SIGNAL_TRAP = 5 }; /* the protocol's numbers */

/* ---- replies ---- */

void gdb_reply_ok(struct gdb_session *s)
{
        gdb_reply_text(&s->reply, "OK");
}

void gdb_reply_error(struct gdb_session *s, int errnum)
{
        gdb_reply_printf(&s->reply, "E%02x", (unsigned)errnum & 0xff);
}

static void send_reply(struct gdb_session *s)
{
        char frame[GDB_FRAME_MAX];
        size_t n = gdb_frame(&s->reply, frame);

        s->send(s->send_opaque, frame, n);
}

static void reply_begin(struct gdb_session *s)
{
        s->reply.len = 0;
        s->reply.overflow = false;
}

/* ---- threads are vCPUs, numbered from 1 ---- */

enum { THREAD_ALL = -1, THREAD_BAD = -2 };

static int parse_thread(struct gdb_session *s, const char **p)
{
        u64 n;

        if (strncmp(*p, "-1", 2) == 0) {
                *p += 2;
                return THREAD_ALL;
        }
        if (!gdb_hex_number(p, &n) || n > s->ops->n_vcpus(s->opaque))
                return THREAD_BAD;
        return n == 0 ? (int)s->stop_thread : (int)n - 1; /* 0: any */
}

static struct vcpu *general_vcpu(struct gdb_session *s)
{
        return s->ops->vcpu(s->opaque, s->general_thread);
}

static void changed(struct vcpu *vcpu)
{
        if (vcpu->engine && vcpu->engine->state_changed)
                vcpu->engine->state_changed(vcpu);
}

static void cmd_set_thread(struct gdb_session *s, const char *p)
{
        const char what = *p ? *p++ : '\0';
        int thread = parse_thread(s, &p);

        if (thread == THREAD_BAD || (what != 'g' && what != 'c')) {
                gdb_reply_error(s, EINVAL);
                return;
        }
        if (what == 'g' && thread >= 0)
                s->general_thread = (unsigned)thread;
        gdb_reply_ok(s);
}

static void cmd_thread_alive(struct gdb_session *s, const char *p)
{
        if (parse_thread(s, &p) == THREAD_BAD)
                gdb_reply_error(s, EINVAL);
        else
                gdb_reply_ok(s);
}

static void cmd_thread_list(struct gdb_session *s, const char *p)
{
        gdb_reply_text(&s->reply, "m");
        for (unsigned i = 0; i < s->ops->n_vcpus(s->opaque); i++)
                gdb_reply_printf(&s->reply, "%s%x", i ? "," : "", i + 1);
}

static void cmd_thread_list_more(struct gdb_session *s, const char *p)
{
        gdb_reply_text(&s->reply, "l");
}

static void cmd_thread_info(struct gdb_session *s, const char *p)
{
        int thread = parse_thread(s, &p);
        const struct vcpu *vcpu;
        char text[48];

        if (thread < 0) {
                gdb_reply_error(s, EINVAL);
                return;
        }
        vcpu = s->ops->vcpu(s->opaque, (unsigned)thread);
        snprintf(text, sizeof(text), "vCPU %d [%s]", thread,
                vcpu->state.wait_for_sipi ? "waits for SIPI"
                : vcpu->state.halted      ? "halted"
                                          : "running");
        gdb_reply_hex(&s->reply, text, strlen(text));
}

static void cmd_current_thread(struct gdb_session *s, const char *p)
{
        gdb_reply_printf(&s->reply, "QC%x", s->stop_thread + 1);
}

/* ---- registers ---- */

static void cmd_read_registers(struct gdb_session *s, const char *p)
{
        const struct cpu_state *state = &general_vcpu(s)->state;
        u8 bytes[GDB_REG_BYTES_MAX];

        for (unsigned i = 0; i < gdb_reg_count(); i++) {
                gdb_reg_get(state, i, bytes);
                gdb_reply_hex(&s->reply, bytes, gdb_reg_size(i));
        }
}

/* All or nothing: a state is changed only when the whole packet is good. Registers that cannot be written are
 * skipped, as a debugger sends all of them to change one. */
static void cmd_write_registers(struct gdb_session *s, const char *p)
{
        struct vcpu *vcpu = general_vcpu(s);
        struct cpu_state state = vcpu->state;
        u8 bytes[GDB_REG_BYTES_MAX];

        for (unsigned i = 0; i < gdb_reg_count(); i++) {
                if (!gdb_hex_bytes(&p, bytes, gdb_reg_size(i))) {
                        gdb_reply_error(s, EINVAL);
                        return;
                }
                gdb_reg_set(&state, i, bytes);
        }
        vcpu->state = state;
        changed(vcpu);
        gdb_reply_ok(s);
}

static void cmd_read_register(struct gdb_session *s, const char *p)
{
        u8 bytes[GDB_REG_BYTES_MAX];
        u64 n;

        if (!gdb_hex_number(&p, &n) || n >= gdb_reg_count()) {
                gdb_reply_error(s, EINVAL);
                return;
        }
        gdb_reg_get(&general_vcpu(s)->state, (unsigned)n, bytes);
        gdb_reply_hex(&s->reply, bytes, gdb_reg_size((unsigned)n));
}

static void cmd_write_register(struct gdb_session *s, const char *p)
{
        struct vcpu *vcpu = general_vcpu(s);
        u8 bytes[GDB_REG_BYTES_MAX];
        u64 n;

        if (!gdb_hex_number(&p, &n) || n >= gdb_reg_count() || *p++ != '=' ||
                !gdb_hex_bytes(&p, bytes, gdb_reg_size((unsigned)n)) ||
                !gdb_reg_set(&vcpu->state, (unsigned)n, bytes)) {
                gdb_reply_error(s, EINVAL);
                return;
        }
        changed(vcpu);
        gdb_reply_ok(s);
}

/* ---- memory ---- */

/* "addr,length" */
static bool parse_range(const char **p, u64 *ret_gva, u64 *ret_len)
{
        return gdb_hex_number(p, ret_gva) && *(*p)++ == ',' && gdb_hex_number(p, ret_len);
}

static void cmd_read_memory(struct gdb_session *s, const char *p)
{
        u8 buf[GDB_PACKET_MAX / 2];
        u64 gva, len;
        size_t n;

        if (!parse_range(&p, &gva, &len)) {
                gdb_reply_error(s, EINVAL);
                return;
        }
        n = vcpu_peek(general_vcpu(s), gva, buf, (size_t)MIN(len, sizeof(buf)));
        if (n == 0 && len)
                gdb_reply_error(s, EFAULT);
        else
                gdb_reply_hex(&s->reply, buf, n);
}

static void write_memory(struct gdb_session *s, u64 gva, const u8 *bytes, size_t n)
{
        if (vcpu_poke(general_vcpu(s), gva, bytes, n) != n)
                gdb_reply_error(s, EFAULT);
        else
                gdb_reply_ok(s);
}

static void cmd_write_memory(struct gdb_session *s, const char *p)
{
        u8 buf[GDB_PACKET_MAX / 2];
        u64 gva, len;

        if (!parse_range(&p, &gva, &len) || *p++ != ':' || len > sizeof(buf) || !gdb_hex_bytes(&p, buf, (size_t)len))
                gdb_reply_error(s, EINVAL);
        else
                write_memory(s, gva, buf, (size_t)len);
}

/* The same with the bytes as they are. */
static void cmd_write_binary(struct gdb_session *s, const char *p)
{
        const char *end = (const char *)s->parser.data + s->parser.len;
        u64 gva, len;

        if (!parse_range(&p, &gva, &len) || *p++ != ':' || p > end || len != (u64)(end - p))
                gdb_reply_error(s, EINVAL);
        else
                write_memory(s, gva, (const u8 *)p, (size_t)len);
}

/* ---- break- and watchpoints: the same for all vCPUs ---- */

static void install_points(struct gdb_session *s)
{
        for (unsigned i = 0; i < s->ops->n_vcpus(s->opaque); i++) {
                struct vcpu *vcpu = s->ops->vcpu(s->opaque, i);

                memcpy(vcpu->debug.points, s->points, sizeof(s->points));
                vcpu->debug.n_points = s->n_points;
                changed(vcpu);
        }
}

/* "type,addr,kind": type 0 and 1 are breakpoints, 2 to 4 watchpoints of `kind` bytes. */
static bool parse_point(const char *p, struct debug_point *ret)
{
        static const enum debug_point_kind kinds[] = {
                DEBUG_BREAK,
                DEBUG_BREAK,
                DEBUG_WATCH_WRITE,
                DEBUG_WATCH_READ,
                DEBUG_WATCH_ACCESS,
        };
        u64 type, gva, len;

        if (!gdb_hex_number(&p, &type) || type >= ARRAY_SIZE(kinds) || *p++ != ',' || !parse_range(&p, &gva, &len))
                return false;
        if (kinds[type] == DEBUG_BREAK)
                len = 1;
        if (len == 0 || len > PAGE_SIZE || gva + len < gva)
                return false;
        *ret = (struct debug_point){ .kind = kinds[type], .gva = gva, .len = len };
        return true;
}

static size_t find_point(const struct gdb_session *s, const struct debug_point *point)
{
        size_t i = 0;

        while (i < s->n_points &&
                (s->points[i].kind != point->kind || s->points[i].gva != point->gva || s->points[i].len != point->len))
                i++;
        return i;
}

static void cmd_insert_point(struct gdb_session *s, const char *p)
{
        struct debug_point point;

        if (!parse_point(p, &point)) {
                gdb_reply_error(s, EINVAL);
                return;
        }
        if (find_point(s, &point) == s->n_points) {
                if (s->n_points == DEBUG_POINTS_MAX) {
                        gdb_reply_error(s, ENOSPC);
                        return;
                }
                s->points[s->n_points++] = point;
                install_points(s);
        }
        gdb_reply_ok(s);
}

static void cmd_remove_point(struct gdb_session *s, const char *p)
{
        struct debug_point point;
        size_t i;

        if (!parse_point(p, &point)) {
                gdb_reply_error(s, EINVAL);
                return;
        }
        i = find_point(s, &point);
        if (i < s->n_points) {
                memmove(&s->points[i], &s->points[i + 1], (s->n_points - i - 1) * sizeof(s->points[0]));
                s->n_points--;
                install_points(s);
        }
        gdb_reply_ok(s);
}

/* ---- running ---- */

static void reply_stop(struct gdb_session *s)
{
        gdb_reply_printf(&s->reply, "T%02xthread:%x;%s", s->stop_signal, s->stop_thread + 1, s->stop_reason);
}

static void cmd_why_stopped(struct gdb_session *s, const char *p)
{
        reply_stop(s);
}

enum action { ACTION_NONE, ACTION_CONTINUE, ACTION_STEP };

static void run(struct gdb_session *s)
{
        s->running = true;
        s->ops->resume(s->opaque);
}

static void set_action(struct gdb_session *s, unsigned i, enum action action)
{
        struct vcpu *vcpu = s->ops->vcpu(s->opaque, i);

        vcpu->debug.single_step = action == ACTION_STEP;
        s->ops->hold(s->opaque, i, action == ACTION_NONE);
        changed(vcpu);
}

/* c and s move the thread that stopped; the others go on with it. */
static void resume_simply(struct gdb_session *s, enum action action, const char *p)
{
        struct vcpu *vcpu = s->ops->vcpu(s->opaque, s->stop_thread);
        u64 address;

        if (*p && gdb_hex_number(&p, &address) && mmu_is_canonical(address))
                vcpu->state.rip = address;
        for (unsigned i = 0; i < s->ops->n_vcpus(s->opaque); i++)
                set_action(s, i, i == s->stop_thread ? action : ACTION_CONTINUE);
        run(s);
}

static void cmd_continue(struct gdb_session *s, const char *p)
{
        resume_simply(s, ACTION_CONTINUE, p);
}

static void cmd_step(struct gdb_session *s, const char *p)
{
        resume_simply(s, ACTION_STEP, p);
}

/* With a signal, which means nothing to a machine: "sig[;addr]". */
static const char *skip_signal(const char *p)
{
        p = strchr(p, ';');
        return p ? p + 1 : "";
}

static void cmd_continue_signal(struct gdb_session *s, const char *p)
{
        resume_simply(s, ACTION_CONTINUE, skip_signal(p));
}

static void cmd_step_signal(struct gdb_session *s, const char *p)
{
        resume_simply(s, ACTION_STEP, skip_signal(p));
}

/* One "action[:thread]" of vCont. False when malformed. */
static bool parse_action(struct gdb_session *s, const char **p, enum action *ret_action, int *ret_thread)
{
        const char c = **p ? *(*p)++ : '\0';
        u64 signal;

        *ret_thread = THREAD_ALL;
        if (c == 'c' || c == 'C')
                *ret_action = ACTION_CONTINUE;
        else if (c == 's' || c == 'S')
                *ret_action = ACTION_STEP;
        else
                return false;
        if ((c == 'C' || c == 'S') && !gdb_hex_number(p, &signal))
                return false;
        if (**p == ':') {
                (*p)++;
                *ret_thread = parse_thread(s, p);
        }
        return *ret_thread != THREAD_BAD && (**p == ';' || **p == '\0');
}

/* vCont;action[:thread]...: the leftmost action that names a thread is its; threads without one stay where they are. */
static void cmd_vcont(struct gdb_session *s, const char *p)
{
        enum action actions[256] = { ACTION_NONE }, action;
        const unsigned n = MIN(s->ops->n_vcpus(s->opaque), (unsigned)ARRAY_SIZE(actions));
        bool any = false;
        int thread;

        while (*p == ';') {
                p++;
                if (!parse_action(s, &p, &action, &thread))
                        break;
                for (unsigned i = 0; i < n; i++)
                        if (actions[i] == ACTION_NONE && (thread == THREAD_ALL || (unsigned)thread == i))
                                actions[i] = action;
                any = true;
        }
        if (*p || !any) {
                gdb_reply_error(s, EINVAL);
                return;
        }
        for (unsigned i = 0; i < n; i++)
                set_action(s, i, actions[i]);
        run(s);
}

static void cmd_vcont_query(struct gdb_session *s, const char *p)
{
        gdb_reply_text(&s->reply, "vCont;c;C;s;S");
}

static void cmd_detach(struct gdb_session *s, const char *p)
{
        gdb_reply_ok(s);
        s->closed = true;
}

static void cmd_kill(struct gdb_session *s, const char *p)
{
        gdb_reply_ok(s);
        s->closed = true;
        s->ops->quit(s->opaque);
}

/* ---- queries ---- */

static void cmd_supported(struct gdb_session *s, const char *p)
{
        gdb_reply_printf(&s->reply,
                "PacketSize=%x;qXfer:features:read+;vContSupported+;QStartNoAckMode+;swbreak+;hwbreak+",
                GDB_PACKET_MAX - 1);
}

/* "target.xml:offset,length" */
static void cmd_read_features(struct gdb_session *s, const char *p)
{
        const size_t total = strlen(s->target_xml);
        u64 offset, len;

        if (strncmp(p, "target.xml:", 11) != 0 || (p += 11, !parse_range(&p, &offset, &len)) || offset > total) {
                gdb_reply_error(s, EINVAL);
                return;
        }
        len = MIN(MIN(len, total - offset), (u64)GDB_PACKET_MAX / 2 - 1);
        gdb_reply_text(&s->reply, offset + len < total ? "m" : "l");
        gdb_reply_binary(&s->reply, s->target_xml + offset, (size_t)len);
}

static void cmd_attached(struct gdb_session *s, const char *p)
{
        gdb_reply_text(&s->reply, "1"); /* quitting the debugger detaches */
}

static void cmd_ok(struct gdb_session *s, const char *p)
{
        gdb_reply_ok(s);
}

static void cmd_no_ack(struct gdb_session *s, const char *p)
{
        gdb_reply_ok(s);
        s->no_ack = true;
}

static void cmd_monitor(struct gdb_session *s, const char *p)
{
        gdb_monitor(s, p);
}

/* By first match, so longer names come first. An unknown packet gets an empty reply. */
static const struct {
        const char *prefix;
        void (*fn)(struct gdb_session *s, const char *rest);
} commands[] = {
        { "vCont?", cmd_vcont_query },
        { "vCont", cmd_vcont },
        { "vKill", cmd_kill },
        { "qSupported", cmd_supported },
        { "qXfer:features:read:", cmd_read_features },
        { "qfThreadInfo", cmd_thread_list },
        { "qsThreadInfo", cmd_thread_list_more },
        { "qThreadExtraInfo,", cmd_thread_info },
        { "qAttached", cmd_attached },
        { "qRcmd,", cmd_monitor },
        { "qSymbol:", cmd_ok },
        { "qC", cmd_current_thread },
        { "QStartNoAckMode", cmd_no_ack },
        { "?", cmd_why_stopped },
        { "c", cmd_continue },
        { "C", cmd_continue_signal },
        { "s", cmd_step },
        { "S", cmd_step_signal },
        { "D", cmd_detach },
        { "k", cmd_kill },
        { "g", cmd_read_registers },
        { "G", cmd_write_registers },
        { "p", cmd_read_register },
        { "P", cmd_write_register },
        { "m", cmd_read_memory },
        { "M", cmd_write_memory },
        { "X", cmd_write_binary },
        { "H", cmd_set_thread },
        { "T", cmd_thread_alive },
        { "Z", cmd_insert_point },
        { "z", cmd_remove_point },
};

static void on_packet(struct gdb_session *s)
{
        const char *packet = (const char *)s->parser.data;

        if (!s->no_ack)
                s->send(s->send_opaque, "+", 1);
        if (s->running)
                return; /* nothing can be asked of a running machine */
        reply_begin(s);
        for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
                size_t n = strlen(commands[i].prefix);

                if (strncmp(packet, commands[i].prefix, n) == 0) {
                        commands[i].fn(s, packet + n);
                        break;
                }
        }
        if (!s->running)
                send_reply(s);
}

void gdb_session_input(struct gdb_session *s, const u8 *data, size_t n)
{
        for (size_t i = 0; i < n && !s->closed; i++) {
                switch (gdb_parser_feed(&s->parser, data[i])) {
                case GDB_PACKET:
                        on_packet(s);
                        break;
                case GDB_BAD_PACKET:
                        if (!s->no_ack)
                                s->send(s->send_opaque, "-", 1);
                        break;
                case GDB_NACK:
                        if (!s->running && !s->no_ack)
                                send_reply(s); /* the last one again */
                        break;
                case GDB_INTERRUPT:
                        if (s->running)
                                s->ops->interrupt(s->opaque);
                        break;
                case GDB_ACK:
                case GDB_NOTHING:
                        break;
                }
        }
}

static void describe_stop(struct gdb_session *s, const struct vcpu_debug *debug)
{
        static const char *const names[] = {
                [DEBUG_BREAK] = "hwbreak",
                [DEBUG_WATCH_WRITE] = "watch",
                [DEBUG_WATCH_READ] = "rwatch",
                [DEBUG_WATCH_ACCESS] = "awatch",
        };
        enum debug_point_kind kind;

        s->stop_reason[0] = '\0';
        if (debug->hit_point < 0 || (size_t)debug->hit_point >= debug->n_points)
                return;
        kind = debug->points[debug->hit_point].kind;
        if (kind != DEBUG_BREAK) /* a debugger knows its own breakpoints by their addresses */
                snprintf(s->stop_reason, sizeof(s->stop_reason), "%s:%llx;", names[kind],
                        (unsigned long long)debug->hit_gva);
}

void gdb_session_stopped(struct gdb_session *s, unsigned index, bool interrupted)
{
        s->running = false;
        s->stop_thread = index;
        s->general_thread = index;
        s->stop_signal = interrupted ? SIGNAL_INT : SIGNAL_TRAP;
        s->stop_reason[0] = '\0';
        if (!interrupted)
                describe_stop(s, &s->ops->vcpu(s->opaque, index)->debug);
        for (unsigned i = 0; i < s->ops->n_vcpus(s->opaque); i++) {
                s->ops->vcpu(s->opaque, i)->debug.single_step = false;
                s->ops->hold(s->opaque, i, false);
        }
        reply_begin(s);
        reply_stop(s);
        send_reply(s);
}

void gdb_session_exited(struct gdb_session *s, unsigned status)
{
        reply_begin(s);
        gdb_reply_printf(&s->reply, "W%02x", status & 0xff);
        send_reply(s);
        s->closed = true;
}

int gdb_session_init(struct gdb_session *s, const struct gdb_machine_ops *ops, void *opaque,
        void (*send)(void *opaque, const char *data, size_t n), void *send_opaque, struct err **err)
{
        memset(s, 0, sizeof(*s));
        s->ops = ops;
        s->opaque = opaque;
        s->send = send;
        s->send_opaque = send_opaque;
        s->stop_signal = SIGNAL_TRAP;
        s->target_xml = gdb_target_xml();
        return s->target_xml ? 0 : err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a debugger");
}

void gdb_session_end(struct gdb_session *s)
{
        s->n_points = 0;
        install_points(s);
        for (unsigned i = 0; i < s->ops->n_vcpus(s->opaque); i++)
                set_action(s, i, ACTION_CONTINUE);
        free(s->target_xml);
        s->target_xml = NULL;
}
