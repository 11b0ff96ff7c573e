/* Guest memory as the interpreter's instructions see it: linear addresses in, faults out by longjmp.
 *
 * One page at a time: the soft TLB answers or the page is walked (access_page), which also decides whether the page may be entered in the
 * TLB for fast access. What may not - device memory, pages with flags, pages with breakpoints - comes through here every time. */
#include <string.h>

#include "machine.h"
#include "sys.h"

/* A page-sized piece of an access after translation. */
struct piece {
        u64 gpa;
        u8 *hva;      /* NULL: not RAM */
        bool flagged; /* RAM page with flags: guest_memory_written after a write */
};

static bool has_breakpoints(const struct interp *in)
{
        return in->cpu->dr[7] & 0xff || in->vcpu->debug.n_points;
}

/* What translated code would use: an entry that the guest has not flushed counts, whatever the page tables say now. NULL: none, it has to be walked. */
static u8 *trial_translate(struct interp *in, u64 linear, enum mmu_access access, enum tlb_mode mode)
{
        u8 *hva = tlb_lookup(&in->tlb, mode, access, linear, 1);

        if (hva || tlb_miss(&in->tlb, in->vcpu->memory, &in->cpu->paging, mode, access, linear))
                return hva;
        return tlb_lookup(&in->tlb, mode, access, linear, 1);
}

/* Translates the page part of an access; fills the TLB when the page may be accessed without us. */
static void access_page(struct interp *in, const struct uop *u, u64 linear, enum mmu_access access, enum tlb_mode mode,
                        struct piece *piece)
{
        struct guest_memory *mem = in->vcpu->memory;
        struct mmu_translation tr;
        const u8 *flags;
        bool watched;
        int r;

        if (unlikely(in->trial)) {
                *piece = (struct piece){ .hva = trial_translate(in, linear, access, mode) };
                if (piece->hva) {
                        piece->gpa = guest_memory_gpa(mem, piece->hva);
                        return;
                }
        }
        r = mmu_walk(mem, &in->cpu->paging, linear, access, tlb_walk_flags(mode), &tr);
        if (unlikely(r))
                interp_raise_pf(in, u, linear, (u32)r & 0xffff);
        piece->gpa = tr.gpa;
        piece->hva = guest_memory_hva(mem, tr.gpa, 1);
        piece->flagged = false;
        if (!piece->hva) {
                if (unlikely(in->trial))
                        trial_end(in, u);
                return;
        }
        flags = guest_memory_flags(mem, tr.gpa);
        piece->flagged = __atomic_load_n(flags, __ATOMIC_RELAXED) != 0;
        if (unlikely(in->trial)) {
                if (piece->flagged && access == MMU_WRITE)
                        trial_end(in, u);
                return;
        }
        watched = access != MMU_FETCH && has_breakpoints(in) && interp_page_has_breakpoint(in, linear);
        if (watched)
                return;
        tlb_fill(&in->tlb, &in->cpu->paging, mode, access, linear, piece->hva, &tr, piece->flagged);
        counter_inc(&in->vcpu->counters, COUNTER_TLB_FILLS);
        trace(TLB_FILL, in->vcpu->index, linear, tr.gpa, access);
}

static u64 next_page(const struct interp *in, u64 linear)
{
        const u64 next = (linear & PAGE_MASK) + PAGE_SIZE;

        return in->mode & MODE_LONG64 ? next : (u32)next;
}

static u64 device_read(struct interp *in, u64 gpa, unsigned size)
{
        u64 value = 0;

        exit_count(&in->vcpu->counters, EXIT_MMIO);
        io_read(&in->vcpu->memory->mmio, gpa, size, &value);
        return value;
}

static void device_write(struct interp *in, u64 gpa, u64 value, unsigned size)
{
        exit_count(&in->vcpu->counters, EXIT_MMIO);
        io_write(&in->vcpu->memory->mmio, gpa, value, size);
}

static void piece_read(struct interp *in, const struct piece *piece, void *dst, unsigned size)
{
        u8 *to = dst;

        if (piece->hva) {
                memcpy(to, piece->hva, size);
                return;
        }
        for (unsigned done = 0; done < size;) {
                const unsigned n = size - done >= 8 ? 8 : size - done;
                const u64 value = device_read(in, piece->gpa + done, n);

                memcpy(to + done, &value, n);
                done += n;
        }
}

