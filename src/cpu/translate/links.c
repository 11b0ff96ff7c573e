/* Jumps from block to block.
 *
 * A link inside a page is right as long as both blocks are. One across pages depends on the target page's mapping too: such links are made only in
 * kernel mode where both translations are global, and every page that takes part is remembered with the physical page it was found at. When
 * a vCPU flushes executable kernel translations it looks at those pages again and cuts the links of the ones that moved. */
#include "runtime.h"

#define FAR_GONE 1ULL /* va of an entry that was removed; no page starts there */
#define FAR_PAGES (1u << FAR_PAGES_BITS)

static u64 page_of(const struct tblock *block)
{
        return block->gpa & PAGE_MASK;
}
static bool is_far(const struct tblock *a, const struct tblock *b)
{
        return page_of(a) != page_of(b) || a->page_va != b->page_va;
}

static void point(struct translator *tr, const struct link *link, const u8 *target)
{
        const u8 *patch = block_code(link_from(link)) + link->patch_off;

        /* Other vCPUs may be running it: one store; link_make has looked at the alignment. */
        __atomic_store_n((s32 *)(void *)code_patchable(tr, patch, 4), (s32)(target - (patch + 4)), __ATOMIC_RELEASE);
}

static void cut(struct translator *tr, struct link *link)
{
        const code_ref ref = cache_ref(tr, link);
        code_ref *p = &((struct tblock *)cache_at(tr, link->to))->links_in;

        point(tr, link, block_code(link_from(link)) + link->stub_off);
        while (*p != ref)
                p = &((struct link *)cache_at(tr, *p))->next_in;
        *p = link->next_in;
        link->next_in = 0;
        link->to = 0;
}

void link_cut_all(struct translator *tr, struct tblock *block)
{
        struct link *links = block_links(block);

        while (block->links_in)
                cut(tr, cache_at(tr, block->links_in));
        for (unsigned i = 0; i < block->n_links; i++)
                if (links[i].to)
                        cut(tr, &links[i]);
}

/* ---- links across pages ---- */

/* The entry of the page at @va, or the one to put it into; NULL when the table is full. */
static struct far_page *far_find(struct translator *tr, u64 va)
{
        unsigned i = (unsigned)(((va >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL) >> (64 - FAR_PAGES_BITS));
        struct far_page *room = NULL;

        for (unsigned n = 0; n < FAR_PAGES; n++, i = (i + 1) % FAR_PAGES) {
                struct far_page *page = &tr->code.tables->far_pages[i];

                if (page->va == va)
                        return page;
                if (page->va == FAR_GONE && !room)
                        room = page;
                if (!page->va)
                        return room ? room : page;
        }
        return room;
}

static bool far_remember(struct translator *tr, const struct tblock *block)
{
        struct far_page *page = far_find(tr, block->page_va);

        if (!page || (page->va == block->page_va && page->gpa != page_of(block)))
                return false;
        *page = (struct far_page){ block->page_va, page_of(block) };
        tr->any_far = true;
        return true;
}

static void far_cut(struct translator *tr, struct far_page *page)
{
        for (struct tblock *block = blocks_of_page(tr, page->gpa); block; block = cache_at(tr, block->page_next)) {
                struct link *link, *next, *links = block_links(block);

                if (block->mode & MODE_USER || page_of(block) != page->gpa || block->page_va != page->va)
                        continue;
                for (link = cache_at(tr, block->links_in); link; link = next) {
                        next = cache_at(tr, link->next_in);
                        if (is_far(link_from(link), block))
                                cut(tr, link);
                }
                for (unsigned i = 0; i < block->n_links; i++)
                        if (links[i].to && is_far(cache_at(tr, links[i].to), block))
                                cut(tr, &links[i]);
        }
        page->va = FAR_GONE;
}

static bool still_right(struct interp *in, const struct far_page *page)
{
        struct mmu_translation tr;

        return !mmu_walk(in->vcpu->memory, &in->cpu->paging, page->va, MMU_FETCH, 0, &tr) && tr.gpa == page->gpa && tr.global;
}

void far_links_check(struct interp *in, u64 gva)
{
        struct translator *tr = in->translate->translator;

        if (!__atomic_load_n(&tr->any_far, __ATOMIC_RELAXED))
                return;
        pthread_mutex_lock(&tr->lock);
        for (unsigned i = 0; i < FAR_PAGES; i++) {
                struct far_page *page = &tr->code.tables->far_pages[i];

                if (page->va > FAR_GONE && (gva == TLB_ALL || page->va == (gva & PAGE_MASK)) && !still_right(in, page))
                        far_cut(tr, page);
        }
        pthread_mutex_unlock(&tr->lock);
}

/* ---- making ---- */

/* May other vCPUs run the jump while it is changed? They may when the four bytes lie in one cache line, which is one access on x86 (SDM 3A, 8.1.1). */
static bool patch_is_atomic(const struct link *link)
{
        return ((uintptr_t)(block_code(link_from(link)) + link->patch_off) & 63) <= 60;
}

static bool knows(const struct shadow_facts *have, const struct shadow_facts *want)
{
        return !(want->high & ~have->high) && !(want->low & ~have->low) && !(want->index & ~have->index) && !(want->page & ~have->page);
}

/* Where @link enters @to: behind what has been compared already, or what is not for it. */
static unsigned entry_of(const struct link *link, const struct tblock *to)
{
        if (to->body_off && ((link->loop && to == link_from(link)) || (link->entry_b == to->body_in_image && knows(&link->facts, block_body_wants(to)))))
                return to->body_off;
        return link->entry_b ? ENTRY_B : to->entry_a;
}

bool link_make(struct translator *tr, struct link *link, struct tblock *to)
{
        struct tblock *from = link_from(link);

        if (link->to || from->stale || to->stale || (tr->n_vcpus > 1 && !patch_is_atomic(link)) || !code_may_patch(tr, block_code(from) + link->patch_off))
                return false;
        if (is_far(from, to)) {
                if (from->mode & MODE_USER || !from->global || !to->global)
                        return false;
                if (!far_remember(tr, from) || !far_remember(tr, to))
                        return false;
        }
        link->to = cache_ref(tr, to);
        link->next_in = to->links_in;
        to->links_in = cache_ref(tr, link);
        point(tr, link, block_code(to) + entry_of(link, to));
        return true;
}
