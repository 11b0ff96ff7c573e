/* Memory that a machine which begins as a snapshot will write before it is of use to anybody: each first write of a page is a fault of a few microseconds on the vCPU's thread.
 * Here all are copied in a few calls, by a thread that has nothing else to do. What is listed is a guess from an earlier machine of the same snapshot: nothing of it need be
 * true. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "internal.h"

#define LIST_MAX (256 * KIB)

int vm_prefault_open(struct vm *vm, struct err **err)
{
        _cleanup_close_ int fd = open(vm->config.working_set, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        size_t n = 0;
        ssize_t got = 0;

        vm->prefault = malloc(LIST_MAX + 1);
        if (!vm->prefault)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for a working set");
        while (fd >= 0 && n < LIST_MAX && (got = read(fd, vm->prefault + n, LIST_MAX - n)) > 0)
                n += (size_t)got;
        vm->prefault[n] = '\0';
        if (fd < 0 && errno == ENOENT)
                return 0;
        return fd < 0 || got < 0 ? err_sys(err, errno, "reading the working set '%s'", vm->config.working_set) : 0;
}

/* @offset, @len: in RAM as snapshots have it. */
static void copy_pages(const struct guest_memory *mem, u64 offset, u64 len)
{
        for (size_t i = 0; i < mem->n_slots; i++) {
                const struct memory_slot *slot = &mem->slots[i];
                const u64 first = MAX(offset, slot->fd_offset), end = MIN(offset + len, slot->fd_offset + slot->size);

                if (first < end && !slot->read_only)
                        madvise(slot->hva + (first - slot->fd_offset), end - first, MADV_POPULATE_WRITE);
        }
}

void vm_prefault(struct vm *vm)
{
        char *line = vm->prefault, *end;
        u64 offset, len;

        for (; line && guest_memory_is_private(vm->memory) && (end = strchr(line, '\n')) && !vm_has_ended(vm); line = end + 1)
                if (sscanf(line, "w %" SCNx64 " %" SCNx64 "\n", &offset, &len) == 2 && !((offset | len) & (PAGE_SIZE - 1)) && offset < vm->memory->ram_size &&
                    len <= vm->memory->ram_size - offset)
                        copy_pages(vm->memory, offset, len);
        free(TAKE_PTR(vm->prefault));
}
