/* cgroups: resources as the spec has them, hosts of every kind from their mountinfo, and orders to the kernel on a
 * tree of plain files. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "box/cgroup/internal.h"
#include "cgroup_resources.h"

#define _cleanup_json_ _cleanup_(json_decrefp)

/* ---- resources ---- */

static void resources_hold_what_was_given(void **state)
{
        _cleanup_resources_ struct cgroup_resources *res = resources(
                "{\"cpu\": {\"shares\": 512, \"quota\": -1, \"burst\": 0, \"cpus\": \"0-1,3\", \"mems\": \"\"}, \"memory\": {\"limit\": 1048576, \"disableOOMKiller\": true, \"swap\": null},"
                "\"pids\": {\"limit\": 0}, \"devices\": [{\"allow\": false}, {\"allow\": true, \"type\": \"c\", \"major\": 1, \"minor\": 3, \"access\": \"rma\"}],"
                "\"blockIO\": {\"throttleWriteIOPSDevice\": [{\"major\": 8, \"minor\": 1, \"rate\": 7}], \"weightDevice\": [{\"major\": 8, \"minor\": 0, \"weight\": 10}]},"
                "\"hugepageLimits\": [{\"pageSize\": \"2MB\", \"limit\": 9223372036854775807}], \"network\": {\"classID\": 4294967295, \"priorities\": [{\"name\": \"eth0\", \"priority\": 5}]},"
                "\"rdma\": {\"mlx5_1\": {\"hcaHandles\": 3}}, \"unified\": {\"memory.high\": \"1000\"}, \"somethingNew\": 1}");

        assert_int_equal(res->value[CGROUP_CPU_SHARES], 512);
        assert_int_equal(res->value[CGROUP_CPU_QUOTA], -1);
        assert_true(cgroup_resources_has(res, CGROUP_CPU_BURST));
        assert_false(cgroup_resources_has(res, CGROUP_CPU_PERIOD));
        assert_string_equal(res->cpus, "0-1,3");
        assert_null(res->mems);
        assert_int_equal(res->value[CGROUP_MEMORY_NO_OOM_KILLER], 1);
        assert_false(cgroup_resources_has(res, CGROUP_MEMORY_SWAP));
        assert_false(cgroup_resources_has(res, CGROUP_PIDS)); /* 0 asks for nothing */
        assert_int_equal(res->n_devices, 2);
        assert_int_equal(res->device[0].type, CGROUP_DEVICE_ALL);
        assert_int_equal(res->device[0].access, CGROUP_DEVICE_RWM);
        assert_true(res->device[1].allow && res->device[1].major == 1 && res->device[1].minor == 3);
        assert_int_equal(res->device[1].access, CGROUP_DEVICE_READ | CGROUP_DEVICE_MKNOD);
        assert_int_equal(res->io_rate[0].limit, CGROUP_IO_WRITE_IOPS);
        assert_true(res->huge[0].limit == INT64_MAX);
        assert_int_equal(res->value[CGROUP_NET_CLASS], UINT32_MAX);
        assert_int_equal(res->rdma[0].handles, 3);
        assert_int_equal(res->rdma[0].objects, -1);
        assert_string_equal(res->unified[0].file, "memory.high");
}

