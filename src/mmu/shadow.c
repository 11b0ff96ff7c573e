/* See shadow.h. The pages that are shown are in a pool, hashed by guest-linear address (to find what a flush names) and by guest-physical address (to
 * find who may write a page that must not be written unseen). */
#include "shadow.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LARGE_SIZE (2 * MIB)
#define AROUND 8u /* pages that are looked at together */
#define AROUND_MAX 64u /* at most, when they are used in order */
#define OPERAND_BYTES 512 /* the widest operand */

static unsigned hash(u64 x)
{
        return (unsigned)((x >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL >> (64 - SHADOW_HASH_BITS));
}

static u64 page_bytes(const struct shadow_page *p)
{
        return p->large ? LARGE_SIZE : PAGE_SIZE;
}

/* ---- life ---- */

/* Address space at @at that nobody can access; MAP_FAILED as mmap says. */
static void *no_access(void *at, u64 size, int flags)
{
        return mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

#define LOWEST_ADDRESS (64 * KIB) /* vm.mmap_min_addr as Linux sets it */

/* Pages [first, end) of the host can be read. */
static bool make_probe(u64 first, u64 end)
{
        return mprotect((void *)(uintptr_t)(first << PAGE_SHIFT), (end - first) << PAGE_SHIFT, PROT_READ) == 0;
}

/* What is below the fixed low range is too little for a guard, but addresses below that are not canonical, or the kernel's. */
static bool reserve_fixed(struct shadow *s)
{
        void *const want = (void *)(uintptr_t)LOWEST_ADDRESS;
        const u64 size = SHADOW_LOW_FIXED + SHADOW_LOW_END + SHADOW_GUARD - LOWEST_ADDRESS;
        void *region = no_access(want, size, MAP_FIXED_NOREPLACE);

        if (region == MAP_FAILED)
                return false;
        if (region != want) { /* a kernel that does not know the flag */
                munmap(region, size);
                return false;
        }
        if (!make_probe(SHADOW_HIGH_START >> 40, SHADOW_HIGH_END >> 40) ||
            !make_probe(SHADOW_PROBE_LOW >> PAGE_SHIFT, (SHADOW_PROBE_LOW >> PAGE_SHIFT) + 1)) {
                munmap(region, size);
                return false;
        }
        s->region[SHADOW_LOW] = (void *)(uintptr_t)SHADOW_PROBE_END;
        s->region_size[SHADOW_LOW] = size + LOWEST_ADDRESS - SHADOW_PROBE_END;
        s->bias[SHADOW_LOW] = SHADOW_LOW_FIXED;
        return true;
}

static bool reserve(struct shadow *s, enum shadow_range range, u64 start, u64 end)
{
        const u64 size = end - start + 2 * SHADOW_GUARD + ALIGN_UP(OPERAND_BYTES, PAGE_SIZE) + LARGE_SIZE;
        void *region = no_access(NULL, size, 0);

        if (region == MAP_FAILED)
                return false;
        s->region[range] = region;
        s->region_size[range] = size;
        /* Large pages of the guest stay aligned. */
        s->bias[range] = ALIGN_UP((u64)(uintptr_t)region + SHADOW_GUARD, LARGE_SIZE) - start;
        return true;
}

struct shadow *shadow_new(unsigned pages_max)
{
        struct shadow *s = calloc(1, sizeof(*s));

        if (!s)
                return NULL;
        s->pages = calloc(pages_max, sizeof(*s->pages));
        s->max_pages = pages_max;
        if (!s->pages || (!reserve_fixed(s) && !reserve(s, SHADOW_LOW, 0, SHADOW_LOW_END)) || !reserve(s, SHADOW_HIGH, SHADOW_HIGH_START, SHADOW_HIGH_END))
                return shadow_free(s);
        return s;
}

struct shadow *shadow_free(struct shadow *s)
{
        if (s) {
                for (unsigned i = 0; i < ARRAY_SIZE(s->region); i++)
                        if (s->region[i])
                                munmap(s->region[i], s->region_size[i]);
                if (shadow_is_fixed(s))
                        munmap((void *)(uintptr_t)LOWEST_ADDRESS, SHADOW_PROBE_END - LOWEST_ADDRESS);
                free(s->pages);
                free(s);
        }
        return NULL;
}

enum shadow_range shadow_probe_missed(u64 host, enum shadow_range range)
{
        /* The bits of the address that it tells, the others 0. */
        const u64 gva = range == SHADOW_HIGH ? (host >> PAGE_SHIFT) << 40 : ((host - SHADOW_PROBE_LOW) & (u32)-1) >> PAGE_SHIFT << 31;

        return shadow_range_of(gva);
}

/* ---- the pool ---- */

static struct shadow_page *find(const struct shadow *s, u64 gva, bool large)
{
        const u64 start = gva & ~((large ? LARGE_SIZE : PAGE_SIZE) - 1);

        for (u32 i = s->by_gva[hash(start)]; i; i = s->pages[i - 1].next_gva)
                if (s->pages[i - 1].gva == start && s->pages[i - 1].large == large)
                        return &s->pages[i - 1];
        return NULL;
}

static struct shadow_page *page_new(struct shadow *s, u64 gva, u64 gpa, bool writable, bool large)
{
        u32 i = s->free;

        if (i)
                s->free = s->pages[i - 1].next_gva;
        else if (s->n_pages < s->max_pages)
                i = ++s->n_pages;
        else
                return NULL;
        s->pages[i - 1] = (struct shadow_page){
                .gva = gva, .gpa = gpa, .writable = writable, .large = large, .used = true,
                .next_gva = s->by_gva[hash(gva)], .next_gpa = s->by_gpa[hash(gpa)],
        };
        s->by_gva[hash(gva)] = s->by_gpa[hash(gpa)] = i;
        return &s->pages[i - 1];
}

static void page_delete(struct shadow *s, struct shadow_page *p)
{
        const u32 i = (u32)(p - s->pages) + 1;
        u32 *at;

        for (at = &s->by_gva[hash(p->gva)]; *at != i; at = &s->pages[*at - 1].next_gva)
                ;
        *at = p->next_gva;
        for (at = &s->by_gpa[hash(p->gpa)]; *at != i; at = &s->pages[*at - 1].next_gpa)
                ;
        *at = p->next_gpa;
        p->used = false;
        p->next_gva = s->free;
        s->free = i;
}

static void pool_clear(struct shadow *s)
{
        memset(s->by_gva, 0, sizeof(s->by_gva));
        memset(s->by_gpa, 0, sizeof(s->by_gpa));
        s->n_pages = 0;
        s->free = 0;
        s->pieces = false;
}

/* ---- the host's mappings ---- */

static void *host_address(const struct shadow *s, u64 gva)
{
        return (void *)(uintptr_t)(gva + s->bias[shadow_range_of(gva)]);
}

bool shadow_contains(const struct shadow *s, u64 host, u64 *ret_gva)
{
        for (unsigned i = 0; i < ARRAY_SIZE(s->region); i++) {
                if (host - (uintptr_t)s->region[i] < s->region_size[i]) {
                        *ret_gva = host - s->bias[i];
                        return true;
                }
        }
        return false;
}

static bool show(const struct shadow *s, const struct guest_memory *mem, u64 gva, u64 gpa, u64 size, bool writable)
{
        const struct memory_slot *slot = guest_memory_slot(mem, gpa);
        const int prot = PROT_READ | (writable ? PROT_WRITE : 0);

        return mmap(host_address(s, gva), size, prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, mem->fd,
                    (off_t)(slot->fd_offset + (gpa - slot->gpa))) != MAP_FAILED;
}

static bool hide(const struct shadow *s, u64 gva, u64 size)
{
        return no_access(host_address(s, gva), size, MAP_FIXED) != MAP_FAILED;
}

static void hide_all(struct shadow *s)
{
        for (unsigned i = 0; i < ARRAY_SIZE(s->region); i++) {
                /* Cannot fail for want of mappings, it only lessens them. If it did nevertheless, the guest could go on reading what it must not: no
                 * way to go on. */
                if (no_access(s->region[i], s->region_size[i], MAP_FIXED) == MAP_FAILED)
                        abort();
        }
        pool_clear(s);
}

static void page_hide(struct shadow *s, struct shadow_page *p)
{
        /* A hole in the middle of one mapping makes two of it, which the host may refuse. */
        if (!hide(s, p->gva, page_bytes(p))) {
                hide_all(s);
                return;
        }
        page_delete(s, p);
        s->dropped++;
}

/* ---- what may be shown ---- */

/* How a page may be shown: its translation, from the tables as they are. Nothing is set in them. */
struct view {
        u64 gva, gpa; /* of the page */
        bool writable, large, piece;
};

static bool any_flags(const struct guest_memory *mem, u64 gpa, u64 size)
{
        const u8 *flags = guest_memory_flags(mem, gpa);

        for (u64 i = 0; i < size >> PAGE_SHIFT; i++)
                if (__atomic_load_n(&flags[i], __ATOMIC_RELAXED))
                        return true;
        return false;
}

/* False: not accessed yet, not the user's, not RAM. */
static bool look(const struct guest_memory *mem, const struct paging_state *ps, u64 gva, struct view *ret)
{
        const u64 large_start = gva & ~(LARGE_SIZE - 1);
        struct mmu_translation tr;

        gva &= PAGE_MASK;
        if (mmu_walk_quick(mem, ps, gva, MMU_READ, MMU_PEEK, &tr) || !tr.user || !tr.accessed || !guest_memory_hva(mem, tr.gpa, PAGE_SIZE))
                return false;
        *ret = (struct view){ .gva = gva, .gpa = tr.gpa, .writable = tr.writable && tr.dirty, .piece = tr.page_size != PAGE_SIZE };
        if (tr.page_size > LARGE_SIZE)
                return false;
        if (tr.page_size == LARGE_SIZE && guest_memory_hva(mem, tr.gpa - (gva - large_start), LARGE_SIZE) &&
            (!ret->writable || !any_flags(mem, tr.gpa - (gva - large_start), LARGE_SIZE))) {
                ret->large = true;
                ret->gpa = tr.gpa - (gva - large_start);
                ret->gva = large_start;
                return true;
        }
        ret->writable = ret->writable && !any_flags(mem, tr.gpa, PAGE_SIZE);
        return true;
}

/* Shows @v in place of what was there. */
static bool view_enter(struct shadow *s, const struct guest_memory *mem, const struct view *v, unsigned n)
{
        for (unsigned i = 0; i < n; i++) {
                struct shadow_page *old = find(s, v[i].gva, v[i].large);

                if (old)
                        page_delete(s, old);
                if (!page_new(s, v[i].gva, v[i].gpa, v[i].writable, v[i].large))
                        return false;
                s->pieces |= v[i].piece && !v[i].large;
        }
        return show(s, mem, v->gva, v->gpa, n * (v->large ? LARGE_SIZE : PAGE_SIZE), v->writable);
}

static bool follows(const struct view *a, const struct view *b)
{
        return !b->large && b->gva == a->gva + PAGE_SIZE && b->gpa == a->gpa + PAGE_SIZE && b->writable == a->writable;
}

/* How many pages to look at from @first on: who has come here in order will go on. As many as are shown before it, so runs double. */
static unsigned look_ahead(const struct shadow *s, u64 first)
{
        unsigned n = 0;

        while (n < AROUND_MAX && find(s, first - (n + 1) * PAGE_SIZE, false))
                n++;
        return MAX(n, AROUND);
}

/* The pages next to @gva that may be shown and are not: with a mapping for each run of them. */
static bool show_around(struct shadow *s, const struct guest_memory *mem, const struct paging_state *ps, u64 gva)
{
        const u64 first = gva & ~(AROUND * PAGE_SIZE - 1), end = first + look_ahead(s, first) * PAGE_SIZE;
        struct view views[AROUND_MAX];
        unsigned n = 0;

        for (u64 at = first; at < end && shadow_range_of(at) == shadow_range_of(gva); at += PAGE_SIZE) {
                const struct shadow_page *shown = find(s, at, false);

                if ((at != gva && (shown || find(s, at, true))) || !look(mem, ps, at, &views[n]) || views[n].large)
                        continue;
                n++;
        }
        for (unsigned i = 0, k; i < n; i = k) {
                for (k = i + 1; k < n && follows(&views[k - 1], &views[k]); k++)
                        ;
                if (!view_enter(s, mem, &views[i], k - i))
                        return false;
        }
        return true;
}

enum shadow_result shadow_fault(struct shadow *s, const struct guest_memory *mem, const struct paging_state *ps, u64 gva, bool write)
{
        struct mmu_translation tr;
        struct shadow_page *large;
        struct view v;
        bool near_end;
        int r;

        if (shadow_range_of(gva) == SHADOW_NONE)
                return mmu_is_canonical(gva) ? SHADOW_CANNOT : SHADOW_GUEST_FAULT;
        /* The access itself: its rights, accessed and dirty bits. Near the page's end it may go on in the next one and fault there, and then the
         * bits must stay as they are: only what has them already is shown. */
        near_end = (gva & (PAGE_SIZE - 1)) > PAGE_SIZE - OPERAND_BYTES;
        r = mmu_walk_quick(mem, ps, gva, write ? MMU_WRITE : MMU_READ, near_end ? MMU_PEEK : MMU_USER, &tr);
        if (r > 0 || (near_end && !(tr.user && tr.accessed && (!write || (tr.writable && tr.dirty)))))
                return SHADOW_GUEST_FAULT;
        if (r || !look(mem, ps, gva, &v) || (write && !v.writable))
                return SHADOW_CANNOT;
        /* A small page in place of a part of a large one, or the other way round: one of them is of before a flush that is still to come, or the
         * large one has lost its right to be written. */
        large = find(s, gva, true);
        if (large && !v.large)
                page_hide(s, large);
        if (v.large) {
                for (u64 at = v.gva; at < v.gva + LARGE_SIZE; at += PAGE_SIZE) {
                        struct shadow_page *small = find(s, at, false);

                        if (small)
                                page_delete(s, small);
                }
                if (view_enter(s, mem, &v, 1))
                        return SHADOW_SHOWN;
        } else if (show_around(s, mem, ps, gva & PAGE_MASK)) {
                return SHADOW_SHOWN;
        }
        /* No room, or no more mappings: begin anew. */
        hide_all(s);
        return view_enter(s, mem, &v, 1) ? SHADOW_SHOWN : SHADOW_CANNOT;
}

/* ---- flushes ---- */

void shadow_take(struct shadow *s, struct soft_tlb *tlb, const struct paging_state *ps)
{
        hide_all(s);
        s->cr3 = ps->cr3;
        tlb->shadowed = tlb->space;
        tlb->shadow_stale = (struct tlb_stale){ 0 };
}

void shadow_drop(struct shadow *s, struct soft_tlb *tlb)
{
        hide_all(s);
        tlb->shadowed = NULL;
        tlb->shadow_stale = (struct tlb_stale){ 0 };
}

/* Is @p still what the tables say? If they allow more now that does not hurt. */
static bool is_right(const struct shadow_page *p, const struct guest_memory *mem, const struct paging_state *ps)
{
        struct view v;

        return look(mem, ps, p->gva, &v) && v.gva == p->gva && v.gpa == p->gpa && v.large == p->large && (v.writable || !p->writable);
}

static void look_again(struct shadow *s, struct shadow_page *p, const struct guest_memory *mem, const struct paging_state *ps)
{
        if (is_right(p, mem, ps))
                s->kept++;
        else
                page_hide(s, p);
}

static void look_again_everywhere(struct shadow *s, const struct guest_memory *mem, const struct paging_state *ps)
{
        for (unsigned i = 0; i < s->n_pages; i++)
                if (s->pages[i].used)
                        look_again(s, &s->pages[i], mem, ps);
}

/* The page at @gpa may not be written unseen. */
static void drop_writes(struct shadow *s, u64 gpa)
{
        for (unsigned large = 0; large < 2; large++) {
                const u64 start = gpa & ~((large ? LARGE_SIZE : PAGE_SIZE) - 1);

                for (u32 i = s->by_gpa[hash(start)]; i;) {
                        struct shadow_page *p = &s->pages[i - 1];

                        i = p->next_gpa;
                        if (p->gpa == start && p->large == large && p->writable)
                                page_hide(s, p);
                        if (!s->n_pages) /* all is hidden */
                                return;
                }
        }
}

/* INVLPG: of a large page any address names all of it. */
static void look_again_at(struct shadow *s, u64 gva, const struct guest_memory *mem, const struct paging_state *ps)
{
        const u64 first = s->pieces ? gva & ~(LARGE_SIZE - 1) : gva, end = s->pieces ? first + LARGE_SIZE : gva + PAGE_SIZE;
        struct shadow_page *p = find(s, gva, true);

        if (p)
                look_again(s, p, mem, ps);
        for (u64 at = first; at < end; at += PAGE_SIZE) {
                p = find(s, at, false);
                if (p)
                        look_again(s, p, mem, ps);
        }
}

bool shadow_sync(struct shadow *s, struct soft_tlb *tlb, const struct guest_memory *mem, const struct paging_state *ps)
{
        const struct tlb_stale *stale = &tlb->shadow_stale;

        if (s->cr3 != ps->cr3) {
                shadow_drop(s, tlb);
                return false;
        }
        if (stale->all) {
                look_again_everywhere(s, mem, ps);
        } else {
                for (unsigned i = 0; i < stale->n; i++) {
                        if (stale->pages[i] & TLB_STALE_WRITES) {
                                drop_writes(s, guest_memory_gpa(mem, (const u8 *)(uintptr_t)(stale->pages[i] & PAGE_MASK)));
                                continue;
                        }
                        look_again_at(s, stale->pages[i], mem, ps);
                }
        }
        tlb->shadow_stale = (struct tlb_stale){ 0 };
        return true;
}
