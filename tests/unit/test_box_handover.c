/* The handover program: it becomes the payload, leaves no socket behind, and tells what went wrong. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "box/process.h"
#include "box/seal.h"
#include "box/sync.h"

/* Runs @path by the program; what it wrote to its socket is left in *ret_sock. Returns the exit status. */
static int run(const char *path, const char *argument, int *ret_sock)
{
        int pair[2], status = 0;
        const int program = process_open_handover(NULL);
        pid_t pid;

        assert_true(program >= 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                char number[16];
                const char *argv[] = { path, number, "sh", "-c", argument, NULL };

                snprintf(number, sizeof(number), "%d", pair[1]);
                fcntl(pair[1], F_SETFD, 0);
                execveat(program, "", (char *const *)argv, environ, AT_EMPTY_PATH);
                _exit(99);
        }
        close(pair[1]);
        close(program);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        *ret_sock = pair[0];
        return WEXITSTATUS(status);
}

static void it_becomes_the_payload_without_its_socket(void **state)
{
        _cleanup_close_ int sock = -1;

        assert_int_equal(
                run("/bin/sh",
                        "for fd in /proc/self/fd/*; do case $(readlink $fd) in socket:*) exit 1;; esac; done; exit 42",
                        &sock),
                42);
        assert_int_equal(sync_receive(sock, NULL, NULL, NULL), SYNC_END);
}

static void a_missing_payload_is_told(void **state)
{
        _cleanup_(err_freep) struct err *err = NULL;
        _cleanup_close_ int sock = -1;

        assert_int_equal(run("/nonexistent", "", &sock), 127);
        assert_int_equal(sync_receive(sock, NULL, NULL, &err), -ENOENT);
        assert_non_null(strstr(err_message(err), "exec /nonexistent: no such file"));
}

static void its_file_cannot_be_written(void **state)
{
        _cleanup_close_ int fd = process_open_handover(NULL);

        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, "x", 1, 0), -1);
        assert_int_equal(errno, EPERM);
        assert_int_equal(ftruncate(fd, 0), -1);
}

static void a_file_that_can_be_written_is_no_clone(void **state)
{
        assert_false(seal_is_cloned());
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(it_becomes_the_payload_without_its_socket),
                cmocka_unit_test(a_missing_payload_is_told),
                cmocka_unit_test(its_file_cannot_be_written),
                cmocka_unit_test(a_file_that_can_be_written_is_no_clone),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
