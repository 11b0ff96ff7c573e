#include "library.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/io.h"

#define BUILD_ID_SIZE 20u
#define OUT_SIZE (256 * KIB)
#define PHASE_BYTES 32u

static const char magic[8] = "STRATATC";

/* Whose code this is. */
struct maker {
        u8 build_id[BUILD_ID_SIZE]; /* of the program */
        u32 cpu[4];                 /* the host's: CPUID 1 EAX, ECX; 7 EBX, ECX. SDM 2A, CPUID */
        u8 jumps_in_line;
        u8 has_extension[ZYDIS_ISA_EXT_MAX_VALUE + 1]; /* the guest's CPU */
};

struct header {
        char magic[sizeof(magic)];
        struct maker maker;
        u32 n_entries, n_slots; /* slots: a power of two, at least twice as many; 0 or an entry's number + 1, open addressing */
        u64 entries_at, slots_at, size;
};

/* Its parts lie one behind the other in this order: records, links, sites, the guest's bytes, code. */
struct library_entry {
        u64 gpa, page_va, gpa_2;
        u64 at;
        u32 mode, code_size;
        u16 guest_bytes, bytes_2, n_instructions, loop_off;
        u16 n_links, n_records, n_sites, phase;
};

struct saved_link {
        s32 target;
        u16 patch_off, stub_off;
        u8 entry_b, unshared, loop, unused;
};

struct library {
        const u8 *data;
        const struct library_entry *entries;
        const u32 *slots;
        u32 n_entries, n_slots;
        u64 size; /* of the file */
};

/* ---- whose ---- */

static int find_build_id(struct dl_phdr_info *info, size_t size, void *opaque)
{
        u8 *ret = opaque;

        (void)size;
        for (unsigned i = 0; i < info->dlpi_phnum; i++) {
                const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
                const u8 *p = (const u8 *)info->dlpi_addr + ph->p_vaddr, *end = p + ph->p_memsz; // NOLINT: the loader's

                while (ph->p_type == PT_NOTE && (size_t)(end - p) > sizeof(ElfW(Nhdr))) {
                        const ElfW(Nhdr) *note = (const void *)p;
                        const u8 *desc = p + sizeof(*note) + ALIGN_UP(note->n_namesz, 4);

                        if (note->n_type == NT_GNU_BUILD_ID && note->n_descsz == BUILD_ID_SIZE && note->n_namesz == 4) {
                                memcpy(ret, desc, BUILD_ID_SIZE);
                                return 1;
                        }
                        p = desc + ALIGN_UP(note->n_descsz, 4);
                }
        }
        return -1; /* the first one is the program */
}

/* False: nobody can tell this program from another. */
static bool maker_get(const struct translator *tr, struct maker *ret)
{
        u32 unused;

        memset(ret, 0, sizeof(*ret));
        if (dl_iterate_phdr(find_build_id, ret->build_id) != 1)
                return false;
        __get_cpuid(1, &ret->cpu[0], &unused, &ret->cpu[1], &unused);
        ret->cpu[1] &= ~(u32)bit_OSXSAVE;
        __get_cpuid_count(7, 0, &unused, &ret->cpu[2], &ret->cpu[3], &unused);
        ret->jumps_in_line = tr->jumps_in_line;
        for (size_t i = 0; i < ARRAY_SIZE(ret->has_extension); i++)
                ret->has_extension[i] = tr->has_extension[i];
        return true;
}

static u32 entry_hash(u64 gpa, u64 page_va, u32 mode)
{
        const u64 x = (gpa ^ page_va << 7 ^ page_va >> 29 ^ (u64)mode << 45) * 0x9e3779b97f4a7c15ULL;

        return (u32)(x >> 32);
}

static u64 entry_size(const struct library_entry *e)
{
        return e->n_records * sizeof(struct record) + e->n_links * sizeof(struct saved_link) + e->n_sites * sizeof(u16) +
               e->guest_bytes + e->bytes_2 + e->code_size;
}

