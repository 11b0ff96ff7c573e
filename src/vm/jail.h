/* The jail: before guest code runs, strata-vmm gives up everything that a machine does not need any more, so that a guest that takes
 * the process over has little in its hands. docs/machine.md, "The jail", says what is closed; ADR 82 why so.
 *
 *         r = jail_new(mode, &jail, err);    // first of all: before files, memory and threads
 *         ...open what the machine uses, and say so: jail_need, jail_keep_directory, jail_keep_socket...
 *         r = jail_enter(jail, err);         // before the first thread; from here on there is no way back
 *         ...start threads, run guest code...
 *         jail_free(jail);                   // after all sockets that were kept
 *
 * What has been opened before stays usable: disks, taps, sockets, /dev/kvm, code caches. New in the jail can be: threads, memory that
 * is not executable, files below directories that were kept, connections that were accepted. Who adds a system call to code that runs
 * then adds it to jail_syscalls.def: the kernel ends the process at a call that is not listed there, and refuses one (EPERM) whose
 * arguments are others than listed. tests/integration/jail.sh shows how to find out which it was.
 *
 * Saved machines: a snapshot is written into files that come with the request (control socket, "snapshot -"): who asks makes them. Files
 * that a machine is restored from are opened before; its state is loaded by vm_start, so after jail_enter, for it starts threads and
 * is not to be trusted.
 *
 * All functions take a NULL jail, which is none. Not for several threads. */
#pragma once

#include "base/err.h"
#include "base/unix_listener.h"

enum jail_mode {
        JAIL_AUTO,     /* each stage that the host lets us have */
        JAIL_NONE,
        JAIL_REQUIRED, /* all of them or an error; but Landlock only if this kernel has it */
};

/* Groups of system calls, the second column of jail_syscalls.def. */
enum jail_need {
        JAIL_ALWAYS = 1,
        JAIL_KVM = 2,
        JAIL_TRANSLATE = 4,
        JAIL_TAP = 8,
        JAIL_DISKS = 16,
        JAIL_SHARES = 32,    /* a file server, */
        JAIL_SHARE_WRITES = 64, /* which may change files */
        JAIL_SOCKETS = 128,  /* connections are accepted, and read and written as sockets */
        JAIL_TERMINAL = 256,
        JAIL_PORTER = 512,   /* not the jail's: the process outside */
};

enum jail_access {
        JAIL_WALK,  /* names may be looked up; what they lead to is opened by other rules */
        JAIL_READ,
        JAIL_WRITE, /* files are made, changed and removed */
};

struct jail;

/* Starts the process that stays outside (jail_porter.h). *@ret is NULL for JAIL_NONE, and for JAIL_AUTO where not even that is
 * possible. */
int jail_new(enum jail_mode mode, struct jail **ret, struct err **err);
/* The process outside removes the files of sockets now. Returns NULL. */
struct jail *jail_free(struct jail *jail);
static inline void jail_freep(struct jail **jail)
{
        jail_free(*jail);
}

void jail_need(struct jail *jail, unsigned needs);
/* The directory that is open as @fd (O_PATH) and can be found at @path stays, and nothing above it. In the jail @fd is the same number,
 * but leads to a mount of the jail's own. @path is borrowed until jail_enter. */
void jail_keep_directory(struct jail *jail, int fd, const char *path, enum jail_access access);
/* Connections that the guest makes to sockets beside this one work, and its file is removed when this process has ended. Implies
 * JAIL_SOCKETS. Borrowed until jail_enter. */
void jail_keep_socket(struct jail *jail, struct unix_listener *listener);
/* Files in the directories kept are given to other users, as far as this process may do that now. */
void jail_keep_owners(struct jail *jail);

/* Goes in. On failure (never in JAIL_AUTO because of what the host lacks) the process may be half inside and is to end. */
int jail_enter(struct jail *jail, struct err **err);
