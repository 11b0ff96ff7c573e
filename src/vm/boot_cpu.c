/* The CPU states in which kernels are entered. */
#include <string.h>

#include "boot.h"

/* Selectors that Linux's 64-bit protocol prescribes (__BOOT_CS, __BOOT_DS); Xen's and multiboot's kernels load
 * their own GDT. Source: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol". */
enum { SELECTOR_CODE = 0x10, SELECTOR_DATA = 0x18, GDT_ENTRIES = 5 };

#define SEG_FLAT_LIMIT 0xffffffffu
/* Type: code, execute/read, accessed; data, read/write, accessed; 32-bit TSS, busy. */
#define ATTR_CODE32   (0xb | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_DB | SEG_ATTR_G)
#define ATTR_CODE64   (0xb | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_L | SEG_ATTR_G)
#define ATTR_DATA     (0x3 | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_DB | SEG_ATTR_G)
#define ATTR_TSS_BUSY (0xb | SEG_ATTR_P)

#define PTE_P  BIT(0)
#define PTE_RW BIT(1)
#define PTE_PS BIT(7)

/* A descriptor with base 0 and a 4 GiB limit. Source: SDM 3A, figure 3-8. */
static u64 flat_descriptor(u16 attr)
{
        return 0x000f00000000ffffULL | ((u64)attr << 40);
}

static int write_gdt(struct boot_load *load, u16 code_attr, struct err **err)
{
        u64 gdt[GDT_ENTRIES] = { 0 };

        gdt[SELECTOR_CODE / 8] = flat_descriptor(code_attr);
        gdt[SELECTOR_DATA / 8] = flat_descriptor(ATTR_DATA);
        load->bsp->gdtr = (struct dtable){ .base = BOOT_GDT, .limit = sizeof(gdt) - 1 };
        load->bsp->idtr = (struct dtable){ 0 };
        return boot_write(load, BOOT_GDT, gdt, sizeof(gdt), err);
}

static void set_flat_segments(struct cpu_state *cpu, u16 code_attr)
{
        for (unsigned i = 0; i < SEG_COUNT; i++)
                cpu->seg[i] = (struct seg){ .selector = SELECTOR_DATA, .attr = ATTR_DATA, .limit = SEG_FLAT_LIMIT };
        cpu->seg[SEG_CS] = (struct seg){ .selector = SELECTOR_CODE, .attr = code_attr, .limit = SEG_FLAT_LIMIT };
        cpu->tr = (struct seg){ .attr = ATTR_TSS_BUSY, .limit = 0x67 };
        cpu->ldtr = (struct seg){ .unusable = true };
        cpu->cpl = 0;
        cpu->rflags = RFLAGS_FIXED;
}

int boot_enter_32(struct boot_load *load, u64 rip, struct err **err)
{
        struct cpu_state *cpu = load->bsp;

        set_flat_segments(cpu, ATTR_CODE32);
        cpu->paging.cr0 = CR0_PE | CR0_ET;
        cpu->paging.cr4 = 0;
        cpu->paging.efer = 0;
        cpu->rip = rip;
        return write_gdt(load, ATTR_CODE32, err);
}

/* 2 MiB pages for the first 4 GiB: the kernel, boot_params, command line and initrd are all below. */
static int write_identity_map(struct boot_load *load, struct err **err)
{
        const u64 pml4 = BOOT_PAGE_TABLES, pdpt = pml4 + PAGE_SIZE, pd = pdpt + PAGE_SIZE;
        u64 table[512];
        int r;

        memset(table, 0, sizeof(table));
        table[0] = pdpt | PTE_P | PTE_RW;
        r = boot_write(load, pml4, table, sizeof(table), err);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < 4; i++)
                table[i] = (pd + i * PAGE_SIZE) | PTE_P | PTE_RW;
        r = boot_write(load, pdpt, table, sizeof(table), err);
        for (unsigned i = 0; i < 4 && r == 0; i++) {
                for (unsigned j = 0; j < 512; j++)
                        table[j] = (i * 512ULL + j) << 21 | PTE_P | PTE_RW | PTE_PS;
                r = boot_write(load, pd + i * PAGE_SIZE, table, sizeof(table), err);
        }
        return r;
}

int boot_enter_64(struct boot_load *load, u64 rip, struct err **err)
{
        struct cpu_state *cpu = load->bsp;
        int r = write_identity_map(load, err);

        if (r < 0)
                return r;
        set_flat_segments(cpu, ATTR_CODE64);
        cpu->paging.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
        cpu->paging.cr3 = BOOT_PAGE_TABLES;
        cpu->paging.cr4 = CR4_PAE;
        cpu->paging.efer = EFER_LME | EFER_LMA;
        cpu->rip = rip;
        return write_gdt(load, ATTR_CODE64, err);
}

void boot_enter_real(struct cpu_state *cpu, u16 segment, u16 offset)
{
        cpu->seg[SEG_CS].selector = segment;
        cpu->seg[SEG_CS].base = (u64)segment << 4;
        cpu->rip = offset;
}
