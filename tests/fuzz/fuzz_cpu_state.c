/* CPU states: arbitrary bytes are refused or become a state that can be saved and loaded again. The input is a list of
 * patches to a good state (offset in two bytes, value in one), because random bytes as they are would hardly ever be
 * one. */
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

static void as_section(struct state_in *in, const u8 *data, size_t len)
{
        state_in_init(in, data, len);
        in->section_end = len;
}

static void good_state(struct cpu_state *cpu, bool long_mode)
{
        cpu_state_reset(cpu, true);
        if (!long_mode)
                return;
        cpu->paging.cr0 = CR0_PE | CR0_PG | CR0_ET;
        cpu->paging.cr4 = CR4_PAE;
        cpu->paging.efer = EFER_LME | EFER_LMA;
        cpu->seg[SEG_CS].attr |= SEG_ATTR_L;
}

/* Saves the loaded state, loads that, saves again: all must work and agree. */
static void check_round_trip(const struct cpu_state *cpu)
{
        struct state_out once, twice;
        struct cpu_state again;
        struct state_in in;

        state_out_init(&once);
        state_out_init(&twice);
        cpu_state_save(cpu, &once);
        as_section(&in, once.data, once.len);
        if (cpu_state_load(&again, &in, CPU_STATE_VERSION, NULL) < 0)
                abort();
        cpu_state_save(&again, &twice);
        if (once.len != twice.len || memcmp(once.data, twice.data, once.len) != 0)
                abort();
        state_out_free(&once);
        state_out_free(&twice);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        struct cpu_state cpu;
        struct state_out out;
        struct state_in in;

        if (!len)
                return 0;
        good_state(&cpu, data[0] & 1);
        state_out_init(&out);
        cpu_state_save(&cpu, &out);
        for (size_t i = 1; i + 3 <= len; i += 3)
                out.data[(data[i] | (size_t)data[i + 1] << 8) % out.len] = data[i + 2];
        as_section(&in, out.data, data[0] & 2 ? out.len - len % out.len : out.len);
        if (cpu_state_load(&cpu, &in, CPU_STATE_VERSION, NULL) == 0)
                check_round_trip(&cpu);
        state_out_free(&out);
        return 0;
}
