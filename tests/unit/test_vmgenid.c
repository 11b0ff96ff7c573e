/* The generation ID: where the guest finds it, when it changes and who hears of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/statebuf.h"
#include "dev/vmgenid.h"
#include "fake_env.h"
#include "mmu/memory.h"

#define PLACE 0xff000ULL

struct fixture {
        struct fake_env f;
        struct vmgenid *v;
};

static int setup(void **state)
{
        struct fixture *x = calloc(1, sizeof(*x));

        fake_env_init(&x->f, 2 * MIB);
        assert_int_equal(vmgenid_new(&x->f.env, PLACE, &x->v, NULL), 0);
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

static void read_id(struct fixture *x, u8 id[static VMGENID_SIZE])
{
        assert_int_equal(guest_memory_read(x->f.env.memory, PLACE, id, VMGENID_SIZE), 0);
}

static void every_machine_has_its_own(void **state)
{
        struct fixture *x = *state;
        u8 first[VMGENID_SIZE], second[VMGENID_SIZE];
        struct vmgenid *other;

        read_id(x, first);
        assert_int_equal(vmgenid_new(&x->f.env, PLACE, &other, NULL), 0);
        read_id(x, second);
        assert_memory_not_equal(first, second, VMGENID_SIZE);
        assert_int_equal(x->f.rises[VMGENID_GSI], 0);
}

static void a_copy_gets_another_and_is_told(void **state)
{
        struct fixture *x = *state;
        u8 before[VMGENID_SIZE], after[VMGENID_SIZE];

        read_id(x, before);
        fake_env_lock(&x->f);
        assert_int_equal(vmgenid_renew(x->v, NULL), 0);
        fake_env_unlock(&x->f);
        read_id(x, after);
        assert_memory_not_equal(before, after, VMGENID_SIZE);
        assert_int_equal(x->f.rises[VMGENID_GSI], 1);
        assert_false(x->f.line[VMGENID_GSI]);
}

static void a_machine_that_is_moved_keeps_it(void **state)
{
        struct fixture *x = *state;
        struct device *dev = fake_env_device(&x->f, "vmgenid");
        struct state_out saved = { 0 };
        u8 before[VMGENID_SIZE], after[VMGENID_SIZE];

        read_id(x, before);
        fake_save(dev, &saved);
        assert_int_equal(vmgenid_renew(x->v, NULL), 0);
        assert_int_equal(fake_load(dev, &saved, NULL), 0);
        read_id(x, after);
        assert_memory_equal(before, after, VMGENID_SIZE);
        assert_int_equal(x->f.rises[VMGENID_GSI], 1); /* of the renewal alone */
        state_out_free(&saved);
        fake_check_state(&x->f, dev);
}

static void memory_that_is_not_there_is_an_error(void **state)
{
        struct fixture *x = *state;
        struct vmgenid *other = NULL;

        assert_true(vmgenid_new(&x->f.env, 64 * MIB, &other, NULL) < 0);
        assert_null(other);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(every_machine_has_its_own, setup, teardown),
                cmocka_unit_test_setup_teardown(a_copy_gets_another_and_is_told, setup, teardown),
                cmocka_unit_test_setup_teardown(a_machine_that_is_moved_keeps_it, setup, teardown),
                cmocka_unit_test_setup_teardown(memory_that_is_not_there_is_an_error, setup, teardown),
        };

        return cmocka_run_group_tests_name("vmgenid", tests, NULL, NULL);
}
