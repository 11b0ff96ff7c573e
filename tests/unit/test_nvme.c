/* The NVMe controller from the guest driver's side. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "fake_pci.h"

#include "base/cleanup.h"
#include "block_util.h"
#include "dev/nvme.h"

#define SLOT 1
#define ADMIN_ENTRIES 32U
/* Where things are in guest memory. */
#define ADMIN_SQ 0x10000ULL
#define ADMIN_CQ 0x11000ULL
#define IO_SQ(q) (0x100000ULL + (q) * 0x20000ULL)
#define IO_CQ(q) (0x110000ULL + (q) * 0x20000ULL)
#define DATA 0x800000ULL
#define LISTS 0x700000ULL
#define DISK_BYTES (4 * MIB)
#define BAD_ADDRESS 0xd0000000ULL /* not RAM */

struct queue {
        u64 sq, cq;
        u32 entries, tail, head;
        bool phase;
};

struct guest {
        struct fake_machine *m;
        struct block_test files;
        struct block_device *disk;
        char path[160];
        u64 bar;
        u16 next_cid;
        struct queue q[4];
};

struct command {
        u8 opcode, flags;
        u32 nsid;
        u64 prp1, prp2;
        u32 cdw10, cdw11, cdw12;
};

struct completion {
        u32 result;
        u16 cid, status, sq_head;
};

/* ---- the driver ---- */

static void reg_write(struct guest *g, u32 offset, unsigned size, u64 value)
{
        mmio_write(g->m, g->bar + offset, size, value);
}

static u64 reg_read(struct guest *g, u32 offset, unsigned size)
{
        return mmio_read(g->m, g->bar + offset, size);
}

static void doorbell(struct guest *g, unsigned index, u32 value)
{
        reg_write(g, 0x1000 + index * 4, 4, value);
}

static void enable(struct guest *g)
{
        g->q[0] = (struct queue){ .sq = ADMIN_SQ, .cq = ADMIN_CQ, .entries = ADMIN_ENTRIES, .phase = true };
        memset(ram(g->m, ADMIN_CQ), 0, 4096);
        reg_write(g, 0x24, 4, (ADMIN_ENTRIES - 1) << 16 | (ADMIN_ENTRIES - 1));
        reg_write(g, 0x28, 8, ADMIN_SQ);
        reg_write(g, 0x30, 8, ADMIN_CQ);
        reg_write(g, 0x14, 4, 1 | 6 << 16 | 4 << 20);
        wait_for(reg_read(g, 0x1c, 4) & 1);
}

static void disable(struct guest *g)
{
        reg_write(g, 0x14, 4, 0);
        wait_for(!(reg_read(g, 0x1c, 4) & 1));
}

static u16 post(struct guest *g, unsigned qid, const struct command *c)
{
        struct queue *q = &g->q[qid];
        u8 *e = ram(g->m, q->sq + q->tail * 64);
        const u16 cid = g->next_cid++;
        const u32 dwords[16] = {
                c->opcode | (u32)c->flags << 8 | (u32)cid << 16, c->nsid, 0, 0, 0, 0,
                (u32)c->prp1, (u32)(c->prp1 >> 32), (u32)c->prp2, (u32)(c->prp2 >> 32), c->cdw10, c->cdw11, c->cdw12,
        };

        memcpy(e, dwords, sizeof(dwords));
        q->tail = (q->tail + 1) % q->entries;
        return cid;
}

static void ring(struct guest *g, unsigned qid)
{
        doorbell(g, qid * 2, g->q[qid].tail);
}

static bool completion_ready(struct guest *g, unsigned qid)
{
        const struct queue *q = &g->q[qid];
        const u32 *e = ram(g->m, q->cq + q->head * 16);

        return (__atomic_load_n(&e[3], __ATOMIC_ACQUIRE) >> 16 & 1) == q->phase;
}

static struct completion take(struct guest *g, unsigned qid)
{
        struct queue *q = &g->q[qid];
        const u32 *e = ram(g->m, q->cq + q->head * 16);
        struct completion c;

        wait_for(completion_ready(g, qid));
        assert_int_equal(e[2] >> 16, qid);
        c = (struct completion){ .result = e[0], .cid = (u16)e[3], .status = (u16)(e[3] >> 17 & 0x7ff), .sq_head = (u16)e[2] };
        if (++q->head == q->entries) {
                q->head = 0;
                q->phase = !q->phase;
        }
        return c;
}

/* One command to its end; returns its status. */
static u16 run_command(struct guest *g, unsigned qid, const struct command *c, u32 *ret_result)
{
        const u16 cid = post(g, qid, c);
        struct completion done;

        ring(g, qid);
        done = take(g, qid);
        doorbell(g, qid * 2 + 1, g->q[qid].head);
        assert_int_equal(done.cid, cid);
        if (ret_result)
                *ret_result = done.result;
        return done.status;
}

static u16 admin(struct guest *g, u8 opcode, u64 prp1, u32 cdw10, u32 cdw11)
{
        return run_command(g, 0, &(struct command){ .opcode = opcode, .prp1 = prp1, .cdw10 = cdw10, .cdw11 = cdw11 }, NULL);
}