/* RAM with flags was written by this vCPU: others hear of it through their mailboxes, we look into ours at once. */
static void note_written(struct interp *in, u64 gpa, unsigned size)
{
        guest_memory_written(in->vcpu->memory, gpa, size);
        if (__atomic_load_n(&in->vcpu->work, __ATOMIC_ACQUIRE) & VCPU_WORK_MAILBOX)
                interp_mailbox_drain(in);
}

static void piece_write(struct interp *in, const struct piece *piece, const void *src, unsigned size)
{
        const u8 *from = src;

        if (piece->hva) {
                memcpy(piece->hva, from, size);
                if (piece->flagged)
                        note_written(in, piece->gpa, size);
                return;
        }
        for (unsigned done = 0; done < size;) {
                const unsigned n = size - done >= 8 ? 8 : size - done;
                u64 value = 0;

                memcpy(&value, from + done, n);
                device_write(in, piece->gpa + done, value, n);
                done += n;
        }
}

/* Both pieces of an access of up to a page; the second has size 0 unless it crosses. All faults happen here. */
static unsigned translate(struct interp *in, const struct uop *u, u64 linear, unsigned size, enum mmu_access access,
                          enum tlb_mode mode, struct piece pieces[2])
{
        const unsigned room = (unsigned)(PAGE_SIZE - (linear & (PAGE_SIZE - 1)));

        const unsigned first = MIN(size, room);

        access_page(in, u, linear, access, mode, &pieces[0]);
        if (unlikely(first < size))
                access_page(in, u, next_page(in, linear), access, mode, &pieces[1]);
        if (unlikely(in->trial) && access == MMU_WRITE) {
                trial_note_write(in, u, pieces[0].hva, first);
                if (first < size)
                        trial_note_write(in, u, pieces[1].hva, size - first);
        }
        return first;
}

static void data_breakpoints(struct interp *in, u64 linear, unsigned size, bool write)
{
        if (unlikely(has_breakpoints(in)))
                interp_data_breakpoint(in, linear, size, write);
}

/* Sized copies, so that a naturally aligned access is one access on the host too. Guests need not align. */
typedef u16 __attribute__((aligned(1))) u16_any;
typedef u32 __attribute__((aligned(1))) u32_any;
typedef u64 __attribute__((aligned(1))) u64_any;

static inline u64 load_sized(const void *p, unsigned size)
{
        switch (size) {
        case 1:
                return *(const volatile u8 *)p;
        case 2:
                return *(const volatile u16_any *)p;
        case 4:
                return *(const volatile u32_any *)p;
        default:
                return *(const volatile u64_any *)p;
        }
}

static inline void store_sized(void *p, u64 value, unsigned size)
{
        switch (size) {
        case 1:
                *(volatile u8 *)p = (u8)value;
                break;
        case 2:
                *(volatile u16_any *)p = (u16)value;
                break;
        case 4:
                *(volatile u32_any *)p = (u32)value;
                break;
        default:
                *(volatile u64_any *)p = value;
        }
}

/* Where a write may go at once. */
static void *write_hit(struct interp *in, u64 linear, unsigned size, enum tlb_mode mode)
{
        return likely(!in->trial) ? tlb_lookup(&in->tlb, mode, MMU_WRITE, linear, size) : NULL;
}

static u64 read_mode(struct interp *in, const struct uop *u, u64 linear, unsigned size, enum tlb_mode mode)
{
        const void *p = tlb_lookup(&in->tlb, mode, MMU_READ, linear, size);
        struct piece pieces[2];
        unsigned first;
        u64 value = 0;

        if (likely(p))
                return load_sized(p, size);
        first = translate(in, u, linear, size, MMU_READ, mode, pieces);
        if (first == size && pieces[0].hva) {
                value = load_sized(pieces[0].hva, size);
        } else {
                piece_read(in, &pieces[0], &value, first);
                if (first < size)
                        piece_read(in, &pieces[1], (u8 *)&value + first, size - first);
        }
        data_breakpoints(in, linear, size, false);
        return value;
}

