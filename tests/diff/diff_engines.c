/* Differential test of one engine against another, in general translate against interp: instructions of every form with operands of every kind,
 * alone and in small programs, at CPL 3 and CPL 0. Both run from the same state and everything must come out equal: registers, all arithmetic
 * flags, vector and x87 state, memory, accesses to a device, page-table bits, and at faults the vector, error code and address.
 *
 *      diff-engines [--engine NAME] [--against NAME] [--seed N] [--cases N] [--stop N] [--no-fork] [--show]
 *
 * A case follows from its seed alone: --seed S --cases 1 repeats it. Each runs twice: once after everything that the engine knew was dropped, once
 * again with what it has learned. Some operands are at addresses where this process has memory and the guest has none: that must stay as it is. The engine works in a child process: when it crashes or hangs, that is a difference as well. A case that
 * differs is shrunk by replacing its instructions by NOPs as long as it still differs. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest.h"
#include "program.h"

#define HANG_S 5

struct progress {
        u64 seed, end;       /* being run; where to stop */
        u64 done, faults, skipped, differences;
        u64 vectors;         /* one bit for each that was reached */
        bool seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

struct side {
        const char *name;
        struct guest guest;
        struct outcome outcome;
};

struct job {
        const struct cpu_engine *engine, *against;
        struct side got, want;
        struct forms *forms;
        struct progress *progress; /* shared with the parent */
        u8 *vmm;     /* at VMM_ADDRESS */
        bool show;   /* print every case first */
        bool broken; /* an engine refuses to run at all */
};

/* ---- comparison ---- */

/* x87 instruction and data pointers and opcode: an engine may forget them (0) but must not make any up. */
static bool x87_pointers_differ(const u8 *a, const u8 *b)
{
        static const u8 zeros[8];

        for (unsigned at = 8; at < 24; at += 8)
                if (memcmp(a + at, b + at, 8) != 0 && memcmp(a + at, zeros, 8) != 0)
                        return true;
        return false;
}

static const char *compare_vectors(const u8 *a, const u8 *b)
{
        if (memcmp(a + XMM_OFFSET, b + XMM_OFFSET, 256) != 0)
                return "xmm";
        if (memcmp(a + XSAVE_YMM_OFFSET, b + XSAVE_YMM_OFFSET, 256) != 0)
                return "ymm";
        if (memcmp(a + 24, b + 24, 4) != 0)
                return "mxcsr";
        if (memcmp(a, b, 5) != 0)
                return "x87 control, status or tags";
        for (unsigned i = 0; i < 8; i++)
                if (memcmp(a + 32 + i * 16, b + 32 + i * 16, 10) != 0)
                        return "x87 registers";
        return x87_pointers_differ(a, b) ? "x87 pointers" : NULL;
}

static bool segments_differ(const struct cpu_state *a, const struct cpu_state *b)
{
        for (unsigned i = 0; i < SEG_COUNT; i++)
                if (a->seg[i].selector != b->seg[i].selector || a->seg[i].attr != b->seg[i].attr || a->seg[i].base != b->seg[i].base ||
                    a->seg[i].limit != b->seg[i].limit)
                        return true;
        return a->kernel_gs_base != b->kernel_gs_base;
}

/* Memory of this process that the guest has addresses of and must not reach. */
static bool vmm_changed(const struct job *job)
{
        for (unsigned i = 0; i < VMM_SIZE; i++)
                if (job->vmm[i] != (u8)(i * 11))
                        return true;
        return false;
}

static u8 *ram(struct side *side)
{
        return guest_memory_hva(side->guest.memory, 0, GUEST_RAM);
}

/* What differs, NULL when nothing does. */
static const char *compare(struct job *job)
{
        const struct outcome *a = &job->got.outcome, *b = &job->want.outcome;
        const struct cpu_state *s = &job->got.guest.vcpu.state, *t = &job->want.guest.vcpu.state;
        const char *what;

        if (vmm_changed(job))
                return "the VMM's own memory";
        if (a->reason != b->reason)
                return "why it ended";
        if (a->vector != b->vector)
                return "vector";
        if (a->rip != b->rip)
                return "rip";
        if (a->error != b->error)
                return "error code";
        if (a->address != b->address || s->cr2 != t->cr2)
                return "fault address";
        if (memcmp(a->gpr, b->gpr, sizeof(a->gpr)) != 0)
                return "registers";
        if (a->rflags != b->rflags)
                return "flags";
        if (a->cs != b->cs || a->ss != b->ss || s->cpl != t->cpl || segments_differ(s, t))
                return "segments";
        if (memcmp(&s->paging, &t->paging, sizeof(s->paging)) != 0 || s->dr[6] != t->dr[6])
                return "control registers";
        what = compare_vectors(a->xsave, b->xsave);
        if (what)
                return what;
        if (job->got.guest.device_accesses != job->want.guest.device_accesses ||
            memcmp(job->got.guest.device_log, job->want.guest.device_log,
                   MIN(job->want.guest.device_accesses, DEVICE_LOG) * sizeof(u64)) != 0)
                return "device accesses";
        guest_forgive_page_bits(&job->got.guest, &job->want.guest, a->vector != EXC_BP);
        return memcmp(ram(&job->got), ram(&job->want), GUEST_RAM) != 0 ? "memory" : NULL;
}

/* ---- reporting ---- */

static void print_side(const struct side *side, const struct machine_case *c)
{
        const struct outcome *o = &side->outcome;

        printf("#   %-9s %s vector %u error 0x%lx address 0x%lx rip start+0x%lx rflags 0x%lx cs 0x%lx ss 0x%lx x87 %02x%02x/%02x%02x/%02x mxcsr %02x%02x\n",
               side->name, exit_name(o->reason), o->vector, o->error, o->address, o->rip - c->rip, o->rflags, o->cs, o->ss, o->xsave[1],
               o->xsave[0], o->xsave[3], o->xsave[2], o->xsave[4], o->xsave[25], o->xsave[24]);
}

static void print_bytes(const char *name, const u8 *before, const u8 *got, const u8 *want, unsigned n)
{
        if (memcmp(got, want, n) == 0)
                return;
        printf("#   %s:", name);
        for (unsigned which = 0; which < 3; which++) {
                const u8 *p = which == 0 ? before : which == 1 ? got : want;

                printf(" %s ", which == 0 ? "before" : which == 1 ? "got" : "wanted");
                for (unsigned i = n; i-- > 0;)
                        printf("%02x", p[i]);
        }
        printf("\n");
}

static void print_memory(struct job *job)
{
        const u8 *got = ram(&job->got), *want = ram(&job->want);
        unsigned shown = 0;

        for (u64 at = 0; at < GUEST_RAM && shown < 8; at += 8) {
                if (memcmp(got + at, want + at, 8) == 0)
                        continue;
                printf("#   guest-physical 0x%lx: got %016lx wanted %016lx\n", at, *(const u64 *)(const void *)(got + at),
                       *(const u64 *)(const void *)(want + at));
                shown++;
        }
}

static void print_difference(struct job *job, const struct machine_case *c, u64 seed, const char *what, bool warm)
{
        const struct outcome *got = &job->got.outcome, *want = &job->want.outcome;
        char name[16];

        printf("# difference in %s at CPL %u%s: diff-engines --engine %s --seed %lu --cases 1\n", what, c->kernel ? 0 : 3,
               warm ? ", in the second run" : "", job->engine->name, seed);
        case_print_code(c);
        printf("#   before    rflags 0x%lx fs 0x%lx gs 0x%lx cr4 +0x%lx\n", c->rflags, c->fs_base, c->gs_base, c->cr4);
        print_side(&job->got, c);
        print_side(&job->want, c);
        for (unsigned i = 0; i < GPR_COUNT; i++)
                printf("#   %-4s before %016lx got %016lx wanted %016lx%s\n", gpr_names[i], c->gpr[i], got->gpr[i], want->gpr[i],
                       got->gpr[i] != want->gpr[i] ? " <--" : "");
        for (unsigned i = 0; i < 16; i++) {
                const unsigned at = XMM_OFFSET + i * 16, high = XSAVE_YMM_OFFSET + i * 16;

                snprintf(name, sizeof(name), "xmm%u", i);
                print_bytes(name, c->xsave + at, got->xsave + at, want->xsave + at, 16);
                snprintf(name, sizeof(name), "ymm%u high", i);
                print_bytes(name, c->xsave + high, got->xsave + high, want->xsave + high, 16);
        }
        for (unsigned i = 0; i < 8; i++) {
                snprintf(name, sizeof(name), "st%u", i);
                print_bytes(name, c->xsave + 32 + i * 16, got->xsave + 32 + i * 16, want->xsave + 32 + i * 16, 10);
        }
        print_bytes("x87 ip", c->xsave + 8, got->xsave + 8, want->xsave + 8, 8);
        print_bytes("x87 dp", c->xsave + 16, got->xsave + 16, want->xsave + 16, 8);
        print_memory(job);
}

