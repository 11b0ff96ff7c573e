#include <endian.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dev/fw_cfg.h"
#include "dev/kvmclock.h"
#include "dev/steal_time.h"
#include "fake_env.h"

#define RAM (2 * MIB)

struct fixture {
        struct fake_env f;
        struct fw_cfg *fw_cfg;
};

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));

        fake_env_init(&x->f, RAM);
        assert_int_equal(fw_cfg_new(&x->f.env, &x->fw_cfg, NULL), 0);
        assert_int_equal(fw_cfg_set_u16(x->fw_cfg, FW_CFG_NB_CPUS, 3, NULL), 0);
        assert_int_equal(fw_cfg_add_file(x->fw_cfg, "etc/zebra", "stripes", 7, NULL), 0);
        assert_int_equal(fw_cfg_add_file(x->fw_cfg, "etc/ant", "six legs", 8, NULL), 0);
        *state = x;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *x = *state;

        fake_env_free(&x->f);
        free(x);
        return 0;
}

static void item_read(struct fixture *x, u16 key, void *p, size_t n)
{
        fake_out(&x->f, FW_CFG_PORT, 2, key);
        for (size_t i = 0; i < n; i++)
                ((u8 *)p)[i] = (u8)fake_in(&x->f, FW_CFG_PORT + 1, 1);
}

/* Runs a DMA command with its descriptor at @at; returns the control word that it left. */
static u32 dma(struct fixture *x, u64 at, u32 control, u32 length, u64 address)
{
        struct {
                u32 control, length;
                u64 address;
        } d = { htobe32(control), htobe32(length), htobe64(address) };

        assert_int_equal(guest_memory_write(x->f.env.memory, at, &d, sizeof(d)), 0);
        fake_out(&x->f, FW_CFG_DMA_PORT, 4, htobe32((u32)(at >> 32)));
        fake_out(&x->f, FW_CFG_DMA_PORT + 4, 4, htobe32((u32)at));
        assert_int_equal(guest_memory_read(x->f.env.memory, at, &d.control, 4), 0);
        return be32toh(d.control);
}

static void identification(void **state)
{
        struct fixture *x = *state;
        u8 id[6];
        u16 cpus;

        item_read(x, FW_CFG_SIGNATURE, id, 6);
        assert_memory_equal(id, "QEMU\0\0", 6); /* zeros after the end */
        item_read(x, FW_CFG_ID, id, 4);
        assert_memory_equal(id, "\3\0\0\0", 4);
        item_read(x, FW_CFG_NB_CPUS, &cpus, 2);
        assert_int_equal(cpus, 3);
        item_read(x, 0x7777, id, 1);
        assert_int_equal(id[0], 0);
        assert_true(fake_in(&x->f, FW_CFG_DMA_PORT, 8) == htobe64(0x51454d5520434647ULL));
        assert_int_equal(fake_in(&x->f, FW_CFG_DMA_PORT, 4), htobe32(0x51454d55));
}

static void directory_lists_files_in_order(void **state)
{
        struct fixture *x = *state;
        u8 directory[4 + 2 * 64], data[8];

        item_read(x, FW_CFG_FILE_DIR, directory, sizeof(directory));
        assert_memory_equal(directory, "\0\0\0\2", 4);
        assert_memory_equal(directory + 4, "\0\0\0\10\0\40\0\0etc/ant", 16);
        assert_memory_equal(directory + 68, "\0\0\0\7\0\41\0\0etc/zebra", 18);
        item_read(x, FW_CFG_FILE_FIRST + 1, data, 8);
        assert_memory_equal(data, "stripes\0", 8);
}