static void create_queues_of(struct guest *g, unsigned qid, u32 sq_entries, u32 cq_entries, u16 vector)
{
        assert_int_equal(sq_entries, cq_entries); /* what struct queue can say */
        g->q[qid] = (struct queue){ .sq = IO_SQ(qid), .cq = IO_CQ(qid), .entries = sq_entries, .phase = true };
        memset(ram(g->m, IO_CQ(qid)), 0, cq_entries * 16);
        assert_int_equal(admin(g, 0x05, IO_CQ(qid), (cq_entries - 1) << 16 | qid, (u32)vector << 16 | 3), 0);
        assert_int_equal(admin(g, 0x01, IO_SQ(qid), (sq_entries - 1) << 16 | qid, qid << 16 | 1), 0);
}

static struct guest *guest_new_with(const char *qemu_options, bool read_only)
{
        struct guest *g = calloc(1, sizeof(*g));
        struct block_options options = { .read_only = read_only, .format = qemu_options ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW };
        struct nvme_config config = { .serial = "S123" };

        block_test_init(&g->files);
        snprintf(g->path, sizeof(g->path), "%s", block_test_path(&g->files, "disk"));
        if (qemu_options)
                assert_int_equal(run("qemu-img create -f qcow2 -o %s '%s' %llu", qemu_options, g->path, DISK_BYTES), 0);
        else
                assert_int_equal(run("truncate -s %llu '%s'", DISK_BYTES, g->path), 0);
        options.path = g->path;
        g->m = fake_machine_new();
        assert_int_equal(block_open(&options, g->m->f.env.loop, &g->m->f.counters, &g->disk, NULL), 0);
        config.disk = g->disk;
        assert_int_equal(nvme_new(&g->m->f.env, g->m->bus, &config, NULL), 0);
        fake_machine_start(g->m);
        g->bar = bar_at(g->m, SLOT, 0);
        cfg_write(g->m, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        return g;
}

static struct guest *guest_new(void)
{
        struct guest *g = guest_new_with(NULL, false);

