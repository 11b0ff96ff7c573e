/* The decoded-block cache of a vCPU.
 *
 * Blocks are allocated one after the other from an arena; when it is full everything is dropped. A block is found by (host address of its code,
 * rip, mode): the host address stands for the guest-physical one. Blocks are also listed by page, for invalidation. A stale block stays
 * in memory until the arena is emptied, which only happens in the outer loop, so a running block is never freed under itself.
 *
 * The jump cache in front of it is keyed by rip, mode and generation of the TLB's table: an entry lives as long as the translation of its rip. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../translate/runtime.h"
#include "machine.h"
#include "ops.h"

#define ARENA_SIZE (3 * MIB)
#define HASH_BITS 13
#define PAGE_HASH_BITS 11
#define BLOCK_MAX_UOPS 64
#define INSTRUCTION_MAX 15
#define BLOCK_BYTES_MAX 255u /* decode_block's limit */

struct code_cache {
        u8 *arena;
        size_t used;
        struct block *hash[1 << HASH_BITS];
        struct block *pages[1 << PAGE_HASH_BITS];
};

int code_cache_new(struct code_cache **ret, struct err **err)
{
        struct code_cache *cache = calloc(1, sizeof(*cache));

        if (cache)
                cache->arena = malloc(ARENA_SIZE);
        if (!cache || !cache->arena) {
                free(cache);
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for decoded code");
        }
        *ret = cache;
        return 0;
}

void code_cache_free(struct code_cache *cache)
{
        if (cache) {
                free(cache->arena);
                free(cache);
        }
}

static unsigned decoded_hash(const u8 *hva, u64 rip, u32 mode)
{
        const u64 x = ((uintptr_t)hva ^ (rip << 20) ^ ((u64)mode << 40)) * 0x9e3779b97f4a7c15ULL;

        return (unsigned)(x >> (64 - HASH_BITS));
}