static void bad_resources_are_refused_with_their_place(void **state)
{
        static const struct {
                const char *json, *message;
        } rows[] = {
                { "[]", "linux.resources: must be an object" },
                { "{\"cpu\": 1}", "linux.resources: cpu: 'cpu' must be an object" },
                { "{\"cpu\": {\"shares\": \"1\"}}", "linux.resources: cpu: 'shares' must be a whole number" },
                { "{\"cpu\": {\"shares\": -1}}", "linux.resources: cpu: 'shares' must be a whole number from 0" },
                { "{\"cpu\": {\"cpus\": \"../x\"}}", "linux.resources: 'cpus' is '../x'" },
                { "{\"memory\": {\"limit\": -2}}", "linux.resources: memory: 'limit' must be a whole number from -1" },
                { "{\"memory\": {\"swappiness\": 101}}",
                        "linux.resources: memory: 'swappiness' must be a whole number from 0 to 100" },
                { "{\"devices\": [{\"type\": \"x\"}]}", "linux.resources: devices[0]: 'type' is 'x'" },
                { "{\"devices\": [{\"access\": \"rwx\"}]}", "linux.resources: devices[0]: 'access' is 'rwx'" },
                { "{\"blockIO\": {\"throttleReadBpsDevice\": [{\"major\": 8, \"rate\": 1}]}}",
                        "linux.resources: throttleReadBpsDevice[0]: 'minor' is missing" },
                { "{\"hugepageLimits\": [{\"pageSize\": \"../../x\", \"limit\": 1}]}",
                        "linux.resources: hugepageLimits[0]: 'pageSize' is" },
                { "{\"unified\": {\"../memory.max\": \"1\"}}",
                        "linux.resources: unified: '../memory.max': must be a file name without any slashes" },
                { "{\"unified\": {\"a/b\": \"1\"}}", "linux.resources: unified: 'a/b': must be a file name" },
                { "{\"unified\": {\"memory.max\": 1}}", "linux.resources: unified: 'memory.max': must be a text" },
                { "{\"network\": {\"priorities\": [{\"name\": \"a b\", \"priority\": 1}]}}",
                        "linux.resources: network: priorities[0]: 'name' is no network interface" },
                { "{\"rdma\": {\"x\\ny\": {}}}", "linux.resources: rdma: " },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_json_ json_t *json = json_loads(rows[i].json, 0, NULL);
                _cleanup_err_ struct err *err = NULL;
                struct cgroup_resources *res = NULL;

                assert_non_null(json);
                if (cgroup_resources_parse(json, &res, &err) >= 0 ||
                        strncmp(err_message(err), rows[i].message, strlen(rows[i].message)) != 0)
                        fail_msg("%s gave: %s", rows[i].json, err_message(err));
                assert_null(res);
        }
}

/* ---- layouts ---- */

static struct cgroup *layout(const char *mountinfo, const char *self)
{
        _cleanup_err_ struct err *err = NULL;
        struct cgroup *cg = NULL;

        if (cgroup_layout_parse(mountinfo, self, &cg, &err) < 0)
                fail_msg("%s", err_message(err));
        return cg;
}

static void layout_of_a_hybrid_host_is_understood(void **state)
{
        _cleanup_cgroup_ struct cgroup *cg =
                layout("25 1 0:22 / / rw - ext4 /dev/vda rw\n"
                       "30 25 0:26 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro,mode=755\n"
                       "31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate\n"
                       "32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
                       "33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
                       "34 30 0:29 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct\n"
                       "35 30 0:30 / /sys/fs/cgroup/my\\040memory rw - cgroup cgroup rw,memory\n",
                        "5:memory:/user.slice\n4:cpu,cpuacct:/a/b\n1:name=systemd:/init.scope\n0::/init.scope\n");

        assert_int_equal(cg->n, 4);
        assert_false(cgroup_is_unified(cg));
        assert_true(cg->hierarchy[0].face.v2 && !cg->hierarchy[0].full);
        assert_string_equal(cg->hierarchy[0].own, "/init.scope");
        assert_string_equal(cg->hierarchy[1].face.options, "none,name=systemd");
        assert_string_equal(cg->hierarchy[2].face.name, "cpu,cpuacct");
        assert_string_equal(cg->hierarchy[2].face.options, "cpu,cpuacct");
        assert_string_equal(cg->hierarchy[2].own, "/a/b");
        assert_true(hierarchy_has(&cg->hierarchy[2], CONTROLLER_CPU) &&
                    hierarchy_has(&cg->hierarchy[2], CONTROLLER_CPUACCT));
        assert_string_equal(cg->hierarchy[3].face.mount, "/sys/fs/cgroup/my memory");
        assert_string_equal(cg->hierarchy[3].own, "/user.slice");
}

