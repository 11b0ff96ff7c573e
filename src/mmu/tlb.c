/* The soft TLB. Compiled with general registers only and without calls into libc: translated code comes here with the guest's vector registers
 * live.
 *
 * What makes flushes cheap is knowing what was used: each table has the set of its cache lines that are not empty, the set of
 * regions that are mapped by large pages, and the set of pages that code was fetched from. */
#include "mmu.h"

/* So often a program found its space taken before there is one more. */
#define TLB_MISSED_MAX 64U

#define ENTRIES_PER_LINE (64 / sizeof(struct tlb_entry))
#define LINE_WORD (64u * (unsigned)ENTRIES_PER_LINE) /* entries for each word of entry_lines */
#define JUMPS_PER_LINE (64 / sizeof(struct tlb_jump))
#define LARGE_SHIFT 22 /* no page but the 1 GiB ones is larger than 4 MiB */
#define HUGE_SHIFT 30
#define GOLDEN 0x9e3779b97f4a7c15ULL

/* ---- sets ---- */

static void set_add(struct tlb_set *set, unsigned n)
{
        set->words[n / 64] |= BIT(n % 64);
        set->words_used |= BIT(n / 64);
}

static bool set_has(const struct tlb_set *set, unsigned n)
{
        return set->words[n / 64] & BIT(n % 64);
}

/* The lowest bit of *@bits, which is not 0, taken out. */
static unsigned take_lowest(u64 *bits)
{
        const unsigned n = (unsigned)__builtin_ctzll(*bits);

        *bits &= *bits - 1;
        return n;
}

static void set_clear(struct tlb_set *set)
{
        for (u64 used = set->words_used; used;)
                set->words[take_lowest(&used)] = 0;
        set->words_used = 0;
}

/* ---- tables ---- */

/* Nothing that indexes entry @index, or is the victim at @index, has this page address. */
static u64 empty_base(unsigned index)
{
        return index % TLB_SIZE ? 0 : PAGE_SIZE;
}

static void entry_empty(struct tlb_table *table, unsigned index)
{
        struct tlb_entry *e = &table->entries[index];

        e->base[MMU_READ] = e->base[MMU_WRITE] = e->base[MMU_FETCH] = empty_base(index);
}

static void jump_empty(struct tlb_table *table, unsigned slot)
{
        table->jumps[slot] = (struct tlb_jump){ slot ? 0 : 1, NULL };
}

static void line_clear(u64 *line)
{
        line[0] = line[1] = line[2] = line[3] = line[4] = line[5] = line[6] = line[7] = 0;
}

/* Zeroes the cache lines of @base that are in @lines, and @lines. */
static void lines_clear(void *base, struct tlb_set *lines)
{
        for (u64 used = lines->words_used; used;) {
                const unsigned word = take_lowest(&used);
                u64 *first = (u64 *)base + word * 64 * 8;
                u64 which = lines->words[word];

                if (which == ~0ULL) {
                        u64 n = 64 * 8;
                        void *to = first;

                        __asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(0ULL) : "memory");
                        continue;
                }
                while (which)
                        line_clear(first + 8 * take_lowest(&which));
        }
        set_clear(lines);
}

static void more_empty(struct tlb_table *table, unsigned slot)
{
        table->more_jumps[slot] = (struct tlb_jump){ slot % TLB_MORE_JUMPS ? 0 : BIT(36), NULL }; /* has another slot */
}

static void more_clear(struct tlb_table *table)
{
        lines_clear(table->more_jumps, &table->more_lines);
        for (unsigned kind = 0; kind < TLB_JUMP_KINDS; kind++)
                more_empty(table, kind * TLB_MORE_JUMPS);
}

static void jumps_clear(struct tlb_table *table)
{
        lines_clear(table->jumps, &table->jump_lines);
        jump_empty(table, 0);
        more_clear(table);
}

static void generation_new(struct soft_tlb *tlb, struct tlb_table *table)
{
        table->generation = ++tlb->next_generation;
}

