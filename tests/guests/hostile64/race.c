/* The second CPU runs user code that reads, writes and executes pages at random; the first changes what they are mapped to, has the second forget it
 * (an IPI, answered when it is done) and looks whether anything of the old mapping is used after the answer. Checks itself. Needs two CPUs.
 * Options: seed, count, timer (of the second CPU). */
#include "kernel.h"

#define PAGES 64u
#define REGION_VA 0x7f5500000000ul
#define CODE_VA 0x60000000ul
#define VERSIONS_VA 0x60010000ul
#define IDENT 0x5ee0000000000000ul
#define CODE_AT 0x800 /* mov eax, version; ret */
#define POISON 0xee   /* not an instruction that user code may execute, not a version, not an identity */

extern const u8 race_user[], race_user_end[];

static struct page {
        u64 frame, other;
        u64 *entry;
        u32 version;
        int poisoned; /* the other frame is full of POISON, and must stay so */
} pages[PAGES];
static volatile u32 *versions;
static u64 tops[2]; /* address spaces of the second CPU; both have the region's tables */
static u64 code_frame;
static int has_pcid, has_invpcid;
static u64 faults;

/* ---- the second CPU ---- */

static volatile u64 forget_va, forget_how, asked, answered;
static unsigned space;
static int space_is_stale[2];

static void switch_space(unsigned to)
{
        const int keep = has_pcid && !space_is_stale[to];

        space = to;
        space_is_stale[to] = 0;
        write_cr3(tops[to] | (has_pcid ? (to + 1) | (keep ? CR3_KEEP : 0) : 0));
}

static void forget(void)
{
        const u64 va = forget_va;

        if (__atomic_load_n(&asked, __ATOMIC_ACQUIRE) == answered)
                return;
        switch (forget_how) {
        case 0:
                invlpg(va);
                space_is_stale[!space] = 1;
                break;
        case 1:
                space_is_stale[0] = space_is_stale[1] = 1;
                switch_space(!space);
                break;
        case 2:
                write_cr4(read_cr4() ^ CR4_PGE);
                write_cr4(read_cr4() ^ CR4_PGE);
                break;
        case 3:
                if (has_pcid && has_invpcid) {
                        invpcid(0, 1, va);
                        invpcid(0, 2, va);
                } else {
                        invlpg(va);
                        space_is_stale[!space] = 1;
                }
                break;
        }
        __atomic_store_n(&answered, answered + 1, __ATOMIC_RELEASE);
}

static void second(void)
{
        struct frame f = { .r12 = rdtsc() };

        if (has_pcid)
                write_cr4(read_cr4() | CR4_PCIDE);
        space_is_stale[0] = space_is_stale[1] = 1;
        switch_space(0);
        cpus[1].on_ipi = forget;
        if (option("timer", 0))
                timer_start(option("timer", 0));
        set_user_bases(0, 0);
        for (unsigned turn = 0;; turn++) {
                f.rip = CODE_VA;
                f.cs = USER_CS;
                f.ss = USER_SS;
                f.rflags = 0x202;
                f.r8 = REGION_VA;
                f.r9 = PAGES - 1;
                f.r10 = VERSIONS_VA;
                f.r15 = IDENT;
                f.vector = 0;
                user_run(&f);
                /* It may have returned to 0: the page of its stack was exchanged for a new one meanwhile. */
                if (f.vector != VEC_PF || (f.cr2 - REGION_VA >= PAGES * PAGE && (f.cr2 || f.rip))) {
                        put("race:");
                        put_field("vector", f.vector);
                        put_field("rip", f.rip);
                        put_field("cr2", f.cr2);
                        put_field("page", f.rbx);
                        put_field("rax", f.rax);
                        put_field("version", f.r14);
                        put("\n");
                        fail("a page is not itself");
                }
                __atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
                if (turn % 8 == 0)
                        switch_space(!space);
        }
}

/* ---- the first CPU ---- */

static void shoot_down(unsigned page)
{
        const u64 began = rdtsc();

        forget_va = REGION_VA + page * PAGE;
        forget_how = below(4);
        __atomic_store_n(&asked, asked + 1, __ATOMIC_RELEASE);
        send_ipi(1, VEC_IPI);
        while (__atomic_load_n(&answered, __ATOMIC_ACQUIRE) != asked) {
                __asm__ volatile("pause");
                if (rdtsc() - began > 60000000000ul)
                        fail("no answer to an IPI");
        }
}

static void bad(const char *what, unsigned page, u64 offset)
{
        put("race: page");
        put_field("number", page);
        put_field("offset", offset);
        put_field("entry", *pages[page].entry);
        put("\n");
        fail(what);
}

static void check_poison(unsigned page)
{
        const u64 *at = at_phys(pages[page].other);

        for (unsigned i = 0; pages[page].poisoned && i < PAGE / 8; i++)
                if (at[i] != POISON * 0x0101010101010101ul)
                        bad("a page that nobody has was written", page, i * 8);
}

