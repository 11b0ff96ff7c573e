/* The kernel changes mappings, flushes what it must, and user code looks: what it sees must be what a model of the page tables says, never what
 * was there before. Four address spaces with PCIDs, global pages, 4 KiB and 2 MiB pages; every way to flush. Checks itself. Options: seed, count. */
#include "kernel.h"

#define SPACES 4
#define PAGES 24
#define FRAMES 40
#define LARGE_VA 0x40200000ul /* a 2 MiB page, or 4 KiB pages in its place */
#define LARGE_PHYS 0x3400000ul
#define CODE_VA 0x60000000ul
#define CODE_IN_FRAME 0x800 /* mov eax, number of the frame; syscall */

/* User code: what is done with rdi. */
enum { DO_READ, DO_WRITE, DO_ADD, DO_EXECUTE, DO_PUSH, DO_READ_TWO, DOINGS };
static const u8 user_code[DOINGS][16] = {
        [DO_READ] = { 0x48, 0x8b, 0x07, 0x0f, 0x05 },                               /* mov rax, [rdi]; syscall */
        [DO_WRITE] = { 0x48, 0x89, 0x37, 0x0f, 0x05 },                              /* mov [rdi], rsi */
        [DO_ADD] = { 0xf0, 0x48, 0x01, 0x37, 0x0f, 0x05 },                          /* lock add [rdi], rsi */
        [DO_EXECUTE] = { 0xff, 0xe7 },                                              /* jmp rdi */
        [DO_PUSH] = { 0x48, 0x8d, 0x67, 0x08, 0x56, 0x0f, 0x05 },                   /* lea rsp, [rdi+8]; push rsi */
        [DO_READ_TWO] = { 0x48, 0x8b, 0x07, 0x48, 0x03, 0x47, 0x10, 0x0f, 0x05 },   /* mov rax, [rdi]; add rax, [rdi+16] */
};

struct page {
        u64 va, flags;
        unsigned frame;
        u64 *entry;
};
struct space {
        u64 top;
        struct page pages[PAGES];
};
static struct space spaces[SPACES];
static struct page globals[4]; /* the same in all spaces */
static u64 frames[FRAMES];
static u64 large_frames[512]; /* 4 KiB pages for where the large page was; [0]: the first */
static int large_is_large[SPACES];
static unsigned now;
static int has_pcid, has_invpcid;
static u64 number;


/* ---- flushes ---- */

static void switch_to(unsigned space, int keep)
{
        now = space;
        write_cr3(spaces[space].top | (has_pcid ? (space + 1) | (keep ? CR3_KEEP : 0) : 0));
}

/* Whatever is held of @va in the current space, or of a global page, is forgotten. */
static void flush(u64 va, int global)
{
        switch (below(has_invpcid ? 6 : 3)) {
        case 0:
                write_cr4(read_cr4() ^ CR4_PGE);
                write_cr4(read_cr4() ^ CR4_PGE);
                return;
        case 1:
                if (!global) {
                        switch_to(now, 0);
                        return;
                }
                break;
        case 3:
                invpcid(2, 0, 0); /* everything, global pages included */
                return;
        case 4:
                if (!global) {
                        invpcid(0, has_pcid ? now + 1 : 0, va);
                        return;
                }
                break;
        case 5:
                if (!global) {
                        invpcid(1, has_pcid ? now + 1 : 0, 0);
                        return;
                }
                break;
        }
        invlpg(va + below(PAGE));
}

/* ---- changes ---- */

static u64 random_flags(void)
{
        static const u64 some[] = { PTE_USER, PTE_USER, PTE_USER | PTE_NX, PTE_P | PTE_U, PTE_P | PTE_U | PTE_NX, PTE_P | PTE_W, 0 };

        return some[below(sizeof(some) / sizeof(some[0]))];
}

static void change(struct page *page, u64 global)
{
        page->frame = (unsigned)below(FRAMES);
        page->flags = random_flags();
        *page->entry = page->flags ? frames[page->frame] | page->flags | global : below(2) ? frames[page->frame] | PTE_W | PTE_U : 0;
}

/* ---- what user code sees ---- */