static void bad_files_are_refused(void **state)
{
        struct fixture *x = *state;
        char name[64] = { 0 };
        int r = 0;

        assert_true(fw_cfg_add_file(x->fw_cfg, "etc/ant", "", 0, NULL) < 0);
        memset(name, 'n', 56);
        assert_true(fw_cfg_add_file(x->fw_cfg, name, "", 0, NULL) < 0);
        name[55] = 0;
        assert_int_equal(fw_cfg_add_file(x->fw_cfg, name, "", 0, NULL), 0);
        assert_true(fw_cfg_set(x->fw_cfg, FW_CFG_FILE_DIR, "", 0, NULL) < 0);
        for (int i = 3; i < FW_CFG_FILES_MAX; i++) {
                snprintf(name, sizeof(name), "file%d", i);
                r |= fw_cfg_add_file(x->fw_cfg, name, "", 0, NULL);
        }
        assert_int_equal(r, 0);
        assert_true(fw_cfg_add_file(x->fw_cfg, "one more", "", 0, NULL) < 0);
}

static void dma_reads_skips_and_pads(void **state)
{
        struct fixture *x = *state;
        u8 data[16];

        memset(data, 0xee, sizeof(data));
        guest_memory_write(x->f.env.memory, 0x2000, data, sizeof(data));
        assert_int_equal(dma(x, 0x1000, FW_CFG_FILE_FIRST << 16 | 8 | 4, 4, 0), 0);
        assert_int_equal(dma(x, 0x1000, 2, 6, 0x2000), 0);
        guest_memory_read(x->f.env.memory, 0x2000, data, sizeof(data));
        assert_memory_equal(data, "legs\0\0\xee", 7);
}

static void dma_refuses_what_is_not_ram(void **state)
{
        struct fixture *x = *state;

        assert_int_equal(dma(x, 0x1000, 8 | 2, 0xffffffff, 0), 1);
        assert_int_equal(dma(x, 0x1000, 8 | 2, 4, RAM - 2), 1);
        assert_int_equal(dma(x, 0x1000, 8 | 2, 4, ~0ULL - 1), 1);
        assert_int_equal(dma(x, 0x1000, 8 | 16, 4, 0x2000), 1); /* nothing is writable */
        fake_out(&x->f, FW_CFG_DMA_PORT, 8, ~0ULL);             /* a descriptor that is nowhere */
        fake_out(&x->f, FW_CFG_DMA_PORT, 8, htobe64(RAM - 8));
}

static void state_survives(void **state)
{
        struct fixture *x = *state;
        u8 data[4];

        item_read(x, FW_CFG_FILE_FIRST, data, 4);
        fake_check_state(&x->f, fake_env_device(&x->f, "fw-cfg"));
        assert_int_equal(fake_in(&x->f, FW_CFG_PORT + 1, 1), 'l');
}

/* ---- the paravirtual clock ---- */

static void kvmclock_scale_is_precise(void **state)
{
        static const u64 frequencies[] = { 1000000, 999999999, 1000000000, 1000000001, 2100000000, 3579545000, 5000000000 };

        for (size_t i = 0; i < ARRAY_SIZE(frequencies); i++) {
                const u64 hz = frequencies[i], ticks = hz * 100;
                u64 scaled, ns;
                u32 mul;
                s8 shift;

                kvmclock_scale(hz, &mul, &shift);
                scaled = shift < 0 ? ticks >> -shift : ticks << shift;
                ns = (u64)((unsigned __int128)scaled * mul >> 32);
                assert_in_range(ns, 100 * NSEC_PER_SEC - 100, 100 * NSEC_PER_SEC);
        }
        {
                u32 mul;
                s8 shift;

                kvmclock_scale(0, &mul, &shift); /* ends */
        }
}

