/* cgroups on this host's own hierarchies, whatever they are: skipped where none may be made.
 * tests/integration/cgroup_v2.sh runs this on version 2 alone. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "box/cgroup/internal.h"
#include "cgroup_resources.h"

#define _cleanup_json_ _cleanup_(json_decrefp)

static char *host_name(void)
{
        static char name[40];

        if (!name[0]) /* children have their parent's */
                snprintf(name, sizeof(name), "strata-test-%d", (int)getpid());
        return name;
}

/* Whether this process may make groups here; the test is skipped otherwise. */
static struct cgroup *host_create(const struct cgroup_resources *res)
{
        _cleanup_err_ struct err *err = NULL;
        struct cgroup *cg = NULL;

        if (geteuid() != 0 ||
                cgroup_create(&(struct cgroup_spec){ .id = host_name(), .resources = res }, &cg, &err) < 0) {
                print_message("# no cgroups for this test: %s\n", geteuid() ? "not root" : err_message(err));
                skip();
        }
        return cg;
}

/* A child in the groups; it runs @run. */
static pid_t host_spawn(struct cgroup *cg, int (*run)(void))
{
        struct clone_args args = { .exit_signal = SIGCHLD };
        pid_t pid;

        if (cgroup_clone_fd(cg) >= 0) {
                args.flags = CLONE_INTO_CGROUP;
                args.cgroup = (u64)cgroup_clone_fd(cg);
        }
        pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
        assert_true(pid >= 0);
        if (pid == 0)
                _exit(cgroup_enter(cg, args.flags) < 0 ? 99 : run());
        return pid;
}

static int status_of(pid_t pid)
{
        int status;

        assert_int_equal(waitpid(pid, &status, 0), pid);
        return status;
}

static int sleep_long(void)
{
        sleep(60);
        return 0;
}

/* Each of its generations leaves one process behind. */
static int fork_and_sleep(void)
{
        for (int i = 0; i < 5; i++)
                if (fork() == 0)
                        return sleep_long();
        return sleep_long();
}

static size_t count_pids(struct cgroup *cg)
{
        _cleanup_free_ pid_t *pids = NULL;
        size_t n = 0;

        assert_int_equal(cgroup_pids(cg, &pids, &n, NULL), 0);
        return n;
}

static void wait_for_pids(struct cgroup *cg, size_t n)
{
        for (int i = 0; i < 2000 && count_pids(cg) != n; i++)
                usleep(1000);
        assert_int_equal(count_pids(cg), n);
}

static int in_its_groups(void)
{
        _cleanup_free_ char *text = NULL;
        unsigned lines = 0, ours = 0;

        if (cgroup_read(AT_FDCWD, "/proc/self/cgroup", &text, NULL) < 0)
                return 1;
        for (char *pos = text, *line; (line = cgroup_next_line(&pos)); lines++) {
                const char *slash = strrchr(line, '/');

                ours += slash &&
                        (strncmp(slash + 1, "strata-test-", 12) == 0 || strcmp(slash + 1, "strata@shared") == 0);
        }
        return lines == 0 || lines != ours;
}

static void processes_enter_every_hierarchy(void **state)
{
        _cleanup_cgroup_ struct cgroup *cg = host_create(NULL);
        const pid_t pid = host_spawn(cg, in_its_groups);

        assert_int_equal(status_of(pid), 0);
        assert_true(cgroup_exists(cg));
        assert_int_equal(cgroup_remove(cg, NULL), 0);
        assert_false(cgroup_exists(cg));
        assert_int_equal(cgroup_remove(cg, NULL), 0); /* gone already is fine */
}

