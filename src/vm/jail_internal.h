/* The stages of the jail. jail.c says in which order they come; each stage's file says what it closes. */
#pragma once

#include <linux/filter.h>
#include <sys/types.h>

#include "jail.h"
#include "jail_porter.h"

/* Sanitizers look into /proc at the end of a process and make system calls of their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define JAIL_SANITIZERS true
#else
#define JAIL_SANITIZERS false
#endif

#define JAIL_DIRECTORIES_MAX 24
#define JAIL_SOCKETS_MAX 8
#define NOBODY_UID 65534 /* also of the group */

struct jail_directory {
        int fd;
        const char *path;
        enum jail_access access;
};

struct jail {
        enum jail_mode mode;
        struct porter_link porter;
        unsigned needs; /* enum jail_need */
        bool keep_owners;
        struct jail_directory directories[JAIL_DIRECTORIES_MAX];
        size_t n_directories;
        struct unix_listener *sockets[JAIL_SOCKETS_MAX];
        size_t n_sockets;
        bool too_many; /* of one of these */
        /* Who this process is in the jail, seen from outside. */
        uid_t uid;
        gid_t gid;
        u64 capabilities;
        bool may_set_ids; /* before it goes in */
        bool changes_user;
        bool own_namespaces;
};

/* ---- jail_rights.c: users, capabilities, limits ---- */

/* Decides who the process will be: jail->uid, gid, capabilities. */
int jail_rights_choose(struct jail *jail, struct err **err);
/* Becomes that user; capabilities stay for now. */
int jail_become(struct jail *jail, struct err **err);
int jail_rights_drop(struct jail *jail, struct err **err);
int jail_limits(struct jail *jail, struct err **err);

/* ---- jail_namespaces.c, jail_landlock.c, jail_seccomp.c ---- */

int jail_namespaces(struct jail *jail, struct err **err);
int jail_landlock(struct jail *jail, struct err **err);
int jail_seccomp(struct jail *jail, struct err **err);


#define JAIL_FILTER_MAX 1024
/* The program for these needs; returns its length, or -E2BIG. @self is the process that it is for. */
int jail_filter_build(unsigned needs, pid_t self, struct sock_filter ret[static JAIL_FILTER_MAX]);
/* Puts it in force for this thread and those that it starts. */
int jail_filter_install(unsigned needs);
