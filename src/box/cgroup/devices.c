/* Access to devices on version 2: a program of the kernel's eBPF machine, attached to the group, is asked about each
 * access.
 *
 * The program gives each access the answer of the last rule about it, read, write and mknod apart. It walks the rules
 * from the last to the first and keeps what is still undecided in r4:
 *
 *         r4 = access asked for (bits 16..18), r2 = device type, r5 = major, r6 = minor
 *         rule: not about this device (type, major, minor)? on to the next rule
 *               deny, and some undecided bit is in the rule: return 0
 *               allow: take the rule's bits out of r4; nothing left: return 1
 *         end:  return 0
 *
 * The context is struct bpf_cgroup_dev_ctx, the numbers of its type and access those of <linux/bpf.h>. */
#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "box/cgroup/internal.h"

#define RULE_ALL(t, maj, min, bits)                                                          \
        {                                                                                    \
                .allow = true, .type = (t), .major = (maj), .minor = (min), .access = (bits) \
        }

/* The spec's list, and what a terminal needs: /dev/console is made for whoever asks for one, ptmx and pts are the
 * container's own. */
const struct cgroup_device_rule cgroup_default_devices[] = {
        RULE_ALL(CGROUP_DEVICE_CHAR, CGROUP_DEVICE_ANY, CGROUP_DEVICE_ANY, CGROUP_DEVICE_MKNOD),
        RULE_ALL(CGROUP_DEVICE_BLOCK, CGROUP_DEVICE_ANY, CGROUP_DEVICE_ANY, CGROUP_DEVICE_MKNOD),
        RULE_ALL(CGROUP_DEVICE_CHAR, 1, 3, CGROUP_DEVICE_RWM),                   /* null */
        RULE_ALL(CGROUP_DEVICE_CHAR, 1, 5, CGROUP_DEVICE_RWM),                   /* zero */
        RULE_ALL(CGROUP_DEVICE_CHAR, 1, 7, CGROUP_DEVICE_RWM),                   /* full */
        RULE_ALL(CGROUP_DEVICE_CHAR, 1, 8, CGROUP_DEVICE_RWM),                   /* random */
        RULE_ALL(CGROUP_DEVICE_CHAR, 1, 9, CGROUP_DEVICE_RWM),                   /* urandom */
        RULE_ALL(CGROUP_DEVICE_CHAR, 5, 0, CGROUP_DEVICE_RWM),                   /* tty */
        RULE_ALL(CGROUP_DEVICE_CHAR, 5, 1, CGROUP_DEVICE_RWM),                   /* console */
        RULE_ALL(CGROUP_DEVICE_CHAR, 5, 2, CGROUP_DEVICE_RWM),                   /* ptmx */
        RULE_ALL(CGROUP_DEVICE_CHAR, 136, CGROUP_DEVICE_ANY, CGROUP_DEVICE_RWM), /* pts */
};
const size_t cgroup_n_default_devices = ARRAY_SIZE(cgroup_default_devices);

/* ---- program ---- */

#define INSNS_PER_RULE 8

struct program {
        struct bpf_insn *insn;
        size_t n;
};

static void add(struct program *p, u8 code, u8 dst, u8 src, s16 off, s32 imm)
{
        p->insn[p->n++] =
                (struct bpf_insn){ .code = code, .dst_reg = dst & 15u, .src_reg = src & 15u, .off = off, .imm = imm };
}

static void load(struct program *p, u8 dst, u8 src, size_t offset)
{
        add(p, BPF_LDX | BPF_MEM | BPF_W, dst, src, (s16)offset, 0);
}