/* ---- saving ---- */

struct out {
        int fd;
        int error; /* -errno of the first write that failed */
        u64 at;
        size_t used;
        u8 data[OUT_SIZE];
};

static void out_flush(struct out *out)
{
        if (!out->error)
                out->error = io_write_all(out->fd, out->data, out->used);
        out->used = 0;
}

static void out_put(struct out *out, const void *data, size_t len)
{
        out->at += len;
        for (const u8 *p = data; len;) {
                const size_t n = MIN(len, sizeof(out->data) - out->used);

                memcpy(out->data + out->used, p, n);
                out->used += n;
                p += n;
                len -= n;
                if (out->used == sizeof(out->data))
                        out_flush(out);
        }
}

static void out_align(struct out *out)
{
        static const u8 zeros[8];

        out_put(out, zeros, ALIGN_UP(out->at, 8) - out->at);
}

static bool is_wanted(const struct tblock *block)
{
        return !block->stale && !(block->mode & MODE_SHADOW);
}

/* Where it is linked it is as if it were not. The writable view may have been given back and is not touched. */
static void put_code(struct out *out, const struct tblock *block, u8 scratch[BLOCK_CODE_MAX])
{
        memcpy(scratch, block->code, block->code_size);
        for (unsigned i = 0; i < block->n_links; i++) {
                const struct link *link = &block->links[i];
                const s32 rel = (s32)link->stub_off - (s32)(link->patch_off + 4);

                memcpy(scratch + link->patch_off, &rel, sizeof(rel));
        }
        out_put(out, scratch, block->code_size);
}

static void put_block(struct out *out, struct guest_memory *memory, const struct tblock *block, struct library_entry *ret, u8 scratch[BLOCK_CODE_MAX])
{
        out_align(out);
        *ret = (struct library_entry){
                .gpa = block->gpa, .page_va = block->page_va, .gpa_2 = block->gpa_2, .at = out->at, .mode = block->mode, .code_size = block->code_size,
                .guest_bytes = block->guest_bytes, .bytes_2 = block->bytes_2, .n_instructions = block->n_instructions, .loop_off = block->loop_off,
                .n_links = block->n_links, .n_records = block->n_records, .n_sites = block->n_sites,
                .phase = (uintptr_t)block->code / PHASE_BYTES & 1,
        };
        out_put(out, block->records, block->n_records * sizeof(struct record));
        for (unsigned i = 0; i < block->n_links; i++) {
                const struct link *link = &block->links[i];
                const struct saved_link saved = {
                        .target = link->target, .patch_off = link->patch_off, .stub_off = link->stub_off,
                        .entry_b = link->entry_b, .unshared = link->unshared, .loop = link->loop,
                };

                out_put(out, &saved, sizeof(saved));
        }
        out_put(out, block->sites, block->n_sites * sizeof(u16));
        out_put(out, guest_memory_hva(memory, block->gpa, block->guest_bytes), block->guest_bytes);
        if (block->bytes_2)
                out_put(out, guest_memory_hva(memory, block->gpa_2, block->bytes_2), block->bytes_2);
        put_code(out, block, scratch);
}

static void put_slots(struct out *out, struct header *h, const struct library_entry *entries, u32 *slots)
{
        for (u32 i = 0; i < h->n_entries; i++) {
                u32 slot = entry_hash(entries[i].gpa, entries[i].page_va, entries[i].mode) & (h->n_slots - 1);

                while (slots[slot])
                        slot = (slot + 1) & (h->n_slots - 1);
                slots[slot] = i + 1;
        }
        out_align(out);
        h->entries_at = out->at;
        out_put(out, entries, h->n_entries * sizeof(*entries));
        out_align(out);
        h->slots_at = out->at;
        out_put(out, slots, h->n_slots * sizeof(*slots));
        h->size = out->at;
}