static void write_mode(struct interp *in, const struct uop *u, u64 linear, u64 value, unsigned size, enum tlb_mode mode)
{
        void *p = write_hit(in, linear, size, mode);
        struct piece pieces[2];
        unsigned first;

        if (likely(p)) {
                store_sized(p, value, size);
                return;
        }
        first = translate(in, u, linear, size, MMU_WRITE, mode, pieces);
        data_breakpoints(in, linear, size, true);
        if (first == size && pieces[0].hva) {
                store_sized(pieces[0].hva, value, size);
                if (pieces[0].flagged)
                        note_written(in, pieces[0].gpa, size);
                return;
        }
        piece_write(in, &pieces[0], &value, first);
        if (first < size)
                piece_write(in, &pieces[1], (u8 *)&value + first, size - first);
}

u64 mem_read(struct interp *in, const struct uop *u, u64 linear, unsigned size)
{
        return read_mode(in, u, linear, size, in->tlb_mode);
}

void mem_write(struct interp *in, const struct uop *u, u64 linear, u64 value, unsigned size)
{
        write_mode(in, u, linear, value, size, in->tlb_mode);
}

/* Implicit supervisor accesses ignore EFLAGS.AC: SMAP applies to them. SDM 3A, 4.6.1. */
u64 mem_read_system(struct interp *in, const struct uop *u, u64 linear, unsigned size)
{
        return read_mode(in, u, linear, size, TLB_KERNEL);
}

void mem_write_system(struct interp *in, const struct uop *u, u64 linear, u64 value, unsigned size)
{
        write_mode(in, u, linear, value, size, TLB_KERNEL);
}

static enum tlb_mode mode_as(const struct interp *in, bool user)
{
        if (user)
                return TLB_USER;
        return in->rflags & RFLAGS_AC && in->cpu->paging.cr4 & CR4_SMAP ? TLB_KERNEL_AC : TLB_KERNEL;
}

u64 mem_read_as(struct interp *in, const struct uop *u, u64 linear, unsigned size, bool user)
{
        return read_mode(in, u, linear, size, mode_as(in, user));
}

void mem_write_as(struct interp *in, const struct uop *u, u64 linear, u64 value, unsigned size, bool user)
{
        write_mode(in, u, linear, value, size, mode_as(in, user));
}

void mem_read_bytes(struct interp *in, const struct uop *u, u64 linear, void *dst, unsigned size)
{
        struct piece pieces[2];
        const unsigned first = translate(in, u, linear, size, MMU_READ, in->tlb_mode, pieces);

        piece_read(in, &pieces[0], dst, first);
        if (first < size)
                piece_read(in, &pieces[1], (u8 *)dst + first, size - first);
        data_breakpoints(in, linear, size, false);
}

void mem_write_bytes(struct interp *in, const struct uop *u, u64 linear, const void *src, unsigned size)
{
        struct piece pieces[2];
        const unsigned first = translate(in, u, linear, size, MMU_WRITE, in->tlb_mode, pieces);

        data_breakpoints(in, linear, size, true);
        piece_write(in, &pieces[0], src, first);
        if (first < size)
                piece_write(in, &pieces[1], (const u8 *)src + first, size - first);
}

void mem_probe_write(struct interp *in, const struct uop *u, u64 linear, unsigned size)
{
        struct piece pieces[2];

        if (!write_hit(in, linear, size, in->tlb_mode))
                translate(in, u, linear, size, MMU_WRITE, in->tlb_mode, pieces);
}

void mem_or_byte_system(struct interp *in, const struct uop *u, u64 linear, u8 bits_set)
{
        struct piece piece;

        access_page(in, u, linear, MMU_WRITE, TLB_KERNEL, &piece);
        if (!piece.hva) {
                device_write(in, piece.gpa, device_read(in, piece.gpa, 1) | bits_set, 1);
                return;
        }
        __atomic_fetch_or(piece.hva, bits_set, __ATOMIC_SEQ_CST);
        if (piece.flagged)
                note_written(in, piece.gpa, 1);
}

void *mem_rmw_begin(struct interp *in, const struct uop *u, u64 linear, unsigned size, bool load, bool lock,
                    struct mem_rmw *rmw)
{
        struct piece pieces[2];
        void *p = write_hit(in, linear, size, in->tlb_mode);