        enable(g);
        create_queues_of(g, 1, 64, 64, 1);
        return g;
}

static void guest_free(struct guest *g)
{
        fake_machine_free(g->m);
        block_test_free(&g->files);
        free(g);
}

static struct device *device_of(struct guest *g)
{
        return fake_env_device(&g->m->f, "nvme");
}

static u16 io(struct guest *g, u8 opcode, u64 lba, u32 blocks, u64 prp1, u64 prp2)
{
        return run_command(g, 1, &(struct command){ .opcode = opcode, .nsid = 1, .prp1 = prp1, .prp2 = prp2, .cdw10 = (u32)lba, .cdw11 = (u32)(lba >> 32), .cdw12 = blocks - 1 }, NULL);
}

/* ---- tests ---- */

static void the_controller_says_what_it_is(void **state)
{
        struct guest *g = guest_new();
        const u8 *page = ram(g->m, DATA);

        assert_int_equal(cfg_read(g->m, SLOT, PCI_CLASS_PROG, 2) | cfg_read(g->m, SLOT, PCI_CLASS_PROG + 2, 1) << 16, 0x010802);
        assert_int_equal(reg_read(g, 0, 4) & 0x1ffff, 1023 | 1 << 16);
        assert_int_equal(reg_read(g, 0, 8), reg_read(g, 0, 4) | reg_read(g, 4, 4) << 32);
        assert_int_equal(reg_read(g, 8, 4), 0x10400);
        assert_int_equal(admin(g, 0x06, DATA, 1, 0), 0);
        assert_memory_equal(page + 4, "S123                ", 20);
        assert_int_equal(page[77], 7);
        assert_int_equal(page[516], 1);
        assert_int_equal(run_command(g, 0, &(struct command){ .opcode = 6, .nsid = 1, .prp1 = DATA }, NULL), 0);
        assert_int_equal(*(const u64 *)page, DISK_BYTES / 512);
        assert_int_equal(page[130], 9);
        assert_int_equal(run_command(g, 0, &(struct command){ .opcode = 6, .nsid = 0, .prp1 = DATA, .cdw10 = 2 }, NULL), 0);
        assert_int_equal(*(const u32 *)page, 1);
        assert_int_equal(((const u32 *)page)[1], 0);
        assert_int_equal(run_command(g, 0, &(struct command){ .opcode = 6, .nsid = 1, .prp1 = DATA, .cdw10 = 2 }, NULL), 0);
        assert_int_equal(*(const u32 *)page, 0);
        assert_int_equal(run_command(g, 0, &(struct command){ .opcode = 6, .nsid = 1, .prp1 = DATA, .cdw10 = 3 }, NULL), 0);
        assert_int_equal(page[0], 3);
        assert_int_equal(page[1], 16);
        guest_free(g);
}

/* PRPs for @bytes at @gpa (any multiple of 4), each page somewhere else: pages in reverse order. */
static void make_prps(struct guest *g, u32 first_offset, u32 bytes, struct command *c, u64 *pages)
{
        const u32 n = (first_offset + bytes + 4095) / 4096;
        u64 *list = ram(g->m, LISTS);
        u32 at = 0;

        for (u32 i = 0; i < n; i++)
                pages[i] = DATA + (n - 1 - i) * 4096;
        c->prp1 = pages[0] + first_offset;
        c->prp2 = n == 2 ? pages[1] : LISTS + 4096 - 16; /* the list has one entry and a link, then goes on elsewhere */
        if (n <= 2)
                return;
        if (n == 3) {
                list[510] = pages[1];
                list[511] = pages[2];
                return;
        }
        list[510] = pages[1];
        list[511] = LISTS + 0x10000;
        for (u32 i = 2; i < n; i++)
                ((u64 *)ram(g->m, LISTS + 0x10000))[at++] = pages[i];
}

static void data_arrives_where_the_prps_say(void **state)
{
        struct guest *g = guest_new();
        _cleanup_free_ u8 *reference = calloc(1, DISK_BYTES);
        _cleanup_free_ u8 *buf = malloc(MIB);
        u64 seed = 99, pages[200];

        for (unsigned i = 0; i < 300; i++) {
                const u32 blocks = 1 + (u32)(next_random(&seed) >> 8) % (i % 3 ? 20 : 1024);
                const u64 lba = (next_random(&seed) >> 8) % (DISK_BYTES / 512 - blocks);
                const u32 offset = (u32)(next_random(&seed) >> 8) % 1024 * 4, bytes = blocks * 512;
                const bool write = next_random(&seed) & 256;
                struct command c = { .opcode = write ? 1 : 2, .nsid = 1, .cdw10 = (u32)lba, .cdw12 = blocks - 1 };
                u32 at = 0;

                make_prps(g, offset, bytes, &c, pages);
                if (write)
                        fill_random(buf, bytes, i);
                else
                        memset(buf, 0xee, bytes);
                for (u32 p = 0; at < bytes; p++) {
                        const u32 o = p == 0 ? offset : 0, len = MIN(4096 - o, bytes - at);

                        memcpy(ram(g->m, pages[p] + o), buf + at, len);
                        at += len;
                }
                if (i % 5 == 0)
                        c.cdw12 |= 1U << 30;
                assert_int_equal(run_command(g, 1, &c, NULL), 0);
                if (write) {
                        memcpy(reference + lba * 512, buf, bytes);
                        continue;
                }
                at = 0;
                for (u32 p = 0; at < bytes; p++) {
                        const u32 o = p == 0 ? offset : 0, len = MIN(4096 - o, bytes - at);

                        assert_memory_equal(ram(g->m, pages[p] + o), reference + lba * 512 + at, len);
                        at += len;
                }
        }
        assert_int_equal(io(g, 0, 0, 1, 0, 0), 0);
        {
                _cleanup_close_ int fd = open(g->path, O_RDONLY | O_CLOEXEC);
                _cleanup_free_ u8 *file = malloc(DISK_BYTES);

                assert_int_equal(pread(fd, file, DISK_BYTES, 0), DISK_BYTES);
                assert_memory_equal(file, reference, DISK_BYTES);
        }
        guest_free(g);
}

static void reads_mark_guest_memory_dirty(void **state)
{
        struct guest *g = guest_new();
        u64 bitmap[FAKE_RAM / 4096 / 64] = { 0 };
        const u64 page = DATA / 4096;

        guest_memory_dirty_start(g->m->f.env.memory);
        guest_memory_dirty_collect(g->m->f.env.memory, bitmap);
        memset(bitmap, 0, sizeof(bitmap));
        assert_int_equal(io(g, 2, 0, 16, DATA, DATA + 4096), 0);
        guest_memory_dirty_collect(g->m->f.env.memory, bitmap);
        assert_true(bitmap[page / 64] & BIT(page % 64));
        assert_true(bitmap[(page + 1) / 64] & BIT((page + 1) % 64));
        assert_true(bitmap[IO_CQ(1) / 4096 / 64] & BIT(IO_CQ(1) / 4096 % 64));
        assert_false(bitmap[(page + 2) / 64] & BIT((page + 2) % 64));
        guest_memory_dirty_stop(g->m->f.env.memory);
        guest_free(g);
}

static void bad_io_commands_get_their_status(void **state)
{
        const u64 end = DISK_BYTES / 512;
        const struct {
                struct command c;
                u16 status;
        } cases[] = {
                { { .opcode = 0x55, .nsid = 1 }, 0x001 },
                { { .opcode = 0x05, .nsid = 1, .prp1 = DATA }, 0x001 },             /* compare is not offered */
                { { .opcode = 2, .nsid = 1, .flags = 0x40, .prp1 = DATA }, 0x002 }, /* SGL */
                { { .opcode = 2, .nsid = 1, .flags = 1, .prp1 = DATA }, 0x002 },    /* fused */
                { { .opcode = 2, .nsid = 0, .prp1 = DATA }, 0x00b },
                { { .opcode = 2, .nsid = 2, .prp1 = DATA }, 0x00b },
                { { .opcode = 2, .nsid = ~0U, .prp1 = DATA }, 0x00b },
                { { .opcode = 2, .nsid = 1, .prp1 = DATA, .cdw10 = (u32)end }, 0x080 },
                { { .opcode = 2, .nsid = 1, .prp1 = DATA, .cdw10 = (u32)end - 1, .cdw12 = 1 }, 0x080 },
                { { .opcode = 1, .nsid = 1, .prp1 = DATA, .cdw10 = ~0U, .cdw11 = ~0U }, 0x080 },
                { { .opcode = 1, .nsid = 1, .prp1 = DATA, .cdw10 = 0, .cdw11 = 0x800000 }, 0x080 },
                { { .opcode = 8, .nsid = 1, .cdw10 = ~0U, .cdw11 = ~0U, .cdw12 = 0xffff }, 0x080 },
                { { .opcode = 2, .nsid = 1, .prp1 = DATA, .prp2 = LISTS, .cdw12 = 1024 }, 0x002 }, /* longer than MDTS */
                { { .opcode = 2, .nsid = 1, .prp1 = BAD_ADDRESS }, 0x004 },
                { { .opcode = 2, .nsid = 1, .prp1 = ~3ULL }, 0x004 },
                { { .opcode = 2, .nsid = 1, .prp1 = DATA + 2 }, 0x013 },
                { { .opcode = 2, .nsid = 1, .prp1 = DATA + 8, .prp2 = DATA + 8192 + 8, .cdw12 = 7 }, 0x013 },
                { { .opcode = 2, .nsid = 1, .prp1 = DATA, .prp2 = BAD_ADDRESS, .cdw12 = 15 }, 0x004 },
                { { .opcode = 2, .nsid = 1, .prp1 = DATA, .prp2 = LISTS + 4, .cdw12 = 63 }, 0x013 },
                { { .opcode = 2, .nsid = 1, .prp1 = DATA, .prp2 = BAD_ADDRESS, .cdw12 = 63 }, 0x004 },
                { { .opcode = 2, .nsid = 1, .prp1 = DATA, .prp2 = LISTS + 4088, .cdw12 = 63 }, 0x013 }, /* a link to the middle of a page */
                { { .opcode = 9, .nsid = 1, .prp1 = BAD_ADDRESS, .cdw11 = 4 }, 0x004 },
                { { .opcode = 9, .nsid = 1, .prp1 = DATA, .cdw11 = 4 }, 0x080 }, /* see below */
        };
        struct guest *g = guest_new();

        *(u64 *)ram(g->m, LISTS + 4088) = LISTS + 4088;
        ((u32 *)ram(g->m, DATA))[1] = 1;
        ((u64 *)ram(g->m, DATA))[1] = end;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const u16 status = run_command(g, 1, &cases[i].c, NULL);

                if (status != cases[i].status)
                        fail_msg("case %zu: status %x instead of %x", i, status, cases[i].status);
        }
        assert_int_equal(io(g, 2, 0, 8, DATA, 0), 0);
        guest_free(g);
}

