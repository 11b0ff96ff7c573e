/* A step of the outer loop under the translator: find or make the block for in->rip, run translated code until it comes back. */
#include <asm/prctl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "runtime.h"

#define TRANSLATED_MODE (MODE_LONG64 | MODE_LONG | MODE_PROTECTED)
#define OTHER_MODES (MODE_CODE32 | MODE_SINGLE | MODE_VM86 | MODE_RING12)
#define RETRIES 4
#define NO_RIP BIT(63) /* not canonical */
#define INSTRUCTION_MAX 15u

/* ---- before translated code may run ---- */

/* Nothing is held of what another vCPU evicted since this one was here last. */
static void catch_up(struct interp *in)
{
        struct translate_cpu *t = in->translate;
        const u64 epoch = __atomic_load_n(&t->translator->epoch, __ATOMIC_ACQUIRE);

        if (epoch != t->epoch_seen) {
                tlb_jumps_clear(&in->tlb);
                t->pending = NULL;
                t->unfit = NULL;
                __atomic_store_n(&t->epoch_seen, epoch, __ATOMIC_RELEASE); /* pairs with drained() in cache.c */
        }
        if (t->unfit) {
                pthread_mutex_lock(&t->translator->lock);
                if (!t->unfit->stale)
                        block_drop(t->translator, t->unfit);
                pthread_mutex_unlock(&t->translator->lock);
                t->unfit = NULL;
        }
        if (t->jumped_to_dropped) {
                t->jumped_to_dropped = false;
                tlb_more_jumps_clear(&in->tlb); /* nothing would take their place */
        }
        if (t->flush_pending) {
                t->flush_pending = false;
                far_links_check(in, t->flush_gva);
        }
}

/* Jump caches do not know modes, but for user and kernel. */
static void follow_mode(struct interp *in)
{
        const u32 mode = translate_mode(in) & ~(u32)MODE_AC;
        struct tlb_table *table = mode & MODE_USER ? in->tlb.space : &in->tlb.kernel;

        if (table->jump_mode != mode) {
                tlb_jumps_clear_of(table);
                table->jump_mode = mode;
        }
}

/* User code finds its memory by the host's GS base. */
static void follow_space(struct interp *in)
{
        struct translate_cpu *t = in->translate;
        const u64 base = user_gs_base(in);

        if (!(in->mode & MODE_USER) || t->gs_base == base)
                return;
        if (t->fsgsbase)
                __asm__ volatile("wrgsbase %0" : : "r"(base));
        else
                syscall(SYS_arch_prctl, ARCH_SET_GS, base);
        t->gs_base = base;
}

/* ---- blocks ---- */

/* A translation of this page may be linked to across pages. */
static bool is_global(struct interp *in, u64 rip)
{
        struct mmu_translation tr;

        return !mmu_walk(in->vcpu->memory, &in->cpu->paging, rip, MMU_FETCH, MMU_PEEK, &tr) && tr.global;
}

/* The guest's bytes of a block to be made. */
struct source {
        const u8 *hva, *hva_2; /* hva_2: of the second page, or NULL */
        unsigned room, room_2; /* bytes in each */
        u8 bytes[BLOCK_GUEST_MAX * INSTRUCTION_MAX];
};

static void source_read(struct interp *in, const struct tblock *key, struct source *s)
{
        s->room = (unsigned)(PAGE_SIZE - (key->gpa & (PAGE_SIZE - 1)));
        s->hva = guest_memory_hva(in->vcpu->memory, key->gpa, s->room);
        s->hva_2 = NULL;
        s->room_2 = 0;
        interp_code_claim(in, key->gpa, 1);
        if (key->mode & MODE_CROSSING) {
                s->room_2 = INSTRUCTION_MAX;
                s->hva_2 = guest_memory_hva(in->vcpu->memory, key->gpa_2, s->room_2);
                interp_code_claim(in, key->gpa_2, 1);
                memcpy(s->bytes + s->room, s->hva_2, s->room_2);
        }
        memcpy(s->bytes, s->hva, MIN(s->room, (unsigned)sizeof(s->bytes)));
}

