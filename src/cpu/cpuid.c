/* CPUID. The feature bits come from cpuid.def; what is not a feature bit (vendor, caches, topology, XSAVE sizes, TSC
 * frequency) comes from a list of leaves with a function each. */
#include "cpuid_model.h"

#include <cpuid.h>
#include <pthread.h>
#include <string.h>

#include "base/clock.h"

enum { EAX, EBX, ECX, EDX };
enum source { SOFT, HOST };

static const struct feature {
        const char *name;
        u32 leaf, subleaf;
        u8 reg, bit, source;
} features[CPUID_FEATURE_COUNT] = {
#define CPUID_FEATURE(id, leaf, subleaf, reg, bit, source, why) [CPUID_##id] = { #id, leaf, subleaf, reg, bit, source },
#include "cpuid.def"
#undef CPUID_FEATURE
};

/* The model after masking by this host; constant from the first use on. */
static struct {
        pthread_once_t once;
        u64 has[CPUID_FEATURE_WORDS];
} model = { .once = PTHREAD_ONCE_INIT };

static void host_cpuid(u32 leaf, u32 subleaf, struct cpuid_regs *ret)
{
        u32 max = __get_cpuid_max(leaf & 0x80000000, NULL);

        *ret = (struct cpuid_regs){ 0 };
        if (leaf <= max)
                __cpuid_count(leaf, subleaf, ret->eax, ret->ebx, ret->ecx, ret->edx);
}

static u32 *reg_of(struct cpuid_regs *regs, unsigned reg)
{
        u32 *const r[] = { &regs->eax, &regs->ebx, &regs->ecx, &regs->edx };

        return r[reg];
}

static void drop(u64 *has, enum cpuid_feature feature)
{
        has[feature / 64] &= ~BIT(feature % 64);
}

static bool in(const u64 *has, enum cpuid_feature feature)
{
        return has[feature / 64] & BIT(feature % 64);
}

/* What a feature needs to make sense. A host that hides one of a pair must not leave the guest with the other. */
static const struct {
        enum cpuid_feature feature, needs;
} dependencies[] = {
        { CPUID_AVX, CPUID_XSAVE },      { CPUID_XSAVEOPT, CPUID_XSAVE }, { CPUID_XSAVEC, CPUID_XSAVE },
        { CPUID_XGETBV1, CPUID_XSAVE },  { CPUID_AVX2, CPUID_AVX },       { CPUID_FMA, CPUID_AVX },
        { CPUID_F16C, CPUID_AVX },
};

void cpuid_model_build(cpuid_host_fn host, u64 ret_has[CPUID_FEATURE_WORDS])
{
        memset(ret_has, 0, CPUID_FEATURE_WORDS * sizeof(*ret_has));
        for (unsigned i = 0; i < CPUID_FEATURE_COUNT; i++) {
                const struct feature *f = &features[i];
                struct cpuid_regs regs = { 0 };

                if (f->source == HOST) {
                        host(f->leaf, f->subleaf, &regs);
                        if (!(*reg_of(&regs, f->reg) & BIT(f->bit)))
                                continue;
                }
                ret_has[i / 64] |= BIT(i % 64);
        }
        for (size_t i = 0; i < ARRAY_SIZE(dependencies); i++)
                if (!in(ret_has, dependencies[i].needs))
                        drop(ret_has, dependencies[i].feature);
}

static void build_model(void)
{
        cpuid_model_build(host_cpuid, model.has);
}

bool cpuid_has(enum cpuid_feature feature)
{
        pthread_once(&model.once, build_model);
        return in(model.has, feature);
}

const char *cpuid_feature_name(enum cpuid_feature feature)
{
        return features[feature].name;
}

void cpuid_feature_place(enum cpuid_feature feature, u32 *ret_leaf, u32 *ret_subleaf, unsigned *ret_reg,
                         unsigned *ret_bit)
{
        *ret_leaf = features[feature].leaf;
        *ret_subleaf = features[feature].subleaf;
        *ret_reg = features[feature].reg;
        *ret_bit = features[feature].bit;
}

u64 cpuid_xcr0_supported(void)
{
        return XCR0_X87 | XCR0_SSE | (cpuid_has(CPUID_AVX) ? XCR0_AVX : 0);
}

u64 cpuid_cr4_supported(void)
{
        static const struct {
                enum cpuid_feature feature;
                u64 bits;
        } conditional[] = {
                { CPUID_DE, CR4_DE },       { CPUID_PSE, CR4_PSE },           { CPUID_PAE, CR4_PAE },
                { CPUID_MCE, CR4_MCE },     { CPUID_PGE, CR4_PGE },           { CPUID_TSC, CR4_TSD },
                { CPUID_FXSR, CR4_OSFXSR }, { CPUID_SSE, CR4_OSXMMEXCPT },    { CPUID_UMIP, CR4_UMIP },
                { CPUID_PCID, CR4_PCIDE },  { CPUID_FSGSBASE, CR4_FSGSBASE }, { CPUID_XSAVE, CR4_OSXSAVE },
                { CPUID_SMEP, CR4_SMEP },   { CPUID_SMAP, CR4_SMAP },
        };
        /* CR4.PCE exists even without performance counters: RDPMC is then always #GP. */
        u64 cr4 = CR4_PCE;

        for (size_t i = 0; i < ARRAY_SIZE(conditional); i++)
                if (cpuid_has(conditional[i].feature))
                        cr4 |= conditional[i].bits;
        return cr4;
}