        rmw->size = size;
        rmw->bus_locked = false;
        if (p) {
                rmw->direct = true;
                rmw->gpa[0] = ~0ULL; /* nothing to note afterwards */
                return p;
        }
        rmw->first = translate(in, u, linear, size, MMU_WRITE, in->tlb_mode, pieces);
        data_breakpoints(in, linear, size, true);
        rmw->gpa[0] = pieces[0].gpa;
        rmw->direct = rmw->first == size && pieces[0].hva;
        if (rmw->direct) {
                if (!pieces[0].flagged)
                        rmw->gpa[0] = ~0ULL;
                return pieces[0].hva;
        }
        rmw->gpa[1] = rmw->first < size ? pieces[1].gpa : 0;
        /* Locked and across pages, or in device memory: split locks are serialised among themselves, as a bus lock would. */
        if (lock) {
                pthread_mutex_lock(&in->machine->bus_lock);
                rmw->bus_locked = true;
        }
        if (load) {
                piece_read(in, &pieces[0], rmw->buffer, rmw->first);
                if (rmw->first < size)
                        piece_read(in, &pieces[1], rmw->buffer + rmw->first, size - rmw->first);
        }
        return rmw->buffer;
}

static void write_physical(struct interp *in, u64 gpa, const void *src, unsigned size)
{
        u8 *flags = guest_memory_flags(in->vcpu->memory, gpa);
        const struct piece piece = { .gpa = gpa, .hva = guest_memory_hva(in->vcpu->memory, gpa, 1), .flagged = flags && *flags };

        piece_write(in, &piece, src, size);
}

void mem_rmw_end(struct interp *in, struct mem_rmw *rmw)
{
        if (rmw->direct) {
                if (unlikely(rmw->gpa[0] != ~0ULL))
                        note_written(in, rmw->gpa[0], rmw->size);
                return;
        }
        write_physical(in, rmw->gpa[0], rmw->buffer, rmw->first);
        if (rmw->first < rmw->size)
                write_physical(in, rmw->gpa[1], rmw->buffer + rmw->first, rmw->size - rmw->first);
        if (rmw->bus_locked)
                pthread_mutex_unlock(&in->machine->bus_lock);
}

/* ---- effective addresses ---- */

static u64 truncate_offset(const struct uop *u, u64 offset)
{
        return u->addr_size == 8 ? offset : u->addr_size == 4 ? (u32)offset : (u16)offset;
}

u64 ea_offset(const struct interp *in, const struct uop *u)
{
        return truncate_offset(u, in->regs[u->base] + (in->regs[u->index] << u->scale) + (u64)u->disp);
}

/* Segment limit and rights in protected, compatibility and real mode. SDM 3A, 5.3 and 5.5. */
static bool segment_allows(const struct interp *in, const struct seg *seg, u64 offset, unsigned size, enum mmu_access access)
{
        const unsigned type = seg->attr & SEG_ATTR_TYPE;

        if (in->mode & MODE_PROTECTED) {
                if (!(seg->attr & SEG_ATTR_P))
                        return false;
                /* Code can be read when it is readable and never written; data can be written when it is writable. */
                if (type & TYPE_CODE ? access == MMU_WRITE || !(type & TYPE_READABLE)
                                     : access == MMU_WRITE && !(type & TYPE_WRITABLE))
                        return false;
        }
        return sys_seg_covers(seg, offset, size);
}

u64 seg_linear(struct interp *in, const struct uop *u, unsigned seg, u64 offset, unsigned size, enum mmu_access access)
{
        if (in->mode & MODE_LONG64) {
                const u64 linear = (seg == SEG_FS || seg == SEG_GS ? in->cpu->seg[seg].base : 0) + offset;

                if (unlikely(!mmu_is_canonical(linear) || !mmu_is_canonical(linear + size - 1)))
                        interp_raise(in, u, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
                return linear;
        }
        if (seg >= SEG_COUNT)
                seg = SEG_DS;
        if (unlikely(!segment_allows(in, &in->cpu->seg[seg], offset, size, access)))
                interp_raise(in, u, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
        return (u32)(in->cpu->seg[seg].base + offset);
}

u64 ea_linear_plus(struct interp *in, const struct uop *u, s64 extra, unsigned size, enum mmu_access access)
{
        unsigned seg = u->seg;

        /* 64-bit code addresses through RSP or RBP fault as stack accesses although the segment is flat. */
        if (seg == SEG_FLAT && (u->base == RSP || u->base == RBP))
                seg = SEG_SS;
        return seg_linear(in, u, seg, truncate_offset(u, ea_offset(in, u) + (u64)extra), size, access);
}

u64 ea_linear(struct interp *in, const struct uop *u, unsigned size, enum mmu_access access)
{
        return ea_linear_plus(in, u, 0, size, access);
}
