/* What start.S and C agree on. */
#pragma once

#define KERNEL_BASE 0xffffffff80000000
#define TRAMPOLINE 0x8000
#define STACK_BITS 15
#define VECTORS 64

#define CR4_START 0x6a0 /* OSXMMEXCPT, OSFXSR, PGE, PAE */

#define KERNEL_CS 0x08
#define KERNEL_SS 0x10
#define USER_CS 0x2b
#define USER_SS 0x23

#define VECTOR_SYSCALL 256
#define LEAVE_BY_SYSRET 1

/* struct cpu */
#define CPU_FRAME 0
#define CPU_STACK 8
#define CPU_USER_RSP 16
#define CPU_TRAP_STACK 24

/* struct frame */
#define FRAME_VECTOR (15 * 8)
