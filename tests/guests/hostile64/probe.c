/* Random instructions with random operands at addresses where nobody should be, run as user code. What each run did - the registers, the fault and
 * its address, the pages it touched and what it wrote there - is folded into a hash, printed every so often: two engines are right when
 * they print the same. Options: seed, count (programs), timer (ticks; interrupts at random moments must change nothing), verbose (the number of the
 * first program of which all runs are printed), last. */
#include "kernel.h"

#define CODE_VA 0x60000000ul /* two pages: a program may lie across them */
#define RUNS_MAX 120
#define REPORT 64 /* programs a line */

/* Pages a letter: r, w readable and writable, k the kernel's, - nothing there. */
static const struct region {
        u64 va;
        const char *pages;
} regions[] = {
        { 0, "ww" },
        { 0x40000000, "wwr-wkww" },
        { 0x7ffff000, "w" },               /* the last page a positive displacement reaches */
        { 0xfffff000, "ww" },              /* where 32-bit addresses wrap */
        { 0x555555554000, "wr" },          /* where programs lie */
        { 0x7f1234567000, "wwrkw-w" },     /* where libraries lie */
        { 0x7fffffffe000, "ww" },          /* the end of the lower half */
        { 0xffff800000000000, "wk" },      /* the begin of the upper one */
        { 0xfffffffffffff000, "w" },       /* the last page: the next byte is at 0 */
};
#define PAGES_MAX 40
static struct {
        u64 va, frame, *entry;
} pages[PAGES_MAX];
static unsigned n_pages;

/* Interesting places: of user code's, of the kernel's, of nobody's, of the machine's own process. */
static const u64 places[] = {
        0, 0x40000000, 0x40001000, 0x40002000, 0x40003000, 0x40004000, 0x40005000, 0x40006000, 0x40008000, 0x7ffff000, 0x80000000, 0xfffff000,
        0x100000000, 0x100001000, 0x555555554000, 0x555555555000, 0x555555556000, 0x7f1234567000, 0x7f1234568000, 0x7f1234569000, 0x7f123456a000,
        0x7f123456b000, 0x7f123456d000, 0x7fffffffe000, 0x7ffffffff000, 0x800000000000, 0xffff800000000000, 0xffff800000001000,
        0xfffffffffffff000, 0xffffffffffffffff, CODE_VA + 0x1800, KERNEL_BASE + 0x100000, KERNEL_BASE + 0x800000, 0xffffffffc0000000,
        0x8000000000000000, 0x7fffffffffffffff, 0x4000000000000000, 0x7f0000000000, 0x400000000000, 0x560000000000, 0xffff7fffffffffff,
        0x0000400040000000, 0x0001000040000000, 0xffff000040000000,
};

static u64 place(void)
{
        u64 at = places[below(sizeof(places) / sizeof(places[0]))];

        switch (below(6)) {
        case 0:
                return at;
        case 1:
                return at + below(64) - 32;
        case 2:
                return at + (below(PAGE) & ~7ul);
        case 3:
                return at + below(PAGE);
        case 4:
                return at - below(16);
        default:
                return at + PAGE - below(40);
        }
}

/* ---- programs ---- */

