/* virtio-balloon: page numbers, statistics and reports of a hostile guest. What must hold: what is in no buffer and no page number
 * keeps its content. */
#include "board.h"
#include "dev/virtio/balloon.h"

#define RAM_SIZE (256 * KIB)
#define LIST 0x20000ULL
#define WITNESS 0x3f000ULL

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

static void on_stats(void *opaque)
{
}

/* Page numbers, or statistics: small ones are plausible. */
static u32 list_fill(struct board *b, struct input *in)
{
        const u32 n = (u32)take(in, 1);

        for (u32 i = 0; i < n; i++) {
                u32 page = (u32)take(in, 1) << (take(in, 1) & 7 ? 0 : 24);

                page += page == WITNESS >> PAGE_SHIFT;
                guest_memory_write(b->env.memory, LIST + 4 * i, &page, sizeof(page));
        }
        return 4 * n + ((u32)take(in, 1) & 15 ? 0 : 2);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        struct input in = { data, len };
        struct virtio_balloon *balloon;
        struct board b = { 0 };
        struct balloon_info info;
        unsigned n_given[4] = { 0 };
        const u64 without = take(&in, 1);
        u8 byte = 0x5a;

        board_init(&b, RAM_SIZE);
        require(virtio_balloon_new(&b.env, b.bus, &balloon, NULL) == 0);
        require(pci_assign_resources(b.bus, NULL) == 0);
        driver_set_up(&b, without);
        guest_memory_write(b.env.memory, WITNESS, &byte, 1);
        for (unsigned i = 0; i < 100 && in.left; i++) {
                const u64 what = take(&in, 1);
                const unsigned queue = what & 3;

                if (what & 0x40) { /* the host */
                        pthread_mutex_lock(&b.lock);
                        if (what & 1)
                                virtio_balloon_ask(balloon, on_stats, NULL);
                        else if (what & 2)
                                virtio_balloon_set_target(balloon, take(&in, 4));
                        else if (what & 4)
                                board_save_and_load(&b.vdev[0]->pci.dev, take(&in, 2));
                        else
                                virtio_balloon_info(balloon, &info);
                        pthread_mutex_unlock(&b.lock);
                } else if (what & 0x20) {
                        io_write(&b.env.memory->mmio, b.vdev[0]->bar_address + 0x2000 + (what & 15), take(&in, 4), 4);
                } else if (what & 0x10) {
                        driver_set_up(&b, without);
                        memset(n_given, 0, sizeof(n_given));
                } else if (queue == 3) {
                        driver_give(&b, queue, n_given[queue]++, 0x10000 + take(&in, 2), (u32)take(&in, 2) % 0x8000, what & 8);
                        board_doorbell(&b, b.vdev[0], queue);
                } else {
                        const u32 n = list_fill(&b, &in);

                        driver_give(&b, queue, n_given[queue]++, LIST, n, what & 8);
                        board_doorbell(&b, b.vdev[0], queue);
                }
        }
        require(guest_memory_read(b.env.memory, WITNESS, &byte, 1) == 0);
        require(byte == 0x5a);
        board_free(&b);
        return 0;
}