static void bad_admin_commands_get_their_status(void **state)
{
        const struct {
                struct command c;
                u16 status;
        } cases[] = {
                { { .opcode = 0x80 }, 0x001 },                                                   /* format */
                { { .opcode = 0x10 }, 0x001 },
                { { .opcode = 6, .flags = 0x80, .prp1 = DATA }, 0x002 },
                { { .opcode = 6, .cdw10 = 0x77, .prp1 = DATA }, 0x002 },
                { { .opcode = 6, .cdw10 = 0, .nsid = 5, .prp1 = DATA }, 0x00b },
                { { .opcode = 6, .cdw10 = 2, .nsid = ~0U, .prp1 = DATA }, 0x00b },
                { { .opcode = 6, .cdw10 = 1, .prp1 = BAD_ADDRESS }, 0x004 },
                { { .opcode = 2, .cdw10 = 0x7f << 16 | 0x99, .prp1 = DATA }, 0x109 },            /* log page */
                { { .opcode = 2, .cdw10 = 0x7f << 16 | 2, .cdw12 = 1024, .prp1 = DATA }, 0x002 },
                { { .opcode = 9, .cdw10 = 0x99 }, 0x002 },                                       /* features */
                { { .opcode = 9, .cdw10 = BIT(31) | 6 }, 0x10d },
                { { .opcode = 9, .cdw10 = 7, .cdw11 = 0xffff }, 0x002 },
                { { .opcode = 0x0a, .cdw10 = 0x99 }, 0x002 },
                { { .opcode = 5, .cdw10 = 63 << 16 | 0, .cdw11 = 1, .prp1 = IO_CQ(3) }, 0x101 }, /* create CQ */
                { { .opcode = 5, .cdw10 = 63 << 16 | 1, .cdw11 = 1, .prp1 = IO_CQ(3) }, 0x101 },
                { { .opcode = 5, .cdw10 = 63 << 16 | 17, .cdw11 = 1, .prp1 = IO_CQ(3) }, 0x101 },
                { { .opcode = 5, .cdw10 = 63 << 16 | 0xffff, .cdw11 = 1, .prp1 = IO_CQ(3) }, 0x101 },
                { { .opcode = 5, .cdw10 = 0 << 16 | 3, .cdw11 = 1, .prp1 = IO_CQ(3) }, 0x102 },
                { { .opcode = 5, .cdw10 = 1024 << 16 | 3, .cdw11 = 1, .prp1 = IO_CQ(3) }, 0x102 },
                { { .opcode = 5, .cdw10 = 63 << 16 | 3, .cdw11 = 0, .prp1 = IO_CQ(3) }, 0x002 },
                { { .opcode = 5, .cdw10 = 63 << 16 | 3, .cdw11 = 17 << 16 | 1, .prp1 = IO_CQ(3) }, 0x108 },
                { { .opcode = 5, .cdw10 = 63 << 16 | 3, .cdw11 = 1, .prp1 = IO_CQ(3) + 16 }, 0x013 },
                { { .opcode = 5, .cdw10 = 63 << 16 | 3, .cdw11 = 1, .prp1 = BAD_ADDRESS }, 0x002 },
                { { .opcode = 1, .cdw10 = 63 << 16 | 3, .cdw11 = 3 << 16 | 1, .prp1 = IO_SQ(3) }, 0x100 }, /* create SQ */
                { { .opcode = 1, .cdw10 = 63 << 16 | 3, .cdw11 = 0 << 16 | 1, .prp1 = IO_SQ(3) }, 0x101 },
                { { .opcode = 1, .cdw10 = 63 << 16 | 1, .cdw11 = 1 << 16 | 1, .prp1 = IO_SQ(3) }, 0x101 },
                { { .opcode = 1, .cdw10 = 63 << 16 | 3, .cdw11 = 0xffffU << 16 | 1, .prp1 = IO_SQ(3) }, 0x101 },
                { { .opcode = 4, .cdw10 = 1 }, 0x10c },                                          /* delete CQ that is in use */
                { { .opcode = 4, .cdw10 = 0 }, 0x101 },
                { { .opcode = 4, .cdw10 = 0xffff }, 0x101 },
                { { .opcode = 0, .cdw10 = 3 }, 0x101 },
                { { .opcode = 0, .cdw10 = 0 }, 0x101 },
        };
        struct guest *g = guest_new();

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const u16 status = run_command(g, 0, &cases[i].c, NULL);

                if (status != cases[i].status)
                        fail_msg("case %zu: status %x instead of %x", i, status, cases[i].status);
        }
        assert_int_equal(admin(g, 0, 0, 1, 0), 0);
        assert_int_equal(admin(g, 4, 0, 1, 0), 0);
        assert_int_equal(admin(g, 4, 0, 1, 0), 0x101);
        create_queues_of(g, 1, 64, 64, 1);
        assert_int_equal(io(g, 2, 0, 8, DATA, 0), 0);
        guest_free(g);
}

