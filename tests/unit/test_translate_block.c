/* The translator as a function from bytes to code: what it makes of instructions of every form, and of noise, keeps the rules of ../diff/emitted.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "../diff/emitted.h"
#include "../diff/forms.h"

#define BLOCKS 20000u

static const u32 modes[] = {
        MODE_LONG64 | MODE_LONG | MODE_PROTECTED | MODE_USER,
        MODE_LONG64 | MODE_LONG | MODE_PROTECTED,
        MODE_LONG64 | MODE_LONG | MODE_PROTECTED | MODE_SMAP,
        MODE_LONG64 | MODE_LONG | MODE_PROTECTED | MODE_SMAP | MODE_AC,
        MODE_LONG64 | MODE_LONG | MODE_PROTECTED | MODE_USER | MODE_UNSHARED,
};

static void check(const u8 *code, unsigned room, u32 mode, u64 seed, unsigned *translated)
{
        const u64 page = mode & MODE_USER ? 0x7ffff7dd0000 : 0xffffffff81000000;
        bool done = false;
        const char *wrong = emitted_check(code, room, page + PAGE_SIZE - room, mode, seed % 5 == 0, &done);

        if (wrong) {
                print_error("seed %lu, mode %x, %u bytes:", (unsigned long)seed, mode, room);
                for (unsigned i = 0; i < room; i++)
                        print_error(" %02x", code[i]);
                fail_msg("%s", wrong);
        }
        *translated += done;
}

static void blocks_of_every_form_keep_the_rules(void **state)
{
        const struct addressing any = { 0xffff, 0xffff & ~BIT(RSP) };
        struct forms *forms = forms_new();
        unsigned translated = 0;

        assert_non_null(forms);
        for (u64 seed = 1; seed <= BLOCKS; seed++) {
                struct rng rng = { seed };
                const unsigned n = 1 + (unsigned)rng_below(&rng, 24);
                struct decoded d;
                u8 code[24 * 15 + 16];
                unsigned at = 0;

                for (unsigned i = 0; i < n; i++)
                        at += forms_random(forms, &rng, (enum form_class)rng_below(&rng, FORM_CLASSES), &any, code + at, &d);
                check(code, at, modes[rng_below(&rng, ARRAY_SIZE(modes))], seed, &translated);
        }
        assert_true(translated > BLOCKS / 2);
        free(forms);
}

static void blocks_of_noise_keep_the_rules(void **state)
{
        unsigned translated = 0;

        for (u64 seed = 1; seed <= BLOCKS; seed++) {
                struct rng rng = { seed };
                u8 code[256];
                const unsigned room = 1 + (unsigned)rng_below(&rng, sizeof(code));

                for (unsigned i = 0; i < room; i++)
                        code[i] = (u8)rng_next(&rng);
                check(code, room, modes[rng_below(&rng, ARRAY_SIZE(modes))], seed, &translated);
        }
        assert_true(translated > BLOCKS / 4);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(blocks_of_every_form_keep_the_rules),
                cmocka_unit_test(blocks_of_noise_keep_the_rules),
        };

        return cmocka_run_group_tests_name("translate_block", tests, NULL, NULL);
}
