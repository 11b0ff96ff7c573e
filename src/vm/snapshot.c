/* Snapshots of a running machine, and machines that begin as one: theory of operation.
 *
 * A snapshot is taken while the machine is paused: its state, and those pages of RAM that the new layer is to have, are copied to files; syncing and naming
 * them (snapshot_dir.c) comes after it runs again.
 *
 * The *chain* is what the machine's RAM can differ from: the files of the snapshot it began as or that was last taken of it. A machine with a memfd tracks
 * dirty pages from its first snapshot on, and each snapshot becomes the chain for the next. One that began as a snapshot has private memory, whose copies the host's page tables
 * tell apart from the files' pages; its chain stays what it began as, so each of its diffs has all that is different. */
#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "cpu/kvm/kvm.h"
#include "dev/vmgenid.h"
#include "internal.h"

/* Fewer pages between two pieces of a layer are written too, because each piece of it is one mapping more for those who restore it. */
#define FULL_GAP 64
#define DIFF_GAP 16

static u64 n_pages(const struct vm *vm)
{
        return vm->memory->ram_size >> PAGE_SHIFT;
}

static u64 *new_bitmap(const struct vm *vm, struct err **err)
{
        u64 *bitmap = calloc((n_pages(vm) + 63) / 64, sizeof(u64));

        if (!bitmap)
                err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a bitmap of guest memory");
        return bitmap;
}

static bool bit(const u64 *bitmap, u64 n)
{
        return bitmap[n / 64] & BIT(n % 64);
}

/* ---- the chain ---- */

void vm_chain_forget(struct vm *vm)
{
        struct vm_chain *chain = &vm->chain;

        for (unsigned i = 0; i < chain->n; i++)
                close(chain->layers[i]);
        chain->n = 0;
        snapshot_map_free(&chain->map);
}

void vm_chain_free(struct vm *vm)
{
        vm_chain_forget(vm);
        free(TAKE_PTR(vm->chain.dirty));
}

/* ---- which pages changed ---- */

/* The kernel's log becomes page flags. */
int vm_dirty_sync(struct vm *vm, struct err **err)
{
        if (!vm->memory->dirty_tracking || !(vm->engine_caps & ENGINE_CAP_KERNEL_IRQCHIP))
                return 0;
        return kvm_dirty_sync(vm->engine_machine, err);
}

int vm_dirty_start_engine(struct vm *vm, struct err **err)
{
        if (!vm->memory->dirty_tracking || !(vm->engine_caps & ENGINE_CAP_KERNEL_IRQCHIP))
                return 0;
        return kvm_dirty_start(vm->engine_machine, err);
}

/* Tracking begins, or what was written since the last time is added to the chain's bitmap. */
static int track(struct vm *vm, struct err **err)
{
        int r = 0;

        if (guest_memory_is_private(vm->memory))
                return 0;
        if (!vm->chain.dirty)
                vm->chain.dirty = new_bitmap(vm, err);
        if (!vm->chain.dirty)
                return -ENOMEM;
        if (vm->memory->dirty_tracking) {
                r = vm_dirty_sync(vm, err);
                if (r == 0)
                        guest_memory_dirty_collect(vm->memory, vm->chain.dirty);
        } else {
                guest_memory_dirty_start(vm->memory);
                r = vm_dirty_start_engine(vm, err);
        }
        vm_tell_engines(vm); /* their TLBs may still let pages be written unseen */
        return r;
}

/* ---- copying RAM ---- */

/* A layer while it is made. */
struct layer {
        struct vm *vm;
        int fd;
        u8 number;
        bool diff;
        u8 *pages;  /* as in snapshot_map.h */
        u64 *dirty; /* no longer what the chain says */
        u64 *data;  /* may have something in it; the others are zeros */
};

static void layer_free(struct layer *l)
{
        free(l->pages);
        free(l->dirty);
        free(l->data);
}

static bool is_zero(const u8 *page)
{
        return page[0] == 0 && memcmp(page, page + 1, PAGE_SIZE - 1) == 0;
}

/* Pages that were never written must not be read, since that gives them memory. */
static int find_data(struct layer *l, struct err **err)
{
        const struct guest_memory *mem = l->vm->memory;
        const u64 n = n_pages(l->vm);
        off_t at = 0, end;

        if (guest_memory_is_private(mem)) { /* nor does it there: anonymous memory reads as the one zero page */
                memset(l->data, 0xff, (n + 63) / 64 * sizeof(u64));
                return 0;
        }
        while ((at = lseek(mem->fd, at, SEEK_DATA)) >= 0) {
                end = lseek(mem->fd, at, SEEK_HOLE);
                if (end < 0)
                        break;
                for (u64 i = (u64)at >> PAGE_SHIFT; i < (u64)end >> PAGE_SHIFT; i++)
                        l->data[i / 64] |= BIT(i % 64);
                at = end;
        }
        return errno == ENXIO ? 0 : err_sys(err, errno, "looking for the pages that the machine has used");
}