static void stale_note(struct soft_tlb *tlb, u64 page)
{
        struct tlb_stale *stale = &tlb->shadow_stale;

        if (stale->n == TLB_STALE_MAX)
                stale->all = true;
        else
                stale->pages[stale->n++] = page;
}

static void table_clear(struct soft_tlb *tlb, struct tlb_table *table)
{
        if (table == tlb->shadowed)
                tlb->shadow_stale.all = true;
        lines_clear(table->entries, &table->entry_lines);
        entry_empty(table, 0);
        entry_empty(table, TLB_SIZE);
        jumps_clear(table);
        set_clear(&table->exec);
        table->exec_half[0] = table->exec_half[1] = false;
        set_clear(&table->large);
        table->n_huge = 0;
        generation_new(tlb, table);
}

static void kernel_exec_flushed(const struct soft_tlb *tlb, u64 gva)
{
        if (tlb->kernel_exec_flushed)
                tlb->kernel_exec_flushed(tlb->opaque, gva);
}

static void kernel_clear(struct soft_tlb *tlb)
{
        const bool exec = tlb->kernel.exec.words_used;

        table_clear(tlb, &tlb->kernel);
        set_clear(&tlb->non_global);
        tlb->non_global_exec = tlb->non_global_victims = false;
        if (exec)
                kernel_exec_flushed(tlb, TLB_ALL);
}

static void victims_clear(struct tlb_table *table)
{
        for (unsigned i = TLB_SIZE; i < TLB_ENTRIES; i++)
                entry_empty(table, i);
}

/* An address space is left, or flushed: kernel translations that are not global go. */
static void drop_non_global(struct soft_tlb *tlb)
{
        for (u64 used = tlb->non_global.words_used; used;) {
                const unsigned word = take_lowest(&used);

                for (u64 which = tlb->non_global.words[word]; which;)
                        entry_empty(&tlb->kernel, word * 64 + take_lowest(&which));
        }
        set_clear(&tlb->non_global);
        if (tlb->non_global_victims) {
                tlb->non_global_victims = false;
                victims_clear(&tlb->kernel);
        }
        if (tlb->non_global_exec) {
                tlb->non_global_exec = false;
                jumps_clear(&tlb->kernel);
                generation_new(tlb, &tlb->kernel);
                kernel_exec_flushed(tlb, TLB_ALL);
        }
}

void tlb_init(struct soft_tlb *tlb)
{
        table_clear(tlb, &tlb->kernel);
        tlb->space = &tlb->spaces[0];
        table_clear(tlb, tlb->space);
        tlb->n_spaces = TLB_SPACES;
}

void tlb_begin_small(struct soft_tlb *tlb)
{
        tlb->n_spaces = TLB_SPACES_FEW;
}

void tlb_flush_all(struct soft_tlb *tlb)
{
        kernel_clear(tlb);
        for (unsigned i = 0; i < TLB_SPACES; i++) {
                if (tlb->spaces[i].used || &tlb->spaces[i] == tlb->space)
                        table_clear(tlb, &tlb->spaces[i]);
                tlb->spaces[i].used = false;
        }
}

void tlb_flush_non_global(struct soft_tlb *tlb)
{
        for (unsigned i = 0; i < TLB_SPACES; i++)
                if (tlb->spaces[i].used || &tlb->spaces[i] == tlb->space)
                        table_clear(tlb, &tlb->spaces[i]);
        drop_non_global(tlb);
}

void tlb_flush_context(struct soft_tlb *tlb)
{
        table_clear(tlb, tlb->space);
        drop_non_global(tlb);
}

static struct tlb_table *find_space(struct soft_tlb *tlb, u16 pcid)
{
        for (unsigned i = 0; i < TLB_SPACES; i++)
                if (tlb->spaces[i].used && tlb->spaces[i].pcid == pcid)
                        return &tlb->spaces[i];
        return NULL;
}

