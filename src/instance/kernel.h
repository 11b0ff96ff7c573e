/* Kernels for machines: ROOT/kernels/NAME/{vmlinux, initrd, drivers, config.json}.
 *
 * A kernel is imported once from a file or a Debian package: unpacked, so that no start has to, and with an
 * initial RAM disk that holds strata-init as /init and exactly the modules that our machines need. A kernel is
 * there when its config.json is; whoever is killed leaves none, or a whole one. Any number of processes may
 * import, use and remove kernels at a time: what has been opened stays readable.
 *
 * In the initial RAM disk the file /modules has one line a module, in the order in which they are to be loaded: an
 * absolute path and behind a space, where there are any, its parameters. */
#pragma once

#include "base/cleanup.h"
#include "base/err.h"

struct instance_host;

/* The kernel that is made when nobody imported one. */
#define KERNEL_DEFAULT "default"

struct kernel {
        char *name;
        char *release; /* "6.1.0-56-cloud-amd64" */
        char *image;   /* strata-vmm --kernel */
        char *initrd;  /* strata-vmm --initrd */
        char *append;  /* strata-vmm --append; more may be added behind a space */
        char *created; /* RFC 3339 */
        u64 bytes;     /* on the disk */
};

/* The kernel @name; NULL: the default one, which is made first when there is none: from the newest
 * linux-image-cloud-amd64 (or other kernel with what machines need) below /boot and /lib/modules, else from the
 * package, fetched by apt-get. That may take a minute, once; @progress (may be NULL) gets a sentence before a long
 * step. ERR_NOT_FOUND with the command to type when neither can be had. The initial RAM disk is made again when
 * strata-init is another than when it was made. */
int kernel_get(struct instance_host *host, const char *name, void (*progress)(void *opaque, const char *text),
        void *opaque, struct kernel **ret, struct err **err);
/* NULL is fine. Returns NULL. */
struct kernel *kernel_free(struct kernel *kernel);
static inline void kernel_freep(struct kernel **kernel)
{
        kernel_free(*kernel);
}

struct kernel_import {
        const char *name; /* NULL: "default" */
        const char *file; /* a bzImage, a vmlinux, or a Debian package (.deb) of one */
        /* The directory of its modules (as /lib/modules/RELEASE); NULL: that of its release, with a package its own. */
        const char *modules;
        const char *append; /* the command line; NULL: ours */
};

/* Takes the place of a kernel of that name. Files are hostile: ERR_BAD_IMAGE and nothing changed. */
int kernel_import(struct instance_host *host, const struct kernel_import *import, struct err **err);
/* By name, in order, until @fn returns other than 0; returns that. */
int kernel_list(struct instance_host *host, int (*fn)(void *opaque, const struct kernel *kernel), void *opaque,
        struct err **err);
/* Machines that run it run on. */
int kernel_remove(struct instance_host *host, const char *name, struct err **err);
