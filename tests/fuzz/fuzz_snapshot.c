/* The state file of a snapshot: whatever the bytes are, what is accepted describes a machine whose memory map is all of its memory. The check sum
 * is made right, because it keeps out accidents and not strangers. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "input.h"
#include "vm/snapshot_files.h"

#define HEADER 24

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        u8 *file = malloc(HEADER + len);
        const u32 format = 1, crc = (u32)crc32_z(0, data, len);
        const u64 n = len;
        struct snapshot_state state;

        if (!file)
                return 0;
        memcpy(file, "STRATAVM", 8);
        memcpy(file + 8, &format, sizeof(format));
        memcpy(file + 12, &crc, sizeof(crc));
        memcpy(file + 16, &n, sizeof(n));
        if (len)
                memcpy(file + HEADER, data, len);
        if (snapshot_state_parse(file, HEADER + len, &state, NULL) == 0) {
                u64 pages = 0;

                require(state.info.n_layers <= SNAPSHOT_LAYERS_MAX && state.info.map.n_runs <= SNAPSHOT_RUNS_MAX);
                for (size_t i = 0; i < state.info.map.n_runs; i++) {
                        const struct snapshot_run *run = &state.info.map.runs[i];

                        require(run->first == pages && run->n && (run->layer == SNAPSHOT_ZERO || run->layer < state.info.n_layers));
                        pages += run->n;
                }
                require(pages << 12 == state.info.ram_size);
                require(state.machine_len <= len);
                snapshot_state_free(&state);
        }
        return 0;
}
