/* The ways into the kernel: boot, the second CPU's start, exceptions, interrupts, system calls; and the way into user code. */
#include "layout.h"

        .set MAGIC, 0x1badb002
        .set FLAGS, 0x10000 /* the addresses below count: an image of 64-bit code that is no ELF32 */
#define PHYS(x) ((x) - KERNEL_BASE)

        .section .boot, "awx"
        .code32
        .align 4
multiboot:
        .long   MAGIC, FLAGS, -(MAGIC + FLAGS)
        .long   PHYS(multiboot), PHYS(image_start), PHYS(image_end), PHYS(bss_end), PHYS(boot32)

        .globl  boot32
boot32: movl    %ebx, PHYS(multiboot_info)
        /* The first GiB in 2 MiB pages: at 0 (until the kernel has tables of its own) and at KERNEL_BASE. */
        movl    $PHYS(boot_pd), %edi
        movl    $0x83, %eax
1:      movl    %eax, (%edi)
        addl    $8, %edi
        addl    $0x200000, %eax
        cmpl    $0x40000083, %eax
        jne     1b
        movl    $PHYS(boot_pd) + 7, PHYS(boot_pdpt)
        movl    $PHYS(boot_pd) + 3, PHYS(kernel_pdpt) + 510 * 8
        movl    $PHYS(boot_pdpt) + 3, PHYS(boot_pml4)
        movl    $PHYS(kernel_pdpt) + 7, PHYS(boot_pml4) + 511 * 8
        xorl    %esi, %esi
        jmp     enter_long

        /* Copied to TRAMPOLINE; a CPU starts here in real mode with cs = TRAMPOLINE >> 4. */
        .code16
        .globl  trampoline, trampoline_end
trampoline:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        lgdtl   TRAMPOLINE + (trampoline_gdtr - trampoline)
        movl    $1, %eax
        movl    %eax, %cr0
        ljmpl   $0x18, $PHYS(second32)
        .align  4
trampoline_gdtr:
        .word   5 * 8 - 1
        .long   PHYS(boot_gdt)
trampoline_end:

        .code32
second32:
        movw    $0x10, %ax
        movw    %ax, %ds
        movl    $1, %esi

enter_long: /* %esi: which CPU */
        movl    $CR4_START, %eax
        movl    %eax, %cr4
        movl    $PHYS(boot_pml4), %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx
        rdmsr
        orl     $0x901, %eax /* SCE, LME, NXE */
        wrmsr
        movl    $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
        movl    %eax, %cr0
        lgdt    PHYS(boot_gdtr)
        ljmp    $0x08, $PHYS(1f)
        .code64
1:      movabsq $2f, %rax
        jmp     *%rax

        .text
2:      movl    $0x10, %eax
        movl    %eax, %ss
        movl    %eax, %ds
        movl    %eax, %es
        xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        movl    %esi, %edi
        movl    %esi, %eax
        shlq    $STACK_BITS, %rax
        leaq    stacks + (1 << STACK_BITS)(%rax), %rsp
        pushq   $0
        testl   %edi, %edi
        jnz     second_main
        jmp     main

/* ---- into user code and back ---- */

/* void user_run(struct frame *frame): runs user code from @frame's registers until it faults or calls the system; then @frame is what it was then.
 * Interrupts come and go meanwhile. A vector of LEAVE_BY_SYSRET says how to get there: RCX and R11 are lost then. */
        .globl  user_run
user_run:
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rdi, %gs:CPU_FRAME
        movq    %rsp, %gs:CPU_STACK
        movq    %rdi, %rsp
        cmpq    $LEAVE_BY_SYSRET, FRAME_VECTOR(%rdi)
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %r11
        popq    %r10
        popq    %r9
        popq    %r8
        popq    %rbp
        popq    %rdi
        popq    %rsi
        popq    %rdx
        popq    %rcx
        popq    %rbx
        popq    %rax
        je      1f
        leaq    16(%rsp), %rsp
        swapgs
        iretq
1:      movq    16(%rsp), %rcx
        movq    32(%rsp), %r11
        movq    40(%rsp), %rsp
        swapgs
        sysretq

        .globl  syscall_entry
syscall_entry:
        swapgs
        movq    %rsp, %gs:CPU_USER_RSP
        movq    %gs:CPU_TRAP_STACK, %rsp
        pushq   $USER_SS
        pushq   %gs:CPU_USER_RSP
        pushq   %r11
        pushq   $USER_CS
        pushq   %rcx
        pushq   $0
        pushq   $VECTOR_SYSCALL
        jmp     saved

        .macro  entry vector
        .if     ((\vector) == 8) || ((\vector) >= 10 && (\vector) <= 14) || ((\vector) == 17) || ((\vector) == 21)
        .else
        pushq   $0
        .endif
        pushq   $(\vector)
        jmp     common
        .align  16
        .endm
        .align  16
        .globl  vector_entries
vector_entries:
        .set    n, 0
        .rept   VECTORS
        entry   n
        .set    n, n + 1
        .endr

common: cld
        testb   $3, 24(%rsp)
        jz      saved
        swapgs
saved:  pushq   %rax
        pushq   %rbx
        pushq   %rcx
        pushq   %rdx
        pushq   %rsi
        pushq   %rdi
        pushq   %rbp
        pushq   %r8
        pushq   %r9
        pushq   %r10
        pushq   %r11
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, %rdi
        call    trap
        /* An interrupt of user code. */
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %r11
        popq    %r10
        popq    %r9
        popq    %r8
        popq    %rbp
        popq    %rdi
        popq    %rsi
        popq    %rdx
        popq    %rcx
        popq    %rbx
        popq    %rax
        addq    $16, %rsp
        swapgs
        iretq

/* The frame is filled: back to who called user_run. */
        .globl  user_return
user_return:
        movq    %gs:CPU_STACK, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        ret

        .data
        .align  8
        .globl  boot_gdt
boot_gdt:
        .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0x00cff3000000ffff
boot_gdtr:
        .word   5 * 8 - 1
        .long   PHYS(boot_gdt)
        .long   0

        .bss
        .align  4096
        .globl  boot_pml4, kernel_pdpt, multiboot_info
boot_pml4:  .skip 4096
boot_pdpt:  .skip 4096
boot_pd:    .skip 4096
kernel_pdpt: .skip 4096
stacks: .skip   2 << STACK_BITS
multiboot_info: .skip 8

        .section .note.GNU-stack, "", @progbits
