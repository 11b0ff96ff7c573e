#include "box/seccomp/seccomp.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd_pass.h"
#include "box/oci_read.h"
#include "box/seccomp/internal.h"

/* ---- compile ---- */

static int copy_text(const char *text, char **ret, struct err **err)
{
        if (!text)
                return 0;
        *ret = strdup(text);
        return *ret ? 0 : err_sys(err, ENOMEM, "reading the seccomp profile");
}

static int filter_from(const struct seccomp_profile *profile, const struct bpf_code *code, struct seccomp_filter **ret,
        struct err **err)
{
        _cleanup_(seccomp_filter_freep) struct seccomp_filter *filter = calloc(1, sizeof(*filter));
        int r;

        if (filter)
                filter->insn = calloc(code->n, sizeof(filter->insn[0]));
        if (!filter || !filter->insn)
                return err_sys(err, ENOMEM, "compiling the seccomp profile");
        for (u32 i = 0; i < code->n; i++)
                filter->insn[i] = code->insn[code->n - 1 - i];
        filter->n_insns = (u16)code->n;
        if (bpf_check(filter->insn, filter->n_insns) < 0)
                return err_set(err, ERR_INTERNAL, EINVAL, "the BPF program made from the profile is not valid");
        filter->flags = profile->flags;
        if (profile->listener_path)
                filter->flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
        else /* says how a listener is waited for; seccomp(2) refuses it without one */
                filter->flags &= ~(u32)SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        r = copy_text(profile->listener_path, &filter->listener_path, err);
        if (r >= 0)
                r = copy_text(profile->listener_metadata, &filter->listener_metadata, err);
        if (r >= 0)
                *ret = TAKE_PTR(filter);
        return r;
}

int seccomp_filter_compile(const json_t *json, bool strict, struct seccomp_filter **ret, struct err **err)
{
        _cleanup_(seccomp_profile_freep) struct seccomp_profile *profile = NULL;
        _cleanup_free_ struct bpf_code *code = NULL;
        int r;

        /* Neither an action nor rules: the caller has a seccomp object and means nothing by it (runc). */
        if (!json || json_is_null(json) ||
                (!oci_member(json, "defaultAction") && json_array_size(oci_member(json, "syscalls")) == 0)) {
                *ret = NULL;
                return 0;
        }
        code = malloc(sizeof(*code));
        if (!code)
                return err_sys(err, ENOMEM, "compiling the seccomp profile");
        r = seccomp_profile_parse(json, strict, &profile, err);
        if (r >= 0)
                r = seccomp_program_build(profile, code, err);
        if (r >= 0)
                r = filter_from(profile, code, ret, err);
        return r < 0 ? err_wrap(err, r, "linux.seccomp") : 0;
}

struct seccomp_filter *seccomp_filter_free(struct seccomp_filter *filter)
{
        if (filter) {
                free(filter->insn);
                free(filter->listener_path);
                free(filter->listener_metadata);
                free(filter);
        }
        return NULL;
}

/* ---- load ---- */

int seccomp_filter_load(const struct seccomp_filter *filter, int *ret_listener)
{
        const struct sock_fprog program = { .len = filter->n_insns, .filter = filter->insn };
        const long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, filter->flags, &program);

        if (r < 0)
                return -errno;
        *ret_listener = filter->flags & SECCOMP_FILTER_FLAG_NEW_LISTENER ? (int)r : -1;
        return 0;
}

/* ---- the listener's way to its agent ---- */

/* The spec's containerProcessState. Its ociVersion is that of this structure in the spec, which agents compare with. */
static char *process_state(const struct seccomp_filter *filter, pid_t pid, const json_t *state)
{
        json_t *json = json_pack("{s:s, s:[s], s:i, s:s*, s:O}", "ociVersion", "0.2.0", "fds", "seccompFd", "pid",
                (int)pid, "metadata", filter->listener_metadata, "state", state);
        char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

        json_decref(json);
        return text;
}

static int send_with_fd(int sock, const char *text, int fd)
{
        size_t done = 0, len = strlen(text);

        while (done < len) {
                /* The descriptor goes with the first byte. */
                const ssize_t n = fds_send(sock, text + done, len - done, &fd, done == 0, 0);

                if (n == -EINTR)
                        continue;
                if (n < 0)
                        return (int)n;
                done += (size_t)n;
        }
        return 0;
}

int seccomp_filter_send_listener(
        const struct seccomp_filter *filter, int listener, pid_t pid, const json_t *state, struct err **err)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int sock = -1;
        int r;

        if (!filter->listener_path)
                return err_set(err, ERR_INTERNAL, EINVAL, "the seccomp profile has no listenerPath");
        if (strlen(filter->listener_path) >= sizeof(address.sun_path))
                return err_set(err, ERR_BAD_CONFIG, ENAMETOOLONG,
                        "listenerPath '%s' is longer than a socket's name may be", filter->listener_path);
        memcpy(address.sun_path, filter->listener_path, strlen(filter->listener_path) + 1);
        text = process_state(filter, pid, state);
        if (!text)
                return err_sys(err, ENOMEM, "describing the container for the seccomp agent");
        sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0)
                return err_sys(err, errno, "connecting to the seccomp agent at '%s'", filter->listener_path);
        r = send_with_fd(sock, text, listener);
        return r < 0 ? err_sys(err, -r, "handing the seccomp listener to the agent at '%s'", filter->listener_path) : 0;
}

/* ---- features ---- */

static json_t *name_list(const char *const *names, bool (*supported)(const char *name))
{
        json_t *list = json_array();

        for (; list && *names; names++)
                if (!supported || supported(*names))
                        json_array_append_new(list, json_string(*names));
        return list;
}

/* The kernel says EFAULT for a program it cannot read when it knows the flag, EINVAL when it does not. */
static bool flag_supported(const char *name)
{
        static const struct {
                const char *name;
                unsigned long flags;
        } probes[] = {
                { "SECCOMP_FILTER_FLAG_TSYNC", SECCOMP_FILTER_FLAG_TSYNC },
                { "SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW },
                { "SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG },
                { "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
                        SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV },
        };

        for (size_t i = 0; i < ARRAY_SIZE(probes); i++)
                if (strcmp(probes[i].name, name) == 0)
                        return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, probes[i].flags, NULL) < 0 &&
                               errno == EFAULT;
        return false;
}

json_t *seccomp_features(void)
{
        return json_pack("{s:b, s:o, s:o, s:o, s:o, s:o}", "enabled", 1, "actions",
                name_list(seccomp_action_names, NULL), "operators", name_list(seccomp_operator_names, NULL), "archs",
                name_list(seccomp_arch_names, NULL), "knownFlags", name_list(seccomp_flag_names, NULL),
                "supportedFlags", name_list(seccomp_flag_names, flag_supported));
}