static void frozen_processes_are_listed_and_killed(void **state)
{
        _cleanup_cgroup_ struct cgroup *cg = host_create(NULL), *other = NULL;
        const pid_t pid = host_spawn(cg, fork_and_sleep);
        _cleanup_json_ json_t *saved = cgroup_save(cg), *stats = NULL;
        bool frozen = false;

        wait_for_pids(cg, 6);
        /* What follows is done by another invocation. */
        assert_int_equal(cgroup_load(saved, &other, NULL), 0);
        assert_int_equal(cgroup_freeze(other, true, NULL), 0);
        assert_int_equal(cgroup_is_frozen(other, &frozen, NULL), 0);
        assert_true(frozen);
        assert_int_equal(cgroup_stats(other, &stats, NULL), 0);
        assert_non_null(json_object_get(json_object_get(stats, "cpu"), "usage"));
        assert_int_equal(cgroup_kill(other, SIGKILL, NULL), 0);
        assert_int_equal(WTERMSIG(status_of(pid)), SIGKILL);
        wait_for_pids(cg, 0);
        assert_int_equal(cgroup_remove(other, NULL), 0);
        assert_false(cgroup_exists(cg));
}

static int fork_for_ever(void)
{
        for (;;) {
                const pid_t pid = fork();

                if (pid > 0) /* the parent ends: whoever lists processes is always late */
                        return 0;
        }
}

static void removal_ends_what_forks_all_the_time(void **state)
{
        _cleanup_resources_ struct cgroup_resources *res = resources("{\"pids\": {\"limit\": 20}}");
        _cleanup_cgroup_ struct cgroup *cg = host_create(res);
        _cleanup_err_ struct err *err = NULL;

        assert_int_equal(cgroup_apply(cg, res, NULL), 0);
        status_of(host_spawn(cg, fork_for_ever));
        if (cgroup_remove(cg, &err) < 0)
                fail_msg("%s", err_message(err));
        assert_false(cgroup_exists(cg));
}

/* A container that may write to its cgroup mount nests groups, deeper than descriptors would last, and lives in one of
 * them. */
static void removal_finds_deeply_nested_groups(void **state)
{
        _cleanup_cgroup_ struct cgroup *cg = host_create(NULL);
        const pid_t pid = host_spawn(cg, sleep_long);
        const struct hierarchy *h = cgroup_main(cg);
        int at = dup(h->dir);

        for (int depth = 0; depth < 150; depth++) {
                const int above = at;

                assert_int_equal(mkdirat(above, "side", 0755), 0);
                assert_int_equal(mkdirat(above, "n", 0755), 0);
                at = openat(above, "n", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                assert_true(at >= 0);
                close(above);
        }
        assert_int_equal(cgroup_write_number(at, "cgroup.procs", pid, NULL), 0);
        close(at);
        assert_int_equal(count_pids(cg), 1);
        assert_int_equal(cgroup_remove(cg, NULL), 0);
        assert_false(cgroup_exists(cg));
        assert_int_equal(WTERMSIG(status_of(pid)), SIGKILL);
}

static void groups_with_strangers_are_refused_and_left_alone(void **state)
{
        _cleanup_cgroup_ struct cgroup *cg = host_create(NULL);
        const pid_t pid = host_spawn(cg, sleep_long);
        _cleanup_err_ struct err *err = NULL;
        struct cgroup *second = NULL;

        wait_for_pids(cg, 1);
        assert_int_equal(cgroup_create(&(struct cgroup_spec){ .id = host_name() }, &second, &err), -EBUSY);
        assert_int_equal(kill(pid, 0), 0);
        assert_int_equal(count_pids(cg), 1);
        assert_int_equal(cgroup_remove(cg, NULL), 0);
        status_of(pid);
}

static void frozen_groups_are_refused_and_left_alone(void **state)
{
        _cleanup_cgroup_ struct cgroup *cg = host_create(NULL), *second = NULL;
        _cleanup_err_ struct err *err = NULL;

        assert_int_equal(cgroup_freeze(cg, true, NULL), 0);
        assert_int_equal(cgroup_create(&(struct cgroup_spec){ .id = host_name() }, &second, &err), -EBUSY);
        assert_non_null(strstr(err_message(err), "unexpectedly frozen"));
        assert_true(cgroup_exists(cg));
        assert_int_equal(cgroup_remove(cg, NULL), 0);
}

static void made_parents_go_with_the_group(void **state)
{
        char path[80], above[4200];
        struct cgroup *cg = NULL;

        cgroup_free(host_create(NULL));
        snprintf(path, sizeof(path), "/%s/a/b", host_name());
        /* host_create's groups are there, unused. */
        assert_int_equal(cgroup_create(&(struct cgroup_spec){ .id = "x", .path = path }, &cg, NULL), 0);
        snprintf(above, sizeof(above), "%s", cgroup_main(cg)->face.path);
        assert_int_equal(cgroup_remove(cg, NULL), 0);
        cgroup_free(cg);
        *strrchr(above, '/') = 0;
        assert_int_equal(access(above, F_OK), -1);
        cg = host_create(NULL);
        assert_int_equal(cgroup_remove(cg, NULL), 0);
        cgroup_free(cg);
}

/* ---- the shared cpuset group ---- */

/* The groups of container @name below a parent of this test's own, or NULL where version 1 has no cpuset. */
static struct cgroup *share_create(const char *name, const struct cgroup_resources *res, bool separate)
{
        struct cgroup *cg = NULL;
        char path[80];

        snprintf(path, sizeof(path), "/%s/%s", host_name(), name);
        if (geteuid() != 0 ||
                cgroup_create(&(struct cgroup_spec){ .id = name, .path = path, .resources = res, .separate = separate },
                        &cg, NULL) < 0)
                return NULL;
        if (cgroup_with(cg, CONTROLLER_CPUSET) && !cgroup_with(cg, CONTROLLER_CPUSET)->face.v2)
                return cg;
        cgroup_remove(cg, NULL);
        return cgroup_free(cg);
}

static const char *cpuset_path(const struct cgroup *cg)
{
        return cgroup_with(cg, CONTROLLER_CPUSET)->face.path;
}

static size_t cpuset_pids(const struct cgroup *cg, const char *name)
{
        char path[4200];
        struct pid_list list = { 0 };
        _cleanup_close_ int dir = -1;

        snprintf(path, sizeof(path), "%s/%s/%s", cgroup_with(cg, CONTROLLER_CPUSET)->face.mount, host_name(), name);
        dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0)
                return 0;
        assert_int_equal(cgroup_collect_pids(dir, &list, NULL), 0);
        free(list.pid);
        return list.n;
}