void tlb_flush_pcid(struct soft_tlb *tlb, u16 pcid)
{
        struct tlb_table *space = find_space(tlb, pcid);

        if (!space)
                return;
        if (space == tlb->space)
                tlb_flush_context(tlb);
        else
                table_clear(tlb, space);
}

/* A space that belongs to no PCID, or that of the one that was left longest ago. */
static struct tlb_table *take_space(struct soft_tlb *tlb)
{
        struct tlb_table *oldest = NULL;

        for (unsigned i = 0; i < tlb->n_spaces; i++) {
                struct tlb_table *space = &tlb->spaces[i];

                if (!space->used)
                        return space;
                if (space != tlb->space && (!oldest || space->last_used < oldest->last_used))
                        oldest = space;
        }
        return oldest;
}

/* The guest takes it that what it had under @pcid is still there: it goes to and fro between more programs than we keep. */
static void count_missed(struct soft_tlb *tlb)
{
        if (tlb->n_spaces == TLB_SPACES || ++tlb->missed < TLB_MISSED_MAX)
                return;
        tlb->missed = 0;
        tlb->n_spaces++;
}

void tlb_switch_pcid(struct soft_tlb *tlb, u16 pcid, bool keep)
{
        struct tlb_table *space = find_space(tlb, pcid);

        if (space && keep) {
                if (space == tlb->space)
                        return;
        } else {
                if (!space && keep)
                        count_missed(tlb);
                if (!space)
                        space = take_space(tlb);
                table_clear(tlb, space);
                space->used = true;
                space->pcid = pcid;
        }
        tlb->space->last_used = tlb->switches++;
        tlb->space = space;
        drop_non_global(tlb);
}

/* ---- pages ---- */

static void purge_line(struct tlb_table *table, unsigned line, unsigned shift, u64 value)
{
        for (unsigned slot = line * JUMPS_PER_LINE; slot < (line + 1) * JUMPS_PER_LINE; slot++)
                if (table->jumps[slot].rip >> shift == value)
                        jump_empty(table, slot);
}

/* The same in more_jumps, where a jump may depend on the page behind its own as well (TLB_JUMP_CROSSING). */
static void purge_more(struct tlb_table *table, unsigned shift, u64 value)
{
        for (u64 used = table->more_lines.words_used; used;) {
                const unsigned word = take_lowest(&used);

                for (u64 which = table->more_lines.words[word]; which;) {
                        const unsigned first = (word * 64 + take_lowest(&which)) * JUMPS_PER_LINE;

                        for (unsigned slot = first; slot < first + JUMPS_PER_LINE; slot++) {
                                const u64 rip = table->more_jumps[slot].rip;

                                if (rip >> shift == value || ((rip & PAGE_MASK) + PAGE_SIZE) >> shift == value)
                                        more_empty(table, slot);
                        }
                }
        }
}

/* Forgets the jumps to targets with rip >> @shift = @value, which are in lines of words [@first, @last] of jumps. */
static void purge_jumps(struct tlb_table *table, unsigned first, unsigned last, unsigned shift, u64 value)
{
        for (unsigned word = first; word <= last; word++)
                for (u64 which = table->jump_lines.words[word]; which;)
                        purge_line(table, word * 64 + take_lowest(&which), shift, value);
        purge_more(table, shift, value);
}

/* All jumps of a page are in one quarter of the slots. */
static void purge_jumps_of_page(struct tlb_table *table, u64 gva)
{
        const unsigned quarter = tlb_index(gva) & 3;

        purge_jumps(table, 16 * quarter, 16 * quarter + 15, PAGE_SHIFT, gva >> PAGE_SHIFT);
}

static void exec_add(struct tlb_table *table, u64 gva)
{
        set_add(&table->exec, tlb_index(gva));
        table->exec_half[gva >> 63] = true;
}