static void layout_of_a_unified_host_is_understood(void **state)
{
        _cleanup_cgroup_ struct cgroup *cg =
                layout("31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/user.slice/session-1.scope\n");

        assert_true(cgroup_is_unified(cg));
        assert_string_equal(cgroup_hierarchy(cg, 0)->name, "");
        assert_null(cgroup_hierarchy(cg, 1));
        assert_string_equal(cg->hierarchy[0].own, "/user.slice/session-1.scope");
}

/* Inside a container the mount shows a part of the hierarchy, and /proc/self/cgroup may speak of the whole. */
static void own_group_is_seen_from_the_mount(void **state)
{
        _cleanup_cgroup_ struct cgroup *inside =
                layout("1 1 0:1 /docker/x /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n", "3:pids:/docker/x/sub\n");
        _cleanup_cgroup_ struct cgroup *outside =
                layout("1 1 0:1 /docker/x /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n", "3:pids:/docker/xy\n");

        assert_string_equal(inside->hierarchy[0].own, "/sub");
        assert_string_equal(outside->hierarchy[0].own, "");
}

static void hosts_without_cgroups_are_told_so(void **state)
{
        _cleanup_err_ struct err *err = NULL;
        struct cgroup *cg = NULL;

        assert_int_equal(cgroup_layout_parse("1 1 0:1 / / rw - ext4 /dev/vda rw\nrubbish\n - cgroup\n1 - cgroup x y\n",
                                 "", &cg, &err),
                -ENOENT);
        assert_int_equal(err_get_id(err), ERR_UNSUPPORTED);
}

static void paths_cannot_leave_their_root(void **state)
{
        static const struct {
                const char *path, *clean;
        } rows[] = { { "a", "/a" }, { "/a//b/./c/", "/a/b/c" }, { "../../x", "/x" }, { "/a/b/../../../c", "/c" },
                { "..", "" }, { "/", "" }, { "...", "/..." } };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_free_ char *clean = NULL;

                assert_int_equal(cgroup_path_clean(rows[i].path, &clean, NULL), 0);
                assert_string_equal(clean, rows[i].clean);
        }
        char *none = NULL;
        assert_int_equal(cgroup_path_clean("a\nb", &none, NULL), -EINVAL);
}

/* ---- a tree of plain files ---- */

struct tree {
        char dir[64];
        char *mountinfo;
};

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return remove(path);
}

static int tree_setup(void **state)
{
        struct tree *tree = calloc(1, sizeof(*tree));

        strcpy(tree->dir, "/tmp/strata-cgroup-XXXXXX");
        *state = tree;
        return mkdtemp(tree->dir) ? 0 : -1;
}

