/* The debugger's protocol: framing, registers, and a conversation with a machine that only stands there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vm/gdb_regs.h"
#include "vm/gdb_session.h"

#define N_CPUS 2

/* A machine of two CPUs that have 64 KiB of memory and no paging; "running" is a flag. */
struct fake {
        struct gdb_session session;
        struct vcpu vcpus[N_CPUS];
        struct guest_memory *memory;
        pthread_mutex_t lock;
        bool held[N_CPUS], running, quit, interrupted;
        char out[4 * GDB_PACKET_MAX];
        size_t n_out;
};

static unsigned fake_n_vcpus(void *opaque)
{
        return N_CPUS;
}

static struct vcpu *fake_vcpu(void *opaque, unsigned index)
{
        struct fake *f = opaque;

        assert_true(index < N_CPUS);
        return &f->vcpus[index];
}

static void fake_resume(void *opaque)
{
        ((struct fake *)opaque)->running = true;
}

static void fake_interrupt(void *opaque)
{
        ((struct fake *)opaque)->interrupted = true;
}

static void fake_hold(void *opaque, unsigned index, bool hold)
{
        ((struct fake *)opaque)->held[index] = hold;
}

static void fake_quit(void *opaque)
{
        ((struct fake *)opaque)->quit = true;
}

static const struct gdb_machine_ops fake_ops = {
        .n_vcpus = fake_n_vcpus,
        .vcpu = fake_vcpu,
        .resume = fake_resume,
        .interrupt = fake_interrupt,
        .hold = fake_hold,
        .quit = fake_quit,
};

static void fake_send(void *opaque, const char *data, size_t n)
{
        struct fake *f = opaque;

        assert_true(n < sizeof(f->out) - f->n_out);
        memcpy(f->out + f->n_out, data, n);
        f->n_out += n;
        f->out[f->n_out] = '\0';
}

