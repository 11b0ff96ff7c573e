/* What decode.h derives from the order of Zydis' register numbers is what Zydis' own functions say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cpu/interp/decode.h"

static void register_ranges_are_those_of_zydis(void **state)
{
        (void)state;
        for (ZydisRegister reg = 0; reg <= ZYDIS_REGISTER_MAX_VALUE; reg++) {
                const ZydisRegisterClass c = ZydisRegisterGetClass(reg);
                const bool gpr = c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 || c == ZYDIS_REGCLASS_GPR64;
                const bool vector = c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_YMM;

                assert_int_equal(decode_is_gpr(reg), gpr);
                assert_int_equal(decode_is_vector(reg), vector);
                if (vector)
                        assert_int_equal(decode_vector_number(reg), ZydisRegisterGetId(reg));
                if (gpr)
                        assert_int_equal(reg >= ZYDIS_REGISTER_RAX, c == ZYDIS_REGCLASS_GPR64);
        }
}

static void registers_of_all_widths_have_their_offset(void **state)
{
        (void)state;
        for (ZydisRegister reg = ZYDIS_REGISTER_AL; reg <= ZYDIS_REGISTER_R15; reg++) {
                const unsigned whole = (unsigned)ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));

                assert_int_equal(decode_gpr_offset(reg), whole * 8 + decode_is_high_byte(reg));
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(register_ranges_are_those_of_zydis),
                cmocka_unit_test(registers_of_all_widths_have_their_offset),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
