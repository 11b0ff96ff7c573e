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
        MODE_LONG64 | MODE_LONG | MODE_PROTECTED | MODE_USER | MODE_SHADOW,
        MODE_LONG64 | MODE_LONG | MODE_PROTECTED | MODE_USER | MODE_SHADOW | MODE_SHADOW_FIXED,
};

static void check(const u8 *code, unsigned room, u32 mode, u64 seed, unsigned *translated)
{
        static const u64 near[] = { 0x7ffff7a00000, 0x555555554000, 0x404000, 0x10, 0x100000000 };
        const u64 user = seed % 3 ? 0x7ffff7dd0000 : 0x401000;
        const u64 page = mode & MODE_USER ? user : 0xffffffff81000000;
        struct rng rng = { seed };
        u64 regs[GPR_COUNT];
        bool done = false;
        const char *wrong;

        for (unsigned i = 0; i < GPR_COUNT; i++)
                regs[i] = near[rng_below(&rng, ARRAY_SIZE(near))];
        wrong = emitted_check(code, room, page + PAGE_SIZE - room, mode, seed % 5 == 0, regs, &done);

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

/* ---- loops ---- */

static unsigned put_reg_imm(u8 *at, bool wide, unsigned op, unsigned reg, s32 by)
{
        const u8 bytes[] = { (u8)(0x40 | wide << 3 | reg >> 3), 0x81, (u8)(0xc0 | op << 3 | (reg & 7)) };

        memcpy(at, bytes, sizeof(bytes));
        memcpy(at + sizeof(bytes), &by, sizeof(by));
        return sizeof(bytes) + sizeof(by);
}

/* An access of [base + index * scale + disp], or without a base. */
static unsigned put_access(u8 *at, struct rng *rng, unsigned base, unsigned index, unsigned data)
{
        static const u8 opcodes[] = { 0x8b, 0x89, 0x03, 0x01, 0x3b, 0x8a };
        const bool has_base = rng_chance(rng, 9, 10), has_index = index != RSP && rng_chance(rng, 2, 3);
        const unsigned i = has_index ? index : RSP, b = has_base ? base : RBP;
        const u8 bytes[] = { (u8)(0x40 | rng_below(rng, 2) << 3 | (data >> 3) << 2 | (i >> 3) << 1 | b >> 3), opcodes[rng_below(rng, sizeof(opcodes))],
                             (u8)((has_base ? 0x80 : 0) | (data & 7) << 3 | 4), (u8)(rng_below(rng, 4) << 6 | (i & 7) << 3 | (b & 7)) };
        const s32 disp = rng_chance(rng, 1, 6) ? (s32)rng_next(rng) : (s32)rng_below(rng, 512) - 128;

        memcpy(at, bytes, sizeof(bytes));
        memcpy(at + sizeof(bytes), &disp, sizeof(disp));
        return sizeof(bytes) + sizeof(disp);
}

/* Something that narrows or spoils a register. No copy: emitted_shadow.c does not know that what was compared is the same. */
static unsigned put_other(u8 *at, struct rng *rng, unsigned dst, unsigned src)
{
        static const u8 opcodes[][2] = { { 0, 0x8b }, { 0, 0x87 }, { 0, 0x01 }, { 0, 0x63 }, { 0x0f, 0xbc }, { 0x0f, 0xb1 }, { 0x0f, 0x45 }, { 0x0f, 0xb6 } };
        const u8 *opcode = opcodes[rng_below(rng, ARRAY_SIZE(opcodes))];
        unsigned n = 0;

        at[n++] = (u8)(0x40 | (opcode[1] != 0x8b && rng_chance(rng, 1, 2)) << 3 | (src >> 3) << 2 | dst >> 3);
        if (opcode[0])
                at[n++] = opcode[0];
        at[n++] = opcode[1];
        at[n++] = (u8)(0xc0 | (src & 7) << 3 | (dst & 7));
        return n;
}

/* @jumps_back: it is a loop, else a block of the same kind. */
static unsigned put_loop(u8 *code, struct rng *rng, bool jumps_back)
{
        const unsigned base = (unsigned)rng_below(rng, GPR_COUNT), index = (unsigned)rng_below(rng, GPR_COUNT), data = (unsigned)rng_below(rng, GPR_COUNT);
        const unsigned steps = 1 + (unsigned)rng_below(rng, 6);
        unsigned n = 0;

        for (unsigned i = 0; i < steps; i++) {
                if (rng_chance(rng, 3, 4))
                        n += put_access(code + n, rng, base, index, data);
                if (rng_chance(rng, 1, 3))
                        n += put_reg_imm(code + n, rng_chance(rng, 3, 4), rng_chance(rng, 1, 2) ? 0 : 5, rng_chance(rng, 1, 2) ? base : index,
                                         (s32)rng_below(rng, rng_chance(rng, 1, 8) ? 1u << 31 : 256));
                if (rng_chance(rng, 1, 12)) {
                        code[n++] = 0x74; /* je out */
                        code[n++] = 0x7f;
                }
                if (rng_chance(rng, 1, 8))
                        n += put_other(code + n, rng, rng_chance(rng, 1, 2) ? index : data, rng_chance(rng, 1, 2) ? base : data);
        }
        n += put_reg_imm(code + n, rng_chance(rng, 1, 2), rng_chance(rng, 1, 2) ? 7 : 5, rng_chance(rng, 1, 2) ? index : data, 1);
        code[n++] = 0x75; /* jne */
        code[n] = jumps_back ? (u8)(0 - (n + 1)) : 0x20;
        return n + 1;
}

static void loops_keep_the_rules(void **state)
{
        static const u32 shadow[] = {
                MODE_LONG64 | MODE_LONG | MODE_PROTECTED | MODE_USER | MODE_SHADOW,
                MODE_LONG64 | MODE_LONG | MODE_PROTECTED | MODE_USER | MODE_SHADOW | MODE_SHADOW_FIXED,
        };
        unsigned translated = 0;

        for (u64 seed = 1; seed <= BLOCKS; seed++) {
                struct rng rng = { seed };
                u8 code[176];
                unsigned n = put_loop(code, &rng, seed % 4 != 0);

                assert_true(n < sizeof(code) - 16);
                n += put_access(code + n, &rng, (unsigned)rng_below(&rng, GPR_COUNT), RCX, RAX);
                check(code, n, shadow[seed & 1], seed, &translated);
        }
        assert_true(translated > BLOCKS / 2);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(blocks_of_every_form_keep_the_rules),
                cmocka_unit_test(blocks_of_noise_keep_the_rules),
                cmocka_unit_test(loops_keep_the_rules),
        };

        return cmocka_run_group_tests_name("translate_block", tests, NULL, NULL);
}
