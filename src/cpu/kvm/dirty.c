/* Memory slots, and the kernel's log of pages that the guest wrote. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "internal.h"

int kvm_slots_set(struct kvm_machine *m, bool log_dirty, struct err **err)
{
        for (size_t i = 0; i < m->memory->n_slots; i++) {
                const struct memory_slot *slot = &m->memory->slots[i];
                struct kvm_userspace_memory_region region = {
                        .slot = (u32)i,
                        .guest_phys_addr = slot->gpa,
                        .memory_size = slot->size,
                        .userspace_addr = (uintptr_t)slot->hva,
                        .flags = (slot->read_only ? KVM_MEM_READONLY : 0) | (log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0),
                };
                int r = kvm_ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);

                if (r < 0)
                        return err_sys(err, -r, "giving %lu bytes of guest memory at 0x%lx to KVM",
                                       (unsigned long)slot->size, (unsigned long)slot->gpa);
        }
        return 0;
}

int kvm_dirty_start(void *machine, struct err **err)
{
        return kvm_slots_set(machine, true, err);
}

int kvm_dirty_stop(void *machine, struct err **err)
{
        return kvm_slots_set(machine, false, err);
}

/* Reports runs of set bits in one go. */
static void report_bitmap(struct guest_memory *mem, const struct memory_slot *slot, const u64 *bitmap)
{
        const u64 n_pages = slot->size >> PAGE_SHIFT;

        for (u64 page = 0; page < n_pages;) {
                u64 first;

                if (!(bitmap[page / 64] >> (page % 64))) {
                        page = ALIGN_DOWN(page, 64ULL) + 64;
                        continue;
                }
                if (!(bitmap[page / 64] & BIT(page % 64))) {
                        page++;
                        continue;
                }
                first = page;
                while (page < n_pages && bitmap[page / 64] & BIT(page % 64))
                        page++;
                guest_memory_written(mem, slot->gpa + (first << PAGE_SHIFT), (page - first) << PAGE_SHIFT);
        }
}

int kvm_dirty_sync(void *machine, struct err **err)
{
        struct kvm_machine *m = machine;

        for (size_t i = 0; i < m->memory->n_slots; i++) {
                const struct memory_slot *slot = &m->memory->slots[i];
                _cleanup_free_ u64 *bitmap = NULL;
                struct kvm_dirty_log log = { .slot = (u32)i };
                int r;

                if (slot->read_only)
                        continue;
                bitmap = calloc(((slot->size >> PAGE_SHIFT) + 63) / 64, sizeof(u64));
                if (!bitmap)
                        return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a dirty bitmap");
                log.dirty_bitmap = bitmap;
                r = kvm_ioctl(m->vm_fd, KVM_GET_DIRTY_LOG, &log);
                if (r < 0)
                        return err_sys(err, -r, "reading KVM's dirty log");
                report_bitmap(m->memory, slot, bitmap);
        }
        return 0;
}
