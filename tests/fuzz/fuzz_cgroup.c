/* linux.resources, a container's saved groups and the host's mountinfo: whatever the bytes are, an error or something
 * consistent. */
#include <jansson.h>
#include <string.h>

#include "box/cgroup/internal.h"
#include "input.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

static void check_resources(const json_t *json)
{
        struct cgroup_resources *res = NULL;
        struct err *err = NULL;
        const int r = cgroup_resources_parse(json, &res, &err);

        require((r < 0) == (err != NULL) && (r < 0) == (res == NULL));
        for (size_t i = 0; res && i < res->n_unified; i++)
                require(!strchr(res->unified[i].file, '/') && res->unified[i].value);
        for (size_t i = 0; res && i < res->n_huge; i++)
                require(!strchr(res->huge[i].page_size, '/'));
        cgroup_resources_free(res);
        err_free(err);
}

/* Groups are below their mounts. */
static void check_groups(const struct cgroup *cg)
{
        const struct cgroup_hierarchy *face;

        for (size_t i = 0; (face = cgroup_hierarchy(cg, i)); i++) {
                const size_t n = strlen(face->mount);

                require(face->mount[0] == '/');
                if (face->path)
                        require(strncmp(face->path, face->mount, n) == 0 && strlen(face->path) > n &&
                                !strstr(face->path + n, "/../"));
        }
}

static void check_state(const json_t *json)
{
        struct cgroup *cg = NULL;
        struct err *err = NULL;

        if (cgroup_load(json, &cg, &err) >= 0) {
                json_t *again = cgroup_save(cg);

                check_groups(cg);
                require(again != NULL || cg->n > 0);
                json_decref(again);
        }
        cgroup_free(cg);
        err_free(err);
}

static void check_layout(const char *mountinfo, const char *self)
{
        struct cgroup *cg = NULL;
        struct err *err = NULL;

        if (cgroup_layout_parse(mountinfo, self, &cg, &err) >= 0)
                check_groups(cg);
        cgroup_free(cg);
        err_free(err);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
        json_t *json = json_loadb((const char *)data, len, JSON_DECODE_ANY, NULL);
        char *text = strndup((const char *)data, len), *self, *path = NULL;

        if (json) {
                check_resources(json);
                check_state(json);
        }
        /* The two texts of a host, one behind the other. */
        self = strstr(text, "\n\n");
        if (self) {
                *self = 0;
                self += 2;
        }
        check_layout(text, self ? self : "");
        if (cgroup_path_clean(text, &path, NULL) >= 0)
                require(!*path || (path[0] == '/' && !strstr(path, "//") && !strstr(path, "/../")));
        free(path);
        free(text);
        json_decref(json);
        return 0;
}