static void give(struct program *p, s32 verdict)
{
        add(p, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, verdict);
        add(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* The access bits of the context are BPF_DEVCG_ACC_*: mknod 1, read 2, write 4. */
static s32 access_bits(unsigned access)
{
        return (access & CGROUP_DEVICE_MKNOD ? BPF_DEVCG_ACC_MKNOD : 0) |
               (access & CGROUP_DEVICE_READ ? BPF_DEVCG_ACC_READ : 0) |
               (access & CGROUP_DEVICE_WRITE ? BPF_DEVCG_ACC_WRITE : 0);
}

static void add_rule(struct program *p, const struct cgroup_device_rule *rule)
{
        size_t skip[3], n_skips = 0;

        /* A 32-bit compare: major and minor numbers beyond 2^31 are negative as immediates. */
        const struct {
                bool given;
                u8 reg;
                s64 value;
        } tests[] = {
                { rule->type != CGROUP_DEVICE_ALL, BPF_REG_2,
                        rule->type == CGROUP_DEVICE_BLOCK ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR },
                { rule->type != CGROUP_DEVICE_ALL && rule->major != CGROUP_DEVICE_ANY, BPF_REG_5, rule->major },
                { rule->type != CGROUP_DEVICE_ALL && rule->minor != CGROUP_DEVICE_ANY, BPF_REG_6, rule->minor },
        };
        const s32 bits = rule->type == CGROUP_DEVICE_ALL ? access_bits(CGROUP_DEVICE_RWM) : access_bits(rule->access);

        for (size_t i = 0; i < ARRAY_SIZE(tests); i++)
                if (tests[i].given) {
                        skip[n_skips++] = p->n;
                        add(p, BPF_JMP32 | BPF_JNE | BPF_K, tests[i].reg, 0, 0, (s32)(u32)tests[i].value);
                }
        if (rule->allow) {
                add(p, BPF_ALU | BPF_AND | BPF_K, BPF_REG_4, 0, 0, ~bits);
                add(p, BPF_JMP32 | BPF_JNE | BPF_K, BPF_REG_4, 0, 2, 0);
                give(p, 1);
        } else {
                add(p, BPF_JMP32 | BPF_JSET | BPF_K, BPF_REG_4, 0, 1, bits);
                add(p, BPF_JMP | BPF_JA, 0, 0, 2, 0);
                give(p, 0);
        }
        for (size_t i = 0; i < n_skips; i++)
                p->insn[skip[i]].off = (s16)(p->n - skip[i] - 1);
}

/* Rules are decided from the last to the first; behind one about everything nothing can be reached. */
static bool add_rules(struct program *p, const struct cgroup_device_rule *rules, size_t n)
{
        while (n-- > 0) {
                add_rule(p, &rules[n]);
                if (rules[n].type == CGROUP_DEVICE_ALL)
                        return false;
        }
        return true;
}

static int make_program(const struct cgroup_device_rule *rules, size_t n, struct program *p)
{
        *p = (struct program){ .insn = calloc(
                                       (n + cgroup_n_default_devices) * INSNS_PER_RULE + 16, sizeof(p->insn[0])) };
        if (!p->insn)
                return -ENOMEM;
        load(p, BPF_REG_2, BPF_REG_1, offsetof(struct bpf_cgroup_dev_ctx, access_type));
        add(p, BPF_ALU | BPF_MOV | BPF_X, BPF_REG_4, BPF_REG_2, 0, 0);
        add(p, BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 0xffff);
        add(p, BPF_ALU | BPF_RSH | BPF_K, BPF_REG_4, 0, 0, 16);
        load(p, BPF_REG_5, BPF_REG_1, offsetof(struct bpf_cgroup_dev_ctx, major));
        load(p, BPF_REG_6, BPF_REG_1, offsetof(struct bpf_cgroup_dev_ctx, minor));
        /* No verifier takes unreachable code, so what follows a rule about everything is left out. That rule decides
         * all. */
        if (add_rules(p, cgroup_default_devices, cgroup_n_default_devices))
                (void)add_rules(p, rules, n);
        give(p, 0);
        return 0;
}

/* ---- kernel ---- */

static int bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
        const long r = syscall(SYS_bpf, cmd, attr, sizeof(*attr));

        return r < 0 ? -errno : (int)r;
}

static int load_program(const struct program *p)
{
        union bpf_attr attr = {
                .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
                .insns = (u64)(uintptr_t)p->insn,
                .insn_cnt = (u32)p->n,
                .license = (u64)(uintptr_t) "Apache-2.0",
                .prog_name = "strata_devices",
        };

        return bpf(BPF_PROG_LOAD, &attr);
}

/* The programs attached to the group itself, as descriptors. */
static int attached(int dir, int *fds, u32 max)
{
        u32 ids[64];
        union bpf_attr attr = { 0 };
        int r;

        attr.query.target_fd = (u32)dir;
        attr.query.attach_type = BPF_CGROUP_DEVICE;
        attr.query.prog_ids = (u64)(uintptr_t)ids;
        attr.query.prog_cnt = MIN(max, (u32)ARRAY_SIZE(ids));
        r = bpf(BPF_PROG_QUERY, &attr);
        if (r < 0)
                return r;
        for (u32 i = 0; i < attr.query.prog_cnt; i++) {
                union bpf_attr get = { .prog_id = ids[i] };

                fds[i] = bpf(BPF_PROG_GET_FD_BY_ID, &get);
        }
        return (int)attr.query.prog_cnt;
}

static int attach(int dir, int program)
{
        union bpf_attr attr = { 0 };

        attr.target_fd = (u32)dir;
        attr.attach_bpf_fd = (u32)program;
        attr.attach_type = BPF_CGROUP_DEVICE;
        /* Every program must agree, so groups above keep their say and groups below can add theirs. */
        attr.attach_flags = BPF_F_ALLOW_MULTI;
        return bpf(BPF_PROG_ATTACH, &attr);
}

static void detach(int dir, int program)
{
        union bpf_attr attr = { 0 };

        attr.target_fd = (u32)dir;
        attr.attach_bpf_fd = (u32)program;
        attr.attach_type = BPF_CGROUP_DEVICE;
        (void)bpf(BPF_PROG_DETACH, &attr);
}

int cgroup_devices_bpf(int dir, const struct cgroup_device_rule *rules, size_t n, struct err **err)
{
        _cleanup_close_ int program = -1;
        int old[64], n_old, r;
        struct program p;

        r = make_program(rules, n, &p);
        if (r >= 0)
                r = program = load_program(&p);
        free(p.insn);
        if (r < 0)
                return err_sys(err, -r, "loading the BPF program for devices");
        n_old = attached(dir, old, ARRAY_SIZE(old));
        if (n_old < 0)
                n_old = 0;
        r = attach(dir, program);
        /* First the new one, then away with the old: at no moment is more allowed than one of them allows. */
        for (int i = 0; i < n_old; i++) {
                if (r >= 0 && old[i] >= 0)
                        detach(dir, old[i]);
                closep(&old[i]);
        }
        return r < 0 ? err_sys(err, -r, "attaching the BPF program for devices") : 0;
}