static void bad(const char *what, const struct frame *f, u64 va, unsigned doing, u64 expected)
{
        put("tlb: ");
        put(what);
        put_field("step", number);
        put_field("va", va);
        put_field("doing", doing);
        put_field("space", now);
        put_field("vector", f->vector);
        put_field("error", f->error);
        put_field("cr2", f->cr2);
        put_field("rip", f->rip);
        put_field("rax", f->rax);
        put_field("expected", expected);
        put("\n");
        fail("user code sees what is not mapped");
}

/* User code does something at @va, which is mapped to @frame with @flags. */
static void look(u64 va, u64 flags, u64 frame)
{
        const unsigned doing = (unsigned)below(DOINGS);
        const int write = doing == DO_WRITE || doing == DO_ADD || doing == DO_PUSH, execute = doing == DO_EXECUTE;
        u64 *memory = at_phys(frame);
        const u64 at = execute ? CODE_IN_FRAME : 8 * below(0x100 - 2), value = rnd();
        struct frame f = { .rip = CODE_VA + doing * 16, .cs = USER_CS, .ss = USER_SS, .rflags = 0x202, .rdi = va + at, .rsi = value, .rsp = CODE_VA };
        const u64 old = memory[at / 8], expected = doing == DO_READ_TWO ? old + memory[at / 8 + 2] : doing == DO_READ ? old : ((u32 *)memory)[CODE_IN_FRAME / 4 + 1];
        u64 error = PF_U | (write ? PF_W : execute ? PF_I : 0);
        const int ok = flags & PTE_P && flags & PTE_U && !(write && !(flags & PTE_W)) && !(execute && flags & PTE_NX);

        user_run(&f);
        if (!ok) {
                if (flags & PTE_P)
                        error |= PF_P;
                if (f.vector != VEC_PF || f.error != error || f.cr2 != va + at)
                        bad("no page fault, or another", &f, va, doing, error);
                if (memory[at / 8] != old)
                        bad("memory changed", &f, va, doing, old);
                return;
        }
        if (f.vector != VECTOR_SYSCALL)
                bad("a fault", &f, va, doing, 0);
        if (write && memory[at / 8] != (doing == DO_ADD ? old + value : value))
                bad("written elsewhere", &f, va, doing, memory[at / 8]);
        if (!write && f.rax != expected)
                bad("another page's value", &f, va, doing, expected);
}

static void look_around(void)
{
        for (unsigned i = 0; i < 6; i++) {
                const struct page *p = below(5) ? &spaces[now].pages[below(PAGES)] : &globals[below(4)];
                const u64 in_large = below(512);

                look(p->va, p->flags, frames[p->frame]);
                if (large_is_large[now])
                        look(LARGE_VA + in_large * PAGE, PTE_USER, LARGE_PHYS + in_large * PAGE);
                else
                        look(LARGE_VA + in_large * PAGE, PTE_USER, large_frames[in_large]);
        }
}

/* ---- the large page ---- */

static void change_large(void)
{
        static u64 tables[SPACES];
        u64 *entry = space_entry(spaces[now].top, LARGE_VA, 2);

        if (!tables[now]) {
                tables[now] = frame_alloc();
                for (unsigned i = 0; i < 512; i++)
                        ((u64 *)at_phys(tables[now]))[i] = large_frames[i] | PTE_USER;
        }
        large_is_large[now] = !large_is_large[now];
        *entry = large_is_large[now] ? LARGE_PHYS | PTE_USER | PTE_PS : tables[now] | PTE_USER;
        if (below(2))
                switch_to(now, 0);
        else
                for (u64 at = 0; at < 0x200000; at += large_is_large[now] ? PAGE : 0x200000) /* whatever pages there were */
                        invlpg(LARGE_VA + at);
}

/* ---- set up ---- */

/* An address of its own for each page; some share an index in any cache that takes address bits for it. */
static u64 page_va(unsigned i)
{
        static const u64 bases[] = { 0x50000000, 0x555555000000, 0x7f0000000000, 0x7ffffff00000 };

        return bases[i % 4] + (i / 4) * (i & 1 ? PAGE : 4096 * PAGE) % 0xff000;
}

