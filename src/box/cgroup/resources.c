/* linux.resources, which strangers write: read, checked, and from then on a structure. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "box/cgroup/internal.h"
#include "box/oci_read.h"

/* More than any host has devices for; bounds time and memory. */
#define LIST_MAX 4096

enum zero { VALUE, UNSET };

static const struct limit {
        const char *section, *key;
        s64 smallest, largest;
        enum zero zero;
} limits[] = {
#define CGROUP_LIMIT(id, section, key, smallest, largest, zero) \
        [CGROUP_##id] = { section, key, smallest, largest, zero },
#include "box/cgroup/limits.def"
#undef CGROUP_LIMIT
};

static int no_memory(struct err **err)
{
        return err_sys(err, ENOMEM, "reading linux.resources");
}

static int copy_text(const char *text, char **ret, struct err **err)
{
        *ret = strdup(text);
        return *ret ? 0 : no_memory(err);
}

/* An array for the items of @list; *ret_n is set as they are filled in. */
static int make_list(const json_t *list, size_t n, size_t size, void **ret, struct err **err)
{
        if (n > LIST_MAX)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "a list has more than %d items", LIST_MAX);
        *ret = n ? calloc(n, size) : NULL;
        return n && !*ret ? no_memory(err) : 0;
}

/* ---- scalars ---- */

static int read_limit(const json_t *section, enum cgroup_limit id, struct cgroup_resources *res, struct err **err)
{
        const struct limit *limit = &limits[id];
        const json_t *value = oci_member(section, limit->key);
        s64 number = 0;
        int r = 0;

        if (!value)
                return 0;
        if (json_is_boolean(value) && limit->largest == 1)
                number = json_is_true(value);
        else
                r = oci_read_int(section, limit->key, limit->smallest, limit->largest, &number, err);
        if (r < 0 || (number == 0 && limit->zero == UNSET))
                return r;
        res->value[id] = number;
        res->set |= BIT(id);
        return 0;
}

static int read_scalars(const json_t *json, struct cgroup_resources *res, struct err **err)
{
        for (enum cgroup_limit id = 0; id < CGROUP_LIMIT_COUNT; id++) {
                const json_t *section = NULL;
                int r = oci_read_object(json, limits[id].section, &section, err);

                if (r >= 0)
                        r = read_limit(section, id, res, err);
                if (r < 0)
                        return err_wrap(err, r, "%s", limits[id].section);
        }
        return 0;
}

/* "0-3,7": digits, commas and dashes, as the kernel reads them. */
static int read_set(const json_t *section, const char *key, char **ret, struct err **err)
{
        const char *text = NULL;
        int r = oci_read_string(section, key, &text, err);

        if (r < 0 || !text || !*text)
                return r;
        if (strspn(text, "0123456789-, ") != strlen(text) || strlen(text) > 4000)
                return err_set(err, ERR_BAD_CONFIG, EINVAL,
                        "'%s' is '%.40s', which is no list of numbers such as 0-3,7", key, text);
        return copy_text(text, ret, err);
}

/* ---- devices ---- */

static int read_device(const json_t *json, struct cgroup_device_rule *rule, struct err **err)
{
        const char *type = "a", *access = "rwm";
        int r;

        *rule = (struct cgroup_device_rule){ .major = CGROUP_DEVICE_ANY, .minor = CGROUP_DEVICE_ANY };
        r = oci_read_bool(json, "allow", &rule->allow, err);
        if (r >= 0)
                r = oci_read_string(json, "type", &type, err);
        if (r >= 0)
                r = oci_read_string(json, "access", &access, err);
        if (r >= 0)
                r = oci_read_int(json, "major", -1, UINT32_MAX, &rule->major, err);
        if (r >= 0)
                r = oci_read_int(json, "minor", -1, UINT32_MAX, &rule->minor, err);
        if (r < 0)
                return r;
        if (!*type)
                type = "a";
        if (strlen(type) != 1 || !strchr("abcu", *type))
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'type' is '%s', not a, b or c", type);
        rule->type = *type == 'u' ? CGROUP_DEVICE_CHAR : (enum cgroup_device_type) * type;
        for (const char *c = *access ? access : "rwm"; *c; c++) {
                const char *at = strchr("rwm", *c);

                if (*c == 'a') /* stands for nothing, and is written now and then ("rwa") */
                        continue;
                if (!at)
                        return err_set(err, ERR_BAD_CONFIG, EINVAL, "'access' is '%s', not made of r, w and m", access);
                rule->access |= 1u << (at - "rwm");
        }
        return 0;
}