static bool is_huge(const struct tlb_table *table, u64 gva)
{
        if (table->n_huge > TLB_HUGE_PAGES)
                return true;
        for (unsigned i = 0; i < table->n_huge; i++)
                if (table->huge[i] == gva >> HUGE_SHIFT)
                        return true;
        return false;
}

static unsigned large_hash(u64 gva)
{
        return (unsigned)((gva >> LARGE_SHIFT) * GOLDEN >> 52);
}

static void remember_large(struct tlb_table *table, u64 gva, u64 page_size)
{
        if (page_size <= BIT(LARGE_SHIFT)) {
                set_add(&table->large, large_hash(gva));
        } else if (!is_huge(table, gva)) {
                if (table->n_huge < TLB_HUGE_PAGES)
                        table->huge[table->n_huge] = gva >> HUGE_SHIFT;
                table->n_huge++;
        }
}

/* Forgets entries of @region in the cache lines of words [@first, @last]. */
static void flush_lines(struct tlb_table *table, unsigned first, unsigned last, u64 region)
{
        for (unsigned word = first; word <= last; word++) {
                for (u64 which = table->entry_lines.words[word]; which;) {
                        const unsigned index = (word * 64 + take_lowest(&which)) * ENTRIES_PER_LINE;

                        for (unsigned i = index; i < index + ENTRIES_PER_LINE; i++) {
                                const u64 *base = table->entries[i].base;

                                if (base[0] >> LARGE_SHIFT == region || base[1] >> LARGE_SHIFT == region ||
                                    base[2] >> LARGE_SHIFT == region)
                                        entry_empty(table, i);
                        }
                }
        }
}

/* Forgets the 4 MiB around @gva: some of it is part of a page that INVLPG must drop as a whole. */
static void flush_region(struct soft_tlb *tlb, struct tlb_table *table, u64 gva)
{
        const unsigned pages = BIT(LARGE_SHIFT - PAGE_SHIFT), first = tlb_index(gva) & ~(pages - 1);
        const u64 region = gva >> LARGE_SHIFT;
        bool exec = false;

        flush_lines(table, first / LINE_WORD, (first + pages) / LINE_WORD - 1, region);
        flush_lines(table, TLB_SIZE / LINE_WORD, (TLB_ENTRIES - 1) / LINE_WORD, region);
        for (unsigned word = first / 64; word < (first + pages) / 64; word++)
                exec |= table->exec.words[word] != 0;
        if (exec && table->exec_half[gva >> 63]) {
                purge_jumps(table, 0, 63, LARGE_SHIFT, region);
                generation_new(tlb, table);
                if (table == &tlb->kernel)
                        kernel_exec_flushed(tlb, TLB_ALL);
        }
}

/* Does entry @index have the page at @page? */
static bool entry_is(const struct tlb_table *table, unsigned index, u64 page)
{
        const u64 *base = table->entries[index].base;

        return base[MMU_READ] == page || base[MMU_WRITE] == page || base[MMU_FETCH] == page;
}

static void flush_page_of(struct soft_tlb *tlb, struct tlb_table *table, u64 gva)
{
        const unsigned index = tlb_index(gva), victim = tlb_victim(gva);

        if (table == tlb->shadowed)
                stale_note(tlb, gva);
        if (is_huge(table, gva)) {
                if (table == &tlb->kernel)
                        kernel_clear(tlb);
                else
                        table_clear(tlb, table);
                return;
        }
        if (set_has(&table->large, large_hash(gva)))
                flush_region(tlb, table, gva);
        if (entry_is(table, index, gva))
                entry_empty(table, index);
        if (entry_is(table, victim, gva))
                entry_empty(table, victim);
        if (!table->exec_half[gva >> 63] || !set_has(&table->exec, index))
                return;
        purge_jumps_of_page(table, gva);
        if (table == &tlb->kernel)
                kernel_exec_flushed(tlb, gva);
}

