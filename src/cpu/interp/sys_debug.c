/* Debug registers at work: breakpoints, the single-step trap, and the points of a debugger outside the guest. SDM 3B, 17.2-17.3.
 *
 * While any breakpoint is enabled the outer loop runs one instruction at a time and pages that hold data breakpoints stay out of
 * the soft TLB, so these functions see every access that matters and the fast paths know nothing of them. */
#include "sys.h"

#define DR6_BS BIT(14)
#define BREAKPOINTS 4

enum { DR7_EXECUTE, DR7_WRITE, DR7_IO, DR7_READ_WRITE };

struct breakpoint {
        u64 address;
        unsigned kind, length;
        bool enabled;
};

static struct breakpoint breakpoint_at(const struct interp *in, unsigned i)
{
        static const u8 lengths[] = { 1, 2, 8, 4 };
        const u64 dr7 = in->cpu->dr[7];
        const unsigned length = lengths[bits(dr7, 19 + 4 * i, 18 + 4 * i)];

        return (struct breakpoint){
                .address = in->cpu->dr[i] & ~(u64)(length - 1), /* the low bits are ignored. SDM 3B, 17.2.5 */
                .kind = (unsigned)bits(dr7, 17 + 4 * i, 16 + 4 * i),
                .length = length,
                .enabled = bits(dr7, 2 * i + 1, 2 * i) != 0,
        };
}

static bool overlap(u64 a, u64 a_len, u64 b, u64 b_len)
{
        return a < b + b_len && b < a + a_len;
}

void sys_raise_step_trap(struct interp *in, u64 rip, u64 dr6)
{
        const struct pending_event event = {
                .kind = EVENT_FAULT, .vector = EXC_DB, .rip = rip, .dr6 = dr6, .trap = true,
        };

        interp_raise_event(in, &event);
}

/* ---- the debugger's points ---- */

static void debugger_hit(struct interp *in, int point, u64 gva)
{
        struct vcpu_debug *debug = &in->vcpu->debug;

        debug->hit_step = point < 0;
        debug->hit_point = point;
        debug->hit_gva = gva;
        in->debug_stop = true;
}

static bool debugger_breakpoint(struct interp *in, u64 linear)
{
        const struct vcpu_debug *debug = &in->vcpu->debug;

        for (size_t i = 0; i < debug->n_points; i++) {
                if (debug->points[i].kind != DEBUG_BREAK || debug->points[i].gva != linear)
                        continue;
                debugger_hit(in, (int)i, linear);
                return true;
        }
        return false;
}

static void debugger_watch(struct interp *in, u64 linear, unsigned size, bool write)
{
        const struct vcpu_debug *debug = &in->vcpu->debug;

        for (size_t i = 0; i < debug->n_points; i++) {
                const struct debug_point *p = &debug->points[i];

                if (p->kind == DEBUG_BREAK || p->kind == (write ? DEBUG_WATCH_READ : DEBUG_WATCH_WRITE))
                        continue;
                if (overlap(linear, size, p->gva, p->len))
                        debugger_hit(in, (int)i, linear);
        }
}

/* ---- the guest's ---- */

bool interp_fetch_breakpoint(struct interp *in)
{
        const u64 linear = in->mode & MODE_LONG64 ? in->rip : (u32)(in->cpu->seg[SEG_CS].base + in->rip);
        u64 hits = 0;

        if (debugger_breakpoint(in, linear))
                return true;
        /* After MOV SS instruction breakpoints are not held but lost, as on Intel's processors. SDM 3A, 6.8.3. */
        if ((in->rflags & RFLAGS_RF) || in->cpu->mov_ss_shadow)
                return false;
        for (unsigned i = 0; i < BREAKPOINTS; i++) {
                const struct breakpoint b = breakpoint_at(in, i);

                if (b.enabled && b.kind == DR7_EXECUTE && b.length == 1 && b.address == linear)
                        hits |= BIT(i);
        }
        if (!hits)
                return false;
        in->event = (struct pending_event){ .kind = EVENT_FAULT, .vector = EXC_DB, .rip = in->rip, .dr6 = hits };
        return true;
}

void interp_data_breakpoint(struct interp *in, u64 linear, unsigned size, bool write)
{
        for (unsigned i = 0; i < BREAKPOINTS; i++) {
                const struct breakpoint b = breakpoint_at(in, i);

                if (b.enabled && (b.kind == DR7_READ_WRITE || (b.kind == DR7_WRITE && write)) &&
                    overlap(linear, size, b.address, b.length))
                        in->pending_dr6 |= BIT(i);
        }
        debugger_watch(in, linear, size, write);
}

void sys_io_breakpoint(struct interp *in, unsigned port, unsigned size)
{
        if (!(in->cpu->dr[7] & 0xff) || !(in->cpu->paging.cr4 & CR4_DE))
                return;
        for (unsigned i = 0; i < BREAKPOINTS; i++) {
                const struct breakpoint b = breakpoint_at(in, i);

                if (b.enabled && b.kind == DR7_IO && overlap(port, size, b.address, b.length))
                        in->pending_dr6 |= BIT(i);
        }
}

bool interp_page_has_breakpoint(const struct interp *in, u64 gva)
{
        const struct vcpu_debug *debug = &in->vcpu->debug;
        const u64 page = gva & PAGE_MASK;

        for (unsigned i = 0; i < BREAKPOINTS; i++) {
                const struct breakpoint b = breakpoint_at(in, i);

                if (b.enabled && (b.kind == DR7_WRITE || b.kind == DR7_READ_WRITE) &&
                    overlap(page, PAGE_SIZE, b.address, b.length))
                        return true;
        }
        for (size_t i = 0; i < debug->n_points; i++)
                if (debug->points[i].kind != DEBUG_BREAK &&
                    overlap(page, PAGE_SIZE, debug->points[i].gva, debug->points[i].len))
                        return true;
        return false;
}

void sys_debug_delivered(struct interp *in)
{
        if (in->vcpu->debug.single_step)
                debugger_hit(in, -1, 0);
}

bool interp_step_trap(struct interp *in, bool tf)
{
        u64 dr6 = in->pending_dr6;

        if (in->vcpu->debug.single_step)
                debugger_hit(in, -1, 0);
        if (in->no_step_trap)
                tf = false;
        in->no_step_trap = false;
        /* MOV SS and POP SS hold the breakpoints they hit over the next instruction and take no step trap. SDM 3A, 6.8.3. */
        if (in->cpu->mov_ss_shadow)
                return false;
        if (tf)
                dr6 |= DR6_BS;
        in->pending_dr6 = 0;
        if (!dr6)
                return false;
        in->event = (struct pending_event){
                .kind = EVENT_FAULT, .vector = EXC_DB, .rip = in->rip, .dr6 = dr6, .trap = true,
        };
        return true;
}