/* ---- leaves that are more than feature bits ---- */

/* Bits needed to tell @n CPUs apart. */
static unsigned id_bits(unsigned n)
{
        return n <= 1 ? 0 : 32 - (unsigned)__builtin_clz(n - 1);
}

static void put_text(struct cpuid_regs *ret, const char text[16])
{
        memcpy(&ret->eax, text, 4);
        memcpy(&ret->ebx, text + 4, 4);
        memcpy(&ret->ecx, text + 8, 4);
        memcpy(&ret->edx, text + 12, 4);
}

#define MAX_BASIC 0x16u
#define MAX_EXTENDED 0x80000008u
#define MAX_HYPERVISOR CPUID_KVM_FEATURES

static void leaf_vendor(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        *ret = (struct cpuid_regs){ MAX_BASIC, 0x756e6547, 0x6c65746e, 0x49656e69 }; /* GenuineIntel */
}

static void leaf_version(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        ret->eax = CPU_SIGNATURE;
        /* CLFLUSH line of 8 quadwords, number of APIC ids reserved, initial APIC id. */
        ret->ebx = 8u << 8 | MIN(1u << id_bits(vcpu->n_vcpus), 255u) << 16 | (vcpu->index & 0xff) << 24;
        if (vcpu->n_vcpus > 1)
                ret->edx |= BIT(28); /* HTT: more than one logical processor in the package */
        if (vcpu->state.apic_base & BIT(11))
                ret->edx |= BIT(9); /* APIC, while it is enabled */
        if (vcpu->state.paging.cr4 & CR4_OSXSAVE)
                ret->ecx |= BIT(27);
}

static void leaf_cache_descriptors(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        ret->eax = 0x0000ff01; /* "look in leaf 4" and nothing about TLBs */
}

/* Deterministic cache parameters: 32 KiB + 32 KiB L1, 2 MiB L2 of each core, 16 MiB L3 of all. */
static void leaf_caches(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        static const struct {
                u32 type, level, ways, sets;
                bool shared;
        } caches[] = {
                { 1, 1, 8, 64, false }, { 2, 1, 8, 64, false }, { 3, 2, 16, 2048, false }, { 3, 3, 16, 16384, true },
        };
        u32 ids = (1u << id_bits(vcpu->n_vcpus)) - 1;

        if (subleaf >= ARRAY_SIZE(caches))
                return;
        ret->eax = caches[subleaf].type | caches[subleaf].level << 5 | 1u << 8 | MIN(ids, 63u) << 26;
        if (caches[subleaf].shared)
                ret->eax |= MIN(ids, 0xfffu) << 14;
        ret->ebx = (caches[subleaf].ways - 1) << 22 | 63;
        ret->ecx = caches[subleaf].sets - 1;
        ret->edx = caches[subleaf].shared ? 2 : 0; /* inclusive */
}

static void leaf_features(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        if (subleaf == 0)
                ret->eax = 2; /* the highest subleaf */
}

/* One package, one thread a core. Source: SDM 2A, leaf 0BH. */
static void leaf_topology(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        ret->ecx = subleaf & 0xff;
        ret->edx = vcpu->index;
        if (subleaf == 0) {
                ret->ebx = 1;
                ret->ecx |= 1 << 8; /* SMT level */
        } else if (subleaf == 1) {
                ret->eax = id_bits(vcpu->n_vcpus);
                ret->ebx = vcpu->n_vcpus;
                ret->ecx |= 2 << 8; /* core level */
        }
}

static u32 xsave_size(u64 xcr0)
{
        return xcr0 & XCR0_AVX ? XSAVE_SIZE : XSAVE_YMM_OFFSET;
}

/* XSAVE. Sizes follow XCR0. With x87, SSE and AVX alone the compacted and the standard format have the same layout. */
static void leaf_xsave(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        if (!cpuid_has(CPUID_XSAVE))
                return;
        switch (subleaf) {
        case 0:
                *ret = (struct cpuid_regs){ (u32)cpuid_xcr0_supported(), xsave_size(vcpu->state.xcr0),
                                            xsave_size(cpuid_xcr0_supported()), 0 };
                break;
        case 1:
                if (cpuid_has(CPUID_XSAVEC))
                        ret->ebx = xsave_size(vcpu->state.xcr0);
                break;
        case 2:
                if (cpuid_has(CPUID_AVX))
                        *ret = (struct cpuid_regs){ XSAVE_SIZE - XSAVE_YMM_OFFSET, XSAVE_YMM_OFFSET, 0, 0 };
                break;
        default:
                break;
        }
}