void tlb_flush_page(struct soft_tlb *tlb, u64 gva)
{
        gva &= PAGE_MASK;
        flush_page_of(tlb, &tlb->kernel, gva);
        for (unsigned i = 0; i < TLB_SPACES; i++)
                if (tlb->spaces[i].used || &tlb->spaces[i] == tlb->space)
                        flush_page_of(tlb, &tlb->spaces[i], gva);
}

/* ---- who may write where ---- */

static struct tlb_table *table_at(struct soft_tlb *tlb, unsigned number)
{
        return number == TLB_SPACES ? &tlb->kernel : &tlb->spaces[number];
}

static u16 writer_id(const struct soft_tlb *tlb, const struct tlb_table *table, unsigned index)
{
        const unsigned number = table == &tlb->kernel ? TLB_SPACES : (unsigned)(table - tlb->spaces);

        return (u16)(1 + number * TLB_ENTRIES + index);
}

/* The entry of @id if it allows writes, else NULL. */
static struct tlb_entry *writer_entry(struct soft_tlb *tlb, u16 id)
{
        const unsigned index = (id - 1u) % TLB_ENTRIES;
        struct tlb_entry *e;

        if (!id)
                return NULL;
        e = &table_at(tlb, (id - 1u) / TLB_ENTRIES)->entries[index];
        return e->base[MMU_WRITE] != empty_base(index) ? e : NULL;
}

static unsigned page_bucket(u64 page)
{
        return (unsigned)((page >> PAGE_SHIFT) * GOLDEN >> 52);
}

static void writer_add(struct soft_tlb *tlb, u64 page, u16 id)
{
        const unsigned bucket = page_bucket(page);
        u16 *writers = tlb->writers[bucket], *place = NULL;

        if (writers[0] == TLB_MANY)
                return;
        for (unsigned i = 0; i < TLB_WRITERS; i++) {
                const struct tlb_entry *e = writer_entry(tlb, writers[i]);

                if (writers[i] == id)
                        return;
                if (!e || page_bucket(e->page) != bucket)
                        place = &writers[i];
        }
        if (place)
                *place = id;
        else
                writers[0] = TLB_MANY;
}

static void drop_write(struct soft_tlb *tlb, u16 id)
{
        writer_entry(tlb, id)->base[MMU_WRITE] = empty_base((id - 1u) % TLB_ENTRIES);
}

/* Looks at every entry of @table; those of the bucket that may still write afterwards are entered into it again. */
static void drop_writes_of(struct soft_tlb *tlb, struct tlb_table *table, u64 page)
{
        for (u64 used = table->entry_lines.words_used; used;) {
                const unsigned word = take_lowest(&used);

                for (u64 which = table->entry_lines.words[word]; which;) {
                        const unsigned first = (word * 64 + take_lowest(&which)) * ENTRIES_PER_LINE;

                        for (unsigned i = first; i < first + ENTRIES_PER_LINE; i++) {
                                const u16 id = writer_id(tlb, table, i);
                                const struct tlb_entry *e = writer_entry(tlb, id);

                                if (e && e->page == page)
                                        drop_write(tlb, id);
                                else if (e && page_bucket(e->page) == page_bucket(page))
                                        writer_add(tlb, e->page, id);
                        }
                }
        }
}

void tlb_drop_writes(struct soft_tlb *tlb, const void *page_hva)
{
        const u64 page = (uintptr_t)page_hva & PAGE_MASK;
        u16 *writers = tlb->writers[page_bucket(page)];

        if (tlb->shadowed)
                stale_note(tlb, page | TLB_STALE_WRITES);
        if (writers[0] == TLB_MANY) {
                writers[0] = writers[1] = writers[2] = writers[3] = 0;
                for (unsigned i = 0; i <= TLB_SPACES; i++)
                        drop_writes_of(tlb, table_at(tlb, i), page);
                return;
        }
        for (unsigned i = 0; i < TLB_WRITERS; i++) {
                const struct tlb_entry *e = writer_entry(tlb, writers[i]);

                if (e && e->page == page)
                        drop_write(tlb, writers[i]);
        }
}

