/* A guest that computes: a multiboot kernel in flat 32-bit protected mode that any engine can run, KVM on old processors included. COUNT times it mixes a word
 * of one MiB of memory into a sum and writes the sum back there; then it prints the sum and ends with 0 in the debug-exit port: status 1. */
        .code32
        .globl _start
        .set MAGIC, 0x1badb002
        .set DEBUG_EXIT, 0xf4
        .set COM1, 0x3f8
        .set WORDS, 0x800000            /* behind the kernel */
        .set MASK, 0xffffc              /* of an offset into the MiB */

        .align 4
        .long MAGIC, 0, -MAGIC

_start: cli
        movl    $1, %ebx
        movl    $COUNT, %edi
mix:    imull   $1664525, %ebx, %ebx
        addl    $1013904223, %ebx
        movl    %ebx, %ecx
        shrl    $12, %ecx
        andl    $MASK, %ecx
        xorl    WORDS(%ecx), %ebx
        roll    $7, %ebx
        movl    %ebx, WORDS(%ecx)
        decl    %edi
        jnz     mix

        movl    $8, %edi                /* digits */
        movw    $COM1, %dx
print:  roll    $4, %ebx
        movl    %ebx, %eax
        andl    $15, %eax
        addl    $'a', %eax              /* a..p, as no number is wanted */
        outb    %al, %dx
        decl    %edi
        jnz     print
        movb    $'\n', %al
        outb    %al, %dx
        xorl    %eax, %eax
        movw    $DEBUG_EXIT, %dx
        outb    %al, %dx
1:      hlt
        jmp     1b