static void kvmclock_structures_are_published(void **state)
{
        struct fixture *x = *state;
        struct guest_memory *memory = x->f.env.memory;
        const struct kvmclock_time time = { .tsc = 0x1122334455, .system_ns = 77, .tsc_hz = 2000000000, .flags = 1 };
        u32 words[8];

        for (u32 version = 2; version <= 4; version += 2) {
                assert_int_equal(kvmclock_system_time_update(memory, 0x3000 | KVMCLOCK_ENABLE, &time), 0);
                guest_memory_read(memory, 0x3000, words, sizeof(words));
                assert_int_equal(words[0], version);
        }
        assert_int_equal(words[2], 0x22334455);
        assert_int_equal(words[3], 0x11);
        assert_int_equal(words[4], 77);
        assert_int_equal(words[6], 0x80000000);
        assert_int_equal(words[7], 0x100); /* shift 0, flag 1 */
        assert_true(kvmclock_system_time_update(memory, 0x3000, &time) < 0);
        assert_true(kvmclock_system_time_update(memory, 0x3002 | KVMCLOCK_ENABLE, &time) < 0);
        assert_true(kvmclock_system_time_update(memory, (RAM - 16) | KVMCLOCK_ENABLE, &time) < 0);

        assert_int_equal(kvmclock_wall_clock_update(memory, 0x4000, 5 * NSEC_PER_SEC + 6), 0);
        guest_memory_read(memory, 0x4000, words, 12);
        assert_int_equal(words[0], 2);
        assert_int_equal(words[1], 5);
        assert_int_equal(words[2], 6);
        assert_true(kvmclock_wall_clock_update(memory, ~3ULL, 0) < 0);
}

/* 64 bytes: steal, version at 8, flags, preempted at 16. */
static void steal_time_adds_up_under_an_even_version(void **state)
{
        struct fixture *x = *state;
        struct guest_memory *memory = x->f.env.memory;
        u64 words[8] = { 1000, 7 /* left odd by somebody */ };

        guest_memory_write(memory, 0x3040, words, sizeof(words));
        assert_int_equal(steal_time_add(memory, 0x3040 | STEAL_TIME_ENABLE, 5), 0);
        assert_int_equal(steal_time_add(memory, 0x3040 | STEAL_TIME_ENABLE, 6), 0);
        guest_memory_read(memory, 0x3040, words, sizeof(words));
        assert_int_equal(words[0], 1011);
        assert_int_equal(words[1], 12);
        assert_true(steal_time_add(memory, 0x3040, 5) < 0);
        assert_true(steal_time_add(memory, RAM | STEAL_TIME_ENABLE, 5) < 0);
        assert_true(steal_time_add(memory, ~STEAL_TIME_RESERVED, 5) < 0);
}

static void request_left_to_a_sleeping_vcpu_is_found_once(void **state)
{
        struct fixture *x = *state;
        struct guest_memory *memory = x->f.env.memory;
        const u64 msr = 0x3000 | STEAL_TIME_ENABLE;
        u8 preempted;

        steal_time_set_preempted(memory, msr);
        guest_memory_read(memory, 0x3010, &preempted, 1);
        assert_int_equal(preempted, 1);
        assert_false(steal_time_take_preempted(memory, msr));
        guest_memory_read(memory, 0x3010, &preempted, 1);
        assert_int_equal(preempted, 0);

        steal_time_set_preempted(memory, msr);
        preempted = 3; /* as another vCPU's compare-and-exchange would */
        guest_memory_write(memory, 0x3010, &preempted, 1);
        assert_true(steal_time_take_preempted(memory, msr));
        assert_false(steal_time_take_preempted(memory, msr));

        steal_time_set_preempted(memory, RAM | STEAL_TIME_ENABLE);
        assert_false(steal_time_take_preempted(memory, RAM | STEAL_TIME_ENABLE));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(identification),
                TEST(directory_lists_files_in_order),
                TEST(bad_files_are_refused),
                TEST(dma_reads_skips_and_pads),
                TEST(dma_refuses_what_is_not_ram),
                TEST(state_survives),
                TEST(kvmclock_scale_is_precise),
                TEST(kvmclock_structures_are_published),
                TEST(steal_time_adds_up_under_an_even_version),
                TEST(request_left_to_a_sleeping_vcpu_is_found_once),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
