/* The machine's translated code: its memory, the blocks in it, and how they are found and dropped. runtime.h tells the life of a block. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dump.h"
#include "library.h"
#include "runtime.h"

#define BLOCK_DATA_MAX \
        (sizeof(struct tblock) + BLOCK_LINKS_MAX * sizeof(struct link) + BLOCK_RECORDS_MAX * sizeof(struct record) + BLOCK_SITES_MAX * sizeof(u16))
#define CODE_ALIGN 32u
#define HUGE_SIZE (2 * MIB)
#define HUGE_FROM 40u          /* segments: more than a boot needs. Huge pages are resident as a whole, which a small machine should not pay for */
#define HUGE_AT_ONCE 4u        /* each takes the host about a millisecond */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25       /* Linux 6.1; older ones say EINVAL */
#endif
#define INT3 0xcc
#define SEGMENTS_FEW 4u
#define TURN_CYCLES (4 * 1000000000ULL) /* a second or two */
#define POPULATE ((u32)(32 * KIB)) /* at once */
#define POPULATE_AHEAD ((u32)(2 * KIB)) /* of what most blocks need */

/* ---- memory ---- */

/* Where huge pages of the host fit: at a multiple of their size. NULL: wherever there is room. */
static void *aligned_room(size_t size)
{
        u8 *room = mmap(NULL, size + HUGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (room == MAP_FAILED)
                return NULL;
        munmap(room, size + HUGE_SIZE);
        return (void *)ALIGN_UP((uintptr_t)room, HUGE_SIZE);
}

static int map_twice(struct code_memory *code, struct err **err)
{
        int fd = memfd_create("translated-code", MFD_CLOEXEC);
        int r = 0;

        if (fd < 0)
                return err_sys(err, errno, "creating memory for translated code");
        if (ftruncate(fd, (off_t)code->size) < 0) {
                r = err_sys(err, errno, "sizing memory for translated code to %lu MiB", (unsigned long)(code->size / MIB));
        } else {
                code->write = mmap(NULL, code->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
                code->run = mmap(aligned_room(code->size), code->size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, fd, 0);
                if (code->write == MAP_FAILED || code->run == MAP_FAILED) {
                        r = err_sys(err, errno, "mapping memory for translated code");
                        err_hint(err, r, "a security policy may forbid executable memory");
                }
        }
        close(fd);
        return r;
}

static void code_memory_free(struct code_memory *code)
{
        if (code->run && code->run != MAP_FAILED)
                munmap(code->run, code->size);
        if (code->write && code->write != MAP_FAILED)
                munmap(code->write, code->size);
        if (code->indexes && (void *)code->indexes != MAP_FAILED)
                munmap(code->indexes, code->n_segments * SEGMENT_BLOCKS_MAX * sizeof(struct tblock *));
        free(code->segments);
}

static int code_memory_init(struct code_memory *code, size_t size, struct err **err)
{
        code->n_segments = (unsigned)MAX(size / SEGMENT_SIZE, 2);
        code->size = STUBS_SIZE + code->n_segments * SEGMENT_SIZE;
        code->segments = calloc(code->n_segments, sizeof(*code->segments));
        /* Touched as far as it is used only. */
        code->indexes = mmap(NULL, code->n_segments * SEGMENT_BLOCKS_MAX * sizeof(struct tblock *), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (!code->segments || (void *)code->indexes == MAP_FAILED)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the translator");
        for (unsigned i = 0; i < code->n_segments; i++)
                code->segments[i].index = code->indexes + i * SEGMENT_BLOCKS_MAX;
        code->n_used = code->n_segments;
        code->segments[0].state = SEGMENT_FILLING;
        return map_twice(code, err);
}

static u8 *segment_start(const struct code_memory *code, const struct code_segment *segment)
{
        return code->run + STUBS_SIZE + (size_t)(segment - code->segments) * SEGMENT_SIZE;
}

/* ---- finding ---- */

static unsigned page_hash(u64 gpa)
{
        return (unsigned)(((gpa >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL) >> (64 - PAGE_BLOCKS_BITS));
}

static struct tblock **page_list(struct translator *tr, u64 gpa)
{
        return &tr->pages[page_hash(gpa)];
}

struct tblock *blocks_of_page(struct translator *tr, u64 gpa)
{
        return *page_list(tr, gpa);
}

static struct tblock *at_index(const struct code_segment *segment, unsigned i)
{
        return __atomic_load_n(&segment->index[i], __ATOMIC_RELAXED);
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

                if (at_index(segment, mid)->code <= rip)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        if (!lo)
                return NULL;
        block = at_index(segment, lo - 1);
        return rip < block->code + block->code_size ? block : NULL;
}

/* ---- dropping ---- */

static void unlist(struct tblock **p, struct tblock *block, size_t next_offset)
{
        while (*p && *p != block)
                p = (struct tblock **)(void *)((u8 *)*p + next_offset);
        /* A reader that stands on the block goes on from it: its own pointer stays. */
        if (*p)
                __atomic_store_n(p, *(struct tblock **)(void *)((u8 *)block + next_offset), __ATOMIC_RELEASE);
}

void block_drop(struct translator *tr, struct tblock *block)
{
        if (block->stale)
                return;
        block->stale = true;
        unlist(&tr->hash[block_hash(block->gpa, block->mode)], block, offsetof(struct tblock, hash_next));
        unlist(page_list(tr, block->gpa), block, offsetof(struct tblock, page_next));
        if (block->mode & MODE_CROSSING)
                unlist(&tr->pages_2[page_hash(block->gpa_2)], block, offsetof(struct tblock, page_2_next));
        link_cut_all(tr, block);
        /* The first byte of an instruction, so no vCPU is behind it in the same one. */
        __atomic_store_n(code_writable(tr, block->code + ENTRY_B), INT3, __ATOMIC_RELEASE);
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
                next = block->page_next;
                kept |= drop_overlapping(tr, block, block->gpa, block->guest_bytes, gpa, len);
        }
        for (block = tr->pages_2[page_hash(gpa)]; block; block = next) {
                next = block->page_2_next;
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

/* Drops all of @segment and lets everybody forget its addresses. */
static void drain(struct translator *tr, struct code_segment *segment)
{
        for (unsigned i = 0; i < segment->n_blocks; i++)
                block_drop(tr, segment->index[i]);
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
               segment->code_used + segment->data_used + 2 * CODE_ALIGN + BLOCK_CODE_MAX + BLOCK_DATA_MAX <= SEGMENT_SIZE;
}

/* Code is spread over some ten times the memory that the guest's takes, so with 4 KiB pages much of the time goes into the host's own TLB. What is full gets huge
 * pages; where the host has none to give the attempt is all that is lost. */
static void huge_pages_take(struct code_memory *code, unsigned n_full)
{
        const size_t full = STUBS_SIZE + n_full * SEGMENT_SIZE;

        if (n_full < HUGE_FROM)
                return;
        for (unsigned i = 0; i < HUGE_AT_ONCE && code->huge_end + HUGE_SIZE <= full; i++, code->huge_end += HUGE_SIZE)
                madvise(code->run + code->huge_end, HUGE_SIZE, MADV_COLLAPSE);
}

/* Nothing is added to @segment any more. The writable view of its code, which links alone still need, stops counting as this process's. */
static void segment_close(struct translator *tr, struct code_segment *segment)
{
        segment->state = SEGMENT_FULL;
        madvise(code_writable(tr, segment_start(&tr->code, segment)), segment->code_used & PAGE_MASK, MADV_DONTNEED);
        huge_pages_take(&tr->code, (unsigned)(segment - tr->code.segments) + 1);
}

/* Nobody finds a block of @segment any more. Whoever is in one, or holds its address, is about to leave: nothing of it need be unlinked. */
static void disown(struct translator *tr, struct code_segment *segment)
{
        for (unsigned i = 0; i < segment->n_blocks; i++) {
                struct tblock *block = segment->index[i];

                block->stale = true;
                __atomic_store_n(&tr->hash[block_hash(block->gpa, block->mode)], NULL, __ATOMIC_RELEASE);
                *page_list(tr, block->gpa) = NULL;
                if (block->mode & MODE_CROSSING)
                        tr->pages_2[page_hash(block->gpa_2)] = NULL;
        }
}

void blocks_forget(struct translator *tr)
{
        pthread_mutex_lock(&tr->lock);
        for (unsigned i = 0; i < tr->code.n_segments; i++)
                disown(tr, &tr->code.segments[i]);
        if (tr->any_far)
                memset(tr->far_pages, 0, sizeof(tr->far_pages));
        tr->any_far = false;
        tr->forgotten_at = new_epoch(tr);
        pthread_mutex_unlock(&tr->lock);
}

static void segment_empty(struct code_segment *segment)
{
        __atomic_store_n(&segment->n_blocks, 0, __ATOMIC_RELEASE);
        segment->code_used = segment->data_used = segment->code_ready = segment->data_ready = 0;
}

/* What was forgotten is memory again when nobody is in it any more. */
static bool release_forgotten(struct translator *tr)
{
        struct code_memory *code = &tr->code;

        if (!drained(tr, tr->forgotten_at))
                return false;
        for (unsigned i = 0; i < code->n_segments; i++) {
                struct code_segment *segment = &code->segments[i];

                segment_empty(segment);
                segment->state = SEGMENT_FREE;
        }
        code->filling = 0;
        code->segments[0].state = SEGMENT_FILLING;
        madvise(code->write + STUBS_SIZE, code->size - STUBS_SIZE, MADV_REMOVE);
        madvise(code->indexes, code->n_segments * SEGMENT_BLOCKS_MAX * sizeof(struct tblock *), MADV_DONTNEED);
        code->huge_end = 0;
        tr->forgotten_at = 0;
        return true;
}

void blocks_begin_small(struct translator *tr)
{
        tr->code.n_used = MIN(tr->code.n_segments, SEGMENTS_FEW);
}

/* The segment to be taken behind @i. Whoever needs all of them anew again and again gets more. */
static unsigned segment_after(struct code_memory *code, unsigned i)
{
        u64 now, since;

        if (i + 1 < code->n_used)
                return i + 1;
        now = __builtin_ia32_rdtsc();
        since = now - code->turned_at;
        code->turned_at = now;
        if (code->n_used == code->n_segments || since > TURN_CYCLES)
                return 0;
        code->n_used = MIN(2 * code->n_used, code->n_segments);
        return i + 1;
}

/* A segment with room for a block of any size; NULL while the next one is still being drained. One segment is drained ahead of need. */
static struct code_segment *segment_with_room(struct translator *tr, struct counters *counters)
{
        struct code_memory *code = &tr->code;
        struct code_segment *segment, *ahead;

        if (tr->forgotten_at && !release_forgotten(tr))
                return NULL;
        segment = &code->segments[code->filling];
        if (has_room(segment))
                return segment;
        if (segment->state == SEGMENT_FILLING) {
                segment_close(tr, segment);
                code->next = segment_after(code, code->filling);
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
        ahead = &code->segments[(code->filling + 1) % code->n_used];
        if (ahead->state == SEGMENT_FULL && code->n_used > 2)
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
        t->loop_off = 0;
        t->records[0] = (struct record){ .flags_at = FLAGS_IN_EFLAGS, .kind = RECORD_RESTART };
        t->records[1] = (struct record){ .code_off = ENTRY_B, .flags_at = FLAGS_IN_IMAGE, .kind = RECORD_RESTART };
        t->n_records = 2;
}

/* Pages for the next blocks, in a few calls instead of three faults for each page of code and one for each of data. Only hints: Linux 5.14. */
static void segment_populate(struct translator *tr, struct code_segment *segment)
{
        u8 *run = segment_start(&tr->code, segment), *write = code_writable(tr, run);

        if (segment->code_used + POPULATE_AHEAD > segment->code_ready && segment->code_ready + POPULATE <= SEGMENT_SIZE) {
                madvise(write + segment->code_ready, POPULATE, MADV_POPULATE_WRITE);
                madvise(run + segment->code_ready, POPULATE, MADV_POPULATE_READ);
                segment->code_ready += POPULATE;
        }
        if (segment->data_used + POPULATE_AHEAD > segment->data_ready && segment->data_ready + POPULATE <= SEGMENT_SIZE) {
                segment->data_ready += POPULATE;
                madvise(write + SEGMENT_SIZE - segment->data_ready, POPULATE, MADV_POPULATE_WRITE);
        }
}

static void *data_alloc(struct translator *tr, struct code_segment *segment, size_t size)
{
        segment->data_used += (u32)ALIGN_UP(size, 16);
        return code_writable(tr, segment_start(&tr->code, segment)) + SEGMENT_SIZE - segment->data_used;
}

/* The header with what the translation found. */
static struct tblock *header_make(struct translator *tr, struct code_segment *segment, const struct translation *t)
{
        const size_t links = t->n_links * sizeof(struct link), records = t->n_records * sizeof(struct record), sites = t->n_sites * sizeof(u16);
        struct tblock *block = data_alloc(tr, segment, sizeof(*block) + links + (t->library_records ? 0 : records + sites));
        u8 *behind = (u8 *)(block + 1);

        memset(block, 0, sizeof(*block));
        block->links = memcpy(behind, t->links, links);
        block->records = t->library_records ? t->library_records : memcpy(behind + links, t->records, records);
        block->sites = t->library_records ? t->library_sites : memcpy(behind + links + records, t->sites, sites);
        for (unsigned i = 0; i < t->n_links; i++) {
                block->links[i].from = block;
                block->links[i].to = NULL;
                block->links[i].next_in = NULL;
        }
        block->n_links = (u16)t->n_links;
        block->n_records = (u16)t->n_records;
        block->n_sites = (u16)t->n_sites;
        block->code_size = t->code_size;
        block->guest_bytes = (u16)t->guest_bytes;
        block->loop_off = t->loop_off;
        block->n_instructions = (u16)t->n_instructions;
        return block;
}

static void enter_block(struct translator *tr, struct code_segment *segment, struct tblock *block)
{
        struct tblock **head = &tr->hash[block_hash(block->gpa, block->mode)];

        segment->index[segment->n_blocks] = block;
        __atomic_store_n(&segment->n_blocks, segment->n_blocks + 1, __ATOMIC_RELEASE); /* pairs with block_at */
        block->page_next = *page_list(tr, block->gpa);
        *page_list(tr, block->gpa) = block;
        if (block->mode & MODE_CROSSING) {
                block->page_2_next = tr->pages_2[page_hash(block->gpa_2)];
                tr->pages_2[page_hash(block->gpa_2)] = block;
        }
        block->hash_next = *head;
        __atomic_store_n(head, block, __ATOMIC_RELEASE); /* pairs with block_find */
}

struct tblock *block_make(struct translator *tr, struct translate_request *req, const struct tblock *key, struct counters *counters)
{
        struct code_segment *segment = segment_with_room(tr, counters);
        const struct library_entry *saved;
        struct translation *t = &tr->scratch;
        struct tblock *block;
        u8 *start, *run;

        if (!segment)
                return NULL;
        segment_populate(tr, segment);
        saved = library_find(tr->library, key, req);
        start = segment_start(&tr->code, segment);
        /* A pointer to the block's header lies right before its code. */
        run = start + segment->code_used;
        run += ALIGN_UP(segment->code_used + sizeof(block), CODE_ALIGN) - segment->code_used;
        if (saved && ((uintptr_t)run & CODE_ALIGN) != library_phase(saved))
                run += CODE_ALIGN;
        req->run_at = run;
        req->jumps_in_line = tr->jumps_in_line;
        req->stubs = tr->stubs.exits;
        req->has_extension = tr->has_extension;
        t->code = code_writable(tr, run);
        t->library_records = NULL;
        req->notes = trace_mask & BIT(TRACE_TRANSLATE) ? tr->notes : NULL;
        tr->notes[0] = (struct insn_note){ .class = INSN_CALL_OUT, .why = "crosses the page's end" }; /* has no note of its own */
        if (saved)
                library_copy(tr->library, saved, req, t);
        else if (!translate_block(req, t))
                make_leaving_block(req, t);
        else if (req->notes)
                translate_dump(trace_get_output(), req, t);

        block = header_make(tr, segment, t);
        block->gpa = key->gpa;
        block->page_va = key->page_va;
        block->mode = key->mode;
        block->global = key->global;
        if (key->mode & MODE_CROSSING) {
                const unsigned room = (unsigned)(PAGE_SIZE - (key->gpa & (PAGE_SIZE - 1)));

                block->gpa_2 = key->gpa_2;
                block->bytes_2 = (u16)(MAX(t->guest_bytes, room) - room);
                block->guest_bytes = (u16)MIN(t->guest_bytes, room);
        }
        block->code = run;
        memcpy(t->code - sizeof(block), &block, sizeof(block));
        segment->code_used = (u32)(run - start) + t->code_size;
        enter_block(tr, segment, block);
        if (saved) {
                counter_inc(counters, COUNTER_BLOCKS_COPIED);
                return block;
        }
        counter_inc(counters, COUNTER_BLOCKS_TRANSLATED);
        counter_add(counters, COUNTER_INSNS_TRANSLATED, block->n_instructions);
        counter_add(counters, COUNTER_CODE_BYTES, block->code_size);
        return block;
}

/* ---- life ---- */

int translator_new(struct interp_machine *machine, unsigned n_vcpus, size_t cache_size, struct translator **ret, struct err **err)
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
        r = code_memory_init(&tr->code, cache_size, err);
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
                library_close(tr->library);
                pthread_mutex_destroy(&tr->lock);
                check_turns_destroy(&tr->turns);
                free(tr);
        }
        return NULL;
}