/* ---- filling ---- */

/* Puts what is in entry @from, which is not empty, into entry @to. */
static void entry_copy(struct soft_tlb *tlb, struct tlb_table *table, unsigned to, const struct tlb_entry *from, unsigned from_index)
{
        const u64 none = empty_base(from_index);
        struct tlb_entry *e = &table->entries[to];

        for (unsigned access = 0; access < ARRAY_SIZE(e->base); access++)
                e->base[access] = from->base[access] == none ? empty_base(to) : from->base[access];
        e->page = from->page;
        set_add(&table->entry_lines, to / ENTRIES_PER_LINE);
        if (from->base[MMU_WRITE] != none)
                writer_add(tlb, e->page, writer_id(tlb, table, to));
}

/* The page's address of an entry, that of an empty one when it is empty. */
static u64 entry_page(const struct tlb_table *table, unsigned index)
{
        const u64 *base = table->entries[index].base, none = empty_base(index);

        return base[MMU_READ] != none ? base[MMU_READ] : base[MMU_WRITE] != none ? base[MMU_WRITE] : base[MMU_FETCH];
}

/* Entry @index is wanted for something else. */
static void displace(struct soft_tlb *tlb, struct tlb_table *table, unsigned index)
{
        const u64 page = entry_page(table, index);

        if (page != empty_base(index)) {
                entry_copy(tlb, table, tlb_victim(page), &table->entries[index], index);
                if (table == &tlb->kernel && set_has(&tlb->non_global, index))
                        tlb->non_global_victims = true;
        }
        entry_empty(table, index);
}

/* The access would hit if its page's victim were where it belongs: so it is put there, in exchange. */
static bool victim_hit(struct soft_tlb *tlb, enum tlb_mode mode, enum mmu_access access, u64 gva)
{
        struct tlb_table *table = tlb_table_of(tlb, mode, gva);
        const u64 page = gva & PAGE_MASK;
        const unsigned index = tlb_index(gva), from = tlb_victim(page);
        const struct tlb_entry victim = table->entries[from];

        if (victim.base[access] != page || (table == &tlb->kernel && tlb->non_global_victims))
                return false;
        entry_empty(table, from);
        displace(tlb, table, index);
        entry_copy(tlb, table, index, &victim, from);
        return true;
}

bool tlb_fill(struct soft_tlb *tlb, const struct paging_state *ps, enum tlb_mode mode, enum mmu_access access, u64 gva,
              const void *hva, const struct mmu_translation *tr, bool flagged)
{
        struct tlb_table *table = tlb_table_of(tlb, mode, gva);
        const bool kernel = table == &tlb->kernel;
        const bool writable = tr->writable || (kernel && !(ps->cr0 & CR0_WP));
        const unsigned index = tlb_index(gva);
        struct tlb_entry *e = &table->entries[index];
        const u64 base = gva & PAGE_MASK, page = (uintptr_t)hva & PAGE_MASK;

        if (mode == TLB_KERNEL_AC && tr->user == kernel)
                return false;
        if (e->page != page || (e->base[MMU_READ] != base && e->base[MMU_WRITE] != base && e->base[MMU_FETCH] != base)) {
                displace(tlb, table, index);
                e->page = page;
        }
        if (entry_is(table, tlb_victim(base), base)) /* it does not allow this access, or is out of date */
                entry_empty(table, tlb_victim(base));
        set_add(&table->entry_lines, (unsigned)(index / ENTRIES_PER_LINE));
        if (tr->page_size > PAGE_SIZE)
                remember_large(table, gva, tr->page_size);
        if (kernel && !tr->global) {
                set_add(&tlb->non_global, index);
                tlb->non_global_exec |= access == MMU_FETCH;
        }
        if (access == MMU_FETCH) {
                e->base[MMU_FETCH] = base;
                exec_add(table, gva);
                return true;
        }
        e->base[MMU_READ] = base;
        if (writable && tr->dirty && !flagged) {
                e->base[MMU_WRITE] = base;
                writer_add(tlb, page, writer_id(tlb, table, index));
                return true;
        }
        return access == MMU_READ;
}