static u32 count_wanted(const struct translator *tr)
{
        u32 n = 0;

        for (unsigned s = 0; s < tr->code.n_segments; s++)
                for (unsigned i = 0; i < tr->code.segments[s].n_blocks; i++)
                        n += is_wanted(tr->code.segments[s].index[i]);
        return n;
}

/* The header comes last: without it the file is none. */
static int save(struct translator *tr, struct out *out, struct header *h)
{
        _cleanup_free_ struct library_entry *entries = NULL;
        _cleanup_free_ u32 *slots = NULL;
        u32 n = 0;

        h->n_entries = count_wanted(tr);
        for (h->n_slots = 2; h->n_slots < 2 * h->n_entries;)
                h->n_slots *= 2;
        entries = calloc(h->n_entries + 1, sizeof(*entries));
        slots = calloc(h->n_slots, sizeof(*slots));
        if (!entries || !slots)
                return -ENOMEM;
        out_put(out, &(struct header){ 0 }, sizeof(*h));
        for (unsigned s = 0; s < tr->code.n_segments; s++)
                for (unsigned i = 0; i < tr->code.segments[s].n_blocks; i++)
                        if (is_wanted(tr->code.segments[s].index[i]))
                                put_block(out, tr->memory, tr->code.segments[s].index[i], &entries[n++], tr->copy);
        put_slots(out, h, entries, slots);
        out_flush(out);
        return out->error ? out->error : io_pwrite_all(out->fd, h, sizeof(*h), 0);
}

int library_save(struct translator *tr, int fd, struct err **err)
{
        _cleanup_free_ struct out *out = malloc(sizeof(*out));
        struct header h;
        int r;

        memset(&h, 0, sizeof(h)); /* the file gets the room between members too */
        memcpy(h.magic, magic, sizeof(magic));
        if (!maker_get(tr, &h.maker))
                return 0;
        if (!out)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory to save translations");
        out->fd = fd;
        out->error = 0;
        out->at = out->used = 0;
        pthread_mutex_lock(&tr->lock);
        r = save(tr, out, &h);
        pthread_mutex_unlock(&tr->lock);
        return r < 0 ? err_sys(err, -r, "saving translations") : 0;
}

/* ---- using ---- */

static bool fits(const struct library *l, u64 at, u64 n, u64 size)
{
        return at % 8 == 0 && at <= l->size && n <= (l->size - at) / size;
}

/* It is of this program, host and guest, and its tables are inside of it. */
static bool header_is_sound(const struct translator *tr, const struct library *l)
{
        struct maker maker;
        struct header h;

        if (l->size < sizeof(h) || !maker_get(tr, &maker))
                return false;
        memcpy(&h, l->data, sizeof(h));
        return memcmp(h.magic, magic, sizeof(magic)) == 0 && memcmp(&h.maker, &maker, sizeof(maker)) == 0 && h.size == l->size &&
               h.n_slots > h.n_entries && !(h.n_slots & (h.n_slots - 1)) && fits(l, h.entries_at, h.n_entries, sizeof(struct library_entry)) &&
               fits(l, h.slots_at, h.n_slots, sizeof(u32));
}

int library_open(const struct translator *tr, int fd, struct library **ret, struct err **err)
{
        struct library *l = calloc(1, sizeof(*l));
        struct header h;
        struct stat st;
        void *data;

        *ret = NULL;
        if (!l || fstat(fd, &st) < 0) {
                free(l);
                return err_sys(err, errno, "looking at saved translations");
        }
        l->size = (u64)st.st_size;
        data = l->size ? mmap(NULL, l->size, PROT_READ, MAP_SHARED, fd, 0) : NULL;
        if (data == MAP_FAILED) {
                free(l);
                return err_sys(err, errno, "mapping saved translations");
        }
        l->data = data;
        if (!header_is_sound(tr, l)) {
                library_close(l);
                return 0;
        }
        memcpy(&h, l->data, sizeof(h));
        l->entries = (const void *)(l->data + h.entries_at);
        l->slots = (const void *)(l->data + h.slots_at);
        l->n_entries = h.n_entries;
        l->n_slots = h.n_slots;
        *ret = l;
        return 0;
}