enum {
        F_MODRM = 1,   /* a memory operand, mostly */
        F_IMM8 = 2,
        F_IMM = 4,     /* 2 or 4 bytes, by the operand's size */
        F_OFFSET = 8,  /* 8 bytes of address, 4 with 67 */
        F_LOCK = 16,   /* may be locked */
        F_SIZES = 32,  /* 66 and REX.W mean the usual */
        F_REP = 64,
        F_VEX = 128,   /* C5 F8|pp, or C4 with map 2 */
        F_NEAR = 256,  /* 4 bytes of distance: somewhere behind the program */
        F_IMM16 = 512,
        F_DIGIT = 1024, /* modrm.reg is digit */
        F_MEMORY = 2048, /* with registers it would be another instruction, RDTSCP among them */
};
struct form {
        u8 n, code[4], digit;
        u16 flags;
};
#define D(x) .digit = (x)
static const struct form forms[] = {
        { 1, { 0x8b }, 0, F_MODRM | F_SIZES },                          /* mov r, m */
        { 1, { 0x89 }, 0, F_MODRM | F_SIZES },                          /* mov m, r */
        { 1, { 0x8b }, 0, F_MODRM | F_SIZES },
        { 1, { 0x89 }, 0, F_MODRM | F_SIZES },
        { 1, { 0x8a }, 0, F_MODRM },
        { 1, { 0x88 }, 0, F_MODRM },
        { 1, { 0x03 }, 0, F_MODRM | F_SIZES },                          /* add */
        { 1, { 0x01 }, 0, F_MODRM | F_SIZES | F_LOCK },
        { 1, { 0x11 }, 0, F_MODRM | F_SIZES | F_LOCK },                 /* adc */
        { 1, { 0x39 }, 0, F_MODRM | F_SIZES },                          /* cmp */
        { 1, { 0x3b }, 0, F_MODRM | F_SIZES },
        { 1, { 0x81 }, 0, F_MODRM | F_SIZES | F_IMM | F_LOCK },         /* group 1 */
        { 1, { 0x80 }, 0, F_MODRM | F_IMM8 },
        { 1, { 0x87 }, 0, F_MODRM | F_SIZES | F_LOCK },                 /* xchg */
        { 1, { 0x86 }, 0, F_MODRM | F_LOCK },
        { 2, { 0x0f, 0xc1 }, 0, F_MODRM | F_SIZES | F_LOCK },           /* xadd */
        { 2, { 0x0f, 0xb1 }, 0, F_MODRM | F_SIZES | F_LOCK },           /* cmpxchg */
        { 2, { 0x0f, 0xc7 }, 1, F_MODRM | F_SIZES | F_LOCK | F_DIGIT }, /* cmpxchg8b, 16b */
        { 1, { 0xff }, 0, F_MODRM | F_SIZES | F_LOCK | F_DIGIT },       /* inc */
        { 1, { 0xff }, 6, F_MODRM | F_SIZES | F_DIGIT },                /* push m */
        { 1, { 0x8f }, 0, F_MODRM | F_SIZES | F_DIGIT },                /* pop m */
        { 1, { 0xff }, 2, F_MODRM | F_DIGIT },                          /* call m */
        { 1, { 0xff }, 4, F_MODRM | F_DIGIT },                          /* jmp m */
        { 1, { 0xf6 }, 0, F_MODRM | F_IMM8 | F_DIGIT },                 /* test */
        { 1, { 0xf7 }, 2, F_MODRM | F_SIZES | F_DIGIT | F_LOCK },       /* not */
        { 1, { 0xf7 }, 3, F_MODRM | F_SIZES | F_DIGIT | F_LOCK },       /* neg */
        { 1, { 0xf7 }, 4, F_MODRM | F_SIZES | F_DIGIT },                /* mul */
        { 1, { 0xf7 }, 6, F_MODRM | F_SIZES | F_DIGIT },                /* div */
        { 1, { 0xf7 }, 7, F_MODRM | F_SIZES | F_DIGIT },                /* idiv */
        { 1, { 0xc7 }, 0, F_MODRM | F_SIZES | F_IMM | F_DIGIT },        /* mov m, imm */
        { 1, { 0xc6 }, 0, F_MODRM | F_IMM8 | F_DIGIT },
        { 2, { 0x0f, 0xb6 }, 0, F_MODRM | F_SIZES },                    /* movzx */
        { 2, { 0x0f, 0xb7 }, 0, F_MODRM | F_SIZES },
        { 2, { 0x0f, 0xbe }, 0, F_MODRM | F_SIZES },                    /* movsx */
        { 1, { 0x63 }, 0, F_MODRM | F_SIZES },                          /* movsxd */
        { 2, { 0x0f, 0xaf }, 0, F_MODRM | F_SIZES },                    /* imul */
        { 1, { 0x69 }, 0, F_MODRM | F_SIZES | F_IMM },
        { 2, { 0x0f, 0xa3 }, 0, F_MODRM | F_SIZES },                    /* bt: the bit may be far away */
        { 2, { 0x0f, 0xab }, 0, F_MODRM | F_SIZES | F_LOCK },           /* bts */
        { 2, { 0x0f, 0xba }, 6, F_MODRM | F_SIZES | F_IMM8 | F_DIGIT | F_LOCK }, /* btr */
        { 2, { 0x0f, 0xa4 }, 0, F_MODRM | F_SIZES | F_IMM8 },           /* shld */
        { 2, { 0x0f, 0xad }, 0, F_MODRM | F_SIZES },                    /* shrd cl */
        { 1, { 0xc1 }, 0, F_MODRM | F_SIZES | F_IMM8 },                 /* shifts */
        { 1, { 0xd3 }, 0, F_MODRM | F_SIZES },
        { 2, { 0x0f, 0x94 }, 0, F_MODRM },                              /* sete */
        { 2, { 0x0f, 0x44 }, 0, F_MODRM | F_SIZES },                    /* cmove */
        { 2, { 0x0f, 0xbc }, 0, F_MODRM | F_SIZES },                    /* bsf */
        { 1, { 0x8d }, 0, F_MODRM | F_SIZES },                          /* lea */
        { 2, { 0x0f, 0x18 }, 1, F_MODRM | F_DIGIT },                    /* prefetch: never faults */
        { 2, { 0x0f, 0xae }, 7, F_MODRM | F_DIGIT },                    /* clflush */
        { 3, { 0x0f, 0x38, 0xf0 }, 0, F_MODRM | F_SIZES },              /* movbe */
        { 3, { 0x0f, 0x38, 0xf1 }, 0, F_MODRM | F_SIZES },
        { 2, { 0x0f, 0xc3 }, 0, F_MODRM },                              /* movnti */
        { 2, { 0x0f, 0x10 }, 0, F_MODRM },                              /* movups */
        { 2, { 0x0f, 0x11 }, 0, F_MODRM },
        { 2, { 0x0f, 0x28 }, 0, F_MODRM },                              /* movaps: alignment */
        { 2, { 0x0f, 0x29 }, 0, F_MODRM },
        { 3, { 0x66, 0x0f, 0xfe }, 0, F_MODRM },                        /* paddd */
        { 3, { 0xf3, 0x0f, 0x7e }, 0, F_MODRM },                        /* movq */
        { 3, { 0x66, 0x0f, 0xd6 }, 0, F_MODRM },
        { 3, { 0xf2, 0x0f, 0xf0 }, 0, F_MODRM },                        /* lddqu */
        { 3, { 0x66, 0x0f, 0xf7 }, 0, F_MODRM },                        /* maskmovdqu, when it names registers */
        { 2, { 0x0f, 0x16 }, 0, F_MODRM },                              /* movhps */
        { 1, { 0x10 }, 0, F_MODRM | F_VEX },                            /* vmovups */
        { 1, { 0x11 }, 0, F_MODRM | F_VEX },
        { 1, { 0x28 }, 0, F_MODRM | F_VEX },
        { 1, { 0x54 }, 0, F_MODRM | F_VEX },                            /* vandps */
        { 1, { 0xd9 }, 0, F_MODRM | F_DIGIT },                          /* fld m32 */
        { 1, { 0xdd }, 3, F_MODRM | F_DIGIT },                          /* fstp m64 */
        { 2, { 0x0f, 0xae }, 3, F_MODRM | F_DIGIT },                    /* stmxcsr */
        { 1, { 0xa1 }, 0, F_OFFSET | F_SIZES },                         /* mov rax, [absolute] */
        { 1, { 0xa3 }, 0, F_OFFSET | F_SIZES },
        { 1, { 0xa2 }, 0, F_OFFSET },
        { 1, { 0xa4 }, 0, F_REP },                                      /* strings */
        { 1, { 0xa5 }, 0, F_REP | F_SIZES },
        { 1, { 0xaa }, 0, F_REP },
        { 1, { 0xab }, 0, F_REP | F_SIZES },
        { 1, { 0xac }, 0, F_REP },
        { 1, { 0xae }, 0, F_REP },
        { 1, { 0xaf }, 0, F_REP | F_SIZES },
        { 1, { 0xa6 }, 0, F_REP },
        { 1, { 0xa7 }, 0, F_REP | F_SIZES },
        { 1, { 0xd7 }, 0, 0 },                                          /* xlat */
        { 1, { 0x50 }, 0, 0 },                                          /* push rax, rsp; pop rax, rsp */
        { 1, { 0x53 }, 0, 0 },
        { 1, { 0x54 }, 0, 0 },
        { 1, { 0x55 }, 0, 0 },
        { 1, { 0x58 }, 0, 0 },
        { 1, { 0x5b }, 0, 0 },
        { 1, { 0x5c }, 0, 0 },
        { 1, { 0x5d }, 0, 0 },
        { 1, { 0x68 }, 0, F_IMM },
        { 1, { 0x6a }, 0, F_IMM8 },
        { 1, { 0x9c }, 0, 0 },                                          /* pushf */
        { 1, { 0x9d }, 0, 0 },
        { 1, { 0xc9 }, 0, 0 },                                          /* leave */
        { 1, { 0xc8 }, 0, F_IMM16 | F_IMM8 },                           /* enter */
        { 1, { 0xc3 }, 0, 0 },                                          /* ret */
        { 1, { 0xc2 }, 0, F_IMM16 },
        { 1, { 0xe8 }, 0, F_NEAR },                                     /* call */
        { 1, { 0xe9 }, 0, F_NEAR },
        { 2, { 0xff, 0xe0 }, 0, 0 },                                    /* jmp rax, call rbx */
        { 2, { 0xff, 0xd3 }, 0, 0 },
        { 2, { 0x48, 0xcf }, 0, 0 },                                    /* iretq */
        { 2, { 0x0f, 0x01 }, 1, F_MODRM | F_DIGIT | F_MEMORY },                    /* sidt */
        { 2, { 0x0f, 0x01 }, 7, F_MODRM | F_DIGIT | F_MEMORY },                    /* invlpg: the kernel's */
        { 4, { 0xf3, 0x48, 0x0f, 0xae }, 2, F_DIGIT },                  /* wrfsbase, with the modrm byte below */
        { 1, { 0xfd }, 0, 0 },                                          /* std */
        { 1, { 0xfc }, 0, 0 },
        { 1, { 0xf4 }, 0, 0 },                                          /* hlt */
};

