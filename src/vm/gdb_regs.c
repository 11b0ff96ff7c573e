#include "gdb_regs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Offsets in the XSAVE area's legacy region. Source: SDM 1, table 10-2. */
enum { X87_FTW = 4, X87_ST0 = 32, SSE_XMM0 = 160 };

enum kind { GPR, RIP, EFLAGS, SELECTOR, ST, X87_WORD, X87_DWORD, X87_TAG, ZERO, XMM, SEG_BASE, SYSTEM };

struct reg {
        const char *feature; /* of a line that opens a feature; then nothing else */
        const char *name, *type;
        unsigned bits;
        enum kind kind;
        unsigned index;
};

#define SYSTEM_FIELD(field) offsetof(struct cpu_state, field)

static const struct reg lines[] = {
#define GDB_FEATURE(feature)                   { feature, NULL, NULL, 0, ZERO, 0 },
#define GDB_REG(name, bits, type, kind, index) { NULL, name, type, bits, kind, index },
#include "gdb_regs.def"
#undef GDB_FEATURE
#undef GDB_REG
};

unsigned gdb_reg_count(void)
{
        unsigned n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
                n += lines[i].name != NULL;
        return n;
}

static const struct reg *find(unsigned n)
{
        size_t i = 0;

        while (!lines[i].name || n--)
                i++;
        return &lines[i];
}

size_t gdb_reg_size(unsigned n)
{
        return find(n)->bits / 8;
}

/* One bit a register in XSAVE, two in FSAVE's form that the debugger wants: valid or empty is all that can be told
 * cheaply. */
static u16 full_tags(u8 abridged)
{
        u16 tags = 0;

        for (unsigned i = 0; i < 8; i++)
                if (!(abridged & BIT(i)))
                        tags = (u16)(tags | 3u << (2 * i));
        return tags;
}

static u8 abridged_tags(u64 tags)
{
        u8 abridged = 0;

        for (unsigned i = 0; i < 8; i++)
                if ((tags >> (2 * i) & 3) != 3)
                        abridged = (u8)(abridged | BIT(i));
        return abridged;
}

static u64 get_number(const struct cpu_state *cpu, const struct reg *reg)
{
        u64 v = 0;

        switch (reg->kind) {
        case GPR:
                return cpu->gpr[reg->index];
        case RIP:
                return cpu->rip;
        case EFLAGS:
                return cpu->rflags;
        case SELECTOR:
                return cpu->seg[reg->index].selector;
        case SEG_BASE:
                return cpu->seg[reg->index].base;
        case X87_WORD:
                memcpy(&v, cpu->xsave + reg->index, 2);
                return v;
        case X87_DWORD:
                memcpy(&v, cpu->xsave + reg->index, 4);
                return v;
        case X87_TAG:
                return full_tags(cpu->xsave[X87_FTW]);
        case SYSTEM:
                memcpy(&v, (const u8 *)cpu + reg->index, 8);
                return v;
        default:
                return 0;
        }
}

/* The bytes of a register that is no number. */
static const u8 *vector_bytes(const struct cpu_state *cpu, const struct reg *reg)
{
        if (reg->kind == ST)
                return cpu->xsave + X87_ST0 + 16 * reg->index;
        return reg->kind == XMM ? cpu->xsave + SSE_XMM0 + 16 * reg->index : NULL;
}

void gdb_reg_get(const struct cpu_state *cpu, unsigned n, u8 *dst)
{
        const struct reg *reg = find(n);
        const u8 *bytes = vector_bytes(cpu, reg);
        const u64 v = bytes ? 0 : get_number(cpu, reg);

        memcpy(dst, bytes ? (const void *)bytes : &v, reg->bits / 8);
}

/* EFLAGS bits that exist; VM and the IOPL are not the debugger's to change. */
#define EFLAGS_WRITABLE \
        (RFLAGS_ARITH | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_NT | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID)
/* MXCSR bits that may be set without #GP. Source: SDM 1, 10.2.3. */
#define MXCSR_WRITABLE 0xffffu
#define MXCSR_OFFSET   24

bool gdb_reg_set(struct cpu_state *cpu, unsigned n, const u8 *src)
{
        const struct reg *reg = find(n);
        const u8 *bytes = vector_bytes(cpu, reg);
        u64 v = 0;

        if (bytes) {
                memcpy((u8 *)(uintptr_t)bytes, src, reg->bits / 8);
                return true;
        }
        memcpy(&v, src, reg->bits / 8);
        switch (reg->kind) {
        case GPR:
                cpu->gpr[reg->index] = v;
                return true;
        case RIP:
                if (!mmu_is_canonical(v))
                        return false;
                cpu->rip = v;
                return true;
        case EFLAGS:
                cpu->rflags = (cpu->rflags & ~EFLAGS_WRITABLE) | (v & EFLAGS_WRITABLE);
                return true;
        case SEG_BASE:
                if (!mmu_is_canonical(v))
                        return false;
                cpu->seg[reg->index].base = v;
                return true;
        case X87_WORD:
                memcpy(cpu->xsave + reg->index, &v, 2);
                return true;
        case X87_DWORD:
                if (reg->index == MXCSR_OFFSET)
                        v &= MXCSR_WRITABLE;
                memcpy(cpu->xsave + reg->index, &v, 4);
                return true;
        case X87_TAG:
                cpu->xsave[X87_FTW] = abridged_tags(v);
                return true;
        default:
                return v == (get_number(cpu, reg) & (reg->bits == 64 ? ~0ULL : BIT(reg->bits) - 1));
        }
}

char *gdb_target_xml(void)
{
        char *xml = NULL;
        size_t len;
        FILE *out = open_memstream(&xml, &len);
        bool open = false;

        if (!out)
                return NULL;
        fputs("<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
              "<architecture>i386:x86-64</architecture>",
                out);
        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                const struct reg *reg = &lines[i];

                if (reg->feature) {
                        fprintf(out, "%s<feature name=\"%s\">", open ? "</feature>" : "", reg->feature);
                        open = true;
                } else {
                        fprintf(out, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"/>", reg->name, reg->bits, reg->type);
                }
        }
        fputs("</feature></target>", out);
        if (fclose(out) != 0) {
                free(xml);
                return NULL;
        }
        return xml;
}
