/* A kernel for hostile user programs: everything that a test needs and nothing else. One address space per test, 4 KiB frames that are never given
 * back, messages on the serial port. User code runs inside user_run(), one call at a time on each CPU. */
#pragma once

#include "layout.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define PAGE 4096ul
#define PTE_P 1ul
#define PTE_W 2ul
#define PTE_U 4ul
#define PTE_A 0x20ul
#define PTE_D 0x40ul
#define PTE_PS 0x80ul
#define PTE_G 0x100ul
#define PTE_NX (1ul << 63)
#define PTE_FRAME 0x000ffffffffff000ul
#define PTE_USER (PTE_P | PTE_W | PTE_U)

#define CR3_KEEP (1ul << 63)
#define CR4_PGE 0x80ul
#define CR4_PCIDE 0x20000ul

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_I 16u

enum { VEC_DE = 0, VEC_BP = 3, VEC_UD = 6, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_AC = 17, VEC_TIMER = 48, VEC_IPI = 49, VEC_SPURIOUS = 63 };

struct frame {
        u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
        u64 vector, error, rip, cs, rflags, rsp, ss;
        u64 cr2; /* of a page fault */
};

/* A CPU's own data, at its kernel GS base. Offsets: layout.h. */
struct cpu {
        struct frame *frame;
        u64 stack, user_rsp, trap_stack;
        void (*on_ipi)(void);
        u64 gs_base; /* the user's next one, while the kernel runs */
        u64 timer_period; /* in local-APIC timer ticks, 0: off */
        u64 interrupts;
} __attribute__((aligned(64)));

extern struct cpu cpus[2];
extern u64 seed;
extern u8 trampoline[], trampoline_end[], vector_entries[];

void user_run(struct frame *frame);

/* ---- text ---- */
void put(const char *text);
void put_hex(u64 value);
void put_field(const char *name, u64 value); /* " name=value" */
/* Says what went wrong and ends the machine with status 3. */
__attribute__((noreturn)) void fail(const char *what);
__attribute__((noreturn)) void finish(void); /* status 1 */
/* The number behind "NAME=" on the command line. */
u64 option(const char *name, u64 otherwise);
int option_is(const char *name, const char *value);

/* ---- random numbers; hashes ---- */
u64 rnd(void);
static inline u64 below(u64 n)
{
        return (rnd() >> 11) % n;
}
static inline u64 hash_add(u64 hash, u64 value)
{
        hash = (hash ^ value) * 0x9e3779b97f4a7c15ul;
        return hash ^ hash >> 29;
}

/* ---- memory ---- */
static inline void *at_phys(u64 pa)
{
        return (void *)(pa + KERNEL_BASE);
}
u64 frame_alloc(void); /* physical address, zeroed */
/* A new top table that shares the kernel's half. */
u64 space_new(void);
/* The entry that maps @va at @level (1: 4 KiB, 2: 2 MiB), tables made as needed. */
u64 *space_entry(u64 top, u64 va, unsigned level);
void copy(void *to, const void *from, u64 size);
void *memset(void *to, int value, u64 size); /* these two: gcc calls them, too */
void *memcpy(void *to, const void *from, u64 size);

/* ---- the processor ---- */
static inline u64 rdmsr(u32 msr)
{
        u32 low, high;

        __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
        return low | (u64)high << 32;
}
static inline void wrmsr(u32 msr, u64 value)
{
        __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
static inline u64 read_cr3(void)
{
        u64 v;

        __asm__ volatile("mov %%cr3, %0" : "=r"(v));
        return v;
}
static inline void write_cr3(u64 v)
{
        __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory");
}
static inline u64 read_cr4(void)
{
        u64 v;

        __asm__ volatile("mov %%cr4, %0" : "=r"(v));
        return v;
}
static inline void write_cr4(u64 v)
{
        __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory");
}
static inline void invlpg(u64 va)
{
        __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}
static inline void invpcid(u64 type, u64 pcid, u64 va)
{
        const struct { u64 pcid, va; } descriptor = { pcid, va };

        __asm__ volatile("invpcid %1, %0" : : "r"(type), "m"(descriptor) : "memory");
}
void cpuid(u32 leaf, u32 sub, u32 out[4]);
/* The segment bases that user code will see; false when a base cannot be set. */
void set_user_bases(u64 fs, u64 gs);
void send_ipi(unsigned cpu, u8 vector);
/* Starts the second CPU in @function, which has its own stack and no way back. */
void second_start(void (*function)(void));
void timer_start(u64 period);
static inline u64 rdtsc(void)
{
        u32 low, high;

        __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
        return low | (u64)high << 32;
}

/* ---- the tests ---- */
void test_probe(void);
void test_tlb(void);
void test_race(void);