struct program {
        u8 code[400];
        unsigned n;
        u64 va; /* of its first byte */
        unsigned base; /* what operands prefer, so that they are near each other */
};

static void emit(struct program *p, u64 value, unsigned n)
{
        for (unsigned i = 0; i < n; i++)
                p->code[p->n++] = (u8)(value >> 8 * i);
}

static u64 displacement(unsigned bytes)
{
        switch (below(4)) {
        case 0:
                return below(256) - 128;
        case 1:
                return bytes == 4 ? place() : below(64);
        default:
                return (below(16) - 8) * 8;
        }
}

/* Any form of operand that there is; @rex has W, R and B of it already. */
static void emit_operand(struct program *p, unsigned reg, int registers)
{
        const unsigned r = (unsigned)rnd();
        unsigned mod = r & 3, rm = below(2) ? p->base & 7 : r >> 2 & 7, sib = r >> 8 & 0xff;

        if (mod == 3 && (below(8) || !registers))
                mod = (unsigned)below(3);
        emit(p, mod << 6 | (reg & 7) << 3 | rm, 1);
        if (mod == 3)
                return;
        if (rm == 4)
                emit(p, below(2) ? (sib & 0xf8) | (p->base & 7) : sib, 1);
        if (mod == 1)
                emit(p, displacement(1), 1);
        else if (mod == 2 || (mod == 0 && rm == 5) || (mod == 0 && rm == 4 && (p->code[p->n - 1] & 7) == 5))
                emit(p, displacement(4), 4);
}

