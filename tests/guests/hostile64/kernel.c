#include "kernel.h"

#define COM1 0x3f8
#define DEBUG_EXIT 0xf4
#define LAPIC 0xffffffffc0000000 /* where the local APIC is mapped */
#define LAPIC_PHYS 0xfee00000ul
#define FRAMES_AT 0x800000ul
#define FRAMES_END 0x3000000ul

#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

#define CR4_FSGSBASE 0x10000ul
#define CR4_OSXSAVE 0x40000ul

struct tss {
        u32 reserved;
        u64 rsp[3], reserved_2, ist[7], reserved_3;
        u16 reserved_4, io_map;
} __attribute__((packed));

extern u64 kernel_pdpt[], multiboot_info, boot_pml4[];
void syscall_entry(void);
void user_return(void);
void main(void);
void second_main(void);
void trap(struct frame *frame);

struct cpu cpus[2];
u64 seed;
static u64 gdt[2][9];
static struct tss tss[2];
static u64 idt[VECTORS][2];
static u8 trap_stacks[2][16384] __attribute__((aligned(64)));
static u64 next_frame = FRAMES_AT;
static void (*second_function)(void);
static volatile u32 second_is_up;

/* ---- text ---- */

static void outb(u16 port, u8 value)
{
        __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

void put(const char *text)
{
        for (; *text; text++)
                outb(COM1, (u8)*text);
}

void put_hex(u64 value)
{
        char text[19] = "0x";
        unsigned n = 2;

        for (int shift = 60; shift >= 0; shift -= 4)
                if (value >> shift || !shift)
                        text[n++] = "0123456789abcdef"[value >> shift & 15];
        text[n] = 0;
        put(text);
}

void put_field(const char *name, u64 value)
{
        put(" ");
        put(name);
        put("=");
        put_hex(value);
}

static void __attribute__((noreturn)) end(u32 value)
{
        __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"((u16)DEBUG_EXIT));
        for (;;)
                __asm__ volatile("cli; hlt");
}

void fail(const char *what)
{
        put("FAILED: ");
        put(what);
        put("\n");
        end(1);
}

void finish(void)
{
        put("done\n");
        end(0);
}

static const char *find_option(const char *name)
{
        const u32 *info = at_phys(multiboot_info);
        const char *line = at_phys(info[4]);

        for (; *line; line++) {
                const char *a = line, *b = name;

                while (*b && *a == *b)
                        a++, b++;
                if (!*b && *a == '=' && line[-1] == ' ')
                        return a + 1;
        }
        return 0;
}

u64 option(const char *name, u64 otherwise)
{
        const char *text = find_option(name);
        u64 value = 0;

        if (!text)
                return otherwise;
        for (; *text >= '0' && *text <= '9'; text++)
                value = value * 10 + (u64)(*text - '0');
        return value;
}

int option_is(const char *name, const char *value)
{
        const char *text = find_option(name);

        if (!text)
                return 0;
        while (*value && *text == *value)
                text++, value++;
        return !*value && (!*text || *text == ' ');
}

/* ---- random numbers, memory ---- */

u64 rnd(void)
{
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        return seed;
}

void copy(void *to, const void *from, u64 size)
{
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

void *memset(void *to, int value, u64 size)
{
        void *at = to;

        __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(value) : "memory");
        return to;
}

void *memcpy(void *to, const void *from, u64 size)
{
        copy(to, from, size);
        return to;
}

u64 frame_alloc(void)
{
        const u64 pa = next_frame;

        if (pa >= FRAMES_END)
                fail("out of memory");
        next_frame += PAGE;
        memset(at_phys(pa), 0, PAGE);
        return pa;
}

u64 space_new(void)
{
        const u64 top = frame_alloc();

        ((u64 *)at_phys(top))[511] = boot_pml4[511];
        return top;
}

u64 *space_entry(u64 top, u64 va, unsigned level)
{
        u64 *table = at_phys(top);

        for (unsigned l = 4;; l--) {
                u64 *entry = &table[va >> (12 + 9 * (l - 1)) & 511];

                if (l == level)
                        return entry;
                if (!(*entry & PTE_P))
                        *entry = frame_alloc() | PTE_USER;
                table = at_phys(*entry & PTE_FRAME);
        }
}

/* ---- processor ---- */

void cpuid(u32 leaf, u32 sub, u32 out[4])
{
        __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(sub));
}

void set_user_bases(u64 fs, u64 gs)
{
        wrmsr(MSR_FS_BASE, fs);
        wrmsr(MSR_KERNEL_GS_BASE, gs);
}

static volatile u32 *lapic(unsigned reg)
{
        return (volatile u32 *)(LAPIC + reg);
}

void send_ipi(unsigned cpu, u8 vector)
{
        *lapic(0x310) = cpu << 24;
        *lapic(0x300) = 0x4000u | vector;
}

void timer_start(u64 period)
{
        struct cpu *cpu = &cpus[*lapic(0x20) >> 24];

        cpu->timer_period = period;
        *lapic(0x3e0) = 0xb; /* by 1 */
        *lapic(0x320) = VEC_TIMER; /* once */
        *lapic(0x380) = (u32)period;
}

static void set_gate(unsigned vector, u64 at, unsigned dpl)
{
        idt[vector][0] = (at & 0xffff) | (u64)KERNEL_CS << 16 | 0x8e00ul << 32 | (u64)dpl << 45 | (at >> 16 & 0xffff) << 48;
        idt[vector][1] = at >> 32;
}