static int read_devices(const json_t *json, struct cgroup_resources *res, struct err **err)
{
        const json_t *list = NULL;
        int r = oci_read_array(json, "devices", &list, err);

        if (r >= 0 && json_array_size(list) > DEVICE_RULES_MAX)
                return err_set(err, ERR_TOO_LARGE, E2BIG, "'devices' has more than %d rules", DEVICE_RULES_MAX);
        if (r >= 0)
                r = make_list(list, json_array_size(list), sizeof(res->device[0]), (void **)&res->device, err);
        for (size_t i = 0; r >= 0 && i < json_array_size(list); i++) {
                r = read_device(json_array_get(list, i), &res->device[i], err);
                if (r < 0)
                        return err_wrap(err, r, "devices[%zu]", i);
                res->n_devices++;
        }
        return r;
}

/* ---- block devices ---- */

static int read_number(const json_t *json, const char *key, s64 largest, u32 *ret, struct err **err)
{
        s64 value = -1;
        int r = oci_read_int(json, key, 0, largest, &value, err);

        if (r >= 0 && value < 0)
                return err_set(err, ERR_BAD_CONFIG, EINVAL, "'%s' is missing", key);
        if (r >= 0)
                *ret = (u32)value;
        return r;
}

static int read_io_weights(const json_t *section, struct cgroup_resources *res, struct err **err)
{
        const json_t *list = NULL;
        int r = oci_read_array(section, "weightDevice", &list, err);

        if (r >= 0)
                r = make_list(list, json_array_size(list), sizeof(res->io_weight[0]), (void **)&res->io_weight, err);
        for (size_t i = 0; r >= 0 && i < json_array_size(list); i++) {
                const json_t *item = json_array_get(list, i);
                struct cgroup_io_weight *out = &res->io_weight[res->n_io_weights++];
                s64 weight = 0, leaf = 0;

                r = read_number(item, "major", UINT32_MAX, &out->major, err);
                if (r >= 0)
                        r = read_number(item, "minor", UINT32_MAX, &out->minor, err);
                if (r >= 0)
                        r = oci_read_int(item, "weight", 0, 1000, &weight, err);
                if (r >= 0)
                        r = oci_read_int(item, "leafWeight", 0, 1000, &leaf, err);
                if (r < 0)
                        return err_wrap(err, r, "weightDevice[%zu]", i);
                out->weight = (u16)weight;
                out->leaf_weight = (u16)leaf;
        }
        return r;
}

static int read_io_rates(const json_t *section, struct cgroup_resources *res, struct err **err)
{
        static const char *const keys[] = {
                [CGROUP_IO_READ_BPS] = "throttleReadBpsDevice",
                [CGROUP_IO_WRITE_BPS] = "throttleWriteBpsDevice",
                [CGROUP_IO_READ_IOPS] = "throttleReadIOPSDevice",
                [CGROUP_IO_WRITE_IOPS] = "throttleWriteIOPSDevice",
        };
        const json_t *list[ARRAY_SIZE(keys)] = { NULL };
        size_t n = 0;
        int r = 0;

        for (size_t k = 0; r >= 0 && k < ARRAY_SIZE(keys); k++) {
                r = oci_read_array(section, keys[k], &list[k], err);
                n += json_array_size(list[k]);
        }
        if (r >= 0)
                r = make_list(NULL, n, sizeof(res->io_rate[0]), (void **)&res->io_rate, err);
        for (size_t k = 0; r >= 0 && k < ARRAY_SIZE(keys); k++)
                for (size_t i = 0; r >= 0 && i < json_array_size(list[k]); i++) {
                        const json_t *item = json_array_get(list[k], i);
                        struct cgroup_io_rate *out = &res->io_rate[res->n_io_rates++];

                        out->limit = (enum cgroup_io_limit)k;
                        r = read_number(item, "major", UINT32_MAX, &out->major, err);
                        if (r >= 0)
                                r = read_number(item, "minor", UINT32_MAX, &out->minor, err);
                        if (r >= 0)
                                r = oci_read_u64(item, "rate", &out->rate, err);
                        if (r < 0)
                                return err_wrap(err, r, "%s[%zu]", keys[k], i);
                }
        return r;
}

