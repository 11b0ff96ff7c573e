/* What the host is and lets programs do; apart, because <sys/auxv.h> and the guest's page-fault bits use the same names. */
#include <cpuid.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/auxv.h>

bool translate_host_fsgsbase(void);
bool translate_host_jump_erratum(void);

bool translate_host_fsgsbase(void)
{
        const unsigned long fsgsbase = 2; /* HWCAP2_FSGSBASE: the kernel has enabled WRGSBASE */

        return getauxval(AT_HWCAP2) & fsgsbase;
}

/* Skylake and what was made from it until 2019. Source: Intel, "Mitigations for Jump Conditional Code Erratum", section 2.1. */
bool translate_host_jump_erratum(void)
{
        static const unsigned char models[] = { 0x4e, 0x5e, 0x55, 0x8e, 0x9e, 0xa6, 0xae };
        unsigned eax, ebx, ecx, edx, family, model;

        if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx))
                return false;
        family = eax >> 8 & 15;
        model = (eax >> 4 & 15) | (eax >> 12 & 0xf0);
        for (size_t i = 0; family == 6 && i < sizeof(models); i++)
                if (models[i] == model)
                        return true;
        return false;
}
