/* What translated code calls: the registers are stored, the guest's vector registers are still in the CPU. Compiled with general registers only; nothing
 * here, or called from here, may call into libc or run code that was compiled otherwise. No fault is raised and nothing is waited for.
 *
 * A fast function returns where translated code goes on (flags in the image), or NULL to go to the outer loop. In both cases in->rip says where the guest
 * is, because a kick may turn the first into the second. */
#include "runtime.h"

const void *fast_resume(const struct site *site)
{
        return (const u8 *)site - site->back + site->resume_off;
}

const void *fast_leave(struct interp *in, enum interp_reason reason)
{
        struct translate_cpu *t = in->translate;

        t->interp_next = true;
        t->interp_rip = in->rip;
        counter_inc(&in->vcpu->counters, COUNTER_INTERP_SYSTEM + reason);
        return NULL;
}

static void at_site(struct interp *in, const struct site *site)
{
        in->rip = block_rip(in, site_block(site), site->guest_off);
}

const void *fast_kicked(struct interp *in, const struct site *site, u64 unused)
{
        at_site(in, site);
        return NULL;
}

const void *fast_arrived(struct interp *in, const struct site *site, u64 rip)
{
        in->rip = rip;
        return NULL;
}

static const void *interp_wanted(struct interp *in, const struct site *site, u64 unused)
{
        at_site(in, site);
        return fast_leave(in, site->arg);
}

/* Two operands of one instruction can take the same TLB entry from each other forever: this address missed here two misses ago. */
static bool in_conflict(struct interp *in, u64 gva)
{
        struct translate_cpu *t = in->translate;
        const bool same = t->miss_rip == in->rip, again = same && t->miss_gva[1] == gva;

        t->miss_rip = in->rip;
        t->miss_gva[1] = same ? t->miss_gva[0] : ~gva; /* another instruction's miss means nothing */
        t->miss_gva[0] = gva;
        return again;
}

/* Is there an x87 exception that is not masked? */
static bool x87_unmasked(void)
{
        const u16 exceptions = 0x3f;
        u16 fcw;

        __asm__ volatile("fnstcw %0" : "=m"(fcw));
        return ~fcw & exceptions;
}

static const void *tlb_missed(struct interp *in, const struct site *site, u64 gva)
{
        const bool window = site->access & SITE_ELSEWHERE;
        int r;

        at_site(in, site);
        if (gva & site->arg || (site->access & SITE_X87_STORE && x87_unmasked()))
                return fast_leave(in, INTERP_REASON_MEMORY);
        if (!window && (gva & (PAGE_SIZE - 1)) + site->size > PAGE_SIZE)
                return fast_split(in, site, gva);
        counter_inc(&in->vcpu->counters, COUNTER_TLB_MISSES);
        if (in_conflict(in, gva))
                return fast_leave(in, INTERP_REASON_MEMORY);
        r = tlb_miss(&in->tlb, in->vcpu->memory, &in->cpu->paging, translate_tlb_mode(in), site->access & SITE_ACCESS, gva);
        if (window)
                gva += site->size + ((u32)site->access >> 2 & 15) * 256; /* in the same page */
        if (r > 0)
                return fast_page_fault(in, gva, (u32)r & ~(u32)MMU_FAULT);
        if (r)
                return fast_leave(in, INTERP_REASON_MEMORY);
        counter_inc(&in->vcpu->counters, COUNTER_TLB_FILLS);
        return fast_resume(site);
}

/* The base of a shadow access was elsewhere. The block will be made anew, knowing it. */
static const void *shadow_missed(struct interp *in, const struct site *site, u64 base)
{
        struct tblock *block = site_block(site);

        at_site(in, site);
        in->translate->translator->site_ranges[site_slot(block->gpa + site->resume_off, site->arg)] |= site->access ? SITE_SUM : site_seen(shadow_range_of(base));
        in->translate->unfit = block;
        counter_inc(&in->vcpu->counters, COUNTER_SHADOW_MISSES);
        return NULL;
}