static void features_and_logs_can_be_read(void **state)
{
        struct guest *g = guest_new();
        u32 result;

        assert_int_equal(run_command(g, 0, &(struct command){ .opcode = 9, .cdw10 = 7, .cdw11 = 63 << 16 | 63 }, &result), 0);
        assert_int_equal(result, 15 << 16 | 15);
        assert_int_equal(run_command(g, 0, &(struct command){ .opcode = 0x0a, .cdw10 = 6 }, &result), 0);
        assert_int_equal(result, 1);
        assert_int_equal(run_command(g, 0, &(struct command){ .opcode = 9, .cdw10 = 6, .cdw11 = 0 }, NULL), 0);
        assert_int_equal(run_command(g, 0, &(struct command){ .opcode = 0x0a, .cdw10 = 6 }, &result), 0);
        assert_int_equal(result, 0);
        assert_int_equal(io(g, 1, 0, 8, DATA, 0), 0); /* written through now */
        assert_int_equal(admin(g, 2, DATA, 127 << 16 | 2, 0), 0);
        assert_memory_equal((u8 *)ram(g->m, DATA) + 1, "\x34\x01", 2); /* 308 K */
        assert_int_equal(admin(g, 2, DATA, 127 << 16 | 3, 0), 0);
        assert_int_equal(run_command(g, 0, &(struct command){ .opcode = 8, .cdw10 = 1 }, &result), 0);
        assert_int_equal(result, 1);
        guest_free(g);
}

static void invalid_doorbells_are_reported_as_events(void **state)
{
        struct guest *g = guest_new();
        struct completion c;
        u16 cids[5];

        for (unsigned i = 0; i < 5; i++)
                cids[i] = post(g, 0, &(struct command){ .opcode = 0x0c });
        ring(g, 0);
        c = take(g, 0);
        assert_int_equal(c.cid, cids[4]);
        assert_int_equal(c.status, 0x105); /* one too many */
        doorbell(g, 2, 64);                /* value out of range */
        c = take(g, 0);
        assert_int_equal(c.status, 0);
        assert_int_equal(c.result, 1 << 8 | 1 << 16);
        doorbell(g, 2 * 9, 1);             /* no such queue: silent until the log was read */
        doorbell(g, 2 * 400, 1);
        assert_false(completion_ready(g, 0));
        doorbell(g, 1, g->q[0].head);
        assert_int_equal(admin(g, 2, DATA, 15 << 16 | 1, 0), 0);
        doorbell(g, 2 * 9, 1);
        c = take(g, 0);
        assert_int_equal(c.result, 0 << 8 | 1 << 16);
        assert_int_equal(io(g, 2, 0, 8, DATA, 0), 0);
        guest_free(g);
}

static void zeroes_and_deallocation_reach_the_image(void **state)
{
        struct guest *g = guest_new_with("cluster_size=64k", false);
        struct stat before, after;
        u32 *range;

        if (!have_qemu_img())
                skip();
        enable(g);
        create_queues_of(g, 1, 64, 64, 1);
        memset(ram(g->m, DATA), 0x5a, 512 * KIB);
        for (u64 i = 0; i < 128; i++)
                ((u64 *)ram(g->m, LISTS))[i] = DATA + (i + 1) * 4096;
        for (u64 at = 0; at < DISK_BYTES / 512; at += 1024)
                assert_int_equal(io(g, 1, at, 1024, DATA, LISTS), 0);
        assert_int_equal(io(g, 8, 100, 300, 0, 0), 0);
        assert_int_equal(io(g, 2, 96, 8, DATA, 0), 0);
        assert_int_equal(((u8 *)ram(g->m, DATA))[4 * 512 - 1], 0x5a);
        assert_int_equal(((u8 *)ram(g->m, DATA))[4 * 512], 0);
        assert_int_equal(io(g, 0, 0, 1, 0, 0), 0);
        assert_int_equal(stat(g->path, &before), 0);
        range = ram(g->m, DATA);
        memset(range, 0, 4096);
        for (unsigned i = 0; i < 4; i++) { /* every second half mebibyte */
                range[i * 4 + 1] = 1024;
                range[i * 4 + 2] = i * 2048;
        }
        assert_int_equal(run_command(g, 1, &(struct command){ .opcode = 9, .nsid = 1, .prp1 = DATA, .cdw10 = 3, .cdw11 = 4 }, NULL), 0);
        assert_int_equal(io(g, 0, 0, 1, 0, 0), 0);
        assert_int_equal(stat(g->path, &after), 0);
        assert_true(after.st_blocks < before.st_blocks * 6 / 10);
        assert_int_equal(io(g, 2, 0, 8, DATA, 0), 0);
        assert_int_equal(((u8 *)ram(g->m, DATA))[0], 0);
        assert_int_equal(io(g, 2, 1024, 8, DATA, 0), 0);
        assert_int_equal(((u8 *)ram(g->m, DATA))[0], 0x5a);
        guest_free(g);
}