/* What is to be in the layer. */
static void classify(struct layer *l)
{
        const struct guest_memory *mem = l->vm->memory;

        for (size_t s = 0; s < mem->n_slots; s++) {
                const struct memory_slot *slot = &mem->slots[s];
                const u64 first = slot->fd_offset >> PAGE_SHIFT;

                for (u64 i = 0; i < slot->size >> PAGE_SHIFT; i++) {
                        u8 *page = &l->pages[first + i];

                        if (!bit(l->dirty, first + i) && (l->diff || *page == SNAPSHOT_ZERO))
                                continue;
                        *page = bit(l->data, first + i) && !is_zero(slot->hva + (i << PAGE_SHIFT)) ? l->number : SNAPSHOT_ZERO;
                }
        }
}

static bool to_be_written(const struct layer *l, const struct memory_slot *slot, u64 i)
{
        const u8 page = l->pages[(slot->fd_offset >> PAGE_SHIFT) + i];

        return page == l->number || (page == SNAPSHOT_JOINED && !is_zero(slot->hva + (i << PAGE_SHIFT)));
}

static int write_layer(const struct layer *l, struct err **err)
{
        const struct guest_memory *mem = l->vm->memory;

        for (size_t s = 0; s < mem->n_slots; s++) {
                const struct memory_slot *slot = &mem->slots[s];
                const u64 n = slot->size >> PAGE_SHIFT;

                for (u64 first = 0, end; first < n; first = end + 1) {
                        int r;

                        for (end = first; end < n && to_be_written(l, slot, end); end++)
                                ;
                        r = io_pwrite_all(l->fd, slot->hva + (first << PAGE_SHIFT), (end - first) << PAGE_SHIFT,
                                          slot->fd_offset + (first << PAGE_SHIFT));
                        if (r < 0)
                                return err_sys(err, -r, "writing the machine's memory");
                }
        }
        return ftruncate(l->fd, (off_t)mem->ram_size) < 0 ? err_sys(err, errno, "writing the machine's memory") : 0;
}

static int map_layer(struct layer *l, struct snapshot_map *ret, struct err **err)
{
        int r = -E2BIG;

        for (u64 gap = l->diff ? DIFF_GAP : FULL_GAP; r == -E2BIG; gap *= 2) {
                snapshot_pages_join(l->pages, n_pages(l->vm), l->number, gap);
                r = snapshot_map_from_pages(l->pages, n_pages(l->vm), l->number, SNAPSHOT_RUNS_MAX, ret, err);
        }
        return r;
}

/* What the pages are before the layer has any. */
static int layer_begin(struct layer *l, struct err **err)
{
        struct vm *vm = l->vm;
        int r = 0;

        l->pages = calloc(n_pages(vm), 1);
        l->data = new_bitmap(vm, err);
        l->dirty = new_bitmap(vm, err);
        if (!l->pages || !l->data || !l->dirty)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the map of a snapshot");
        if (guest_memory_is_private(vm->memory))
                r = guest_memory_private_collect(vm->memory, l->dirty, l->diff ? err : NULL);
        else if (vm->chain.dirty)
                memcpy(l->dirty, vm->chain.dirty, (n_pages(vm) + 63) / 64 * sizeof(u64));
        if (r == 0 && vm->chain.n)
                snapshot_map_to_pages(&vm->chain.map, l->pages);
        return l->diff ? r : 0;
}

static int copy_memory(struct layer *l, struct snapshot_map *ret, struct err **err)
{
        int r = layer_begin(l, err);

        if (r == 0)
                r = find_data(l, err);
        if (r < 0)
                return r;
        classify(l);
        r = map_layer(l, ret, err);
        return r < 0 ? r : write_layer(l, err);
}

/* ---- taking one ---- */

static int check_diff(const struct vm *vm, struct err **err)
{
        if (!vm->chain.n)
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "there is no snapshot of this machine that a diff could begin with"),
                                "take a full snapshot first");
        if (vm->chain.n == SNAPSHOT_LAYERS_MAX)
                return err_hint(err, err_set(err, ERR_TOO_LARGE, E2BIG, "there are %u snapshots one on the other already", vm->chain.n),
                                "take a full snapshot");
        return 0;
}