/* TSC = crystal * EBX / EAX. The crystal also feeds the LAPIC timer, 1 GHz in all engines as in the kernel's LAPIC. */
static void leaf_tsc(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        *ret = (struct cpuid_regs){ 1000000, (u32)(clock_tsc_hz() / 1000), 1000000000, 0 };
}

static void leaf_frequency(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        u32 mhz = (u32)(clock_tsc_hz() / 1000000) & 0xffff;

        *ret = (struct cpuid_regs){ mhz, mhz, 100, 0 };
}

static void leaf_hypervisor(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        /* "KVMKVMKVM": the paravirtual clock is KVM's interface. */
        *ret = (struct cpuid_regs){ MAX_HYPERVISOR, 0x4b4d564b, 0x564b4d56, 0x0000004d };
}

static void leaf_max_extended(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        ret->eax = MAX_EXTENDED;
}

static const char brand[3][16] = { "Strata Virtual C", "PU", "" };

static void leaf_brand0(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        put_text(ret, brand[0]);
}

static void leaf_brand1(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        put_text(ret, brand[1]);
}

static void leaf_brand2(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        put_text(ret, brand[2]);
}

static void leaf_l2(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        ret->ecx = 2048u << 16 | 8u << 12 | 64; /* KiB, 16-way, line */
}

static void leaf_address_size(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret)
{
        ret->eax = MMU_MAXPHYADDR | 48 << 8;
}

/* Every leaf that is not all zeros; @subleaves > 1 where ECX matters. Feature bits are added from the table. */
static const struct leaf {
        u32 leaf, subleaves;
        void (*fill)(const struct vcpu *vcpu, u32 subleaf, struct cpuid_regs *ret);
} leaves[] = {
        { 0x00000000, 1, leaf_vendor },
        { 0x00000001, 1, leaf_version },
        { 0x00000002, 1, leaf_cache_descriptors },
        { 0x00000004, 5, leaf_caches },
        { 0x00000006, 1, NULL },
        { 0x00000007, 3, leaf_features },
        { 0x0000000b, 3, leaf_topology },
        { 0x0000000d, 3, leaf_xsave },
        { 0x00000015, 1, leaf_tsc },
        { 0x00000016, 1, leaf_frequency },
        { CPUID_KVM_SIGNATURE, 1, leaf_hypervisor },
        { CPUID_KVM_FEATURES, 1, NULL },
        { 0x80000000, 1, leaf_max_extended },
        { 0x80000001, 1, NULL },
        { 0x80000002, 1, leaf_brand0 },
        { 0x80000003, 1, leaf_brand1 },
        { 0x80000004, 1, leaf_brand2 },
        { 0x80000006, 1, leaf_l2 },
        { 0x80000007, 1, NULL },
        { 0x80000008, 1, leaf_address_size },
};

/* Beyond the last leaf of a range Intel processors answer as for the highest basic leaf. Source: SDM 2A, CPUID. */
static bool in_range(u32 leaf)
{
        if (leaf >= 0x80000000)
                return leaf <= MAX_EXTENDED;
        if (leaf >= CPUID_KVM_SIGNATURE)
                return leaf <= MAX_HYPERVISOR;
        return leaf <= MAX_BASIC;
}

static const struct leaf *find_leaf(u32 leaf)
{
        for (size_t i = 0; i < ARRAY_SIZE(leaves); i++)
                if (leaves[i].leaf == leaf)
                        return &leaves[i];
        return NULL;
}

void cpuid_query(const struct vcpu *vcpu, u32 leaf, u32 subleaf, struct cpuid_regs *ret)
{
        struct cpuid_regs regs = { 0 };
        const struct leaf *l;

        l = find_leaf(in_range(leaf) ? leaf : MAX_BASIC);
        if (l) {
                if (l->subleaves == 1)
                        subleaf = 0;
                for (unsigned i = 0; i < CPUID_FEATURE_COUNT; i++)
                        if (features[i].leaf == l->leaf && features[i].subleaf == subleaf && cpuid_has(i))
                                *reg_of(&regs, features[i].reg) |= (u32)BIT(features[i].bit);
                if (l->fill)
                        l->fill(vcpu, subleaf, &regs);
        }
        *ret = regs;
}

bool cpuid_enumerate(size_t index, u32 *ret_leaf, u32 *ret_subleaf, bool *ret_indexed)
{
        for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
                if (index < leaves[i].subleaves) {
                        *ret_leaf = leaves[i].leaf;
                        *ret_subleaf = (u32)index;
                        *ret_indexed = leaves[i].subleaves > 1;
                        return true;
                }
                index -= leaves[i].subleaves;
        }
        return false;
}
