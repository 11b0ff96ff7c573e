/* Seccomp profiles: whatever the JSON is, what comes out is an error or a program that the kernel's own checks would
 * pass. */
#include <jansson.h>

#include "box/seccomp/internal.h"
#include "input.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        json_t *json = json_loadb((const char *)data, len, JSON_DECODE_ANY, NULL);
        struct seccomp_filter *filter = NULL;
        struct err *err = NULL;
        const int r = seccomp_filter_compile(json, false, &filter, &err);

        require((r < 0) == (err != NULL));
        require(r >= 0 || !filter);
        if (filter)
                require(bpf_check(filter->insn, filter->n_insns) == 0);
        seccomp_filter_free(filter);
        err_free(err);
        json_decref(json);
        return 0;
}