/* What needs the machine to stand still. */
static int copy_machine(struct layer *l, int code_fd, struct snapshot_info *ret_info, struct state_out *out, struct err **err)
{
        struct vm *vm = l->vm;
        struct snapshot_info info = { .ram_size = vm->memory->ram_size, .n_cpus = vm->n_cpus, .tsc_hz = clock_tsc_hz(), .n_layers = l->number + 1u };
        int r;

        snprintf(info.engine, sizeof(info.engine), "%s", vm->engine->name);
        if (getrandom(&info.id, sizeof(info.id), 0) != sizeof(info.id))
                return err_sys(err, errno, "getting a random number");
        if (vm_has_ended(vm) || vm->suspended)
                return err_set(err, ERR_BUSY, EBUSY, vm->suspended ? "the machine sleeps" : "the machine has ended");
        r = track(vm, err);
        if (r == 0)
                r = copy_memory(l, &info.map, err);
        if (r < 0)
                return r;
        snapshot_info_save(&info, out);
        r = vm_save(vm, out, err);
        if (r == 0 && code_fd >= 0 && vm->engine->code_save)
                r = vm->engine->code_save(vm->engine_machine, code_fd, info.id, err);
        if (r < 0) {
                snapshot_map_free(&info.map);
                return r;
        }
        *ret_info = info;
        return 0;
}

/* The next diff is one to what was just taken. */
static void chain_advance(struct vm *vm, int fd, struct snapshot_info *info)
{
        struct vm_chain *chain = &vm->chain;
        const unsigned n = info->n_layers - 1;
        const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

        for (unsigned i = n; i < chain->n; i++)
                close(chain->layers[i]);
        snapshot_map_free(&chain->map);
        chain->n = n;
        if (copy < 0) {
                vm_chain_forget(vm);
                return;
        }
        chain->layers[chain->n++] = copy;
        chain->map = info->map;
        info->map = (struct snapshot_map){ 0 };
        memset(chain->dirty, 0, (n_pages(vm) + 63) / 64 * sizeof(u64));
}

int vm_snapshot(struct vm *vm, const struct vm_snapshot_fds *fds, bool diff, struct err **err)
{
        _cleanup_(layer_free) struct layer layer = { .vm = vm, .fd = fds->memory, .diff = diff };
        _cleanup_(state_out_free) struct state_out out;
        struct snapshot_info info = { 0 };
        int r = diff ? check_diff(vm, err) : 0;

        if (r < 0)
                return r;
        layer.number = diff ? (u8)vm->chain.n : 0;
        state_out_init(&out);
        vm_pause(vm);
        r = copy_machine(&layer, fds->code, &info, &out, err);
        vm_resume(vm);
        if (r == 0)
                r = snapshot_state_write(fds->state, &out, err);
        if (r == 0 && !guest_memory_is_private(vm->memory))
                chain_advance(vm, fds->memory, &info);
        snapshot_map_free(&info.map);
        return r;
}

int vm_snapshot_to(struct vm *vm, const char *path, bool diff, struct err **err)
{
        _cleanup_(snapshot_writer_freep) struct snapshot_writer *w = NULL;
        int below[SNAPSHOT_LAYERS_MAX];
        const unsigned n = diff ? vm->chain.n : 0;
        int r;

        if (vm->config.jail)
                return err_hint(err, err_set(err, ERR_UNSUPPORTED, ENOTSUP, "a machine in its jail cannot make '%s'", path),
                        "hand it two files (snapshot -), or start it with --jail none");
        r = snapshot_writer_new(path, &w, err);
        if (r < 0)
                return r;
        /* First, because it is what may be impossible. */
        memcpy(below, vm->chain.layers, n * sizeof(*below));
        r = snapshot_writer_set_layers(w, below, n, err);
        if (r == 0)
                r = vm_snapshot(vm, &(struct vm_snapshot_fds){ snapshot_writer_state_fd(w), snapshot_writer_memory_fd(w), snapshot_writer_code_fd(w) },
                                diff, err);
        if (r < 0)
                return r;
        r = snapshot_writer_commit(w, err);
        if (r < 0 && !guest_memory_is_private(vm->memory))
                vm_chain_forget(vm); /* its last layer is gone */
        return r;
}

/* ---- beginning as one ---- */

