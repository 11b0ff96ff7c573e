/* The porter: a process that stays outside of the jail, for the three things that cannot be done from inside.
 *
 *  - It maps users and groups for the jail's user namespace, which only somebody outside may do.
 *  - It connects to unix sockets of the host for the guest's connections, those whose names were agreed on before (unix_listener_connect).
 *  - When the process in the jail has ended, however, it removes the files of sockets.
 *
 * It is forked while that process is small and has opened nothing. Both talk over a pair of sockets, one message a request and one an
 * answer. PORTER_SEAL ends what has to be believed: later a porter knows PORTER_CONNECT only, and confines itself to the system calls for
 * that. A porter without sockets to look after ends then.
 *
 * Threads: one request at a time. */
#pragma once

#include <sys/types.h>

#include "base/err.h"
#include "base/unix_listener.h"

#define PORTER_TEXT_MAX 3072

struct porter_link {
        int socket;
        pid_t pid;
        u32 sequence; /* of the last request */
        u32 answered; /* of the last one whose answer was waited for */
};

/* Forks. Close the socket, and it ends. */
int porter_start(struct porter_link *ret, struct err **err);
/* Maps users and groups of this process' new namespace. @deny_setgroups: as the kernel wants it of who has no right over groups. */
int porter_map_ids(struct porter_link *link, bool deny_setgroups, const char *uid_map, const char *gid_map);
/* Asks it to look after a socket, and to seal itself; porter_finish waits until all that was asked is done. Waking another process and being woken
 * is most of what these cost. */
int porter_add_socket(struct porter_link *link, const struct unix_listener *listener);
int porter_seal(struct porter_link *link);
int porter_finish(struct porter_link *link);
/* A connection to @number beside the @index'th socket: a descriptor or -errno. */
int porter_connect(struct porter_link *link, u32 index, u32 number);