/* A process is in the first of its groups before it is in the last. */
static void wait_for_cpuset(const struct cgroup *cg, const char *name, size_t n)
{
        for (int i = 0; i < 2000 && cpuset_pids(cg, name) != n; i++)
                usleep(1000);
        assert_int_equal(cpuset_pids(cg, name), n);
}

static void assert_parent_gone(const struct cgroup *cg)
{
        char path[4200];

        snprintf(path, sizeof(path), "%s/%s", cgroup_with(cg, CONTROLLER_CPUSET)->face.mount, host_name());
        assert_int_equal(access(path, F_OK), -1);
}

static void containers_without_cpus_share_a_cpuset(void **state)
{
        _cleanup_cgroup_ struct cgroup *one = share_create("one", NULL, false), *two = NULL;
        pid_t first, second;

        if (!one)
                skip();
        two = share_create("two", NULL, false);
        assert_string_equal(cpuset_path(one), cpuset_path(two));
        first = host_spawn(one, sleep_long);
        second = host_spawn(two, sleep_long);
        wait_for_pids(one, 1);
        wait_for_pids(two, 1);
        /* One's end is not the other's. */
        assert_int_equal(cgroup_remove(one, NULL), 0);
        assert_int_equal(WTERMSIG(status_of(first)), SIGKILL);
        assert_int_equal(waitpid(second, NULL, WNOHANG), 0);
        wait_for_cpuset(two, "strata@shared", 1);
        assert_true(cgroup_exists(two));
        assert_int_equal(cgroup_remove(two, NULL), 0);
        status_of(second);
        /* Parents go with whoever made them, when that is possible: here the first could not. */
        unlinkat(AT_FDCWD, cpuset_path(two), AT_REMOVEDIR);
        for (size_t i = 0; i < two->n; i++) {
                char path[4200];

                snprintf(path, sizeof(path), "%s%s", two->hierarchy[i].face.mount, two->hierarchy[i].group);
                *strrchr(path, '/') = 0;
                assert_true(rmdir(path) == 0 || errno == ENOENT);
        }
        assert_parent_gone(two);
}