static void set_version(u64 frame, u32 version)
{
        u8 *code = (u8 *)at_phys(frame) + CODE_AT;

        __atomic_store_n((u32 *)(code + 4), version, __ATOMIC_RELEASE);
        if (code[3] == 0xb8)
                return;
        memset(code, 0x90, 3);
        code[8] = 0xc3;
        code[3] = 0xb8;
}

static void fill(unsigned page, u64 frame, u32 version)
{
        u64 *at = at_phys(frame);

        memset(at, 0, PAGE);
        at[0] = at[4] = IDENT + page;
        set_version(frame, version);
}

static void wait_a_little(void)
{
        const u64 until = rdtsc() + below(20000);

        while (rdtsc() < until)
                __asm__ volatile("pause");
}

/* To the other frame; what was there becomes poison. */
static void swap(unsigned n)
{
        struct page *p = &pages[n];
        const u64 old = p->frame;

        check_poison(n);
        p->poisoned = 0;
        fill(n, p->other, ++p->version);
        __atomic_store_n(p->entry, p->other | PTE_USER, __ATOMIC_RELEASE);
        shoot_down(n);
        memset(at_phys(old), POISON, PAGE);
        p->frame = p->other;
        p->other = old;
        p->poisoned = 1;
        versions[n] = p->version;
}

/* Away, or without a right, for a while: then nothing is written. */
static void restrict_page(unsigned n, u64 entry)
{
        static u64 kept[PAGE / 8];
        struct page *p = &pages[n];
        const u64 *at = at_phys(p->frame);

        __atomic_store_n(p->entry, entry, __ATOMIC_RELEASE);
        shoot_down(n);
        copy(kept, at, PAGE);
        wait_a_little();
        for (unsigned i = 0; i < PAGE / 8; i++)
                if (((const volatile u64 *)at)[i] != kept[i])
                        bad("written without the right", n, i * 8);
        __atomic_store_n(p->entry, p->frame | PTE_USER, __ATOMIC_RELEASE);
}

/* Who writes says so in the entry, before. */
static void clean(unsigned n)
{
        struct page *p = &pages[n];
        const volatile u64 *count = (const u64 *)at_phys(p->frame) + 8;
        u64 before;

        __atomic_and_fetch(p->entry, ~(PTE_A | PTE_D), __ATOMIC_SEQ_CST);
        shoot_down(n);
        before = *count;
        if (__atomic_load_n(p->entry, __ATOMIC_ACQUIRE) & PTE_D)
                return;
        wait_a_little();
        if (*count != before && !(__atomic_load_n(p->entry, __ATOMIC_ACQUIRE) & PTE_D))
                bad("written and not dirty", n, 0x40);
}

/* Other code at the same place: seen after an IPI, which serializes. */
static void patch(unsigned n)
{
        struct page *p = &pages[n];

        set_version(p->frame, ++p->version);
        shoot_down(n);
        versions[n] = p->version;
}

static void make_spaces(void)
{
        const u64 shared = frame_alloc();

        code_frame = frame_alloc();
        copy(at_phys(code_frame), race_user, (u64)(race_user_end - race_user));
        versions = at_phys(shared);
        for (unsigned s = 0; s < 2; s++) {
                tops[s] = space_new();
                *space_entry(tops[s], CODE_VA, 1) = code_frame | PTE_P | PTE_U;
                *space_entry(tops[s], VERSIONS_VA, 1) = shared | PTE_P | PTE_U;
        }
        for (unsigned i = 0; i < PAGES; i++) {
                pages[i].frame = frame_alloc();
                pages[i].other = frame_alloc();
                pages[i].entry = space_entry(tops[0], REGION_VA + i * PAGE, 1);
                fill(i, pages[i].frame, 0);
                *pages[i].entry = pages[i].frame | PTE_USER;
        }
        *space_entry(tops[1], REGION_VA, 2) = *space_entry(tops[0], REGION_VA, 2);
}

void test_race(void)
{
        const u64 count = option("count", 5000);
        u32 features[4];

        cpuid(1, 0, features);
        has_pcid = features[2] >> 17 & 1;
        cpuid(7, 0, features);
        has_invpcid = features[1] >> 10 & 1;
        make_spaces();
        second_start(second);
        for (u64 i = 0; i < count; i++) {
                const unsigned n = (unsigned)below(PAGES);

                switch (below(8)) {
                case 0 ... 2:
                        swap(n);
                        break;
                case 3:
                        restrict_page(n, pages[n].frame | PTE_P | PTE_U);
                        break;
                case 4:
                        restrict_page(n, pages[n].frame | PTE_P | PTE_W);
                        break;
                case 5:
                        restrict_page(n, 0);
                        break;
                case 6:
                        clean(n);
                        break;
                case 7:
                        patch(n);
                        break;
                }
        }
        for (unsigned i = 0; i < PAGES; i++)
                check_poison(i);
        put_field("changes", count);
        put_field("faults", faults);
        put_field("interrupts", cpus[1].interrupts);
        put("\n");
        if (!faults)
                fail("the second CPU met no change");
}