static int tree_teardown(void **state)
{
        struct tree *tree = *state;

        nftw(tree->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        free(tree->mountinfo);
        free(tree);
        return 0;
}

static void tree_mkdir(const struct tree *tree, const char *path)
{
        char full[256];

        snprintf(full, sizeof(full), "%s/%s", tree->dir, path);
        if (mkdir(full, 0755) < 0 && errno != EEXIST)
                fail_msg("mkdir %s", full);
}

/* A hierarchy; @files of @group are there with their contents ("NAME=CONTENT"), as the kernel would make them. */
static void tree_add(
        struct tree *tree, const char *name, const char *type_options, const char *group, const char *const *files)
{
        char *more = NULL, path[256], full[512];

        assert_true(asprintf(&more, "%s1 1 0:1 / %s/%s rw - %s\n", tree->mountinfo ? tree->mountinfo : "", tree->dir,
                            name, type_options) > 0);
        free(tree->mountinfo);
        tree->mountinfo = more;
        tree_mkdir(tree, name);
        snprintf(path, sizeof(path), "%s/%s", name, group);
        tree_mkdir(tree, path);
        for (size_t i = 0; files[i]; i++) {
                const size_t len = strcspn(files[i], "=");

                snprintf(full, sizeof(full), "%s/%s/%.*s", tree->dir, path, (int)len, files[i]);
                FILE *f = fopen(full, "w");
                assert_non_null(f);
                fputs(files[i][len] ? files[i] + len + 1 : "", f);
                fclose(f);
        }
}

/* What @file begins with: plain files keep the rest of what was there. */
static void tree_holds(const struct tree *tree, const char *file, const char *wanted)
{
        char full[512];
        _cleanup_free_ char *text = NULL;

        snprintf(full, sizeof(full), "%s/%s", tree->dir, file);
        if (cgroup_read(AT_FDCWD, full, &text, NULL) < 0 || strncmp(text, wanted, strlen(wanted)) != 0)
                fail_msg("%s holds '%s', not '%s'", file, text ? text : "nothing", wanted);
}

static int tree_create(const struct tree *tree, const struct cgroup_spec *spec, struct cgroup **ret, struct err **err)
{
        struct cgroup *host = layout(tree->mountinfo, "");

        return cgroup_create_on(host, spec, ret, err);
}

static void add_v1(struct tree *tree)
{
        static const char *const cpu[] = { "tasks", "cgroup.procs", "cpu.shares=1024", "cpu.cfs_quota_us=-1",
                "cpu.cfs_period_us=100000", "cpu.cfs_burst_us=0", NULL };
        static const char *const memory[] = { "tasks", "cgroup.procs", "memory.limit_in_bytes=9223372036854771712",
                "memory.memsw.limit_in_bytes=9223372036854771712", "memory.soft_limit_in_bytes=9223372036854771712",
                "memory.swappiness=60", "memory.oom_control=oom_kill_disable 0\nunder_oom 0\noom_kill 3", NULL };
        static const char *const rest[] = { "tasks", "cgroup.procs", "pids.max=max", "blkio.throttle.read_bps_device",
                "blkio.bfq.weight=100", NULL };

        tree_add(tree, "cpu", "cgroup cgroup rw,cpu", "ct", cpu);
        tree_add(tree, "memory", "cgroup cgroup rw,memory", "ct", memory);
        tree_add(tree, "pids", "cgroup cgroup rw,pids,blkio", "ct", rest);
}

static void v1_files_get_the_spec_s_numbers(void **state)
{
        struct tree *tree = *state;
        _cleanup_cgroup_ struct cgroup *cg = NULL;
        _cleanup_resources_ struct cgroup_resources *res = resources(
                "{\"cpu\": {\"shares\": 2048, \"quota\": 50000, \"burst\": 1000}, \"memory\": {\"limit\": 1000000, \"swap\": 2000000, \"reservation\": 500000, \"swappiness\": 7},"
                "\"pids\": {\"limit\": 33}, \"blockIO\": {\"weight\": 500, \"throttleReadBpsDevice\": [{\"major\": 8, \"minor\": 16, \"rate\": 4096}]}}");
        _cleanup_err_ struct err *err = NULL;
        u64 count;

        add_v1(tree);
        assert_int_equal(tree_create(tree, &(struct cgroup_spec){ .id = "ct", .resources = res }, &cg, &err), 0);
        assert_int_equal(cgroup_apply(cg, res, &err), 0);
        tree_holds(tree, "cpu/ct/cpu.shares", "2048");
        tree_holds(tree, "cpu/ct/cpu.cfs_quota_us", "50000");
        tree_holds(tree, "cpu/ct/cpu.cfs_period_us", "100000");
        tree_holds(tree, "cpu/ct/cpu.cfs_burst_us", "1000");
        tree_holds(tree, "memory/ct/memory.limit_in_bytes", "1000000");
        tree_holds(tree, "memory/ct/memory.memsw.limit_in_bytes", "2000000");
        tree_holds(tree, "memory/ct/memory.soft_limit_in_bytes", "500000");
        tree_holds(tree, "memory/ct/memory.swappiness", "7");
        tree_holds(tree, "pids/ct/pids.max", "33");
        tree_holds(tree, "pids/ct/blkio.bfq.weight", "500");
        tree_holds(tree, "pids/ct/blkio.throttle.read_bps_device", "8:16 4096");
        assert_int_equal(cg->hierarchy[1].ops->oom_count(&cg->hierarchy[1], &count, NULL), 0);
        assert_int_equal(count, 3);
        /* Entering is writing to what create opened, in every hierarchy. */
        assert_int_equal(cgroup_enter(cg, false), 0);
        tree_holds(tree, "cpu/ct/tasks", "0");
        tree_holds(tree, "pids/ct/tasks", "0");
}

static void v2_files_get_converted_numbers(void **state)
{
        static const char *const files[] = { "cgroup.procs", "cgroup.controllers=cpu memory pids io hugetlb",
                "cpu.weight=100", "cpu.max=max 100000", "cpu.max.burst=0", "memory.max=max", "memory.low=0",
                "memory.swap.max=max", "memory.high=max", "memory.events=low 0\noom 2\noom_kill 4",
                "memory.current=4096", "pids.max=max", "io.weight=default 100", "io.max", "hugetlb.2MB.max=max",
                "cgroup.freeze=0", "cgroup.events=populated 0\nfrozen 1", NULL };
        static const struct {
                const char *resources, *file, *content;
        } rows[] = {
                { "{\"cpu\": {\"shares\": 2}}", "cpu.weight", "1" },
                { "{\"cpu\": {\"shares\": 262144}}", "cpu.weight", "10000" },
                { "{\"cpu\": {\"shares\": 1024}}", "cpu.weight", "100" },
                { "{\"cpu\": {\"quota\": 50000}}", "cpu.max", "50000 100000" },
                { "{\"cpu\": {\"period\": 20000}}", "cpu.max", "50000 20000" },
                { "{\"cpu\": {\"quota\": -1}}", "cpu.max", "max 20000" },
                { "{\"cpu\": {\"burst\": 500}}", "cpu.max.burst", "500" },
                { "{\"memory\": {\"limit\": 1000, \"swap\": 3000}}", "memory.swap.max", "2000" },
                { "{\"memory\": {\"limit\": 1000, \"swap\": 1000}}", "memory.swap.max", "0" },
                { "{\"memory\": {\"swap\": 0}}", "memory.swap.max", "0" },
                { "{\"memory\": {\"swap\": -1}}", "memory.swap.max", "max" },
                { "{\"memory\": {\"limit\": 7777}}", "memory.max", "7777" },
                { "{\"memory\": {\"limit\": -1}}", "memory.max", "max" },
                { "{\"memory\": {\"reservation\": 55}}", "memory.low", "55" },
                { "{\"pids\": {\"limit\": -1}}", "pids.max", "max" },
                { "{\"pids\": {\"limit\": 100}}", "pids.max", "100" },
                { "{\"blockIO\": {\"weight\": 10}}", "io.weight", "1" },
                { "{\"blockIO\": {\"weight\": 1000}}", "io.weight", "10000" },
                { "{\"blockIO\": {\"throttleWriteIOPSDevice\": [{\"major\": 8, \"minor\": 0, \"rate\": 9}]}}", "io.max",
                        "8:0 wiops=9" },
                { "{\"hugepageLimits\": [{\"pageSize\": \"2MB\", \"limit\": 2097152}]}", "hugetlb.2MB.max", "2097152" },
                { "{\"memory\": {\"limit\": 12}, \"unified\": {\"memory.max\": \"34\"}}", "memory.max", "34" },
                { "{\"unified\": {\"memory.high\": \"99\"}}", "memory.high", "99" },
        };
        struct tree *tree = *state;
        _cleanup_cgroup_ struct cgroup *cg = NULL;
        _cleanup_err_ struct err *err = NULL;
        /* Its devices would be a BPF program on a directory that is no cgroup. */
        const struct cgroup_device_rule rule = { .allow = true };
        const struct cgroup_resources given = { .device = (struct cgroup_device_rule *)&rule, .n_devices = 1 };
        bool frozen;

        tree_add(tree, "u", "cgroup2 cgroup2 rw", "ct", files);
        assert_int_equal(tree_create(tree, &(struct cgroup_spec){ .id = "ct", .resources = &given }, &cg, &err), 0);
        assert_true(cgroup_is_unified(cg));
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_resources_ struct cgroup_resources *res = resources(rows[i].resources);
                char file[64];

                if (cgroup_apply(cg, res, &err) < 0)
                        fail_msg("%s: %s", rows[i].resources, err_message(err));
                snprintf(file, sizeof(file), "u/ct/%s", rows[i].file);
                tree_holds(tree, file, rows[i].content);
        }
        assert_int_equal(cgroup_freeze(cg, true, &err), 0);
        tree_holds(tree, "u/ct/cgroup.freeze", "1");
        assert_int_equal(cgroup_is_frozen(cg, &frozen, &err), 0);
        assert_true(frozen);
        assert_true(cgroup_clone_fd(cg) >= 0);
}