static void emit_insn(struct program *p)
{
        const struct form *f = &forms[below(sizeof(forms) / sizeof(forms[0]))];
        const u64 r = rnd();
        const int small = f->flags & F_SIZES && (r & 7) == 0, short_address = (r >> 3 & 15) == 0;
        unsigned rex = r >> 8 & 7, n = 0;

        if ((r >> 16 & 7) == 0)
                emit(p, below(4) ? 0x64 + below(2) : 0x26 + 8 * below(4), 1); /* FS, GS; ES, CS, SS, DS mean nothing */
        if (short_address)
                emit(p, 0x67, 1);
        if (small)
                emit(p, 0x66, 1);
        if (f->flags & F_LOCK && (r >> 20 & 3) == 0)
                emit(p, 0xf0, 1);
        if (f->flags & F_REP && (r >> 20 & 1))
                emit(p, 0xf2 + (r >> 21 & 1), 1);
        if (f->flags & F_VEX) {
                emit(p, 0xc5, 1);
                emit(p, (rex & 4) << 5 | (f->code[0] & 0x50 ? 0 : 15) << 3 | 0x78 | (r >> 22 & 1) << 2, 1);
        } else if (f->flags & (F_MODRM | F_SIZES)) {
                while (n + 1 < f->n && (f->code[n] == 0x66 || f->code[n] >= 0xf0)) /* prefixes that are part of the form */
                        emit(p, f->code[n++], 1);
                if (p->base & 8 && below(4))
                        rex |= 1;
                emit(p, 0x40 | rex | (f->flags & F_SIZES && r >> 30 & 1 ? 8 : 0), 1);
        }
        while (n < f->n)
                emit(p, f->code[n++], 1);
        if (f->flags & F_MODRM)
                emit_operand(p, f->flags & F_DIGIT ? f->digit : (unsigned)below(8), !(f->flags & F_MEMORY));
        else if (f->flags & F_DIGIT)
                emit(p, 0xc0 | f->digit << 3 | below(8), 1);
        if (f->flags & F_OFFSET)
                emit(p, place(), short_address ? 4 : 8);
        if (f->flags & F_IMM16)
                emit(p, below(64) * 8, 2);
        if (f->flags & F_IMM)
                emit(p, place(), small ? 2 : 4);
        if (f->flags & F_IMM8)
                emit(p, f->code[0] == 0xc8 ? below(4) : r >> 40, 1);
        if (f->flags & F_NEAR)
                emit(p, 600 + below(1000), 4);
}