static void read_only_disks_are_write_protected(void **state)
{
        struct guest *g = guest_new_with(NULL, true);

        enable(g);
        create_queues_of(g, 1, 64, 64, 1);
        assert_int_equal(io(g, 1, 0, 8, DATA, 0), 0x020);
        assert_int_equal(io(g, 8, 0, 8, 0, 0), 0x020);
        assert_int_equal(io(g, 2, 0, 8, DATA, 0), 0);
        assert_int_equal(io(g, 0, 0, 1, 0, 0), 0);
        assert_int_equal(run_command(g, 0, &(struct command){ .opcode = 6, .nsid = 1, .prp1 = DATA }, NULL), 0);
        assert_int_equal(((u8 *)ram(g->m, DATA))[99], 1);
        guest_free(g);
}

static void full_completion_queues_hold_back_completions(void **state)
{
        struct guest *g = guest_new_with(NULL, false);
        bool seen[300] = { 0 };
        u16 first;

        enable(g);
        /* A large submission queue that completes into a queue of 4. */
        g->q[1] = (struct queue){ .sq = IO_SQ(1), .cq = IO_CQ(1), .entries = 4, .phase = true };
        memset(ram(g->m, IO_CQ(1)), 0, 4096);
        assert_int_equal(admin(g, 5, IO_CQ(1), 3 << 16 | 1, 1), 0);
        assert_int_equal(admin(g, 1, IO_SQ(1), 511 << 16 | 1, 1 << 16 | 1), 0);
        first = g->next_cid;
        for (unsigned i = 0; i < 300; i++) {
                g->q[1].entries = 512;
                post(g, 1, &(struct command){ .opcode = i % 7 ? 2 : 0x77, .nsid = 1, .prp1 = DATA, .cdw10 = i });
        }
        ring(g, 1);
        g->q[1].entries = 4;
        for (unsigned i = 0; i < 300; i++) {
                const struct completion c = take(g, 1);
                const unsigned n = (unsigned)(c.cid - first);

                assert_true(n < 300);
                assert_false(seen[n]);
                seen[n] = true;
                assert_int_equal(c.status, n % 7 ? 0 : 1);
                doorbell(g, 3, g->q[1].head);
        }
        usleep(1000);
        assert_false(completion_ready(g, 1));
        guest_free(g);
}

static void many_queues_work_at_the_same_time(void **state)
{
        struct guest *g = guest_new_with(NULL, false);
        unsigned done[4] = { 0 };

        enable(g);
        for (unsigned q = 1; q < 4; q++)
                create_queues_of(g, q, 1024, 1024, (u16)q);
        for (unsigned q = 1; q < 4; q++) {
                for (unsigned i = 0; i < 1000; i++)
                        post(g, q, &(struct command){ .opcode = 2, .nsid = 1, .prp1 = DATA + q * 65536 + i % 16 * 4096, .cdw10 = i, .cdw12 = 7 });
                ring(g, q);
        }
        for (unsigned q = 1; q < 4; q++) {
                for (unsigned i = 0; i < 1000; i++) {
                        assert_int_equal(take(g, q).status, 0);
                        done[q]++;
                }
                doorbell(g, q * 2 + 1, g->q[q].head);
        }
        guest_free(g);
}

/* 64 KiB transfers, each with a buffer of its own, so that only the controller's mistakes are races. */
static void post_large_transfers(struct guest *g, unsigned n)
{
        for (unsigned i = 0; i < n; i++) {
                const u64 data = DATA + i * 64 * KIB, list = LISTS + i * 128;

                for (u64 k = 0; k < 15; k++)
                        ((u64 *)ram(g->m, list))[k] = data + (k + 1) * 4096;
                post(g, 1, &(struct command){ .opcode = i % 2 ? 2 : 1, .nsid = 1, .prp1 = data, .prp2 = list, .cdw10 = i * 64, .cdw12 = 127 });
        }
        ring(g, 1);
}

