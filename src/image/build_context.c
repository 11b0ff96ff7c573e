/* What a build is made from: the context (a directory, or an archive on standard input), the Dockerfile, .dockerignore. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "archive.h"
#include "build.h"
#include "chunks.h"

#define IGNORE_FILE ".dockerignore"
#define STAGES_MAX  200U

/* Standard input as a file that can be read twice. */
static int spool_input(struct build *build, int *ret, struct err **err)
{
        _cleanup_close_ int fd = openat(
                build->lease->tmp_fd, lease_new_name(build->lease).text, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        _cleanup_free_ u8 *buf = malloc(CHUNK_SIZE);
        ssize_t n = 0;
        int r = fd < 0 || !buf ? -errno : 0;

        while (r == 0 && (n = io_read_full(STDIN_FILENO, buf, CHUNK_SIZE)) > 0)
                r = io_write_all(fd, buf, (size_t)n);
        if (r == 0 && n < 0)
                r = (int)n;
        if (r < 0 || lseek(fd, 0, SEEK_SET) < 0)
                return err_sys(err, r < 0 ? -r : errno, "reading the context from standard input");
        *ret = TAKE_FD(fd);
        return 0;
}

/* A tar, compressed or not (its magic: pax(1)); a text otherwise. */
static bool is_archive(int fd)
{
        u8 head[512] = { 0 };
        const ssize_t n = pread(fd, head, sizeof(head), 0);

        return n > 0 && (compression_of(head, (size_t)n) != COMPRESSION_NONE || memcmp(head + 257, "ustar", 5) == 0);
}

/* "-": an archive, or a Dockerfile that needs no context: *ret_text is open then. */
static int context_of_input(struct build *build, int *ret_text, struct err **err)
{
        const struct lease_name name = lease_new_name(build->lease);
        _cleanup_close_ int input = -1;
        int r = spool_input(build, &input, err);

        if (r == 0)
                r = io_make_dir(build->lease->tmp_fd, name.text, 0755, err);
        if (r == 0)
                r = io_open_dir(build->lease->tmp_fd, name.text, &build->context, err);
        if (r < 0)
                return r;
        if (is_archive(input)) {
                r = archive_unpack(input, build->context, err);
                return r < 0 ? err_wrap(err, r, "reading the context from standard input") : 0;
        }
        *ret_text = TAKE_FD(input);
        return 0;
}

static bool is_address(const char *context)
{
        return strstr(context, "://") || strncmp(context, "git@", 4) == 0 || strncmp(context, "github.com/", 11) == 0;
}

static int open_context(struct build *build, int *ret_text, struct err **err)
{
        const char *context = build->options->context ? build->options->context : ".";

        if (strcmp(context, "-") == 0)
                return context_of_input(build, ret_text, err);
        build->context = open(context, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (build->context >= 0)
                return 0;
        if (errno == ENOENT && is_address(context))
                return err_hint(err,
                        err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "the context '%s' is not fetched", context),
                        "git clone it; an archive comes by `curl ... | strata image build -`");
        return err_sys(err, errno, "opening the context '%s'", context);
}

static int open_dockerfile(const struct build *build, int *ret, struct err **err)
{
        const char *name = build->options->dockerfile ? build->options->dockerfile : "Dockerfile";
        const bool in_context =
                !build->options->dockerfile || (build->options->context && strcmp(build->options->context, "-") == 0);

        if (strcmp(name, "-") == 0)
                *ret = dup(STDIN_FILENO);
        else if (in_context)
                *ret = build_open_source(build->context, name, O_RDONLY);
        else
                *ret = open(name, O_RDONLY | O_CLOEXEC);
        return *ret < 0 ? err_sys(err, in_context ? -*ret : errno, "opening the Dockerfile '%s'", name) : 0;
}

/* DOCKERFILE.dockerignore goes before the context's. */
static int read_ignore(struct build *build, struct err **err)
{
        _cleanup_free_ char *own = NULL, *text = NULL;
        const char *dockerfile = build->options->dockerfile;

        if (asprintf(&own, "%s" IGNORE_FILE, dockerfile ? dockerfile : "Dockerfile") < 0) {
                own = NULL;
                return err_sys(err, ENOMEM, "reading " IGNORE_FILE);
        }
        if (io_read_file(dockerfile ? AT_FDCWD : build->context, own, DOCKERFILE_MAX, &text, NULL, NULL) < 0 &&
                io_read_file(build->context, IGNORE_FILE, DOCKERFILE_MAX, &text, NULL, NULL) < 0)
                return 0;
        return dockerignore_parse(text, &build->ignore, err);
}

int build_read_inputs(struct build *build, struct err **err)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -1;
        size_t len;
        int r = open_context(build, &fd, err);

        if (r == 0 && fd < 0)
                r = open_dockerfile(build, &fd, err);
        if (r == 0)
                r = io_read_stream(fd, DOCKERFILE_MAX, &text, &len, err);
        if (r == 0 && strlen(text) != len)
                r = err_set(err, ERR_USAGE, EINVAL, "the Dockerfile is not a text");
        if (r == 0)
                r = dockerfile_parse(text, &build->file, err);
        if (r == 0 && build->file.n_stages > STAGES_MAX)
                r = err_set(err, ERR_TOO_LARGE, EFBIG, "the Dockerfile has more than %u stages", STAGES_MAX);
        return r < 0 ? r : read_ignore(build, err);
}