static void limits_that_make_no_sense_on_v2_are_refused(void **state)
{
        static const char *const files[] = { "cgroup.procs", "cgroup.controllers=memory", "memory.max=max",
                "memory.swap.max=max", "memory.current=4096", NULL };
        static const struct {
                const char *resources, *message;
        } rows[] = {
                { "{\"memory\": {\"limit\": 2000, \"swap\": 1000}}",
                        "memory+swap limit (1000) is below the memory limit (2000)" },
                { "{\"memory\": {\"swappiness\": 10}}", "for memory.swappiness" },
                { "{\"memory\": {\"disableOOMKiller\": true}}", "for memory.disableOOMKiller" },
                { "{\"memory\": {\"limit\": 1000, \"checkBeforeUpdate\": true}}",
                        "rejecting memory limit 1000 < usage 4096" },
                { "{\"cpu\": {\"shares\": 10}}", "for cpu.shares" },
                { "{\"unified\": {\"cpu.weight\": \"1\"}}", "controller \"cpu\" not available" },
                { "{\"unified\": {\"whatever\": \"1\"}}", "has not the form CONTROLLER.VALUE `whatever`" },
                { "{\"unified\": {\"foo.bar\": \"1\"}}", "the requested cgroup controller `foo` is not available" },
                { "{\"unified\": {\"memory.nothing\": \"1\"}}", "unified resource 'memory.nothing'" },
        };
        struct tree *tree = *state;
        _cleanup_cgroup_ struct cgroup *cg = NULL;
        const struct cgroup_device_rule rule = { .allow = true };
        const struct cgroup_resources given = { .device = (struct cgroup_device_rule *)&rule, .n_devices = 1 };

        tree_add(tree, "u", "cgroup2 cgroup2 rw", "ct", files);
        assert_int_equal(tree_create(tree, &(struct cgroup_spec){ .id = "ct", .resources = &given }, &cg, NULL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_resources_ struct cgroup_resources *res = resources(rows[i].resources);
                _cleanup_err_ struct err *err = NULL;

                assert_true(cgroup_apply(cg, res, &err) < 0);
                if (!strstr(err_message(err), rows[i].message))
                        fail_msg("%s: %s", rows[i].resources, err_message(err));
        }
}

static void limits_without_a_controller_are_refused(void **state)
{
        struct tree *tree = *state;
        _cleanup_cgroup_ struct cgroup *cg = NULL;
        _cleanup_resources_ struct cgroup_resources *res =
                resources("{\"hugepageLimits\": [{\"pageSize\": \"2MB\", \"limit\": 0}]}");
        _cleanup_err_ struct err *err = NULL;

        add_v1(tree);
        assert_int_equal(tree_create(tree, &(struct cgroup_spec){ .id = "ct" }, &cg, &err), 0);
        assert_int_equal(cgroup_apply(cg, res, &err), -ENOTSUP);
        assert_non_null(strstr(err_message(err), "hugepageLimits"));
}

static void saved_groups_are_the_same_when_loaded(void **state)
{
        struct tree *tree = *state;
        _cleanup_cgroup_ struct cgroup *cg = NULL, *loaded = NULL;
        _cleanup_json_ json_t *saved = NULL, *again = NULL;

        add_v1(tree);
        assert_int_equal(tree_create(tree, &(struct cgroup_spec){ .id = "x", .path = "/ct" }, &cg, NULL), 0);
        saved = cgroup_save(cg);
        assert_int_equal(cgroup_load(saved, &loaded, NULL), 0);
        again = cgroup_save(loaded);
        assert_true(json_equal(saved, again));
        assert_true(cgroup_exists(loaded));
        assert_string_equal(cgroup_hierarchy(loaded, 2)->path, cgroup_hierarchy(cg, 2)->path);
}

static void damaged_states_are_not_loaded(void **state)
{
        static const char *const rows[] = {
                "{\"hierarchies\": 1}",
                "{\"hierarchies\": [{}]}",
                "{\"hierarchies\": [{\"name\": \"x\", \"mount\": \"rel\", \"group\": \"/a\"}]}",
                "{\"hierarchies\": [{\"name\": \"x\", \"mount\": \"/m\", \"group\": \"/\"}]}",
                "{\"hierarchies\": [{\"name\": \"x\", \"mount\": \"/m\", \"group\": \"/a/../..\"}]}",
                "{\"hierarchies\": [{\"name\": \"x\", \"mount\": \"/m\", \"group\": \"/a\", \"made\": -1}]}",
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_json_ json_t *json = json_loads(rows[i], 0, NULL);
                _cleanup_err_ struct err *err = NULL;
                struct cgroup *cg = NULL;

                assert_true(cgroup_load(json, &cg, &err) < 0);
                assert_null(cg);
        }
}

static bool tree_has(const struct tree *tree, const char *path)
{
        char full[256];

        snprintf(full, sizeof(full), "%s/%s", tree->dir, path);
        return access(full, F_OK) == 0;
}

/* The second hierarchy's mount is a file: nothing of the first one may stay. */
static void failed_creation_leaves_nothing(void **state)
{
        static const char *const none[] = { NULL };
        struct tree *tree = *state;
        _cleanup_err_ struct err *err = NULL;
        struct cgroup *cg = NULL;
        char path[256];

        tree_add(tree, "cpu", "cgroup cgroup rw,cpu", "", none);
        tree_add(tree, "pids", "cgroup cgroup rw,pids", "", none);
        snprintf(path, sizeof(path), "%s/pids", tree->dir);
        assert_int_equal(rmdir(path), 0);
        close(open(path, O_CREAT | O_WRONLY, 0600));
        assert_int_equal(tree_create(tree, &(struct cgroup_spec){ .id = "x", .path = "/a/b/c" }, &cg, &err), -ENOTDIR);
        assert_null(cg);
        assert_true(tree_has(tree, "cpu"));
        assert_false(tree_has(tree, "cpu/a"));
}

static void root_of_all_groups_is_nobodys(void **state)
{
        static const char *const paths[] = { "/", "/..", "/a/.." };
        struct tree *tree = *state;

        add_v1(tree);
        for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
                _cleanup_err_ struct err *err = NULL;
                struct cgroup *cg = NULL;

                assert_int_equal(
                        tree_create(tree, &(struct cgroup_spec){ .id = "x", .path = paths[i] }, &cg, &err), -EINVAL);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(resources_hold_what_was_given),
                cmocka_unit_test(bad_resources_are_refused_with_their_place),
                cmocka_unit_test(layout_of_a_hybrid_host_is_understood),
                cmocka_unit_test(layout_of_a_unified_host_is_understood),
                cmocka_unit_test(own_group_is_seen_from_the_mount),
                cmocka_unit_test(hosts_without_cgroups_are_told_so),
                cmocka_unit_test(paths_cannot_leave_their_root),
                cmocka_unit_test_setup_teardown(v1_files_get_the_spec_s_numbers, tree_setup, tree_teardown),
                cmocka_unit_test_setup_teardown(v2_files_get_converted_numbers, tree_setup, tree_teardown),
                cmocka_unit_test_setup_teardown(limits_that_make_no_sense_on_v2_are_refused, tree_setup, tree_teardown),
                cmocka_unit_test_setup_teardown(limits_without_a_controller_are_refused, tree_setup, tree_teardown),
                cmocka_unit_test_setup_teardown(saved_groups_are_the_same_when_loaded, tree_setup, tree_teardown),
                cmocka_unit_test(damaged_states_are_not_loaded),
                cmocka_unit_test_setup_teardown(failed_creation_leaves_nothing, tree_setup, tree_teardown),
                cmocka_unit_test_setup_teardown(root_of_all_groups_is_nobodys, tree_setup, tree_teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
