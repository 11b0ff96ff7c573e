/* User programs that are longer than a few bytes; position-independent, copied to where they run. */
        .section .rodata
        .globl  race_user, race_user_end

/* race.c's: does everything with random pages of a region, for ever. r8: the region; r9: pages - 1; r10: versions published, 4 bytes a page;
 * r12: random; r15: what is added to a page's number to get its first word. UD2 when a page is not itself; then rax says what was there. */
        .balign 64
race_user:
        movabsq $6364136223846793005, %rax
        imulq   %rax, %r12
        addq    $12345, %r12
        movq    %r12, %rbx
        shrq    $40, %rbx
        andq    %r9, %rbx
        movq    %rbx, %rsi
        shlq    $12, %rsi
        addq    %r8, %rsi /* the page */
        movl    (%r10,%rbx,4), %r14d
        leaq    (%r15,%rbx), %rdi /* what its words must be */
        btq     $50, %r12
        jc      1f
        movq    (%rsi), %rax
        cmpq    %rdi, %rax
        jne     bad
        lock incq 0x40(%rsi)
        movq    %r12, 0x80(%rsi)
        addl    %eax, 0x90(%rsi)
        movups  0x20(%rsi), %xmm0
        movups  %xmm0, 0xa0(%rsi)
        movq    0x20(%rsi), %rax
        cmpq    %rdi, %rax
        jne     bad
1:      leaq    0x700(%rsi), %rsp
        leaq    0x800(%rsi), %rdx
        btq     $51, %r12
        jc      2f
        pushq   %r12
        call    *%rdx
        popq    %rcx
        cmpl    %r14d, %eax
        jl      bad
2:      btq     $52, %r12
        jc      3f
        leaq    0x100(%rsi), %rdi
        movl    $16, %ecx
        movq    %r12, %rax
        cld
        rep stosq
3:      btq     $53, %r12
        jc      race_user
        lock xaddq %rax, 0x48(%rsi)
        movzbl  0xfff(%rsi), %eax
        movb    %al, 0xffe(%rsi)
        jmp     race_user
bad:    ud2
race_user_end:

        .section .note.GNU-stack, "", @progbits