static void fill_frame(u64 frame, u64 id)
{
        u8 *at = at_phys(frame);

        for (u64 i = 0; i < 0x100; i++)
                ((u64 *)at)[i] = id << 32 | i;
        at[CODE_IN_FRAME + 3] = 0xb8; /* three bytes of NOP before it, so that the number is aligned */
        memset(at + CODE_IN_FRAME, 0x90, 3);
        *(u32 *)(at + CODE_IN_FRAME + 4) = (u32)id;
        at[CODE_IN_FRAME + 8] = 0x0f;
        at[CODE_IN_FRAME + 9] = 0x05;
}

static void make_spaces(void)
{
        const u64 code = frame_alloc();

        copy(at_phys(code), user_code, sizeof(user_code));
        for (unsigned i = 0; i < FRAMES; i++) {
                frames[i] = frame_alloc();
                fill_frame(frames[i], i + 1);
        }
        for (unsigned i = 0; i < 512; i++) {
                large_frames[i] = frame_alloc();
                fill_frame(large_frames[i], 0x1000 + i);
                fill_frame(LARGE_PHYS + i * PAGE, 0x2000 + i);
        }
        for (unsigned s = 0; s < SPACES; s++) {
                spaces[s].top = space_new();
                *space_entry(spaces[s].top, CODE_VA, 1) = code | PTE_P | PTE_U;
                for (unsigned i = 0; i < PAGES; i++) {
                        struct page *p = &spaces[s].pages[i];

                        p->va = page_va(i);
                        p->entry = space_entry(spaces[s].top, p->va, 1);
                        change(p, 0);
                }
        }
        /* One table of global pages for all spaces. */
        for (unsigned i = 0; i < 4; i++) {
                globals[i].va = 0x10000000000ul + i * PAGE;
                globals[i].entry = space_entry(spaces[0].top, globals[i].va, 1);
                change(&globals[i], PTE_G);
        }
        for (unsigned s = 1; s < SPACES; s++)
                *space_entry(spaces[s].top, globals[0].va, 2) = *space_entry(spaces[0].top, globals[0].va, 2);
}

void test_tlb(void)
{
        const u64 count = option("count", 20000);
        u32 features[4];

        make_spaces();
        cpuid(1, 0, features);
        has_pcid = features[2] >> 17 & 1;
        cpuid(7, 0, features);
        has_invpcid = features[1] >> 10 & 1;
        write_cr3(spaces[0].top);
        if (has_pcid)
                write_cr4(read_cr4() | CR4_PCIDE);
        for (now = 0; now < SPACES; now++) {
                switch_to(now, 0);
                change_large();
        }
        now = 0;
        switch_to(0, 0);
        if (option("timer", 0))
                timer_start(option("timer", 0));
        for (number = 0; number < count; number++) {
                struct page *p = &spaces[now].pages[below(PAGES)];
                unsigned to = (unsigned)below(SPACES);

                switch (below(16)) {
                case 0 ... 5:
                        change(p, 0);
                        flush(p->va, 0);
                        break;
                case 6:
                        p = &globals[below(4)];
                        change(p, PTE_G);
                        flush(p->va, 1);
                        break;
                case 7: /* several at once */
                        for (unsigned i = 0; i < PAGES; i++)
                                change(&spaces[now].pages[i], 0);
                        switch_to(now, 0);
                        break;
                case 8: /* of a space that is not current: flushed when it becomes so */
                        p = &spaces[to].pages[below(PAGES)];
                        change(p, 0);
                        if (to == now || !has_invpcid || !has_pcid || below(2))
                                switch_to(to, 0);
                        else
                                invpcid(0, to + 1, p->va);
                        break;
                case 9:
                        change_large();
                        break;
                case 10: /* code that was translated is written by the kernel's other address */
                        fill_frame(frames[p->frame], below(1000));
                        break;
                default:
                        switch_to(to, has_pcid);
                        break;
                }
                look_around();
        }
        put_field("steps", number);
        put_field("pcid", (u64)has_pcid);
        put_field("invpcid", (u64)has_invpcid);
        put("\n");
}