int vm_restore_memory(struct vm *vm, struct err **err)
{
        const struct snapshot *s = vm->snapshot;
        const struct snapshot_map *map = &s->state.info.map;
        _cleanup_free_ struct guest_memory_piece *pieces = calloc(map->n_runs, sizeof(*pieces));

        if (!pieces)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the map of a snapshot");
        for (size_t i = 0; i < map->n_runs; i++) {
                const struct snapshot_run *run = &map->runs[i];

                pieces[i] = (struct guest_memory_piece){
                        .offset = run->first << PAGE_SHIFT,
                        .len = run->n << PAGE_SHIFT,
                        .fd = run->layer == SNAPSHOT_ZERO ? -1 : s->layers[run->layer],
                };
        }
        return guest_memory_new_private(s->state.info.ram_size, pieces, map->n_runs, &vm->device_lock, &vm->device_counters, &vm->memory, err);
}

/* What the command line leaves out is the snapshot's. */
static int restore_config(struct vm *vm, struct err **err)
{
        const struct snapshot_info *info = &vm->snapshot->state.info;
        u64 hz;

        clock_tsc_expect(info->tsc_hz);
        hz = clock_tsc_hz();
        if (info->ram_size < VM_MEMORY_MIN || info->ram_size > VM_MEMORY_MAX || info->n_cpus > VM_CPUS_MAX)
                return err_set(err, ERR_BAD_STATE, EINVAL, "it has %u CPUs and %lu MiB, which no machine has", info->n_cpus,
                               (unsigned long)(info->ram_size / MIB));
        if ((vm->config.memory && vm->config.memory != info->ram_size) || (vm->config.n_cpus && vm->config.n_cpus != info->n_cpus))
                return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "it has %u CPUs and %lu KiB of memory", info->n_cpus,
                                             (unsigned long)(info->ram_size / KIB)),
                                "leave --cpus and --memory out: they are the snapshot's");
        /* Guests measure it once. */
        if (info->tsc_hz > hz + hz / 1000 || info->tsc_hz < hz - hz / 1000)
                return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "its time stamp counter counts %lu kHz, this host's %lu",
                               (unsigned long)(info->tsc_hz / 1000), (unsigned long)(hz / 1000));
        vm->config.memory = info->ram_size;
        vm->config.n_cpus = info->n_cpus;
        /* Looking for the best one takes longer than all the rest. */
        if (strcmp(vm->config.engine, "auto") == 0) {
                const struct cpu_engine *engine = cpu_engine_find(info->engine, NULL);

                vm->config.engine = engine ? engine->name : vm->config.engine;
        }
        return 0;
}

int vm_restore_open(struct vm *vm, struct err **err)
{
        int r = snapshot_open(vm->config.restore, &vm->snapshot, err);

        if (r < 0)
                return r;
        r = restore_config(vm, err);
        if (r == 0 && vm->config.working_set)
                r = vm_prefault_open(vm, err);
        return r < 0 ? err_wrap(err, r, "the snapshot '%s' cannot be restored", vm->config.restore) : 0;
}

int vm_restore_code(struct vm *vm, struct err **err)
{
        const struct snapshot *s = vm->snapshot;
        int r = 0;

        if (vm->config.restore_code && s->code >= 0 && vm->engine->code_load)
                r = vm->engine->code_load(vm->engine_machine, s->code, s->state.info.id, err);
        return r < 0 ? err_wrap(err, r, "the snapshot '%s' cannot be restored", vm->config.restore) : 0;
}

/* The files stay, for diffs. */
static void chain_begin(struct vm *vm, struct snapshot *s)
{
        vm->chain.n = s->state.info.n_layers;
        vm->chain.map = s->state.info.map;
        s->state.info.map = (struct snapshot_map){ 0 };
        for (unsigned i = 0; i < vm->chain.n; i++)
                vm->chain.layers[i] = TAKE_FD(s->layers[i]);
}

int vm_restore_state(struct vm *vm, struct err **err)
{
        _cleanup_(snapshot_closep) struct snapshot *s = TAKE_PTR(vm->snapshot);
        int r;

        vm->pause_depth++;
        board_devices_quiesce(vm);
        vm->quiesced = true;
        r = vm_load(vm, s->state.machine, s->state.machine_len, err);
        if (r == 0) /* there may be more machines of it */
                r = vmgenid_renew(vm->board.generation_id, err);
        if (r < 0)
                return err_wrap(err, r, "the snapshot '%s' cannot be restored", vm->config.restore);
        chain_begin(vm, s);
        return 0;
}

unsigned vm_snapshot_layers(const struct vm *vm, const int **ret_fds)
{
        *ret_fds = vm->chain.layers;
        return vm->chain.n;
}