static unsigned page_hash(const u8 *hva)
{
        const u64 x = ((uintptr_t)hva >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL;

        return (unsigned)(x >> (64 - PAGE_HASH_BITS));
}

static const u8 *page_of(const u8 *hva)
{
        return (const u8 *)((uintptr_t)hva & PAGE_MASK);
}

void jump_cache_clear(struct interp *in)
{
        if (in->jump_cache_used)
                memset(in->jump_cache, 0, sizeof(in->jump_cache));
        in->jump_cache_used = false;
}

void code_drop_all(struct interp *in)
{
        struct code_cache *cache = in->code;

        memset(cache->hash, 0, sizeof(cache->hash));
        memset(cache->pages, 0, sizeof(cache->pages));
        cache->used = 0;
        in->code_generation++;
        jump_cache_clear(in);
        in->block_stale = true;
}

static void jump_cache_forget(struct interp *in, const struct block *block)
{
        struct jump_entry *e = &in->jump_cache[jump_slot(block->rip)];

        if (e->block == block)
                memset(e, 0, sizeof(*e));
}

static void unhash(struct code_cache *cache, struct block *block)
{
        struct block **p = &cache->hash[decoded_hash(block->hva, block->rip, block->mode)];

        while (*p && *p != block)
                p = &(*p)->hash_next;
        if (*p)
                *p = block->hash_next;
}

/* Whether what was decoded depends on [start, start + len), which lies in @page. */
static bool overlaps(const struct block *block, const u8 *page, const u8 *start, u64 len)
{
        const u8 *first = block->hva, *end;

        if (block->hva2 == page)
                return start < page + INSTRUCTION_MAX;
        if (page_of(first) != page)
                return false;
        /* What did not decode may depend on bytes behind it. */
        end = first + block->bytes + INSTRUCTION_MAX;
        return start < end && first < start + len;
}

static void drop(struct interp *in, struct block *block)
{
        block->stale = true;
        unhash(in->code, block);
        jump_cache_forget(in, block);
        if (block == in->block)
                in->block_stale = true;
        counter_inc(&in->vcpu->counters, COUNTER_BLOCKS_INVALIDATED);
}

void code_drop_range(struct interp *in, u64 gpa, u64 len)
{
        const u8 *start = guest_memory_hva(in->vcpu->memory, gpa, len);
        const u8 *page = page_of(start);
        struct block **p;

        if (!start)
                return;
        trace(CODE_INVALIDATE, gpa);
        p = &in->code->pages[page_hash(page)];
        while (*p) {
                struct block *block = *p;
                struct block **link = &block->page_next[page_hash(page_of(block->hva)) == page_hash(page) ? 0 : 1];

                if (!block->stale && overlaps(block, page, start, len))
                        drop(in, block);
                if (block->stale)
                        *p = *link;
                else
                        p = link;
        }
}

static void list_in_page(struct code_cache *cache, struct block *block, unsigned i, const u8 *page)
{
        struct block **head = &cache->pages[page_hash(page)];

        block->page_next[i] = *head;
        *head = block;
}

/* The host address of the code at @linear. Raises #PF; #UD where there is no RAM (the bus reads as ones, which is no instruction). */
static const u8 *fetch(struct interp *in, u64 linear, u64 *ret_gpa)
{
        const enum tlb_mode mode = in->cpu->cpl == 3 ? TLB_USER : TLB_KERNEL;
        struct guest_memory *mem = in->vcpu->memory;
        struct mmu_translation tr;
        const u8 *hva = tlb_lookup(&in->tlb, mode, MMU_FETCH, linear, 1);
        int r;

        if (hva && !ret_gpa)
                return hva;
        r = mmu_walk(mem, &in->cpu->paging, linear, MMU_FETCH, tlb_walk_flags(mode), &tr);
        if (r)
                interp_raise_pf(in, NULL, linear, (u32)r & 0xffff);
        hva = guest_memory_hva(mem, tr.gpa, 1);
        if (!hva)
                interp_raise(in, NULL, EXC_UD, NO_ERROR_CODE);
        tlb_fill(&in->tlb, &in->cpu->paging, mode, MMU_FETCH, linear, hva, &tr, false);
        if (ret_gpa)
                *ret_gpa = tr.gpa;
        return hva;
}

const u8 *code_fetch(struct interp *in, u64 linear)
{
        return fetch(in, linear, NULL);
}

static u64 code_linear(const struct interp *in, u64 rip)
{
        return in->mode & MODE_LONG64 ? rip : (u32)(in->seg_base[SEG_CS] + rip);
}

static struct block *block_build(struct interp *in, u64 rip, u64 linear, const u8 *hva)
{
        struct code_cache *cache = in->code;
        const unsigned max = in->mode & MODE_SINGLE ? 1 : BLOCK_MAX_UOPS;
        const unsigned room = (unsigned)(PAGE_SIZE - (linear & (PAGE_SIZE - 1)));
        const size_t worst = sizeof(struct block) + (max + 1) * sizeof(struct uop);
        struct block *block;
        const u8 *hva2 = NULL;
        u64 gpa;
        unsigned n, n_bytes;

        if (ARENA_SIZE - cache->used < worst) {
                code_drop_all(in);
                counter_inc(&in->vcpu->counters, COUNTER_BLOCK_CACHE_FLUSHES);
        }
        block = (struct block *)(cache->arena + cache->used);

        fetch(in, linear, &gpa);
        interp_code_claim(in, gpa, MIN(room, BLOCK_BYTES_MAX));
        n = decode_block(in, rip, hva, room, true, block->uops, max, &n_bytes);
        if (!n) {
                /* The first instruction crosses into the next page: a block of its own, never in the jump cache. */
                const u64 next = in->mode & MODE_LONG64 ? linear + room : (u32)(linear + room);
                u8 code[2 * INSTRUCTION_MAX];
                u64 gpa2;

                hva2 = fetch(in, next, &gpa2);
                interp_code_claim(in, gpa2, INSTRUCTION_MAX);
                memcpy(code, hva, room);
                memcpy(code + room, hva2, INSTRUCTION_MAX);
                n = decode_block(in, rip, code, room + INSTRUCTION_MAX, false, block->uops, 1, &n_bytes);
        }
        *block = (struct block){
                .rip = rip, .hva = hva, .hva2 = hva2, .mode = in->mode, .n_uops = (u16)n, .bytes = (u16)n_bytes,
        };
        cache->used += ALIGN_UP(sizeof(struct block) + (n + 1) * sizeof(struct uop), 16);
        {
                struct block **head = &cache->hash[decoded_hash(hva, rip, in->mode)];

                block->hash_next = *head;
                *head = block;
        }
        list_in_page(cache, block, 0, page_of(hva));
        /* Both pages in one bucket: one listing serves both. */
        if (hva2 && page_hash(hva2) != page_hash(page_of(hva)))
                list_in_page(cache, block, 1, hva2);
        counter_inc(&in->vcpu->counters, COUNTER_BLOCKS_DECODED);
        trace(BLOCK_DECODE, in->vcpu->index, rip, gpa, n);
        return block;
}

struct block *code_lookup(struct interp *in)
{
        struct code_cache *cache = in->code;
        const u64 rip = in->rip, linear = code_linear(in, rip);
        struct block *block;
        const u8 *hva;

        counter_inc(&in->vcpu->counters, COUNTER_BLOCK_LOOKUP_SLOW);
        if (in->mode & MODE_LONG64 ? !mmu_is_canonical(rip) : rip > in->cpu->seg[SEG_CS].limit)
                interp_raise(in, NULL, EXC_GP, 0);
        hva = fetch(in, linear, NULL);
        for (block = cache->hash[decoded_hash(hva, rip, in->mode)]; block; block = block->hash_next)
                if (block->hva == hva && block->rip == rip && block->mode == in->mode)
                        break;
        if (block && block->hva2) {
                const u64 next = (linear & PAGE_MASK) + PAGE_SIZE;

                if (fetch(in, in->mode & MODE_LONG64 ? next : (u32)next, NULL) != block->hva2)
                        block = NULL;
        }
        if (!block)
                block = block_build(in, rip, linear, hva);
        /* Under the translator a block that was only left to us ends in the outer loop. */
        if (!block->hva2 && !(in->mode & MODE_SINGLE) && (!in->translate || translate_leaves_mode(in))) {
                in->jump_cache[jump_slot(rip)] = (struct jump_entry){ rip, in->key, block };
                in->jump_cache_used = true;
        }
        return block;
}