/* ---- running ---- */

static bool stopped(const struct side *side)
{
        return side->outcome.reason == EXIT_KICKED;
}

/* On a busy machine the watchdog may stop one side before it got anywhere: only what happens again counts. */
static int run_both(struct job *job, const struct machine_case *c, bool warm)
{
        int r = 0;

        for (unsigned i = 0; i < 3 && r >= 0; i++) {
                r = guest_run(&job->want.guest, c, warm, &job->want.outcome);
                if (r >= 0)
                        r = guest_run(&job->got.guest, c, warm, &job->got.outcome);
                if (stopped(&job->want) == stopped(&job->got))
                        break;
        }
        return r;
}

/* The first difference in the two runs. */
static const char *try_case(struct job *job, const struct machine_case *c, bool *ret_warm)
{
        for (unsigned warm = 0; warm < 2; warm++) {
                const char *what;

                *ret_warm = warm;
                if (run_both(job, c, warm) < 0) {
                        job->broken = true;
                        return "failing to run";
                }
                /* Longer than the watchdog allows under both: a loop. The next case starts afresh. */
                if (stopped(&job->want) && stopped(&job->got)) {
                        job->progress->skipped++;
                        return NULL;
                }
                what = compare(job);
                if (what)
                        return what;
                if (job->want.outcome.reason != EXIT_HALTED)
                        break;
        }
        return NULL;
}

static void shrink(struct job *job, struct machine_case *c)
{
        ZydisDecoder decoder;
        ZydisDecodedInstruction insn;

        case_decoder(&decoder, false);
        for (unsigned at = 0; at < c->length;) {
                struct machine_case smaller = *c;
                bool warm;

                if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, c->code + at, c->length - at, &insn))) {
                        at++;
                        continue;
                }
                memset(smaller.code + at, 0x90, insn.length);
                if (try_case(job, &smaller, &warm))
                        *c = smaller;
                at += insn.length;
        }
}

static void check_case(struct job *job, u64 seed)
{
        static struct machine_case c;
        struct progress *p = job->progress;
        const char *what;
        bool warm;

        if (!program_make(job->forms, seed, &c))
                return;
        if (job->show)
                case_print_code(&c);
        what = try_case(job, &c, &warm);
        p->done++;
        p->seen[c.insn.mnemonic] = true;
        p->faults += job->want.outcome.vector != EXC_BP;
        p->vectors |= job->want.outcome.vector < 64 ? BIT(job->want.outcome.vector) : 0;
        if (!what)
                return;
        p->differences++;
        if (job->broken) {
                printf("# seed %lu cannot be run\n", seed);
                return;
        }
        print_difference(job, &c, seed, what, warm);
        shrink(job, &c);
        what = try_case(job, &c, &warm);
        if (what)
                print_difference(job, &c, seed, what, warm);
        else
                printf("# gone when the case is repeated\n");
}

/* Ends a case that does not end: STOP work, and if that does not help the process. */
static void *watchdog(void *opaque)
{
        struct job *job = opaque;
        u64 last = ~0ULL;

        for (unsigned stuck = 0;;) {
                u64 seed;

                usleep(500000);
                seed = __atomic_load_n(&job->progress->seed, __ATOMIC_RELAXED);
                stuck = seed == last ? stuck + 1 : 0;
                last = seed;
                if (stuck > 2) {
                        vcpu_post_work(&job->want.guest.vcpu, VCPU_WORK_STOP);
                        vcpu_post_work(&job->got.guest.vcpu, VCPU_WORK_STOP);
                }
                if (stuck > 2 * HANG_S) {
                        printf("# hang: diff-engines --engine %s --seed %lu --cases 1\n", job->engine->name, seed);
                        fflush(stdout);
                        _exit(2);
                }
        }
        return NULL;
}