static void a_cpuset_group_of_its_own_is_made_where_it_matters(void **state)
{
        _cleanup_resources_ struct cgroup_resources *res = resources("{\"cpu\": {\"cpus\": \"0\"}}");

        for (int i = 0; i < 2; i++) {
                _cleanup_cgroup_ struct cgroup *cg = share_create("own", i ? res : NULL, !i);

                if (!cg)
                        skip();
                assert_string_equal(strrchr(cpuset_path(cg), '/'), "/own");
                assert_int_equal(cgroup_remove(cg, NULL), 0);
                assert_parent_gone(cg);
        }
}

static void processors_given_later_make_it_its_own(void **state)
{
        _cleanup_resources_ struct cgroup_resources *res = resources("{\"cpu\": {\"cpus\": \"0\"}}");
        _cleanup_cgroup_ struct cgroup *cg = share_create("later", NULL, false), *other = NULL, *third = NULL;
        _cleanup_json_ json_t *saved = NULL;
        _cleanup_free_ char *cpus = NULL;
        pid_t pid, late;

        if (!cg)
                skip();
        saved = cgroup_save(cg);
        pid = host_spawn(cg, fork_and_sleep);
        wait_for_pids(cg, 6);
        wait_for_cpuset(cg, "strata@shared", 6);
        /* By another invocation, of which the first handle hears nothing. */
        assert_int_equal(cgroup_load(saved, &other, NULL), 0);
        assert_int_equal(cgroup_apply(other, res, NULL), 0);
        wait_for_cpuset(cg, "later", 6);
        wait_for_cpuset(cg, "strata@shared", 0);
        assert_int_equal(cgroup_read(cgroup_with(other, CONTROLLER_CPUSET)->dir, "cpuset.cpus", &cpus, NULL), 0);
        assert_string_equal(cpus, "0");
        assert_int_equal(cgroup_load(saved, &third, NULL), 0);
        assert_string_equal(cpuset_path(third), cpuset_path(other));
        assert_int_equal(cgroup_apply(third, res, NULL), 0); /* once more changes nothing */
        assert_int_equal(cgroup_prepare_enter(third, NULL), 0);
        late = host_spawn(third, sleep_long);
        wait_for_pids(cg, 7);
        wait_for_cpuset(cg, "later", 7);
        assert_int_equal(cgroup_remove(cg, NULL), 0);
        assert_parent_gone(cg);
        status_of(pid);
        status_of(late);
}

/* Who enters the shared group while an update makes the container's own ends up in that. */
static void latecomers_follow_into_the_own_group(void **state)
{
        _cleanup_resources_ struct cgroup_resources *res = resources("{\"cpu\": {\"cpus\": \"0\"}}");
        _cleanup_cgroup_ struct cgroup *cg = share_create("later", NULL, false), *other = NULL;
        _cleanup_cgroup_ struct cgroup *neighbour = NULL;
        _cleanup_json_ json_t *saved = NULL;
        pid_t pid;

        if (!cg)
                skip();
        neighbour = share_create("neighbour", NULL, false); /* keeps the shared group */
        saved = cgroup_save(cg);
        assert_int_equal(cgroup_load(saved, &other, NULL), 0);
        assert_int_equal(cgroup_apply(other, res, NULL), 0);
        pid = host_spawn(cg, sleep_long);
        wait_for_pids(cg, 1);
        wait_for_cpuset(cg, "later", 1);
        assert_int_equal(cgroup_remove(neighbour, NULL), 0);
        assert_int_equal(cgroup_remove(cg, NULL), 0);
        status_of(pid);
        assert_parent_gone(cg);
}

enum { SHARERS = 3, SHARER_ROUNDS = 40 };