struct library *library_close(struct library *l)
{
        if (l) {
                if (l->data)
                        munmap((void *)(uintptr_t)l->data, l->size);
                free(l);
        }
        return NULL;
}

static bool entry_is_sound(const struct library *l, const struct library_entry *e)
{
        return e->n_links <= BLOCK_LINKS_MAX && e->n_records <= BLOCK_RECORDS_MAX && e->n_sites <= BLOCK_SITES_MAX && e->code_size <= BLOCK_CODE_MAX &&
               e->code_size > ENTRY_B && e->n_instructions <= BLOCK_GUEST_MAX && fits(l, e->at, entry_size(e), 1);
}

static const u8 *entry_bytes(const struct library *l, const struct library_entry *e)
{
        return l->data + e->at + e->n_records * sizeof(struct record) + e->n_links * sizeof(struct saved_link) + e->n_sites * sizeof(u16);
}

static bool is_of(const struct library *l, const struct library_entry *e, const struct tblock *key, const struct translate_request *req)
{
        const unsigned bytes = (unsigned)e->guest_bytes + e->bytes_2;

        return e->gpa == key->gpa && e->page_va == key->page_va && e->mode == key->mode && e->gpa_2 == key->gpa_2 && bytes && bytes <= req->room &&
               entry_is_sound(l, e) && memcmp(req->code, entry_bytes(l, e), bytes) == 0;
}

const struct library_entry *library_find(const struct library *l, const struct tblock *key, const struct translate_request *req)
{
        u32 slot;

        if (!l || req->no_chains)
                return NULL;
        slot = entry_hash(key->gpa, key->page_va, key->mode);
        for (u32 n = 0; n < l->n_slots; n++, slot++) {
                const u32 i = l->slots[slot & (l->n_slots - 1)];

                if (!i || i > l->n_entries)
                        return NULL;
                if (is_of(l, &l->entries[i - 1], key, req))
                        return &l->entries[i - 1];
        }
        return NULL;
}

unsigned library_phase(const struct library_entry *entry)
{
        return entry->phase & 1 ? PHASE_BYTES : 0;
}

void library_copy(const struct library *l, const struct library_entry *e, const struct translate_request *req, struct translation *ret)
{
        const struct record *records = (const void *)(l->data + e->at);
        const struct saved_link *links = (const void *)(records + e->n_records);
        const u16 *sites = (const void *)(links + e->n_links);

        ret->n_instructions = e->n_instructions;
        ret->guest_bytes = (unsigned)e->guest_bytes + e->bytes_2;
        ret->loop_off = e->loop_off;
        ret->code_size = e->code_size;
        ret->n_records = e->n_records;
        ret->library_records = records;
        ret->n_links = e->n_links;
        for (unsigned i = 0; i < e->n_links; i++)
                ret->links[i] = (struct link){
                        .target = links[i].target, .patch_off = links[i].patch_off, .stub_off = links[i].stub_off,
                        .entry_b = links[i].entry_b, .unshared = links[i].unshared, .loop = links[i].loop,
                };
        ret->n_sites = e->n_sites;
        ret->library_sites = sites;
        memcpy(ret->code, entry_bytes(l, e) + e->guest_bytes + e->bytes_2, e->code_size);
        for (unsigned i = 0; i < e->n_sites; i++) {
                const unsigned off = sites[i];
                struct site site;
                s32 rel;

                if (off < 4 || off + sizeof(site) > e->code_size)
                        continue;
                memcpy(&site, ret->code + off, sizeof(site));
                rel = site.kind < TEXIT_KINDS ? (s32)((const u8 *)req->stubs[site.kind] - (req->run_at + off)) : 0;
                memcpy(ret->code + off - 4, &rel, sizeof(rel));
        }
}