/* Writes it where user code runs; what is behind it are breakpoints. */
static void make_program(struct program *p, u8 *code)
{
        const unsigned insns = 1 + (unsigned)below(below(4) ? 6 : 20);

        p->n = 0;
        p->base = (unsigned)below(16);
        for (unsigned i = 0; i < insns; i++)
                emit_insn(p);
        if (below(2))
                emit(p, 0x050f, 2); /* syscall */
        else
                emit(p, 0x0b0f, 2); /* ud2 */
        if (!p->va || below(3)) /* else at the last one's place, which is known as code */
                p->va = CODE_VA + (below(4) ? below(0x800) : PAGE - below(p->n + 4)); /* every so often across the page's end */
        memset(code, 0xcc, 2 * PAGE);
        copy(code + (p->va - CODE_VA), p->code, p->n);
}

/* ---- runs ---- */

static u8 vectors[1024] __attribute__((aligned(64))); /* XSAVE area: legacy 512, header, YMM */
static int has_avx;

/* XMM, YMM and x87 from the generator; the same again into a hash. */
static void vectors_load(void)
{
        for (unsigned i = 0; i < sizeof(vectors); i += 8)
                *(u64 *)(vectors + i) = i >= 160 && (i < 416 || i >= 576) ? rnd() : 0;
        *(u16 *)vectors = 0x37f;
        *(u32 *)(vectors + 24) = 0x1f80;
        *(u64 *)(vectors + 512) = 7;
        if (has_avx)
                __asm__ volatile("xrstor %0" : : "m"(vectors), "a"(7), "d"(0) : "memory");
        else
                __asm__ volatile("fxrstor %0" : : "m"(vectors) : "memory");
}

