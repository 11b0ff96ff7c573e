/* Guests that mean harm, one for each MODE: a multiboot kernel in flat 32-bit protected mode. What must survive is the machine around them.
 *   1 ports: random reads and writes of every width to every port but those that end the machine
 *   2 memory: random reads and writes over the PCI window, ECAM, IOAPIC, local APIC and what is between them
 *   3 ram: random writes all over RAM, the IVT and the ACPI tables included, but this code
 *   4 fault: no IDT, so that the first exception is a triple fault
 *   5 loop: an exception handler that raises the same exception, for ever
 *   6 halt: interrupts off and HLT
 * The first three end with 0 in the debug-exit port: status 1. SEED and COUNT vary them. */
        .code32
        .globl _start
        .set MAGIC, 0x1badb002
        .set DEBUG_EXIT, 0xf4

        .align 4
        .long MAGIC, 0, -MAGIC

_start: cli
        movl    $stack, %esp
        movl    $SEED, %ebx
        movl    $COUNT, %edi
.if MODE == 1
ports:  call    random
        movl    %ebx, %edx
        andl    $0xffff, %edx
        movl    $enders, %esi           /* ports that would end the run: not these */
1:      lodsl
        cmpl    $-1, %eax
        je      2f
        movl    %eax, %ecx
        andl    $0xffff, %ecx
        shrl    $16, %eax
        cmpl    %ecx, %edx
        jb      1b
        cmpl    %eax, %edx
        jbe     next
        jmp     1b
2:      movl    %ebx, %eax
        shrl    $16, %eax
        movl    %ebx, %ecx
        shrl    $29, %ecx
        jmp     *table(,%ecx,4)
out1:   outb    %al, %dx
        jmp     next
out2:   outw    %ax, %dx
        jmp     next
out4:   outl    %eax, %dx
        jmp     next
in1:    inb     %dx, %al
        jmp     next
in2:    inw     %dx, %ax
        jmp     next
in4:    inl     %dx, %eax
next:   decl    %edi
        jnz     ports
        jmp     done
        .align 4
table:  .long   out1, out2, out4, in1, in2, in4, out4, out1
        /* low | high << 16: a wide access from up to three below reaches them too */
enders: .long   0x61 | 0x64 << 16, 0x8f | 0x92 << 16, 0xf1 | 0xf7 << 16, 0x5fd | 0x60b << 16, 0xcf5 | 0xcf9 << 16, -1
.endif
.if MODE == 2
memory: call    random
        movl    %ebx, %esi
        orl     $0xc0000000, %esi
        call    random
        movl    %ebx, %ecx
        shrl    $30, %ecx
        jmp     *table(,%ecx,4)
write4: movl    %ebx, (%esi)
        jmp     next
write1: movb    %bl, (%esi)
        jmp     next
read4:  movl    (%esi), %eax
        jmp     next
ecam:   andl    $0xfffff, %esi          /* the one bus there is: commands, BARs, capabilities */
        movl    %ebx, 0xe0000000(%esi)
next:   decl    %edi
        jnz     memory
        jmp     done
        .align 4
table:  .long   write4, write1, read4, ecam
.endif
.if MODE == 3
ram:    call    random
        movl    %ebx, %esi
        andl    $0x07ffffff, %esi
        movl    %esi, %eax
        subl    $0x100000, %eax
        cmpl    $0x10000, %eax
        jb      ram
        call    random
        movl    %ebx, (%esi)
        decl    %edi
        jnz     ram
        jmp     done
.endif
.if MODE == 4
        lidt    nothing
        ud2
nothing: .word  0
        .long   0
.endif
.if MODE == 5
        /* A gate needs the handler's address in two halves, and multiboot leaves a GDT that must not be relied on. */
        lgdt    gdtr
        ljmp    $8, $1f
1:      movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movl    $handler, %eax
        movw    %ax, idt + 6 * 8
        shrl    $16, %eax
        movw    %ax, idt + 6 * 8 + 6
        lidt    idtr
handler: movl   $stack, %esp
        ud2
        .align 8
idt:    .fill   6, 8, 0
        .word   0, 8, 0x8e00, 0
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
idtr:   .word   7 * 8 - 1
        .long   idt
gdtr:   .word   3 * 8 - 1
        .long   gdt
.endif
.if MODE == 6
1:      hlt
        jmp     1b
.endif
done:   xorl    %eax, %eax
        outb    %al, $DEBUG_EXIT
1:      hlt
        jmp     1b

/* xorshift32 in %ebx */
random: movl    %ebx, %eax
        shll    $13, %eax
        xorl    %eax, %ebx
        movl    %ebx, %eax
        shrl    $17, %eax
        xorl    %eax, %ebx
        movl    %ebx, %eax
        shll    $5, %eax
        xorl    %eax, %ebx
        ret
        .skip   256
stack:
