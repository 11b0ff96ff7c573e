/* Arbitrary bytes as 64-bit guest code: translating them ends, stays inside its buffers, and what comes out keeps the rules of emitted.c. The
 * first bytes choose the mode and how far the page's end is. */
#include <stdint.h>
#include <stdio.h>

#include "../diff/emitted.h"
#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const u32 base = MODE_LONG64 | MODE_LONG | MODE_PROTECTED;
        bool translated;
        unsigned room;
        u32 mode = base;
        const char *wrong;
        u64 rip;

        if (size < 3)
                return 0;
        if (data[0] & 1)
                mode |= MODE_USER;
        else
                mode |= (data[0] & 2 ? MODE_SMAP : 0) | (data[0] & 4 ? MODE_AC : 0);
        mode |= (data[0] & 8 ? MODE_UNSHARED : 0) | (data[0] & 16 ? MODE_NO_AVX : 0) | (data[0] & 32 ? MODE_NO_FPU | MODE_NM_SSE : 0);
        room = (unsigned)(size - 2 > PAGE_SIZE ? PAGE_SIZE : size - 2);
        rip = (data[0] & 1 ? 0x400000 : 0xffffffff81000000) + PAGE_SIZE - room - (data[1] * 16u < PAGE_SIZE - room ? data[1] * 16u : 0);
        wrong = emitted_check(data + 2, room, rip, mode, data[0] & 64, NULL, &translated);
        if (wrong)
                fprintf(stderr, "%s\n", wrong);
        require(!wrong);
        return 0;
}