/* Who writes from now on finds @block when he gets the lock; who wrote before shows in the bytes. */
static bool source_unchanged(struct interp *in, const struct tblock *block, const struct source *s)
{
        if (!interp_code_extend(in, block->gpa, block->guest_bytes) || memcmp(s->bytes, s->hva, block->guest_bytes) != 0)
                return false;
        return !block->bytes_2 || (interp_code_extend(in, block->gpa_2, block->bytes_2) &&
                                   memcmp(s->bytes + s->room, s->hva_2, block->bytes_2) == 0);
}

static struct tblock *find_key(const struct translator *tr, const struct tblock *key)
{
        return block_find_crossing(tr, key->gpa, key->gpa_2, key->page_va, key->mode);
}

/* Translates what @key says, once. False: its bytes changed meanwhile. *ret is NULL when there is no memory for it now. */
static bool try_make(struct interp *in, const struct tblock *key, struct tblock **ret)
{
        struct translator *tr = in->translate->translator;
        struct source source;
        bool ok = true;

        source_read(in, key, &source);
        pthread_mutex_lock(&tr->lock);
        *ret = find_key(tr, key);
        if (!*ret) {
                struct translate_request req = {
                        .rip = in->rip, .gpa = key->gpa, .code = source.bytes, .room = source.room + source.room_2, .mode = key->mode,
                        .crossing = key->mode & MODE_CROSSING, .no_chains = in->translate->no_chains,
                        .site_ranges = tr->site_ranges, .regs = in->regs,
                        .by_entry_a = in->translate->pending && !in->translate->pending->entry_b,
                };

                *ret = block_make(tr, &req, key, &in->vcpu->counters);
                ok = !*ret || source_unchanged(in, *ret, &source);
                if (!ok)
                        block_drop(tr, *ret);
        }
        counter_add(&in->vcpu->counters, COUNTER_TRANSLATIONS_DROPPED, tr->dropped);
        tr->dropped = 0;
        pthread_mutex_unlock(&tr->lock);
        return ok;
}

static struct tblock *make_here(struct interp *in, struct tblock *key)
{
        const u64 began = __builtin_ia32_rdtsc();
        struct tblock *block = NULL;

        key->global = !(in->mode & MODE_USER) && is_global(in, in->rip);
        for (unsigned i = 0; i < RETRIES; i++) {
                if (!try_make(in, key, &block)) {
                        block = NULL;
                        continue;
                }
                if (block)
                        trace(BLOCK_TRANSLATE, in->vcpu->index, in->rip, key->gpa, block->n_instructions);
                break;
        }
        counter_add(&in->vcpu->counters, COUNTER_TRANSLATE_CYCLES, __builtin_ia32_rdtsc() - began);
        return block;
}

static u64 fetch_gpa(struct interp *in, u64 rip)
{
        return guest_memory_gpa(in->vcpu->memory, code_fetch(in, rip));
}

/* The block of an instruction that crosses the page's end at in->rip. */
static struct tblock *crossing_here(struct interp *in)
{
        const u64 page_va = in->rip & PAGE_MASK;
        struct tblock key = { .page_va = in->mode & MODE_USER ? 0 : page_va, .mode = translate_mode(in) | MODE_CROSSING };
        struct tblock *block;

        if (!mmu_is_canonical(in->rip) || !mmu_is_canonical(page_va + PAGE_SIZE) || page_va + PAGE_SIZE - in->rip >= INSTRUCTION_MAX)
                return NULL;
        key.gpa = fetch_gpa(in, in->rip);
        key.gpa_2 = fetch_gpa(in, page_va + PAGE_SIZE);
        block = find_key(in->translate->translator, &key);
        return block ? block : make_here(in, &key);
}

/* NULL: the interpreter's turn. Raises what a fetch raises. @special: MODE_SPLIT or 0. */
static struct tblock *block_here(struct interp *in, u32 special)
{
        struct translate_cpu *t = in->translate;
        const bool user = in->mode & MODE_USER;
        const u32 mode_too = special | (t->pending && t->pending->unshared ? MODE_UNSHARED : 0);
        struct tblock key = { .page_va = user ? 0 : in->rip & PAGE_MASK, .mode = translate_mode(in) | mode_too };
        struct tblock *block;