/* ---- the rest ---- */

/* Part of a file's name: nothing that could lead elsewhere. */
static bool is_file_word(const char *text)
{
        if (!*text || strlen(text) > 100 || *text == '.')
                return false;
        for (; *text; text++)
                if (!isalnum((unsigned char)*text) && !strchr("._-", *text))
                        return false;
        return true;
}

static int read_huge(const json_t *json, struct cgroup_resources *res, struct err **err)
{
        const json_t *list = NULL;
        int r = oci_read_array(json, "hugepageLimits", &list, err);

        if (r >= 0)
                r = make_list(list, json_array_size(list), sizeof(res->huge[0]), (void **)&res->huge, err);
        for (size_t i = 0; r >= 0 && i < json_array_size(list); i++) {
                const json_t *item = json_array_get(list, i);
                struct cgroup_huge_limit *out = &res->huge[res->n_huge++];
                const char *size = NULL;

                r = oci_read_string(item, "pageSize", &size, err);
                if (r >= 0)
                        r = oci_read_u64(item, "limit", &out->limit, err);
                if (r >= 0 && (!size || !is_file_word(size)))
                        r = err_set(err, ERR_BAD_CONFIG, EINVAL, "'pageSize' is '%.40s', not a size such as 2MB",
                                size ? size : "");
                if (r >= 0)
                        r = copy_text(size, &out->page_size, err);
                if (r < 0)
                        return err_wrap(err, r, "hugepageLimits[%zu]", i);
        }
        return r;
}

static int read_net_priorities(const json_t *json, struct cgroup_resources *res, struct err **err)
{
        const json_t *section = NULL, *list = NULL;
        int r = oci_read_object(json, "network", &section, err);

        if (r >= 0)
                r = oci_read_array(section, "priorities", &list, err);
        if (r >= 0)
                r = make_list(
                        list, json_array_size(list), sizeof(res->net_priority[0]), (void **)&res->net_priority, err);
        for (size_t i = 0; r >= 0 && i < json_array_size(list); i++) {
                const json_t *item = json_array_get(list, i);
                struct cgroup_net_priority *out = &res->net_priority[res->n_net_priorities++];
                const char *name = NULL;

                r = oci_read_string(item, "name", &name, err);
                if (r >= 0)
                        r = read_number(item, "priority", UINT32_MAX, &out->priority, err);
                if (r >= 0 && (!name || !is_file_word(name)))
                        r = err_set(err, ERR_BAD_CONFIG, EINVAL, "'name' is no network interface");
                if (r >= 0)
                        r = copy_text(name, &out->name, err);
                if (r < 0)
                        return err_wrap(err, r, "network: priorities[%zu]", i);
        }
        return r;
}

static int read_rdma(const json_t *json, struct cgroup_resources *res, struct err **err)
{
        const json_t *section = NULL;
        const char *device;
        json_t *item;
        int r = oci_read_object(json, "rdma", &section, err);

        if (r >= 0)
                r = make_list(section, json_object_size(section), sizeof(res->rdma[0]), (void **)&res->rdma, err);
        if (r < 0)
                return r;
        json_object_foreach((json_t *)section, device, item)
        {
                struct cgroup_rdma_limit *out = &res->rdma[res->n_rdma++];

                out->handles = out->objects = -1;
                if (!is_file_word(device))
                        r = err_set(err, ERR_BAD_CONFIG, EINVAL, "not the name of a device");
                if (r >= 0)
                        r = oci_read_int(item, "hcaHandles", 0, UINT32_MAX, &out->handles, err);
                if (r >= 0)
                        r = oci_read_int(item, "hcaObjects", 0, UINT32_MAX, &out->objects, err);
                if (r >= 0)
                        r = copy_text(device, &out->device, err);
                if (r < 0)
                        return err_wrap(err, r, "rdma: '%.40s'", device);
        }
        return 0;
}