static u64 vectors_hash(u64 hash)
{
        if (has_avx)
                __asm__ volatile("xsave %0" : "+m"(vectors) : "a"(7), "d"(0) : "memory");
        else
                __asm__ volatile("fxsave %0" : "+m"(vectors) : : "memory");
        hash = hash_add(hash, *(u32 *)vectors | (u64)*(u32 *)(vectors + 24) << 32);
        for (unsigned i = 32; i < 160; i += 16) /* x87: 10 bytes each */
                hash = hash_add(hash_add(hash, *(u64 *)(vectors + i)), *(u16 *)(vectors + i + 8));
        for (unsigned i = 160; i < 416; i += 8)
                hash = hash_add(hash, *(u64 *)(vectors + i));
        for (unsigned i = 576; has_avx && i < 832; i += 8)
                hash = hash_add(hash, vectors[512] & 4 ? *(u64 *)(vectors + i) : 0);
        return hash;
}

static void fill_pages(void)
{
        for (unsigned i = 0; i < n_pages; i++)
                for (u64 *at = at_phys(pages[i].frame), *end = at + PAGE / 8; at < end; at++)
                        *at = below(3) ? rnd() : below(2) ? place() : CODE_VA + 0x1800 + below(0x700);
}

static void set_registers(struct frame *f)
{
        u64 *gpr = &f->r15;

        for (unsigned i = 0; i < 15; i++)
                gpr[i] = below(4) ? place() : below(2) ? below(64) - 32 : rnd();
        if (below(2))
                f->rcx = below(300);
        f->rsp = below(3) ? place() & ~7ul : place();
        f->rflags = 0x202 | (rnd() & 0x8d5);
        f->cs = USER_CS;
        f->ss = USER_SS;
        f->vector = below(4) ? 0 : LEAVE_BY_SYSRET;
        f->error = 0;
        if (f->vector == LEAVE_BY_SYSRET) {
                f->rcx = f->rip;
                f->r11 = f->rflags;
        }
}

static u64 base_for_user(void)
{
        for (;;) {
                const u64 base = below(2) ? place() : 0;

                if ((base + 0x800000000000) >> 48 == 0)
                        return base;
        }
}

/* Which pages were touched and what is in those that were written. */
static u64 pages_hash(u64 hash)
{
        for (unsigned i = 0; i < n_pages; i++) {
                hash = hash_add(hash, *pages[i].entry & (PTE_A | PTE_D));
                if (!(*pages[i].entry & PTE_D))
                        continue;
                for (u64 *at = at_phys(pages[i].frame), *end = at + PAGE / 8; at < end; at += 4)
                        hash = hash_add(hash, at[0] + at[1] * 3 + at[2] * 5 + at[3] * 7);
        }
        return hash;
}

/* From now on it shows again what is touched. */
static void forget_touched(void)
{
        for (unsigned i = 0; i < n_pages; i++)
                *pages[i].entry &= ~(PTE_A | PTE_D);
        write_cr3(read_cr3());
}