static int share_again_and_again(unsigned number)
{
        char name[16];

        snprintf(name, sizeof(name), "c%u", number);
        for (unsigned i = 0; i < SHARER_ROUNDS; i++) {
                _cleanup_cgroup_ struct cgroup *cg = share_create(name, NULL, false);
                pid_t pid;
                int status;

                if (!cg)
                        return 1;
                pid = fork();
                if (pid == 0)
                        _exit(cgroup_enter(cg, false) < 0);
                if (waitpid(pid, &status, 0) != pid || status != 0)
                        return 2;
                if (cgroup_remove(cg, NULL) < 0)
                        return 3;
        }
        return 0;
}

static void the_shared_group_is_there_for_whoever_enters(void **state)
{
        _cleanup_cgroup_ struct cgroup *cg = share_create("keeper", NULL, false);
        pid_t pids[SHARERS];

        if (!cg)
                skip();
        /* Keeps the parents, which are not what this is about; its hold on the shared group it gives up. */
        closep(&cgroup_with(cg, CONTROLLER_CPUSET)->dir);
        cgroup_with(cg, CONTROLLER_CPUSET)->dir = -1;
        for (unsigned i = 0; i < SHARERS; i++) {
                pids[i] = fork();
                if (pids[i] == 0)
                        _exit(share_again_and_again(i));
        }
        for (unsigned i = 0; i < SHARERS; i++)
                assert_int_equal(status_of(pids[i]), 0);
        assert_int_equal(access(cpuset_path(cg), F_OK), -1);
        cgroup_remove(cg, NULL);
        for (size_t i = 0; i < cg->n; i++) {
                char path[4200];

                snprintf(path, sizeof(path), "%s%s", cg->hierarchy[i].face.mount, cg->hierarchy[i].group);
                *strrchr(path, '/') = 0;
                rmdir(path);
        }
        assert_parent_gone(cg);
}

static int open_devices(void)
{
        int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY), kmsg = open("/dev/kmsg", O_RDONLY);

        return null < 0 ? 1 : zero < 0 ? 2 : kmsg >= 0 ? 3 : errno != EPERM ? 4 : 0;
}

static int open_kmsg_for_reading_only(void)
{
        return open("/dev/kmsg", O_RDONLY | O_NONBLOCK) < 0       ? 1
               : open("/dev/kmsg", O_RDWR) >= 0 || errno != EPERM ? 2
                                                                  : 0;
}

static void devices_are_denied_by_default(void **state)
{
        _cleanup_resources_ struct cgroup_resources *res = resources(
                "{\"devices\": [{\"allow\": false, \"access\": \"rwm\"}, {\"allow\": true, \"type\": \"c\", \"major\": 1, \"minor\": 11, \"access\": \"r\"}]}");
        _cleanup_cgroup_ struct cgroup *cg = host_create(NULL);

        assert_int_equal(status_of(host_spawn(cg, open_devices)), 0);
        assert_int_equal(cgroup_apply(cg, res, NULL), 0);
        assert_int_equal(status_of(host_spawn(cg, open_kmsg_for_reading_only)), 0);
        /* An update of a container that has made groups of its own. */
        if (cgroup_with(cg, CONTROLLER_DEVICES)) {
                assert_int_equal(mkdirat(cgroup_with(cg, CONTROLLER_DEVICES)->dir, "below", 0755), 0);
                assert_int_equal(cgroup_set_devices(cg, NULL, 0, NULL), 0);
                assert_int_equal(status_of(host_spawn(cg, open_devices)), 0);
        }
        assert_int_equal(cgroup_remove(cg, NULL), 0);
}