static int read_unified(const json_t *json, struct cgroup_resources *res, struct err **err)
{
        const json_t *section = NULL;
        const char *file;
        json_t *value;
        int r = oci_read_object(json, "unified", &section, err);

        if (r >= 0)
                r = make_list(section, json_object_size(section), sizeof(res->unified[0]), (void **)&res->unified, err);
        if (r < 0)
                return r;
        json_object_foreach((json_t *)section, file, value)
        {
                struct cgroup_unified *out = &res->unified[res->n_unified++];
                const char *text = json_string_value(value);

                if (!is_file_word(file))
                        r = err_set(err, ERR_BAD_CONFIG, EINVAL, "must be a file name without any slashes");
                else if (!text || strlen(text) != json_string_length(value))
                        r = err_set(err, ERR_BAD_CONFIG, EINVAL, "must be a text");
                if (r >= 0)
                        r = copy_text(file, &out->file, err);
                if (r >= 0)
                        r = copy_text(text, &out->value, err);
                if (r < 0)
                        return err_wrap(err, r, "unified: '%.60s'", file);
        }
        return 0;
}

static int read_all(const json_t *json, struct cgroup_resources *res, struct err **err)
{
        const json_t *cpu = NULL, *block = NULL;
        int r = read_scalars(json, res, err);

        if (r >= 0)
                r = oci_read_object(json, "cpu", &cpu, err);
        if (r >= 0)
                r = read_set(cpu, "cpus", &res->cpus, err);
        if (r >= 0)
                r = read_set(cpu, "mems", &res->mems, err);
        if (r >= 0)
                r = read_devices(json, res, err);
        if (r >= 0)
                r = oci_read_object(json, "blockIO", &block, err);
        if (r >= 0)
                r = read_io_weights(block, res, err);
        if (r >= 0)
                r = read_io_rates(block, res, err);
        if (r >= 0)
                r = read_huge(json, res, err);
        if (r >= 0)
                r = read_net_priorities(json, res, err);
        if (r >= 0)
                r = read_rdma(json, res, err);
        if (r >= 0)
                r = read_unified(json, res, err);
        return r;
}

int cgroup_resources_parse(const json_t *json, struct cgroup_resources **ret, struct err **err)
{
        _cleanup_(cgroup_resources_freep) struct cgroup_resources *res = calloc(1, sizeof(*res));
        int r = 0;

        if (!res)
                return no_memory(err);
        if (json && !json_is_null(json) && !json_is_object(json))
                r = err_set(err, ERR_BAD_CONFIG, EINVAL, "must be an object");
        if (r >= 0)
                r = read_all(json, res, err);
        if (r < 0)
                return err_wrap(err, r, "linux.resources");
        *ret = TAKE_PTR(res);
        return 0;
}

struct cgroup_resources *cgroup_resources_free(struct cgroup_resources *res)
{
        if (!res)
                return NULL;
        for (size_t i = 0; i < res->n_huge; i++)
                free(res->huge[i].page_size);
        for (size_t i = 0; i < res->n_net_priorities; i++)
                free(res->net_priority[i].name);
        for (size_t i = 0; i < res->n_rdma; i++)
                free(res->rdma[i].device);
        for (size_t i = 0; i < res->n_unified; i++) {
                free(res->unified[i].file);
                free(res->unified[i].value);
        }
        free(res->cpus);
        free(res->mems);
        free(res->device);
        free(res->io_rate);
        free(res->io_weight);
        free(res->huge);
        free(res->net_priority);
        free(res->rdma);
        free(res->unified);
        free(res);
        return NULL;
}
