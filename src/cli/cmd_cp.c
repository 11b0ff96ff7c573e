/* `strata cp`. Docker's rules of what a path means:
 *
 *   source        target                       result
 *   file          does not exist               the file under that name; an error when the name ends with a slash
 *   file          file                         replaced
 *   file          directory                    in it, under its own name
 *   directory     does not exist               the directory under that name
 *   directory     file                         an error
 *   directory     directory                    in it, under its own name; with "/." behind the source: what is in it
 *
 * The files pass as a tar stream between a child, which does this side (copy_local.c), and the instance module. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/arena.h"
#include "container_cli.h"
#include "copy_local.h"

#define LINKS_MAX     16
#define MESSAGE_BYTES 4096

struct cp {
        bool keep_owner, follow;
};

/* "NAME:PATH"; a path of this host begins with / or . or has no colon. */
struct place {
        char *container; /* NULL: this host */
        const char *path;
};

static void place_clear(struct place *place)
{
        free(place->container);
}

static int read_place(const char *text, struct place *ret, struct err **err)
{
        const char *colon = strchr(text, ':');

        ret->path = text;
        if (!colon || text[0] == '/' || text[0] == '.')
                return 0;
        if (colon == text)
                return err_set(err, ERR_USAGE, EINVAL, "'%s': a container's name is missing", text);
        ret->container = strndup(text, (size_t)(colon - text));
        ret->path = colon[1] ? colon + 1 : "/";
        return ret->container ? 0 : err_sys(err, ENOMEM, "reading the arguments");
}

static bool ends_with(const char *path, const char *end)
{
        const size_t n = strlen(path), m = strlen(end);

        return n >= m && strcmp(path + n - m, end) == 0;
}

/* Whether what is in the directory is meant, not the directory. */
static bool means_content(const char *path)
{
        return strcmp(path, ".") == 0 || ends_with(path, "/.");
}

/* --- the other side in a child ------------------------------------------------------------------------------------- */

struct child {
        pid_t pid;
        int data;     /* our end of the stream */
        int messages; /* what went wrong there */
};

typedef int child_fn(void *opaque, int fd, struct err **err);

static _noreturn_ void run_child(child_fn *fn, void *opaque, int data, int messages)
{
        struct err *err = NULL;
        const int r = fn(opaque, data, &err);

        if (r < 0)
                dprintf(messages, "%s", err_message(err));
        _exit(r < 0);
}

/* @reads: the child reads the stream, else it writes it. */
static int start_child(child_fn *fn, void *opaque, bool reads, struct child *ret, struct err **err)
{
        int data[2], messages[2];

        if (pipe2(data, O_CLOEXEC) < 0)
                return err_sys(err, errno, "making a pipe");
        if (pipe2(messages, O_CLOEXEC) < 0) {
                close(data[0]);
                close(data[1]);
                return err_sys(err, errno, "making a pipe");
        }
        fflush(NULL);
        ret->pid = fork();
        if (ret->pid == 0) {
                close(data[reads]);
                close(messages[0]);
                run_child(fn, opaque, data[!reads], messages[1]);
        }
        close(data[!reads]);
        close(messages[1]);
        ret->data = data[reads];
        ret->messages = messages[0];
        return ret->pid < 0 ? err_sys(err, errno, "starting a process") : 0;
}

/* After the stream. @r and @err are of this side; the child's failure counts when it explains ours. */
static int finish_child(struct child *child, int r, struct err **err)
{
        char message[MESSAGE_BYTES];
        ssize_t n;
        int status = 1;

        close(child->data);
        n = read(child->messages, message, sizeof(message) - 1);
        close(child->messages);
        while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (status == 0 || (r < 0 && r != -EPIPE))
                return r;
        message[MAX(n, (ssize_t)0)] = '\0';
        *err = err_free(*err);
        return err_set(err, ERR_IO, EIO, "%s", n > 0 ? message : "copying was interrupted");
}

/* --- out of a container -------------------------------------------------------------------------------------------- */

static int unpack_child(void *opaque, int fd, struct err **err)
{
        return copy_local_unpack(opaque, fd, err);
}