static int start_sides(struct job *job, struct err **err)
{
        int r = guest_start(&job->got.guest, job->engine, err);

        job->vmm = mmap((void *)VMM_ADDRESS, VMM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (job->vmm == MAP_FAILED)
                return err_sys(err, errno, "mapping memory to be left alone");
        for (unsigned i = 0; i < VMM_SIZE; i++)
                job->vmm[i] = (u8)(i * 11);
        job->got.name = job->engine->name;
        job->want.name = job->against->name;
        return r < 0 ? r : guest_start(&job->want.guest, job->against, err);
}

static void work(struct job *job, u64 stop)
{
        struct progress *p = job->progress;

        for (; p->seed < p->end && p->differences < stop && !job->broken; __atomic_store_n(&p->seed, p->seed + 1, __ATOMIC_RELAXED))
                check_case(job, p->seed);
        fflush(stdout);
}

/* A child works; when it dies, the seed it died of is counted and the next child goes on behind it. */
static void work_in_children(struct job *job, u64 stop)
{
        struct progress *p = job->progress;

        while (p->seed < p->end && p->differences < stop) {
                int status = 0;
                pid_t pid;

                fflush(stdout);
                pid = fork();
                if (pid == 0) {
                        pthread_t thread;
                        _cleanup_(err_freep) struct err *err = NULL;

                        prctl(PR_SET_PDEATHSIG, SIGKILL);
                        if (start_sides(job, &err) < 0) {
                                err_print(err, "diff-engines");
                                _exit(1);
                        }
                        pthread_create(&thread, NULL, watchdog, job);
                        work(job, stop);
                        _exit(job->broken);
                }
                if (pid < 0 || waitpid(pid, &status, 0) < 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 1)) {
                        p->differences++;
                        return;
                }
                if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                        continue;
                if (WIFSIGNALED(status))
                        printf("# crash (%s): diff-engines --engine %s --seed %lu --cases 1 --no-fork --show\n", strsignal(WTERMSIG(status)),
                               job->engine->name, p->seed);
                p->differences++;
                p->seed++;
        }
}

static unsigned count_seen(const struct progress *p)
{
        unsigned n = 0;

        for (unsigned i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
                n += p->seen[i];
        return n;
}

int main(int argc, char **argv)
{
        const char *engine = "translate", *against = "interp";
        static struct job job;
        u64 seed = 1, cases = 20000, stop = 10;
        _cleanup_(err_freep) struct err *err = NULL;
        bool no_fork = false;
        struct progress *p;

        for (int i = 1; i < argc; i++) {
                if (strcmp(argv[i], "--no-fork") == 0)
                        no_fork = true;
                else if (strcmp(argv[i], "--show") == 0)
                        job.show = true;
                else if (i + 1 == argc)
                        break;
                else if (strcmp(argv[i], "--engine") == 0)
                        engine = argv[++i];
                else if (strcmp(argv[i], "--against") == 0)
                        against = argv[++i];
                else if (strcmp(argv[i], "--seed") == 0)
                        seed = strtoull(argv[++i], NULL, 0);
                else if (strcmp(argv[i], "--cases") == 0)
                        cases = strtoull(argv[++i], NULL, 0);
                else if (strcmp(argv[i], "--stop") == 0)
                        stop = strtoull(argv[++i], NULL, 0);
        }
        setvbuf(stdout, NULL, _IOLBF, 0);
        job.engine = cpu_engine_find(engine, &err);
        if (!job.engine) {
                printf("1..1\nok 1 - %s_equals_%s # SKIP %s\n", engine, against, err_message(err));
                return 0;
        }
        job.against = cpu_engine_find(against, &err);
        job.forms = forms_new();
        p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (!job.against || !job.forms || p == MAP_FAILED) {
                fprintf(stderr, "diff-engines: cannot start\n");
                return 1;
        }
        job.progress = p;
        p->seed = seed;
        p->end = seed + cases;
        if (!no_fork) {
                work_in_children(&job, stop);
        } else if (start_sides(&job, &err) < 0) {
                err_print(err, argv[0]);
                return 1;
        } else {
                work(&job, stop);
        }
        printf("# %lu cases from seed %lu, %zu forms, %u different first instructions, %lu faults (vectors 0x%lx), %lu endless\n", p->done,
               seed, forms_count(job.forms), count_seen(p), p->faults, p->vectors, p->skipped);
        printf("1..1\n%s 1 - %s_equals_%s\n", p->differences ? "not ok" : "ok", engine, against);
        return p->differences != 0;
}