static void a_controller_reset_waits_for_requests_in_flight(void **state)
{
        struct guest *g = guest_new_with(have_qemu_img() ? "cluster_size=64k" : NULL, false);
        const unsigned n = 100;

        for (unsigned round = 0; round < 20; round++) {
                enable(g);
                create_queues_of(g, 1, 128, 128, 1);
                post_large_transfers(g, n);
                if (round % 3 == 0)
                        usleep(round * 100);
                disable(g);
                /* From here on the memory is the driver's again. */
                memset(ram(g->m, DATA), 0x11, n * 64 * KIB);
                memset(ram(g->m, IO_CQ(1)), 0x22, 4096);
                usleep(2000);
                for (const u8 *p = ram(g->m, DATA), *end = p + n * 64 * KIB; p < end; p++)
                        if (*p != 0x11)
                                fail_msg("round %u: memory changed after the reset", round);
                assert_int_equal(((u8 *)ram(g->m, IO_CQ(1)))[0], 0x22);
                assert_int_equal(((u8 *)ram(g->m, IO_CQ(1)))[4095], 0x22);
        }
        enable(g);
        create_queues_of(g, 1, 64, 64, 1);
        assert_int_equal(io(g, 2, 0, 8, DATA, 0), 0);
        /* The whole machine's reset. */
        post_large_transfers(g, 30);
        pthread_mutex_lock(&g->m->f.lock);
        device_of(g)->ops->reset(device_of(g));
        assert_int_equal(block_in_flight(g->disk), 0);
        pthread_mutex_unlock(&g->m->f.lock);
        guest_free(g);
}

static void deleting_a_queue_waits_for_its_commands(void **state)
{
        struct guest *g = guest_new();
        unsigned done = 0;

        for (unsigned round = 0; round < 10; round++, done = 0) {
                for (unsigned i = 0; i < 60; i++)
                        post(g, 1, &(struct command){ .opcode = 1, .nsid = 1, .prp1 = DATA, .cdw10 = i, .cdw12 = 7 });
                ring(g, 1);
                assert_int_equal(admin(g, 0, 0, 1, 0), 0);
                while (completion_ready(g, 1)) {
                        take(g, 1);
                        done++;
                }
                assert_int_equal(done, 60);
                assert_int_equal(admin(g, 4, 0, 1, 0), 0);
                create_queues_of(g, 1, 64, 64, 1);
        }
        guest_free(g);
}

static void wrong_set_up_is_fatal_to_the_controller_only(void **state)
{
        static const struct {
                u64 asq, acq;
                u32 aqa, cc;
        } cases[] = {
                { BAD_ADDRESS, ADMIN_CQ, 31 << 16 | 31, 0x460001 },
                { ADMIN_SQ, ~0xfffULL, 31 << 16 | 31, 0x460001 },
                { ADMIN_SQ, ADMIN_CQ, 0, 0x460001 },
                { ADMIN_SQ, ADMIN_CQ, 31 << 16 | 31, 0x460081 }, /* 8 KiB pages */
                { ADMIN_SQ, ADMIN_CQ, 31 << 16 | 31, 0x460011 }, /* another command set */
                { FAKE_RAM - 0x1000, ADMIN_CQ, 0xfff << 16 | 0xfff, 0x460001 },
        };
        struct guest *g = guest_new_with(NULL, false);

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                reg_write(g, 0x24, 4, cases[i].aqa);
                reg_write(g, 0x28, 8, cases[i].asq);
                reg_write(g, 0x30, 8, cases[i].acq);
                reg_write(g, 0x14, 4, cases[i].cc);
                assert_int_equal(reg_read(g, 0x1c, 4) & 3, 2);
                reg_write(g, 0x14, 4, 0);
                assert_int_equal(reg_read(g, 0x1c, 4) & 3, 0);
        }
        enable(g);
        create_queues_of(g, 1, 64, 64, 1);
        assert_int_equal(io(g, 2, 0, 8, DATA, 0), 0);
        guest_free(g);
}

static bool line_level(struct guest *g, unsigned gsi)
{
        bool level;

        fake_env_lock(&g->m->f);
        level = g->m->f.line[gsi];
        fake_env_unlock(&g->m->f);
        return level;
}

static void interrupts_follow_completions(void **state)
{
        struct guest *g = guest_new();
        const unsigned gsi = pci_intx_gsi(SLOT, 1);
        const unsigned cap = find_cap(g->m, SLOT, PCI_CAP_ID_MSIX, 0);
        u64 table;

        /* Pin: high while entries are not taken. */
        assert_int_equal(line_level(g, gsi), 0);
        post(g, 1, &(struct command){ .opcode = 2, .nsid = 1, .prp1 = DATA });
        ring(g, 1);
        take(g, 1);
        wait_for(line_level(g, gsi));
        reg_write(g, 0x0c, 4, 1);
        assert_int_equal(line_level(g, gsi), 0);
        reg_write(g, 0x10, 4, 1);
        assert_int_equal(line_level(g, gsi), 1);
        doorbell(g, 3, g->q[1].head);
        assert_int_equal(line_level(g, gsi), 0);

        /* MSI-X: vector 1 is the queue's. */
        assert_int_not_equal(cap, 0);
        table = bar_at(g->m, SLOT, 4);
        for (unsigned v = 0; v < 3; v++) {
                mmio_write(g->m, table + v * 16, 4, 0xfee00000);
                mmio_write(g->m, table + v * 16 + 4, 4, 0);
                mmio_write(g->m, table + v * 16 + 8, 4, 40 + v);
                mmio_write(g->m, table + v * 16 + 12, 4, 0);
        }
        cfg_write(g->m, SLOT, cap + 2, 2, 0x8000);
        assert_int_equal(io(g, 2, 0, 8, DATA, 0), 0);
        wait_for(__atomic_load_n(&g->m->msis[41], __ATOMIC_RELAXED) == 1);
        assert_int_equal(g->m->msis[40], 0);
        assert_int_equal(line_level(g, gsi), 0);
        assert_int_equal(admin(g, 6, DATA, 1, 0), 0);
        wait_for(__atomic_load_n(&g->m->msis[40], __ATOMIC_RELAXED) == 1);
        guest_free(g);
}