static int setup(void **state)
{
        struct fake *f = aligned_alloc(64, ALIGN_UP(sizeof(*f), 64));

        memset(f, 0, sizeof(*f));
        pthread_mutex_init(&f->lock, NULL);
        assert_int_equal(guest_memory_new(64 * KIB, &f->lock, NULL, &f->memory, NULL), 0);
        for (unsigned i = 0; i < N_CPUS; i++) {
                f->vcpus[i].index = i;
                f->vcpus[i].memory = f->memory;
                cpu_state_reset(&f->vcpus[i].state, i == 0);
        }
        assert_int_equal(gdb_session_init(&f->session, &fake_ops, f, fake_send, f, NULL), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fake *f = *state;

        gdb_session_end(&f->session);
        guest_memory_free(f->memory);
        free(f);
        return 0;
}

/* Sends one packet and returns the payload of the reply, without acknowledgement and frame. */
static const char *ask(struct fake *f, const char *packet)
{
        struct gdb_reply reply = { .len = 0 };
        static char full[GDB_FRAME_MAX];
        char *start, *end;
        size_t n;

        gdb_reply_text(&reply, packet);
        n = gdb_frame(&reply, full);
        f->n_out = 0;
        f->out[0] = '\0';
        gdb_session_input(&f->session, (const u8 *)full, n);
        start = strchr(f->out, '$');
        if (!start)
                return "";
        end = strrchr(start, '#');
        assert_non_null(end);
        *end = '\0';
        return start + 1;
}

static void bad_checksum_asks_again(void **state)
{
        struct fake *f = *state;

        gdb_session_input(&f->session, (const u8 *)"$?#00", 5);
        assert_string_equal(f->out, "-");
        f->n_out = 0;
        gdb_session_input(&f->session, (const u8 *)"$?#3f", 5);
        assert_memory_equal(f->out, "+$T05thread:1;", 14);
}

static void parser_takes_escapes_and_refuses_giants(void **state)
{
        static struct gdb_parser p;
        static const char escaped[] = "$X}\x03#d8"; /* '}' 0x03 is '#' */
        enum gdb_event event = GDB_NOTHING;

        for (size_t i = 0; i < sizeof(escaped) - 1; i++)
                event = gdb_parser_feed(&p, (u8)escaped[i]);
        assert_int_equal(event, GDB_PACKET);
        assert_int_equal(p.len, 2);
        assert_memory_equal(p.data, "X#", 2);

        gdb_parser_feed(&p, '$');
        for (size_t i = 0; i < 3 * GDB_PACKET_MAX; i++)
                assert_int_equal(gdb_parser_feed(&p, 0), GDB_NOTHING);
        gdb_parser_feed(&p, '#');
        gdb_parser_feed(&p, '0');
        assert_int_equal(gdb_parser_feed(&p, '0'), GDB_BAD_PACKET);
}

static void registers_read_and_write_one_by_one_and_together(void **state)
{
        struct fake *f = *state;
        static char all[GDB_PACKET_MAX];

        f->vcpus[0].state.gpr[RBX] = 0x1122334455667788;
        assert_string_equal(ask(f, "p1"), "8877665544332211");
        assert_string_equal(ask(f, "P10=efbeadde00000000"), "OK"); /* rip */
        assert_int_equal(f->vcpus[0].state.rip, 0xdeadbeef);
        strcpy(all, "G");
        strcat(all, ask(f, "g"));
        f->vcpus[0].state.gpr[RBX] = 0;
        assert_string_equal(ask(f, all), "OK");
        assert_int_equal(f->vcpus[0].state.gpr[RBX], 0x1122334455667788);
}

static void incomplete_register_packet_changes_nothing(void **state)
{
        struct fake *f = *state;

        f->vcpus[0].state.gpr[RAX] = 7;
        assert_string_equal(ask(f, "G0000000000000000"), "E16");
        assert_int_equal(f->vcpus[0].state.gpr[RAX], 7);
        assert_string_equal(ask(f, "P0=00"), "E16");
        assert_string_equal(ask(f, "Pffff=00"), "E16");
        assert_string_equal(ask(f, "pffffffffffffffffff"), "E16");
}

static void control_registers_are_read_only(void **state)
{
        struct fake *f = *state;
        char packet[64];
        const u64 cr0 = f->vcpus[0].state.paging.cr0;

        snprintf(packet, sizeof(packet), "P%x=0100008000000000", gdb_reg_count() - 5);
        assert_string_equal(ask(f, packet), "E16");
        assert_int_equal(f->vcpus[0].state.paging.cr0, cr0);
}

static void memory_is_that_of_the_guest(void **state)
{
        struct fake *f = *state;
        u8 buf[4];

        assert_string_equal(ask(f, "M1000,4:01020304"), "OK");
        guest_memory_read(f->memory, 0x1000, buf, 4);
        assert_memory_equal(buf, "\1\2\3\4", 4);
        assert_string_equal(ask(f, "m1000,4"), "01020304");
        assert_string_equal(ask(f, "X1000,2:ab"), "OK");
        assert_string_equal(ask(f, "m1000,3"), "616203");
        assert_string_equal(ask(f, "mfffe,8"), "0000"); /* up to the end of memory */
        assert_string_equal(ask(f, "m20000000,8"), "E0e");
        assert_string_equal(ask(f, "M1000,4:0102"), "E16");
        assert_string_equal(ask(f, "M1000,ffffffff:00"), "E16");
        assert_string_equal(ask(f, "m1000"), "E16");
}

static void points_are_set_on_every_cpu_and_taken_back(void **state)
{
        struct fake *f = *state;

        assert_string_equal(ask(f, "Z0,1234,1"), "OK");
        assert_string_equal(ask(f, "Z2,2000,8"), "OK");
        assert_string_equal(ask(f, "Z0,1234,1"), "OK"); /* again: no second one */
        for (unsigned i = 0; i < N_CPUS; i++) {
                assert_int_equal(f->vcpus[i].debug.n_points, 2);
                assert_int_equal(f->vcpus[i].debug.points[0].gva, 0x1234);
                assert_int_equal(f->vcpus[i].debug.points[1].kind, DEBUG_WATCH_WRITE);
                assert_int_equal(f->vcpus[i].debug.points[1].len, 8);
        }
        assert_string_equal(ask(f, "z0,1234,1"), "OK");
        assert_int_equal(f->vcpus[1].debug.n_points, 1);
        assert_int_equal(f->vcpus[1].debug.points[0].gva, 0x2000);
        assert_string_equal(ask(f, "Z9,1234,1"), "E16");
        assert_string_equal(ask(f, "Z2,fffffffffffffff8,10"), "E16");
}

static void more_points_than_there_is_room_are_refused(void **state)
{
        struct fake *f = *state;
        char packet[32];

        for (unsigned i = 0; i < DEBUG_POINTS_MAX; i++) {
                snprintf(packet, sizeof(packet), "Z1,%x,1", i);
                assert_string_equal(ask(f, packet), "OK");
        }
        assert_string_equal(ask(f, "Z1,9999,1"), "E1c");
        assert_int_equal(f->vcpus[0].debug.n_points, DEBUG_POINTS_MAX);
}

static void continue_runs_and_the_stop_is_told(void **state)
{
        struct fake *f = *state;

        assert_string_equal(ask(f, "Z2,2000,8"), "OK");
        assert_string_equal(ask(f, "c"), "");
        assert_true(f->running);
        assert_string_equal(ask(f, "g"), ""); /* nothing is answered while it runs */
        f->vcpus[1].debug.hit_point = 0;
        f->vcpus[1].debug.hit_gva = 0x2004;
        f->n_out = 0;
        gdb_session_stopped(&f->session, 1, false);
        assert_memory_equal(f->out, "$T05thread:2;watch:2004;#", 25);
        assert_string_equal(ask(f, "qC"), "QC2");
}

static void ctrl_c_interrupts_only_what_runs(void **state)
{
        struct fake *f = *state;

        gdb_session_input(&f->session, (const u8 *)"\x03", 1);
        assert_false(f->interrupted);
        ask(f, "c");
        gdb_session_input(&f->session, (const u8 *)"\x03", 1);
        assert_true(f->interrupted);
        f->n_out = 0;
        gdb_session_stopped(&f->session, 0, true);
        assert_memory_equal(f->out, "$T02thread:1;#", 14);
}

static void step_steps_one_cpu_and_vcont_decides_about_the_others(void **state)
{
        struct fake *f = *state;

        ask(f, "vCont;s:2;c");
        assert_false(f->vcpus[0].debug.single_step);
        assert_true(f->vcpus[1].debug.single_step);
        assert_false(f->held[0]);
        gdb_session_stopped(&f->session, 1, false);
        assert_false(f->vcpus[1].debug.single_step);
        ask(f, "vCont;s:1");
        assert_true(f->vcpus[0].debug.single_step);
        assert_true(f->held[1]);
        gdb_session_stopped(&f->session, 0, false);
        assert_false(f->held[1]);
        assert_string_equal(ask(f, "vCont;x"), "E16");
        assert_string_equal(ask(f, "vCont;c:7"), "E16");
        assert_string_equal(ask(f, "vCont"), "E16");
        assert_false(f->session.running);
}

static void threads_are_the_cpus(void **state)
{
        struct fake *f = *state;

        assert_string_equal(ask(f, "qfThreadInfo"), "m1,2");
        assert_string_equal(ask(f, "qsThreadInfo"), "l");
        assert_string_equal(ask(f, "T2"), "OK");
        assert_string_equal(ask(f, "T3"), "E16");
        f->vcpus[1].state.gpr[RAX] = 5;
        assert_string_equal(ask(f, "Hg2"), "OK");
        assert_string_equal(ask(f, "p0"), "0500000000000000");
}

static void description_matches_the_registers(void **state)
{
        struct fake *f = *state;
        unsigned n = 0;
        const char *xml;
        size_t bytes = 0;

        xml = f->session.target_xml;
        for (const char *p = xml; (p = strstr(p, "<reg ")); p++)
                n++;
        assert_int_equal(n, gdb_reg_count());
        for (unsigned i = 0; i < n; i++)
                bytes += gdb_reg_size(i);
        assert_int_equal(strlen(ask(f, "g")), 2 * bytes);
        assert_memory_equal(ask(f, "qXfer:features:read:target.xml:0,10"), "m<?xml", 6);
        assert_string_equal(ask(f, "qXfer:features:read:target.xml:ffffff,10"), "E16");
        assert_string_equal(ask(f, "qXfer:features:read:other.xml:0,10"), "E16");
}

static void no_ack_mode_acknowledges_no_more(void **state)
{
        struct fake *f = *state;

        ask(f, "QStartNoAckMode");
        assert_int_equal(f->out[0], '+');
        ask(f, "?");
        assert_int_equal(f->out[0], '$');
}

static void monitor_quits_and_explains_itself(void **state)
{
        struct fake *f = *state;

        assert_memory_equal(ask(f, "qRcmd,68656c70"), "O", 1); /* help */
        assert_false(f->quit);
        ask(f, "qRcmd,71756974"); /* quit */
        assert_true(f->quit);
        assert_string_equal(ask(f, "qRcmd,7"), "E16");
}

static void unknown_packets_get_the_empty_reply(void **state)
{
        struct fake *f = *state;

        f->n_out = 0;
        ask(f, "vMustReplyEmpty");
        assert_string_equal(f->out, "+$"); /* ask() cut the frame at '#' */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                T(bad_checksum_asks_again),
                T(parser_takes_escapes_and_refuses_giants),
                T(registers_read_and_write_one_by_one_and_together),
                T(incomplete_register_packet_changes_nothing),
                T(control_registers_are_read_only),
                T(memory_is_that_of_the_guest),
                T(points_are_set_on_every_cpu_and_taken_back),
                T(more_points_than_there_is_room_are_refused),
                T(continue_runs_and_the_stop_is_told),
                T(ctrl_c_interrupts_only_what_runs),
                T(step_steps_one_cpu_and_vcont_decides_about_the_others),
                T(threads_are_the_cpus),
                T(description_matches_the_registers),
                T(no_ack_mode_acknowledges_no_more),
                T(monitor_quits_and_explains_itself),
                T(unknown_packets_get_the_empty_reply),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