static int stream_out(
        struct instance *inst, const char *path, bool follow, struct copy_local_target *target, struct err **err)
{
        struct child child;
        int r = start_child(unpack_child, target, true, &child, err);

        if (r < 0)
                return r;
        r = instance_copy_out(inst, path, follow, child.data, err);
        return finish_child(&child, r, err);
}

static int no_such_directory(const char *path, struct err **err)
{
        return err_set(err, ERR_NOT_FOUND, ENOENT, "there is no directory '%s'", path);
}

static int onto_file(const char *source, const char *target, struct err **err)
{
        return err_set(
                err, ERR_USAGE, ENOTDIR, "'%s' is a directory and does not replace the file '%s'", source, target);
}

/* The last component of a path as a name here: NULL when it is none, and what is in the directory is copied. */
static const char *own_name(const char *name)
{
        return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 ? name : NULL;
}

static int copy_out(struct instance *inst, const char *source, const char *path, const struct cp *cp, struct err **err)
{
        struct copy_local_target target = { .dir = path, .keep_owner = cp->keep_owner };
        _cleanup_free_ char *dir = strdup(path), *base = strdup(path);
        struct instance_path_stat st;
        struct stat there;
        bool is_dir;
        int r = instance_stat_path(inst, source, &st, err);

        if (r < 0)
                return r;
        if (!dir || !base)
                return err_sys(err, ENOMEM, "copying files");
        is_dir = S_ISDIR(st.mode);
        if (strcmp(path, "-") == 0) {
                if (isatty(STDOUT_FILENO))
                        return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "an archive is not printed on a terminal"),
                                "name a file or redirect the output");
                return instance_copy_out(inst, source, cp->follow, STDOUT_FILENO, err);
        }
        if (stat(path, &there) == 0 && S_ISDIR(there.st_mode)) {
                if (!is_dir || !means_content(source))
                        target.name = own_name(st.name); /* also where the path goes through a link */
        } else {
                if (is_dir && stat(path, &there) == 0)
                        return onto_file(source, path, err);
                if (!is_dir && ends_with(path, "/"))
                        return no_such_directory(path, err);
                target.dir = dirname(dir);
                target.name = basename(base);
                if (stat(target.dir, &there) < 0 || !S_ISDIR(there.st_mode))
                        return no_such_directory(target.dir, err);
                if (is_dir && means_content(source)) { /* the same: the directory is new */
                        _cleanup_free_ char *whole = strndup(source, strlen(source) - 1);

                        return whole ? stream_out(inst, whole, cp->follow, &target, err)
                                     : err_sys(err, ENOMEM, "copying files");
                }
        }
        return stream_out(inst, source, cp->follow, &target, err);
}

/* --- into a container ---------------------------------------------------------------------------------------------- */

struct packing {
        const char *path, *name;
        bool follow;
};

static int pack_child(void *opaque, int fd, struct err **err)
{
        const struct packing *packing = opaque;

        signal(SIGPIPE, SIG_IGN);
        return copy_local_pack(packing->path, packing->name, packing->follow, fd, err);
}

static int stream_in(struct instance *inst, const char *dir, unsigned flags, struct packing *packing, struct err **err)
{
        struct child child;
        int r = start_child(pack_child, packing, false, &child, err);

        if (r < 0)
                return r;
        r = instance_copy_in(inst, dir, flags, child.data, err);
        return finish_child(&child, r, err);
}

/* What @path is in the container, links at its end followed: *ret_path is where that led to. 0 or an error; *ret_mode 0: there
 * is nothing. */
static int find_target(struct instance *inst, const char *path, struct arena *arena, const char **ret_path,
        mode_t *ret_mode, struct err **err)
{
        struct instance_path_stat st;

        for (unsigned i = 0; i < LINKS_MAX; i++) {
                struct err *own = NULL;
                int r = instance_stat_path(inst, path, &st, &own);

                if (r < 0 && err_get_id(own) != ERR_NOT_FOUND) {
                        *err = own;
                        return r;
                }
                err_free(own);
                *ret_path = path;
                *ret_mode = r < 0 ? 0 : st.mode;
                if (r < 0 || !S_ISLNK(st.mode))
                        return 0;
                if (st.link_target[0] == '/')
                        path = arena_strdup(arena, st.link_target);
                else
                        path = arena_printf(arena, "%s/%s", dirname(arena_strdup(arena, path)), st.link_target);
                if (!path)
                        return err_sys(err, ENOMEM, "copying files");
        }
        return err_set(err, ERR_BAD_CONFIG, ELOOP, "'%s': too many links", path);
}