static void shutdown_flushes_and_says_so(void **state)
{
        struct guest *g = guest_new();

        assert_int_equal(io(g, 1, 0, 8, DATA, 0), 0);
        assert_int_equal(g->m->f.counters.value[COUNTER_BLOCK_FLUSHES], 0);
        reg_write(g, 0x14, 4, reg_read(g, 0x14, 4) | 1 << 14);
        wait_for((reg_read(g, 0x1c, 4) >> 2 & 3) == 2);
        assert_int_equal(g->m->f.counters.value[COUNTER_BLOCK_FLUSHES], 1);
        disable(g);
        enable(g);
        assert_int_equal(reg_read(g, 0x1c, 4), 1);
        guest_free(g);
}

static void without_bus_mastering_nothing_is_fetched(void **state)
{
        struct guest *g = guest_new();

        cfg_write(g->m, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        post(g, 1, &(struct command){ .opcode = 2, .nsid = 1, .prp1 = DATA });
        ring(g, 1);
        usleep(1000);
        assert_false(completion_ready(g, 1));
        cfg_write(g->m, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        ring(g, 1);
        assert_int_equal(take(g, 1).status, 0);
        guest_free(g);
}

/* ---- saved state ---- */

static void a_loaded_controller_goes_on_where_it_was(void **state)
{
        struct guest *g = guest_new();
        struct device *dev = device_of(g);
        struct state_out out;
        unsigned taken = 0;

        /* Some completions that nobody took, in a queue that is full, and commands that were never fetched. */
        for (unsigned i = 0; i < 60; i++)
                post(g, 1, &(struct command){ .opcode = 2, .nsid = 1, .prp1 = DATA, .cdw10 = i });
        ring(g, 1);
        wait_for(__atomic_load_n((const u32 *)ram(g->m, IO_CQ(1) + 59 * 16 + 12), __ATOMIC_ACQUIRE) >> 16 & 1);
        for (unsigned i = 0; i < 30; i++)
                post(g, 1, &(struct command){ .opcode = 2, .nsid = 1, .prp1 = DATA, .cdw10 = i });
        ring(g, 1);
        pthread_mutex_lock(&g->m->f.lock);
        dev->ops->quiesce(dev);
        assert_int_equal(block_in_flight(g->disk), 0);
        pthread_mutex_unlock(&g->m->f.lock);
        for (unsigned i = 0; i < 5; i++)
                post(g, 1, &(struct command){ .opcode = 2, .nsid = 1, .prp1 = DATA, .cdw10 = i });
        ring(g, 1); /* noted, not fetched */
        pthread_mutex_lock(&g->m->f.lock);
        fake_save(dev, &out);
        dev->ops->reset(dev);
        assert_int_equal(fake_load(dev, &out, NULL), 0);
        dev->ops->resume(dev);
        pthread_mutex_unlock(&g->m->f.lock);
        for (; taken < 95; taken++) {
                assert_int_equal(take(g, 1).status, 0);
                doorbell(g, 3, g->q[1].head);
        }
        usleep(1000);
        assert_false(completion_ready(g, 1));
        state_out_free(&out);
        guest_free(g);
}

static void damaged_states_are_refused(void **state)
{
        struct guest *g = guest_new();

        /* With completions that wait for room. */
        for (unsigned i = 0; i < 60; i++)
                post(g, 1, &(struct command){ .opcode = 0x77, .nsid = 1 });
        ring(g, 1);
        for (unsigned i = 0; i < 60; i++)
                post(g, 1, &(struct command){ .opcode = 0x77, .nsid = 1 });
        ring(g, 1);
        fake_check_state(&g->m->f, device_of(g));
        guest_free(g);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_controller_says_what_it_is),
                cmocka_unit_test(data_arrives_where_the_prps_say),
                cmocka_unit_test(reads_mark_guest_memory_dirty),
                cmocka_unit_test(bad_io_commands_get_their_status),
                cmocka_unit_test(bad_admin_commands_get_their_status),
                cmocka_unit_test(features_and_logs_can_be_read),
                cmocka_unit_test(invalid_doorbells_are_reported_as_events),
                cmocka_unit_test(zeroes_and_deallocation_reach_the_image),
                cmocka_unit_test(read_only_disks_are_write_protected),
                cmocka_unit_test(full_completion_queues_hold_back_completions),
                cmocka_unit_test(many_queues_work_at_the_same_time),
                cmocka_unit_test(a_controller_reset_waits_for_requests_in_flight),
                cmocka_unit_test(deleting_a_queue_waits_for_its_commands),
                cmocka_unit_test(wrong_set_up_is_fatal_to_the_controller_only),
                cmocka_unit_test(interrupts_follow_completions),
                cmocka_unit_test(shutdown_flushes_and_says_so),
                cmocka_unit_test(without_bus_mastering_nothing_is_fetched),
                cmocka_unit_test(a_loaded_controller_goes_on_where_it_was),
                cmocka_unit_test(damaged_states_are_refused),
        };

        return cmocka_run_group_tests_name("nvme", tests, NULL, NULL);
}
