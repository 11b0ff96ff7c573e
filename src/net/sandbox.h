/* The first steps of a program that serves a container (helper.h starts it): whether it is wanted, and what it may still do once it
 * listens to strangers. */
#pragma once

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/types.h"

/* Takes the lock of the file @lock_fd. False when that has no name any more: it goes when the container does, which may have been before we
 * came to it. */
bool helper_is_wanted(int lock_fd);

/* A filter is SANDBOX_BEGIN, what is allowed, SANDBOX_INTERNET_SOCKETS; everything else fails. */
#define SANDBOX_LOAD(field)  BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define SANDBOX_RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define SANDBOX_BEGIN                                                                     \
        SANDBOX_LOAD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0), \
                SANDBOX_RETURN(SECCOMP_RET_KILL_PROCESS), SANDBOX_LOAD(nr)
#define SANDBOX_ALLOW(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), SANDBOX_RETURN(SECCOMP_RET_ALLOW)
/* Allowed when none of @bits is in the low half of argument @n. */
#define SANDBOX_ALLOW_WITHOUT(name, n, bits)                                                           \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 4), SANDBOX_LOAD(args[n]),                  \
                BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (bits), 1, 0), SANDBOX_RETURN(SECCOMP_RET_ALLOW), \
                SANDBOX_RETURN(SECCOMP_RET_ERRNO | EPERM)
/* Sockets of the internet families alone. */
#define SANDBOX_INTERNET_SOCKETS                                                                        \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 4), SANDBOX_LOAD(args[0]),                   \
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 1, 0),                                     \
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 0, 1), SANDBOX_RETURN(SECCOMP_RET_ALLOW), \
                SANDBOX_RETURN(SECCOMP_RET_ERRNO | EPERM)

/* -errno. */
int sandbox_enter(const struct sock_filter *filter, size_t n);