static int copy_in_to(struct instance *inst, const char *source, const char *path, const struct cp *cp,
        struct arena *arena, struct err **err)
{
        const unsigned flags = INSTANCE_COPY_NO_OVERWRITE | (cp->keep_owner ? INSTANCE_COPY_KEEP_OWNER : 0);
        struct packing packing = { source, NULL, cp->follow };
        const char *target = path;
        struct stat st;
        mode_t there = 0;
        bool is_dir;
        int r;

        if (strcmp(source, "-") == 0)
                return instance_copy_in(inst, path, flags, STDIN_FILENO, err);
        packing.follow |= means_content(source) || ends_with(source, "/");
        if ((packing.follow ? stat(source, &st) : lstat(source, &st)) < 0)
                return err_sys(err, errno, "'%s'", source);
        is_dir = S_ISDIR(st.st_mode);
        r = find_target(inst, path, arena, &target, &there, err);
        if (r < 0)
                return r;
        if (S_ISDIR(there)) {
                if (!is_dir || !means_content(source)) {
                        char *real = means_content(source) || ends_with(source, "..") ? realpath(source, NULL) : NULL;

                        packing.name = basename(arena_strdup(arena, real ? real : source));
                        free(real);
                }
                return stream_in(inst, target, flags, &packing, err);
        }
        if (is_dir && there)
                return onto_file(source, path, err);
        if (!is_dir && ends_with(path, "/"))
                return no_such_directory(path, err);
        packing.name = basename(arena_strdup(arena, target));
        return stream_in(inst, dirname(arena_strdup(arena, target)), flags, &packing, err);
}

static int copy_in(struct instance *inst, const char *source, const char *path, const struct cp *cp, struct err **err)
{
        struct arena arena = { 0 };
        int r = copy_in_to(inst, source, path, cp, &arena, err);

        arena_release(&arena);
        return r;
}

/* --- the command --------------------------------------------------------------------------------------------------- */

static int copy(const char *source, const char *target, const struct cp *cp, struct err **err)
{
        _cleanup_(place_clear) struct place from = { 0 }, to = { 0 };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        int r = read_place(source, &from, err);

        if (r == 0)
                r = read_place(target, &to, err);
        if (r < 0)
                return r;
        if (!from.container == !to.container) {
                r = err_set(err, ERR_USAGE, EINVAL, "files are copied between a container and this host");
                return err_hint(err, r, "one of the two is CONTAINER:PATH");
        }
        r = container_open(from.container ? from.container : to.container, &host, &inst, err);
        if (r < 0)
                return r;
        signal(SIGPIPE, SIG_IGN);
        return from.container ? copy_out(inst, from.path, to.path, cp, err)
                              : copy_in(inst, from.path, to.path, cp, err);
}

int container_cp_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("archive", 'a', FLAG, offsetof(struct cp, keep_owner), NULL, "files keep their owners"),
                CLI_OPTION("follow-link", 'L', FLAG, offsetof(struct cp, follow), NULL,
                        "a link as the source is followed"),
                CLI_OPTION("quiet", 'q', IGNORED, 0, NULL, NULL),
                { 0 },
        };
        const struct cli_usage usage = { "strata cp", "[OPTION...] CONTAINER:PATH PATH|-  or  PATH|- CONTAINER:PATH",
                "Copy files and directories out of a container or into it, also while it does not run.\n"
                "DIR/. means what is in DIR; '-' is a tar archive on standard output or input.",
                CLI_OPTIONS(options), 2, 2, false };
        struct cp cp = { 0 };
        int first, r = cli_options_parse(&usage, argc, argv, &cp, &first, err);

        return r != 0 ? MIN(r, 0) : copy(argv[first], argv[first + 1], &cp, err);
}