/* Where code at @rip is fetched from, if that needs nobody's help; else false. */
static bool fetch_gpa(struct interp *in, u64 rip, u64 *ret_gpa)
{
        const u8 *hva = fast_memory(in, in->mode & MODE_USER ? TLB_USER : TLB_KERNEL, MMU_FETCH, rip, 1);

        if (hva)
                *ret_gpa = guest_memory_gpa(in->vcpu->memory, hva);
        return hva;
}

struct tblock *fast_find_here(struct interp *in, u32 mode_too)
{
        u64 gpa;

        if (!fetch_gpa(in, in->rip, &gpa))
                return NULL;
        return block_find(in->translate->translator, gpa, in->mode & MODE_USER ? 0 : in->rip & PAGE_MASK, translate_mode(in) | mode_too);
}

const void *fast_go_to(struct interp *in, const struct tblock *block)
{
        in->page_va = in->rip & PAGE_MASK;
        return block_code(block) + ENTRY_B;
}

const void *fast_want(struct interp *in, u32 special)
{
        in->translate->special = special;
        in->translate->special_rip = in->rip;
        return NULL;
}

/* Jump caches hold blocks of one mode each, none with AC. */
static bool jumps_fit(const struct interp *in, u32 mode)
{
        return mode == (mode & MODE_USER ? in->tlb.space : &in->tlb.kernel)->jump_mode;
}

/* User code finds its memory by the host's GS base, or by a shadow window that may have to be looked at first. */
static bool user_ready(struct interp *in)
{
        struct translate_cpu *t = in->translate;
        const u64 base = user_gs_base(in);

        if (tlb_is_shadowed(&in->tlb) && tlb_shadow_is_stale(&in->tlb))
                return false;
        if (t->gs_base == base)
                return true;
        if (!t->fsgsbase)
                return false;
        __asm__ volatile("wrgsbase %0" : : "r"(base));
        t->gs_base = base;
        return true;
}

const void *fast_go(struct interp *in)
{
        struct tlb_table *table = in->mode & MODE_USER ? in->tlb.space : &in->tlb.kernel;
        const bool cached = jumps_fit(in, translate_mode(in));
        const void *code = cached ? tlb_jump_find(table, in->rip) : NULL;
        const struct tblock *block;

        if (in->mode & MODE_USER && !user_ready(in))
                return NULL;
        if (code) {
                in->page_va = in->rip & PAGE_MASK;
                return code;
        }
        /* The outer loop empties the jump caches for another mode. */
        if (in->translate->no_chains || !jumps_fit(in, translate_mode(in) & ~(u32)MODE_AC))
                return NULL;
        block = fast_find_here(in, 0);
        if (!block)
                return NULL;
        if (cached)
                tlb_jump_enter(table, in->rip, block_code(block) + ENTRY_B);
        return fast_go_to(in, block);
}

void *fast_memory(struct interp *in, enum tlb_mode mode, enum mmu_access access, u64 gva, unsigned size)
{
        void *hva = tlb_lookup(&in->tlb, mode, access, gva, size);

        if (hva || (gva & (PAGE_SIZE - 1)) + size > PAGE_SIZE || tlb_miss(&in->tlb, in->vcpu->memory, &in->cpu->paging, mode, access, gva))
                return hva;
        counter_inc(&in->vcpu->counters, COUNTER_TLB_FILLS);
        return tlb_lookup(&in->tlb, mode, access, gva, size);
}

static const void *jump_missed(struct interp *in, const struct site *site, u64 rip)
{
        const struct tblock *block;

        if (site->arg) {
                /* The interpreter raises what the branch raises. */
                if (!mmu_is_canonical(rip)) {
                        at_site(in, site);
                        return fast_leave(in, INTERP_REASON_TARGET);
                }
                in->regs[RSP] += site->resume_off;
        }
        in->rip = rip;
        block = fast_find_here(in, 0);
        counter_inc(&in->vcpu->counters, COUNTER_JUMP_MISSES);
        if (!block || in->translate->no_chains)
                return NULL;
        if (block->mode & MODE_AC)
                tlb_jump_enter_more(&in->tlb.kernel, TLB_JUMP_AC, rip, block_code(block) + ENTRY_B);
        else
                tlb_jump_enter(in->mode & MODE_USER ? in->tlb.space : &in->tlb.kernel, rip, block_code(block) + ENTRY_B);
        return fast_go_to(in, block);
}

static const void *link_wanted(struct interp *in, const struct site *site, u64 unused)
{
        struct tblock *from = site_block(site), *to;
        struct link *link = &block_links(from)[site->arg];
        struct translate_cpu *t = in->translate;

        in->rip = block_page(in, from) + (u64)(s64)link->target;
        counter_inc(&in->vcpu->counters, COUNTER_LINKS_FOLLOWED);
        to = t->no_chains ? NULL : fast_find_here(in, link->unshared ? MODE_UNSHARED : 0);
        if (!to) {
                t->pending = link;
                t->pending_rip = in->rip;
                return NULL;
        }
        /* Whoever holds the lock now may be at work for long; the next time will do as well. */
        if (pthread_mutex_trylock(&t->translator->lock) == 0) {
                if (link_make(t->translator, link, to))
                        counter_inc(&in->vcpu->counters, COUNTER_BLOCKS_LINKED);
                pthread_mutex_unlock(&t->translator->lock);
        }
        return fast_go_to(in, to);
}

/* An instruction that crosses a page's end: its block depends on both pages. Nothing links to such blocks. */
const void *fast_cross(struct interp *in, const struct site *site, u64 unused)
{
        struct tlb_table *table = in->mode & MODE_USER ? in->tlb.space : &in->tlb.kernel;
        const u64 page_va = in->rip & PAGE_MASK;
        u64 gpa, gpa_2;
        struct tblock *block;

        if (in->translate->no_chains || !fetch_gpa(in, in->rip, &gpa) || !fetch_gpa(in, page_va + PAGE_SIZE, &gpa_2))
                return fast_leave(in, INTERP_REASON_PAGE_END);
        block = block_find_crossing(in->translate->translator, gpa, gpa_2, in->mode & MODE_USER ? 0 : page_va,
                                    translate_mode(in) | MODE_CROSSING);
        if (!block)
                return fast_want(in, MODE_CROSSING);
        if (!(block->mode & MODE_AC))
                tlb_jump_enter_more(table, TLB_JUMP_CROSSING, in->rip, block_code(block) + ENTRY_B);
        return fast_go_to(in, block);
}

static const void *cross_missed(struct interp *in, const struct site *site, u64 rip)
{
        in->rip = rip;
        return fast_cross(in, site, 0);
}

/* ---- fast.def ---- */

static fast_fn *const functions[] = {
#define FAST(id, function) function,
#include "fast.def"
#undef FAST
        NULL
};

static const void *fast_wanted(struct interp *in, const struct site *site, u64 r10)
{
        at_site(in, site);
        return site->arg < ARRAY_SIZE(functions) - 1 ? functions[site->arg](in, site, r10)
                                                     : fast_leave(in, INTERP_REASON_SYSTEM);
}

fast_fn *const fast_exits[TEXIT_KINDS] = {
        [TEXIT_MISS] = tlb_missed,
        [TEXIT_MISS_WRITE] = tlb_missed,
        [TEXIT_MISS_USER] = tlb_missed,
        [TEXIT_MISS_USER_WRITE] = tlb_missed,
        [TEXIT_LINK] = link_wanted,
        [TEXIT_LOOKUP] = jump_missed,
        [TEXIT_LOOKUP_AC] = jump_missed,
        [TEXIT_LOOKUP_USER] = jump_missed,
        [TEXIT_CROSS] = cross_missed,
        [TEXIT_CROSS_USER] = cross_missed,
        [TEXIT_INTERP] = interp_wanted,
        [TEXIT_FAST] = fast_wanted,
        [TEXIT_SHADOW] = shadow_missed,
};