/* The same through a BPF program, wherever there is a v2 hierarchy, also a nearly empty one beside v1. */
static void bpf_program_decides_about_devices(void **state)
{
        _cleanup_resources_ struct cgroup_resources *all = resources("{\"devices\": [{\"allow\": true}]}");
        _cleanup_resources_ struct cgroup_resources *some = resources(
                "{\"devices\": [{\"allow\": true, \"type\": \"c\", \"major\": 1, \"access\": \"rw\"}, {\"allow\": false, \"type\": \"c\", \"major\": 1, \"minor\": 11, \"access\": \"w\"}]}");
        _cleanup_cgroup_ struct cgroup *cg = host_create(all);
        const struct hierarchy *h = cgroup_main(cg);
        _cleanup_err_ struct err *err = NULL;

        assert_int_equal(cgroup_apply(cg, all, NULL), 0);
        if (!h->face.v2) {
                cgroup_remove(cg, NULL);
                print_message("# no cgroup2 mount\n");
                skip();
        }
        if (cgroup_devices_bpf(h->dir, NULL, 0, &err) < 0)
                fail_msg("%s", err_message(err));
        assert_int_equal(status_of(host_spawn(cg, open_devices)), 0);
        /* Replaces the first one; the last rule about an access counts, read and write apart. */
        assert_int_equal(cgroup_devices_bpf(h->dir, some->device, some->n_devices, NULL), 0);
        assert_int_equal(status_of(host_spawn(cg, open_kmsg_for_reading_only)), 0);
        assert_int_equal(cgroup_devices_bpf(h->dir, all->device, all->n_devices, NULL), 0);
        assert_int_equal(WEXITSTATUS(status_of(host_spawn(cg, open_devices))), 3);
        assert_int_equal(cgroup_remove(cg, NULL), 0);
}

static int use_memory(void)
{
        char *p = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        memset(p, 1, 64 << 20);
        return 0;
}

static void memory_limit_kills_and_is_reported(void **state)
{
        _cleanup_resources_ struct cgroup_resources *res =
                resources("{\"memory\": {\"limit\": 8388608, \"swap\": 8388608}}");
        _cleanup_resources_ struct cgroup_resources *more =
                resources("{\"memory\": {\"limit\": 134217728, \"swap\": 134217728}}");
        _cleanup_cgroup_ struct cgroup *cg = host_create(res);
        struct pollfd ready = { .events = POLLIN };
        u64 count = 0;

        if (!cgroup_with(cg, CONTROLLER_MEMORY)) {
                cgroup_remove(cg, NULL);
                print_message("# no memory controller\n");
                skip();
        }
        assert_int_equal(cgroup_apply(cg, res, NULL), 0);
        assert_int_equal(cgroup_oom_watch(cg, &ready.fd, NULL), 0);
        assert_int_equal(cgroup_oom_read(cg, ready.fd, &count, NULL), 0);
        assert_int_equal(count, 0);
        assert_int_equal(WTERMSIG(status_of(host_spawn(cg, use_memory))), SIGKILL);
        assert_int_equal(poll(&ready, 1, 5000), 1);
        assert_int_equal(cgroup_oom_read(cg, ready.fd, &count, NULL), 0);
        assert_int_equal(count, 1);
        close(ready.fd);
        /* Both limits raised, in whatever order the kernel wants them: the same process now fits. */
        assert_int_equal(cgroup_apply(cg, more, NULL), 0);
        assert_int_equal(status_of(host_spawn(cg, use_memory)), 0);
        assert_int_equal(cgroup_apply(cg, res, NULL), 0);
        assert_int_equal(WTERMSIG(status_of(host_spawn(cg, use_memory))), SIGKILL);
        assert_int_equal(cgroup_remove(cg, NULL), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(processes_enter_every_hierarchy),
                cmocka_unit_test(frozen_processes_are_listed_and_killed),
                cmocka_unit_test(removal_ends_what_forks_all_the_time),
                cmocka_unit_test(removal_finds_deeply_nested_groups),
                cmocka_unit_test(groups_with_strangers_are_refused_and_left_alone),
                cmocka_unit_test(frozen_groups_are_refused_and_left_alone),
                cmocka_unit_test(made_parents_go_with_the_group),
                cmocka_unit_test(containers_without_cpus_share_a_cpuset),
                cmocka_unit_test(a_cpuset_group_of_its_own_is_made_where_it_matters),
                cmocka_unit_test(processors_given_later_make_it_its_own),
                cmocka_unit_test(latecomers_follow_into_the_own_group),
                cmocka_unit_test(the_shared_group_is_there_for_whoever_enters),
                cmocka_unit_test(devices_are_denied_by_default),
                cmocka_unit_test(bpf_program_decides_about_devices),
                cmocka_unit_test(memory_limit_kills_and_is_reported),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
