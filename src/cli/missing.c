/* Stands in for functions of src/instance that are being written; goes away with the last of them. */
#include <errno.h>

#include "instance/instance.h"

#define MISSING(name, ...)                                                                                        \
        __attribute__((weak)) int name(__VA_ARGS__)                                                               \
        {                                                                                                         \
                return err_set(err, ERR_UNSUPPORTED, EOPNOTSUPP, "this is not implemented yet (%s)", #name);      \
        }

MISSING(instance_diff, struct instance *inst, int (*fn)(void *opaque, char kind, const char *path), void *opaque, struct err **err)
MISSING(instance_commit, struct instance *inst, const struct image_commit_options *options, bool pause, struct image **ret, struct err **err)
MISSING(instance_export, struct instance *inst, int fd, struct err **err)
MISSING(instance_copy_out, struct instance *inst, const char *path, bool follow, int fd, struct err **err)
MISSING(instance_copy_in, struct instance *inst, const char *path, unsigned flags, int fd, struct err **err)
MISSING(instance_stat_path, struct instance *inst, const char *path, struct instance_path_stat *ret, struct err **err)
MISSING(instance_top, struct instance *inst, const struct instance_processes **ret, struct err **err)
MISSING(instance_inspect, struct instance *inst, bool size, json_t **ret, struct err **err)
MISSING(instance_get_ports, struct instance *inst, const struct instance_port **ret, size_t *ret_n, struct err **err)
MISSING(instance_size, struct instance *inst, u64 *ret_layer, u64 *ret_total, struct err **err)
MISSING(instance_get_stats, struct instance *inst, struct instance_stats *ret, struct err **err)
MISSING(instance_host_check, struct instance_host *host, void (*problem)(void *opaque, const char *text), void *opaque, struct err **err)