        if (!mmu_is_canonical(in->rip))
                return NULL;
        key.gpa = fetch_gpa(in, in->rip);
        block = find_key(t->translator, &key);
        if (!block)
                block = make_here(in, &key);
        if (!block)
                return NULL;
        if (t->pending && !t->no_chains) {
                pthread_mutex_lock(&t->translator->lock);
                if (link_make(t->translator, t->pending, block))
                        counter_inc(&in->vcpu->counters, COUNTER_BLOCKS_LINKED);
                pthread_mutex_unlock(&t->translator->lock);
        } else if (!(block->mode & (MODE_AC | MODE_UNSHARED | MODE_SPLIT)) && !t->no_chains) {
                tlb_jump_enter(user ? in->tlb.space : &in->tlb.kernel, in->rip, block_code(block) + ENTRY_B);
        }
        t->pending = NULL;
        return block;
}

/* ---- in and out ---- */

static void run_translated(struct interp *in, const struct tblock *block)
{
        const u64 began = __builtin_ia32_rdtsc();

        in->page_va = in->rip & PAGE_MASK;
        in->flags_image = flags_to_rflags(in->flags) | RFLAGS_FIXED;
        follow_space(in);
        /* Pairs with translate_kick: either enter sees in->kicked or the kick sees in->in_code. */
        __atomic_store_n(&in->in_code, 1, __ATOMIC_SEQ_CST);
        in->translate->translator->stubs.enter(in, block_code(block) + ENTRY_B);
        __atomic_store_n(&in->in_code, 0, __ATOMIC_RELEASE);
        counter_add(&in->vcpu->counters, COUNTER_EXECUTE_CYCLES, __builtin_ia32_rdtsc() - began);
        in->flags = flags_from_rflags(in->flags_image);
        if (in->rip == in->translate->sti_rip && in->rflags & RFLAGS_IF) {
                in->translate->sti_rip = NO_RIP;
                in->cpu->sti_shadow = true;
                interp_mode_changed(in);
        }
        if (translate_tlb_mode(in) != in->tlb_mode)
                interp_mode_changed(in);
}

static bool is_translated_mode(const struct interp *in)
{
        return (in->mode & (TRANSLATED_MODE | OTHER_MODES)) == TRANSLATED_MODE;
}

/* Not under checking: there every block may be the last of a turn. */
bool translate_leaves_mode(const struct interp *in)
{
        return !is_translated_mode(in) && !in->translate->check;
}

bool translate_step(struct interp *in)
{
        struct translate_cpu *t = in->translate;
        const bool interp_next = t->interp_next && t->interp_rip == in->rip;
        const u32 special = t->special && t->special_rip == in->rip ? t->special : 0;
        struct tblock *block;

        if (unlikely(t->check))
                check_turn_pass(in);
        catch_up(in);
        t->interp_next = false;
        t->special = 0;
        if (interp_next || !is_translated_mode(in)) {
                t->pending = NULL;
                return false;
        }
        if (t->watch.has_timer && !t->watch.armed)
                shadowing_arm(&t->watch);
        if (in->mode & MODE_USER)
                shadowing_follow(in);
        follow_mode(in);
        /* The link was to where we are now, unless an interrupt came between. */
        if (t->pending && t->pending_rip != in->rip)
                t->pending = NULL;
        if (special)
                t->pending = NULL;
        block = special == MODE_CROSSING ? crossing_here(in) : block_here(in, special);
        if (!block)
                return false;
        /* A block that was made now made its page one of code, which must not be written unseen. */
        if (in->mode & MODE_USER)
                shadowing_sync(in);
        counter_inc(&in->vcpu->counters, COUNTER_TRANSLATED_ENTRIES);
        if (unlikely(t->check))
                in->failed = !check_run(in, block, run_translated);
        else
                run_translated(in, block);
        return true;
}

/* From the soft TLB, possibly in translated code: general registers only. */
void translate_exec_flushed(void *opaque, u64 gva)
{
        struct interp *in = opaque;
        struct translate_cpu *t = in->translate;

        t->flush_gva = t->flush_pending && t->flush_gva != gva ? TLB_ALL : gva;
        t->flush_pending = true;
        __atomic_store_n(&in->kicked, 1, __ATOMIC_RELAXED);
}