static void cpu_init(unsigned n)
{
        struct { u16 limit; u64 base; } __attribute__((packed)) gdtr = { sizeof(gdt[n]) - 1, (u64)gdt[n] }, idtr = { sizeof(idt) - 1, (u64)idt };
        const u64 base = (u64)&tss[n];
        u32 features[4];

        cpus[n].trap_stack = (u64)trap_stacks[n + 1];
        tss[n].rsp[0] = cpus[n].trap_stack;
        tss[n].io_map = sizeof(tss[n]);
        gdt[n][1] = 0x00af9b000000ffff;
        gdt[n][2] = 0x00cf93000000ffff;
        gdt[n][3] = 0x00cffb000000ffff;
        gdt[n][4] = 0x00cff3000000ffff;
        gdt[n][5] = 0x00affb000000ffff;
        gdt[n][6] = 0x890000000000 | (sizeof(tss[n]) - 1) | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
        gdt[n][7] = base >> 32;
        __asm__ volatile("lgdt %0; lidt %1; ltr %w2" : : "m"(gdtr), "m"(idtr), "r"(0x30) : "memory");
        wrmsr(MSR_STAR, (u64)KERNEL_CS << 32 | 0x1bul << 48);
        wrmsr(MSR_LSTAR, (u64)syscall_entry);
        wrmsr(MSR_SFMASK, 0x44700);
        wrmsr(MSR_GS_BASE, (u64)&cpus[n]);
        cpuid(7, 0, features);
        if (features[1] & 1)
                write_cr4(read_cr4() | CR4_FSGSBASE);
        cpuid(1, 0, features);
        if (features[2] & 1u << 28) {
                write_cr4(read_cr4() | CR4_OSXSAVE);
                __asm__ volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
        }
        *lapic(0xf0) = 0x100 | VEC_SPURIOUS;
}

static void delay(u64 ticks)
{
        const u64 until = rdtsc() + ticks;

        while (rdtsc() < until)
                __asm__ volatile("pause");
}

void second_main(void)
{
        cpu_init(1);
        __atomic_store_n(&second_is_up, 1, __ATOMIC_RELEASE);
        second_function();
        for (;;)
                ;
}

void second_start(void (*function)(void))
{
        second_function = function;
        copy(at_phys(TRAMPOLINE), trampoline, (u64)(trampoline_end - trampoline));
        *lapic(0x310) = 1u << 24;
        *lapic(0x300) = 0x4500; /* INIT */
        delay(10000000);
        for (unsigned i = 0; i < 2 && !second_is_up; i++) {
                *lapic(0x310) = 1u << 24;
                *lapic(0x300) = 0x4600 | TRAMPOLINE >> 12;
                delay(i ? 2000000000 : 100000000);
        }
        while (!__atomic_load_n(&second_is_up, __ATOMIC_ACQUIRE))
                __asm__ volatile("pause");
}

/* ---- traps ---- */

void trap(struct frame *frame)
{
        struct cpu *cpu;

        if (!(frame->cs & 3)) {
                u64 cr2;

                __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
                put("kernel fault:");
                put_field("vector", frame->vector);
                put_field("error", frame->error);
                put_field("rip", frame->rip);
                put_field("rsp", frame->rsp);
                put_field("cr2", cr2);
                put("\n");
                fail("a fault in the kernel");
        }
        __asm__("mov %%gs:%c1, %0" : "=r"(cpu) : "i"(CPU_TRAP_STACK));
        cpu = &cpus[(u64)cpu == cpus[1].trap_stack];
        if (frame->vector >= 32 && frame->vector < VECTORS) {
                cpu->interrupts++;
                *lapic(0xb0) = 0;
                if (frame->vector == VEC_IPI && cpu->on_ipi)
                        cpu->on_ipi();
                if (frame->vector == VEC_TIMER && cpu->timer_period)
                        *lapic(0x380) = (u32)(cpu->timer_period / 2 + rdtsc() % cpu->timer_period);
                return;
        }
        copy(cpu->frame, frame, sizeof(*frame) - 8);
        cpu->frame->cr2 = 0;
        if (frame->vector == VEC_PF)
                __asm__ volatile("mov %%cr2, %0" : "=r"(cpu->frame->cr2));
        user_return();
}

void main(void)
{
        static const struct {
                const char *name;
                void (*run)(void);
        } tests[] = { { "probe", test_probe }, { "tlb", test_tlb }, { "race", test_race } };
        static u64 lapic_pd[512] __attribute__((aligned(4096)));

        lapic_pd[0] = LAPIC_PHYS | PTE_PS | PTE_P | PTE_W | 0x18;
        kernel_pdpt[511] = ((u64)lapic_pd - KERNEL_BASE) | PTE_USER;
        for (unsigned i = 0; i < VECTORS; i++)
                set_gate(i, (u64)vector_entries + i * 16, i == VEC_BP ? 3 : 0);
        outb(0x21, 0xff); /* the old interrupt controllers: nothing from them */
        outb(0xa1, 0xff);
        cpu_init(0);
        seed = option("seed", 1) * 0x9e3779b97f4a7c15ul | 1;
        for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
                if (option_is("test", tests[i].name)) {
                        tests[i].run();
                        finish();
                }
        fail("no such test");
}