static void print_run(const struct program *p, unsigned number, unsigned run, const struct frame *before, const struct frame *f, u64 hash)
{
        static const char *const names[] = { "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx", "rcx", "rbx",
                                             "rax", "vector", "error", "rip", "cs", "rflags", "rsp", "ss", "cr2" };
        const u64 *a = &before->r15, *b = &f->r15;

        if (!run) {
                put("code");
                put_field("at", p->va);
                for (unsigned i = 0; i < p->n; i++) {
                        put(" ");
                        put_hex(p->code[i]);
                }
                put("\n");
        }
        put_field("program", number);
        put_field("run", run);
        put_field("hash", hash);
        for (unsigned i = 0; i < 23; i++) {
                put(" ");
                put(names[i]);
                put("=");
                put_hex(a[i]);
                put(":");
                put_hex(b[i]);
        }
        put("\n touched:");
        for (unsigned i = 0; i < n_pages; i++)
                if (*pages[i].entry & PTE_A)
                        put_field(*pages[i].entry & PTE_D ? "w" : "r", pages[i].va);
        put("\n");
}

static void make_space(u8 **ret_code)
{
        const u64 top = space_new();
        u64 first = frame_alloc(), second = frame_alloc();

        while (second != first + PAGE) {
                first = second;
                second = frame_alloc();
        }
        *space_entry(top, CODE_VA, 1) = first | PTE_P | PTE_U;
        *space_entry(top, CODE_VA + PAGE, 1) = second | PTE_P | PTE_U;
        *ret_code = at_phys(first);
        for (unsigned i = 0; i < sizeof(regions) / sizeof(regions[0]); i++) {
                u64 va = regions[i].va;

                for (const char *c = regions[i].pages; *c; c++, va += PAGE) {
                        const u64 flags = *c == 'w' ? PTE_USER : *c == 'r' ? PTE_P | PTE_U : *c == 'k' ? PTE_P | PTE_W : 0;
                        u64 *entry = space_entry(top, va, 1);

                        if (!flags)
                                continue;
                        pages[n_pages].va = va;
                        pages[n_pages].frame = frame_alloc();
                        pages[n_pages].entry = entry;
                        *entry = pages[n_pages++].frame | flags | PTE_NX;
                }
        }
        write_cr3(top);
}

void test_probe(void)
{
        const u64 count = option("count", 20000), verbose = option("verbose", ~0ul), last = option("last", verbose);
        static struct program program;
        u32 features[4];
        u64 hash = 0;
        u8 *code;

        make_space(&code);
        cpuid(1, 0, features);
        has_avx = features[2] >> 28 & 1;
        if (option("timer", 0))
                timer_start(option("timer", 0));
        for (unsigned i = 0; i < count; i++) {
                const unsigned runs = below(2) ? 1 : (unsigned)below(below(8) ? 8 : RUNS_MAX);

                if (i % 256 == 0)
                        fill_pages();
                make_program(&program, code);
                for (unsigned j = 0; j < runs; j++) {
                        struct frame f = { .rip = program.va }, before;

                        set_registers(&f);
                        set_user_bases(base_for_user(), base_for_user());
                        if (j == 0)
                                vectors_load();
                        if (below(2))
                                forget_touched();
                        before = f;
                        user_run(&f);
                        for (u64 *at = &f.r15; at <= &f.cr2; at++)
                                hash = hash_add(hash, *at);
                        hash = pages_hash(vectors_hash(hash));
                        if (i >= verbose && i <= last)
                                print_run(&program, i, j, &before, &f, hash);
                }
                if ((i + 1) % REPORT)
                        continue;
                put_field("programs", i + 1);
                put_field("hash", hash);
                put("\n");
        }
        timer_start(0);
        put_field("interrupted", cpus[0].interrupts > 0);
        put("\n");
}
