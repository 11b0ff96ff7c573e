/* The machine's translated code: the blocks in it, and how they are made, found and dropped. runtime.h tells the life of a block. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dump.h"
#include "runtime.h"

#define BLOCK_DATA_MAX \
        (sizeof(struct tblock) + BLOCK_LINKS_MAX * sizeof(struct link) + BLOCK_RECORDS_MAX * sizeof(struct record) + BLOCK_SITES_MAX * sizeof(u16))
#define CODE_ALIGN 32u
#define INT3 0xcc
#define RETURNED_SHARE 8 /* of the blocks of a segment: so many that were evicted before say that there is not room enough */

/* ---- finding ---- */

static unsigned page_hash(u64 gpa)
{
        return (unsigned)(((gpa >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL) >> (64 - PAGE_BLOCKS_BITS));
}

/* @pages: of the tables. */
static code_ref *page_head(code_ref *pages, u64 gpa)
{
        return &pages[page_hash(gpa)];
}

struct tblock *blocks_of_page(const struct translator *tr, u64 gpa)
{
        return cache_at(tr, *page_head(tr->code.tables->pages, gpa));
}

static struct tblock *at_index(const struct translator *tr, const struct code_segment *segment, unsigned i)
{
        return cache_at(tr, __atomic_load_n(&segment->index[i], __ATOMIC_RELAXED));
}

/* The count is read first (acquire, pairs with enter_block): what lies below it is complete. */
struct tblock *block_at(const struct translator *tr, const u8 *rip)
{
        const u8 *first = segment_start(&tr->code, tr->code.segments);
        const struct code_segment *segment;
        unsigned lo = 0, hi;
        struct tblock *block;

        if (rip < first || !code_contains(tr, rip))
                return NULL;
        segment = &tr->code.segments[(size_t)(rip - first) / SEGMENT_SIZE];
        hi = __atomic_load_n(&segment->n_blocks, __ATOMIC_ACQUIRE);
        while (lo < hi) { /* the first one that starts after rip */
                const unsigned mid = lo + (hi - lo) / 2;

                if (block_code(at_index(tr, segment, mid)) <= rip)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        if (!lo)
                return NULL;
        block = at_index(tr, segment, lo - 1);
        return rip < block_code(block) + block->code_size ? block : NULL;
}

/* ---- dropping ---- */

static void unlist(const struct translator *tr, code_ref *p, struct tblock *block, size_t next_offset)
{
        const code_ref ref = cache_ref(tr, block);

        while (*p && *p != ref)
                p = (code_ref *)(void *)((u8 *)cache_at(tr, *p) + next_offset);
        /* A reader that stands on the block goes on from it: its own next stays. */
        if (*p)
                __atomic_store_n(p, *(code_ref *)(void *)((u8 *)block + next_offset), __ATOMIC_RELEASE);
}

void block_drop(struct translator *tr, struct tblock *block)
{
        struct block_tables *tables = tr->code.tables;

        if (block->stale)
                return;
        block->stale = true;
        unlist(tr, block_head(tr, block->gpa, block->mode), block, offsetof(struct tblock, hash_next));
        unlist(tr, page_head(tables->pages, block->gpa), block, offsetof(struct tblock, page_next));
        if (block->mode & MODE_CROSSING)
                unlist(tr, page_head(tables->pages_2, block->gpa_2), block, offsetof(struct tblock, page_2_next));
        link_cut_all(tr, block);
        /* The first byte of an instruction, so no vCPU is behind it in the same one. */
        __atomic_store_n(code_patchable(tr, block_code(block) + ENTRY_B, 1), INT3, __ATOMIC_RELEASE);
}

/* Drops @block if [at, at + bytes), which is code of it, overlaps [gpa, gpa + len); else returns the chunks that this code is in. */
static u64 drop_overlapping(struct translator *tr, struct tblock *block, u64 at, u64 bytes, u64 gpa, u64 len)
{
        if ((at ^ gpa) & PAGE_MASK || !bytes)
                return 0;
        if (at >= gpa + len || gpa >= at + bytes)
                return guest_memory_chunks(at, bytes);
        block_drop(tr, block);
        tr->dropped++;
        return 0;
}

u64 translator_code_written_begin(struct translator *tr, u64 gpa, u64 len)
{
        struct tblock *block, *next;
        u64 kept = 0;

        pthread_mutex_lock(&tr->lock);
        for (block = blocks_of_page(tr, gpa); block; block = next) {
                next = cache_at(tr, block->page_next);
                kept |= drop_overlapping(tr, block, block->gpa, block->guest_bytes, gpa, len);
        }
        for (block = cache_at(tr, *page_head(tr->code.tables->pages_2, gpa)); block; block = next) {
                next = cache_at(tr, block->page_2_next);
                kept |= drop_overlapping(tr, block, block->gpa_2, block->bytes_2, gpa, len);
        }
        return kept & guest_memory_chunks(gpa, len);
}

void translator_code_written_end(struct translator *tr)
{
        pthread_mutex_unlock(&tr->lock);
}

/* ---- eviction ---- */

/* Everybody is to forget the addresses that he holds. */
static u64 new_epoch(struct translator *tr)
{
        const u64 epoch = __atomic_add_fetch(&tr->epoch, 1, __ATOMIC_SEQ_CST);

        pthread_mutex_lock(&tr->machine->lock);
        for (struct interp *in = tr->machine->members; in; in = in->mailbox->next)
                vcpu_post_work(in->vcpu, VCPU_WORK_MAILBOX);
        pthread_mutex_unlock(&tr->machine->lock);
        return epoch;
}

/* The place where it is remembered that @block was evicted, and what stands there then. */
static u32 *evicted(struct translator *tr, const struct tblock *block, u32 *ret_hash)
{
        const u64 hash = (block->gpa ^ (u64)block->mode << 40) * 0x9e3779b97f4a7c15ULL;

        *ret_hash = (u32)hash | 1;
        return &tr->evicted[hash >> (64 - EVICTED_BITS)];
}

/* @block is made: is that because it was evicted? */
static bool returns(struct translator *tr, const struct tblock *block)
{
        u32 hash, *slot = evicted(tr, block, &hash);
        const bool there = *slot == hash;

        if (there)
                *slot = 0;
        return there;
}

/* Drops all of @segment and lets everybody forget its addresses. */
static void drain(struct translator *tr, struct code_segment *segment)
{
        for (unsigned i = 0; i < segment->n_blocks; i++) {
                struct tblock *block = at_index(tr, segment, i);
                u32 hash, *slot = evicted(tr, block, &hash);

                if (!block->stale)
                        *slot = hash;
                block_drop(tr, block);
        }
        segment->state = SEGMENT_DRAINING;
        segment->drained_at = new_epoch(tr);
}

static bool drained(struct translator *tr, u64 epoch)
{
        bool all = true;

        pthread_mutex_lock(&tr->machine->lock);
        for (struct interp *in = tr->machine->members; in; in = in->mailbox->next)
                all &= !in->mailbox->in_guest ||
                       __atomic_load_n(&in->translate->epoch_seen, __ATOMIC_ACQUIRE) >= epoch;
        pthread_mutex_unlock(&tr->machine->lock);
        return all;
}

static bool has_room(const struct code_segment *segment)
{
        return segment->state == SEGMENT_FILLING && segment->n_blocks < SEGMENT_BLOCKS_MAX &&
               segment->code_used + segment->data_used + 2 * CODE_ALIGN + BLOCK_CODE_MAX + BLOCK_DATA_MAX + PAGE_SIZE <= SEGMENT_SIZE;
}

static void segment_empty(struct code_segment *segment)
{
        __atomic_store_n(&segment->n_blocks, 0, __ATOMIC_RELEASE);
        segment->code_used = segment->data_used = segment->code_ready = segment->data_ready = 0;
}

/* The segment to be taken when the filling one is full. Whoever had to make again what was evicted gets another one, so that a machine has as much as
 * its code needs, and one that goes through ever new code no more than it began with. */
static unsigned segment_after(struct code_memory *code)
{
        const bool again = code->n_returned * RETURNED_SHARE > code->segments[code->filling].n_blocks;
        const unsigned next = code->hand;

        code->n_returned = 0;
        if (code->n_used < code->n_enough || (again && code->n_used < code->n_segments))
                return code->n_used++;
        code->hand = next + 1 < code->n_used ? next + 1 : code->n_frozen;
        return next;
}

/* A segment with room for a block of any size; NULL while the next one is still being drained. One segment is drained ahead of need. */
static struct code_segment *segment_with_room(struct translator *tr, struct counters *counters)
{
        struct code_memory *code = &tr->code;
        struct code_segment *segment, *ahead;

        segment = &code->segments[code->filling];
        if (has_room(segment))
                return segment;
        if (segment->state == SEGMENT_FILLING) {
                segment_close(code, segment);
                code->next = segment_after(code);
        }
        segment = &code->segments[code->next];
        if (segment->state == SEGMENT_FULL)
                drain(tr, segment); /* two segments only: nothing was ahead */
        if (segment->state == SEGMENT_DRAINING) {
                if (!drained(tr, segment->drained_at))
                        return NULL;
                counter_inc(counters, COUNTER_CODE_EVICTIONS);
        }
        code->filling = code->next;
        segment_empty(segment);
        segment->state = SEGMENT_FILLING;
        ahead = &code->segments[code->hand];
        if (ahead->state == SEGMENT_FULL && code->n_used >= code->n_enough && code->n_used - code->n_frozen > 2)
                drain(tr, ahead);
        return segment;
}

/* ---- making ---- */

/* A block of nothing but the way to the interpreter, for a first instruction that is its. */
static void make_leaving_block(const struct translate_request *req, struct translation *t)
{
        struct emitter e = { .start = t->code, .p = t->code, .end = t->code + BLOCK_CODE_MAX, .run_at = req->run_at };
        struct site site = { .kind = TEXIT_INTERP, .arg = INTERP_REASON_UNKNOWN };

        t->n_links = t->n_sites = 0;
        emit_pushfq_image(&e);
        emit_way_out(&e, t, &site, req->stubs[TEXIT_INTERP], 0);
        t->code_size = emit_off(&e);
        t->n_instructions = 1;
        t->guest_bytes = MIN(req->room, 15u);
        t->body_off = t->entry_a = 0;
        t->records[0] = (struct record){ .flags_at = FLAGS_IN_EFLAGS, .kind = RECORD_RESTART };
        t->records[1] = (struct record){ .code_off = ENTRY_B, .flags_at = FLAGS_IN_IMAGE, .kind = RECORD_RESTART };
        t->n_records = 2;
}

static void *data_alloc(struct translator *tr, struct code_segment *segment, size_t size)
{
        segment->data_used += (u32)ALIGN_UP(size, 16);
        return segment_start(&tr->code, segment) + CODE_SPAN + SEGMENT_SIZE - segment->data_used;
}

/* The header with what the translation found. */
static struct tblock *header_make(struct translator *tr, struct code_segment *segment, const u8 *run, const struct tblock *key, const struct translation *t)
{
        const size_t links = t->n_links * sizeof(struct link), records = t->n_records * sizeof(struct record), sites = t->n_sites * sizeof(u16);
        const size_t wants = t->body_off ? sizeof(t->body_wants) : 0;
        struct tblock *block = data_alloc(tr, segment, sizeof(*block) + links + records + sites + wants);
        u8 *behind = (u8 *)(block + 1);

        *block = (struct tblock){
                .gpa = key->gpa, .page_va = key->page_va, .mode = key->mode, .global = key->global,
                .code_at = (s32)(run - (const u8 *)block), .code_size = (u16)t->code_size, .guest_bytes = (u16)t->guest_bytes, .n_instructions = (u8)t->n_instructions,
                .entry_a = t->entry_a, .body_off = t->body_off, .body_in_image = t->body_in_image, .n_links = (u8)t->n_links, .n_records = (u16)t->n_records, .n_sites = (u16)t->n_sites,
        };
        if (key->mode & MODE_CROSSING) {
                const unsigned room = (unsigned)(PAGE_SIZE - (key->gpa & (PAGE_SIZE - 1)));

                block->gpa_2 = key->gpa_2;
                block->bytes_2 = (u8)(MAX(t->guest_bytes, room) - room);
                block->guest_bytes = (u16)MIN(t->guest_bytes, room);
        }
        memcpy(behind, t->links, links);
        memcpy(behind + links, t->records, records);
        memcpy(behind + links + records, t->sites, sites);
        memcpy(behind + links + records + sites, &t->body_wants, wants);
        for (unsigned i = 0; i < t->n_links; i++) {
                block_links(block)[i].index = (u8)i;
                block_links(block)[i].to = block_links(block)[i].next_in = 0;
        }
        memcpy(t->code - sizeof(block->code_at), &block->code_at, sizeof(block->code_at));
        return block;
}

static void enter_block(struct translator *tr, struct code_segment *segment, struct tblock *block)
{
        const code_ref ref = cache_ref(tr, block);
        code_ref *head = block_head(tr, block->gpa, block->mode);
        code_ref *page = page_head(tr->code.tables->pages, block->gpa);

        segment->index[segment->n_blocks] = ref;
        __atomic_store_n(&segment->n_blocks, segment->n_blocks + 1, __ATOMIC_RELEASE); /* pairs with block_at */
        block->page_next = *page;
        *page = ref;
        if (block->mode & MODE_CROSSING) {
                page = page_head(tr->code.tables->pages_2, block->gpa_2);
                block->page_2_next = *page;
                *page = ref;
        }
        block->hash_next = *head;
        __atomic_store_n(head, ref, __ATOMIC_RELEASE); /* pairs with block_find */
}

/* Where the next block of @segment is to run, with room for code_at before it. */
static u8 *place(const struct translator *tr, const struct code_segment *segment)
{
        return segment_start(&tr->code, segment) + ALIGN_UP(segment->code_used + sizeof(s32), CODE_ALIGN);
}

static struct tblock *add_block(struct translator *tr, struct code_segment *segment, const u8 *run, const struct tblock *key, const struct translation *t)
{
        struct tblock *block = header_make(tr, segment, run, key, t);

        segment->code_used = (u32)(run - segment_start(&tr->code, segment)) + t->code_size;
        enter_block(tr, segment, block);
        return block;
}

struct tblock *block_make(struct translator *tr, struct translate_request *req, const struct tblock *key, struct counters *counters)
{
        struct code_segment *segment = segment_with_room(tr, counters);
        struct translation *t = &tr->scratch;
        struct tblock *block;

        if (!segment)
                return NULL;
        segment_populate(&tr->code, segment);
        req->run_at = place(tr, segment);
        req->jumps_in_line = tr->jumps_in_line;
        req->stubs = tr->stubs.exits;
        req->has_extension = tr->has_extension;
        t->code = (u8 *)(uintptr_t)req->run_at + CODE_SPAN;
        req->notes = trace_mask & BIT(TRACE_TRANSLATE) ? tr->notes : NULL;
        tr->notes[0] = (struct insn_note){ .class = INSN_CALL_OUT, .why = "crosses the page's end" }; /* has no note of its own */
        if (!translate_block(req, t))
                make_leaving_block(req, t);
        else if (req->notes)
                translate_dump(trace_get_output(), req, t);
        block = add_block(tr, segment, req->run_at, key, t);
        if (returns(tr, block)) {
                tr->code.n_returned++;
                counter_inc(counters, COUNTER_CODE_RETURNS);
        }
        counter_inc(counters, COUNTER_BLOCKS_TRANSLATED);
        counter_add(counters, COUNTER_INSNS_TRANSLATED, block->n_instructions);
        counter_add(counters, COUNTER_CODE_BYTES, block->code_size);
        return block;
}

/* ---- copying ---- */

/* As it was before it was linked: all jumps out of it lead to its own stubs, and from there to @tr's. */
static void unlink_copy(const struct translator *tr, const u8 *run, struct translation *t)
{
        for (unsigned i = 0; i < t->n_links; i++) {
                const s32 rel = (s32)t->links[i].stub_off - (s32)(t->links[i].patch_off + 4);

                memcpy(t->code + t->links[i].patch_off, &rel, sizeof(rel));
        }
        for (unsigned i = 0; i < t->n_sites; i++) {
                const unsigned off = t->sites[i];
                struct site site;
                s32 rel;

                memcpy(&site, t->code + off, sizeof(site));
                rel = (s32)((const u8 *)tr->stubs.exits[site.kind] - (run + off));
                memcpy(t->code + off - sizeof(rel), &rel, sizeof(rel));
        }
}

struct tblock *block_copy(struct translator *tr, const struct translator *from, const struct tblock *block)
{
        struct code_segment *segment = segment_with_room(tr, NULL);
        struct translation *t = &tr->scratch;
        struct tblock key = *block;
        u8 *run;

        if (!segment)
                return NULL;
        run = place(tr, segment);
        if (((uintptr_t)run ^ (uintptr_t)block_code(block)) & CODE_ALIGN)
                run += CODE_ALIGN; /* it was made for its place in a cache line */
        t->code = run + CODE_SPAN;
        t->code_size = block->code_size;
        t->guest_bytes = (unsigned)block->guest_bytes + block->bytes_2;
        t->n_instructions = block->n_instructions;
        t->entry_a = block->entry_a;
        t->body_off = block->body_off;
        t->body_in_image = block->body_in_image;
        t->n_links = block->n_links;
        t->n_records = block->n_records;
        t->n_sites = block->n_sites;
        memcpy(t->code, block_code(block), block->code_size);
        memcpy(t->links, block_links(block), t->n_links * sizeof(*t->links));
        memcpy(t->records, block_records(block), t->n_records * sizeof(*t->records));
        memcpy(t->sites, block_sites(block), t->n_sites * sizeof(*t->sites));
        if (t->body_off)
                t->body_wants = *block_body_wants(block);
        unlink_copy(tr, run, t);
        return add_block(tr, segment, run, &key, t);
}

/* ---- life ---- */

int translator_new(struct interp_machine *machine, unsigned n_vcpus, size_t cache_size, bool runs, struct translator **ret, struct err **err)
{
        struct translator *tr = calloc(1, sizeof(*tr));
        int r;

        if (!tr)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the translator");
        tr->machine = machine;
        tr->memory = machine->memory;
        tr->n_vcpus = n_vcpus;
        tr->jumps_in_line = translate_host_jump_erratum();
        pthread_mutex_init(&tr->lock, NULL);
        check_turns_init(&tr->turns);
        r = code_memory_init(&tr->code, cache_size, runs, err);
        if (r < 0) {
                translator_free(tr);
                return r;
        }
        stubs_emit(&tr->stubs, tr->code.write, tr->code.run);
        *ret = tr;
        return 0;
}

struct translator *translator_free(struct translator *tr)
{
        if (tr) {
                code_memory_free(&tr->code);
                pthread_mutex_destroy(&tr->lock);
                check_turns_destroy(&tr->turns);
                free(tr);
        }
        return NULL;
}