int tlb_miss(struct soft_tlb *tlb, const struct guest_memory *mem, const struct paging_state *ps, enum tlb_mode mode,
             enum mmu_access access, u64 gva)
{
        struct mmu_translation tr;
        const void *hva;
        int r;

        if (!mmu_is_canonical(gva))
                return MMU_SLOW;
        if (victim_hit(tlb, mode, access, gva))
                return 0;
        r = mmu_walk_quick(mem, ps, gva, access, tlb_walk_flags(mode), &tr);
        if (r)
                return r;
        hva = guest_memory_hva(mem, tr.gpa, 1);
        if (!hva)
                return MMU_SLOW;
        return tlb_fill(tlb, ps, mode, access, gva, hva, &tr, __atomic_load_n(guest_memory_flags(mem, tr.gpa), __ATOMIC_RELAXED)) ? 0 : MMU_SLOW;
}

/* ---- jumps of translated code ---- */

void tlb_jump_enter(struct tlb_table *table, u64 rip, const void *code)
{
        const unsigned slot = (unsigned)(rip % TLB_JUMPS);
        const struct tlb_jump old = table->jumps[slot];

        if (old.code && old.rip != rip)
                tlb_jump_enter_more(table, TLB_JUMP, old.rip, old.code);
        table->jumps[slot] = (struct tlb_jump){ rip, code };
        set_add(&table->jump_lines, (unsigned)(slot / JUMPS_PER_LINE));
        exec_add(table, rip);
}

void tlb_jump_enter_more(struct tlb_table *table, enum tlb_jump_kind kind, u64 rip, const void *code)
{
        const unsigned slot = kind * TLB_MORE_JUMPS + tlb_more_slot(rip);

        table->more_jumps[slot] = (struct tlb_jump){ rip, code };
        set_add(&table->more_lines, (unsigned)(slot / JUMPS_PER_LINE));
        exec_add(table, rip);
}

static void forget_more(struct tlb_table *table, const void *code)
{
        for (unsigned word = 0; word < TLB_JUMP_KINDS * TLB_MORE_JUMPS / JUMPS_PER_LINE / 64; word++) {
                for (u64 which = table->more_lines.words[word]; which;) {
                        const unsigned first = (word * 64 + take_lowest(&which)) * JUMPS_PER_LINE;

                        for (unsigned slot = first; slot < first + JUMPS_PER_LINE; slot++)
                                if (table->more_jumps[slot].code == code)
                                        more_empty(table, slot);
                }
        }
}

void tlb_jump_forget(struct soft_tlb *tlb, unsigned page_offset, const void *code)
{
        for (unsigned i = 0; i <= TLB_SPACES; i++) {
                struct tlb_table *table = table_at(tlb, i);

                if (table->more_lines.words_used)
                        forget_more(table, code);
                if (!table->jump_lines.words_used)
                        continue;
                for (unsigned slot = page_offset & (PAGE_SIZE - 1); slot < TLB_JUMPS; slot += PAGE_SIZE)
                        if (table->jumps[slot].code == code)
                                jump_empty(table, slot);
        }
}

void tlb_jumps_clear_of(struct tlb_table *table)
{
        if (table->jump_lines.words_used | table->more_lines.words_used)
                jumps_clear(table);
}

void tlb_more_jumps_clear(struct soft_tlb *tlb)
{
        for (unsigned i = 0; i <= TLB_SPACES; i++)
                if (table_at(tlb, i)->more_lines.words_used)
                        more_clear(table_at(tlb, i));
}

void tlb_jumps_clear(struct soft_tlb *tlb)
{
        for (unsigned i = 0; i <= TLB_SPACES; i++)
                tlb_jumps_clear_of(table_at(tlb, i));
}
