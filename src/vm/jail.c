#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "jail_internal.h"

int jail_new(enum jail_mode mode, struct jail **ret, struct err **err)
{
        _cleanup_(err_freep) struct err *why = NULL;
        _cleanup_free_ struct jail *jail = NULL;
        int r;

        *ret = NULL;
        if (mode == JAIL_NONE || (mode == JAIL_AUTO && JAIL_SANITIZERS))
                return 0;
        jail = calloc(1, sizeof(*jail));
        if (!jail)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the jail");
        jail->mode = mode;
        jail->needs = JAIL_ALWAYS;
        r = porter_start(&jail->porter, &why);
        if (r < 0 && mode == JAIL_AUTO) {
                log_info("no jail: %s", err_message(why)); /* without /proc */
                return 0;
        }
        if (r < 0) {
                if (err)
                        *err = TAKE_PTR(why);
                return err_wrap(err, r, "preparing the jail");
        }
        *ret = TAKE_PTR(jail);
        return 0;
}

static void dismiss_porter(struct jail *jail)
{
        if (jail->porter.pid <= 0)
                return;
        close(jail->porter.socket);
        waitpid(jail->porter.pid, NULL, 0);
        jail->porter.pid = 0;
}

struct jail *jail_free(struct jail *jail)
{
        if (!jail)
                return NULL;
        dismiss_porter(jail); /* it removes the files of sockets, which are to be gone before we are */
        free(jail);
        return NULL;
}

/* ---- what stays ---- */

void jail_need(struct jail *jail, unsigned needs)
{
        if (jail)
                jail->needs |= needs;
}

void jail_keep_directory(struct jail *jail, int fd, const char *path, enum jail_access access)
{
        if (!jail || fd < 0)
                return;
        if (jail->n_directories == ARRAY_SIZE(jail->directories)) {
                jail->too_many = true;
                return;
        }
        jail->directories[jail->n_directories++] = (struct jail_directory){ .fd = fd, .path = path, .access = access };
}

void jail_keep_socket(struct jail *jail, struct unix_listener *listener)
{
        if (!jail || !listener)
                return;
        jail_need(jail, JAIL_SOCKETS);
        if (jail->n_sockets == ARRAY_SIZE(jail->sockets)) {
                jail->too_many = true;
                return;
        }
        jail->sockets[jail->n_sockets++] = listener;
}

void jail_keep_owners(struct jail *jail)
{
        if (jail)
                jail->keep_owners = true;
}

/* ---- going in ---- */

static int connect_outside(const struct unix_listener *listener, u32 number)
{
        struct jail *jail = listener->outside;

        return porter_connect(&jail->porter, listener->outside_index, number);
}

static int hear_from_porter(struct jail *jail, struct err **err)
{
        const int r = porter_finish(&jail->porter);

        return r < 0 ? err_sys(err, -r, "asking the process outside") : 0;
}

/* From here on the porter is not believed to be asked by us. What it does for that it does beside the next stages. */
static int hand_sockets_over(struct jail *jail, struct err **err)
{
        int r = 0;

        for (u32 i = 0; i < jail->n_sockets && r == 0; i++)
                r = porter_add_socket(&jail->porter, jail->sockets[i]);
        if (r == 0)
                r = porter_seal(&jail->porter);
        if (r < 0)
                return err_sys(err, -r, "asking the process outside");
        for (u32 i = 0; i < jail->n_sockets; i++) {
                jail->sockets[i]->outside = jail;
                jail->sockets[i]->outside_index = i;
                jail->sockets[i]->connect_outside = connect_outside;
        }
        if (jail->n_sockets == 0) {
                r = hear_from_porter(jail, err);
                dismiss_porter(jail); /* it ends by itself */
        }
        return r;
}

/* In this order: later ones take away what earlier ones need. */
static const struct stage {
        const char *name; /* of one that may be lacking */
        int (*enter)(struct jail *jail, struct err **err);
        enum { HOST_MAY_LACK, KERNEL_MAY_LACK, ALWAYS } when;
} stages[] = {
        { NULL, jail_limits, ALWAYS },
        { NULL, jail_rights_choose, ALWAYS },
        { "namespaces", jail_namespaces, HOST_MAY_LACK },
        { NULL, hand_sockets_over, ALWAYS },
        { NULL, jail_rights_drop, ALWAYS },
        { "landlock", jail_landlock, KERNEL_MAY_LACK },
        { "seccomp", jail_seccomp, HOST_MAY_LACK },
        { NULL, hear_from_porter, ALWAYS }, /* it is sealed */
};

static bool may_go_on_without(const struct jail *jail, const struct stage *stage, int r)
{
        if (stage->when == KERNEL_MAY_LACK && (r == -ENOSYS || r == -EOPNOTSUPP))
                return true;
        return stage->when != ALWAYS && jail->mode == JAIL_AUTO;
}

static int enter_stage(struct jail *jail, const struct stage *stage, struct err **err)
{
        _cleanup_(err_freep) struct err *why = NULL;
        const int r = stage->enter(jail, &why);

        if (r == 0)
                return 0;
        if (may_go_on_without(jail, stage, r)) {
                log_info("jail: without %s: %s", stage->name, err_message(why));
                return 0;
        }
        if (err)
                *err = TAKE_PTR(why);
        err_wrap(err, r, "entering the jail");
        return stage->when == ALWAYS ? r : err_hint(err, r, "--jail auto goes on with what this host has");
}

int jail_enter(struct jail *jail, struct err **err)
{
        if (!jail)
                return 0;
        if (jail->too_many)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "the jail cannot keep that many directories or sockets");
        /* Says whether there are other threads, and does nothing. EPERM: we are in a container that forbids it. */
        if (unshare(CLONE_THREAD) < 0 && errno == EINVAL)
                return err_set(err, ERR_INTERNAL, EINVAL, "the jail is to be entered before threads are started");
        for (size_t i = 0; i < ARRAY_SIZE(stages); i++) {
                const int r = enter_stage(jail, &stages[i], err);

                if (r < 0)
                        return r;
        }
        return 0;
}
