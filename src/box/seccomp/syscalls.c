#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "box/seccomp/internal.h"

enum { NONE = -1, SOCKETCALL = 102, IPC = 117 }; /* i386's numbers of the multiplexers */

static const struct seccomp_syscall syscalls[] = {
#define SYSCALL(name, x86_64, i386, x32)                        { #name, { x86_64, i386, x32 }, 0, 0 },
#define MULTIPLEXED(name, x86_64, i386, x32, multiplexer, call) { #name, { x86_64, i386, x32 }, multiplexer, call },
#include "box/seccomp/syscalls.def"
#undef SYSCALL
#undef MULTIPLEXED
};

static int by_name(const void *name, const void *syscall)
{
        return strcmp(name, ((const struct seccomp_syscall *)syscall)->name);
}

const struct seccomp_syscall *seccomp_syscall_find(const char *name)
{
        return bsearch(name, syscalls, ARRAY_SIZE(syscalls), sizeof(syscalls[0]), by_name);
}

unsigned seccomp_syscall_weight(unsigned nr)
{
        static const u8 weight[SECCOMP_NR_MAX + 1] = {
#define HOT(name, value) [__NR_##name] = (value),
#include "box/seccomp/hot.def"
#undef HOT
        };

        return nr < ARRAY_SIZE(weight) && weight[nr] ? weight[nr] : 1;
}
