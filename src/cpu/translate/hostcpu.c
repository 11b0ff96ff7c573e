/* What the host lets programs do; apart, because <sys/auxv.h> and the guest's page-fault bits use the same names. */
#include <stdbool.h>
#include <sys/auxv.h>

bool translate_host_fsgsbase(void);

bool translate_host_fsgsbase(void)
{
        const unsigned long fsgsbase = 2; /* HWCAP2_FSGSBASE: the kernel has enabled WRGSBASE */

        return getauxval(AT_HWCAP2) & fsgsbase;
}
