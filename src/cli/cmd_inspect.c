/* `strata inspect` and `strata port`: everything about one. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "container_cli.h"
#include "network_cli.h"
#include "image_cli.h"

/* --- inspect ------------------------------------------------------------------------------------------------------- */

struct inspect {
        const char *format, *type;
        bool size;
};

typedef int inspect_fn(
        struct instance_host *host, const char *name, const struct inspect *inspect, json_t **ret, struct err **err);

static int inspect_container(
        struct instance_host *host, const char *name, const struct inspect *inspect, json_t **ret, struct err **err)
{
        _cleanup_(instance_freep) struct instance *inst = NULL;
        int r = instance_find(host, name, &inst, err);

        return r < 0 ? r : instance_inspect(inst, inspect->size, ret, err);
}

static int inspect_image(
        struct instance_host *host, const char *name, const struct inspect *inspect, json_t **ret, struct err **err)
{
        return image_inspect_json(instance_host_images(host), name, ret, err);
}

static int inspect_network(
        struct instance_host *host, const char *name, const struct inspect *inspect, json_t **ret, struct err **err)
{
        return network_inspect_json(host, name, ret, err);
}

static int inspect_volume(
        struct instance_host *host, const char *name, const struct inspect *inspect, json_t **ret, struct err **err)
{
        return volume_inspect_json(host, name, ret, err);
}

/* In the order in which a name is looked up. */
static const struct {
        const char *type;
        inspect_fn *fn;
} types[] = { { "container", inspect_container }, { "image", inspect_image }, { "network", inspect_network },
        { "volume", inspect_volume } };

static int inspect_one(
        struct instance_host *host, const char *name, const struct inspect *inspect, json_t *list, struct err **err)
{
        json_t *json = NULL;
        int r = -ENOENT;

        for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
                struct err *own = NULL;

                if (inspect->type && strcmp(inspect->type, types[i].type) != 0)
                        continue;
                r = types[i].fn(host, name, inspect, &json, &own);
                if (r == 0)
                        return json_array_append_new(list, json) < 0 ? err_sys(err, ENOMEM, "inspecting '%s'", name)
                                                                     : 0;
                if (err_get_id(own) != ERR_NOT_FOUND || inspect->type) {
                        *err = own;
                        return r;
                }
                err_free(own);
        }
        return err_set(err, ERR_NOT_FOUND, ENOENT, "there is no container, image, network or volume '%s'", name);
}

static int check_type(const char *type, struct err **err)
{
        for (size_t i = 0; type && i < ARRAY_SIZE(types); i++)
                if (strcmp(types[i].type, type) == 0)
                        return 0;
        if (!type)
                return 0;
        return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "--type: there is nothing of type '%s'", type),
                "there is: container, image, network, volume");
}

/* Prints what was found also when something else was not. */
static int inspect_all(char *const *names, const struct inspect *inspect, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        _cleanup_json_ json_t *list = json_array();
        int missing = 0, r = check_type(inspect->type, err);

        if (r == 0)
                r = instance_host_open(NULL, &host, err);
        if (r < 0)
                return r;
        for (; *names && missing == 0; names++)
                missing = inspect_one(host, *names, inspect, list, err);
        if (missing == 0 || json_array_size(list) > 0)
                r = listing_inspect(list, inspect->format, stdout, missing == 0 ? err : NULL);
        return missing < 0 ? missing : r;
}

int container_inspect_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("format", 'f', TEXT, offsetof(struct inspect, format), "FORMAT",
                        "json or a template as '{{.State.Status}}'"),
                CLI_OPTION("size", 's', FLAG, offsetof(struct inspect, size), NULL, "how much containers wrote, too"),
                CLI_OPTION(
                        "type", 0, TEXT, offsetof(struct inspect, type), "TYPE", "container, image, network or volume"),
                { 0 },
        };
        const struct cli_usage usage = { "strata inspect", "[OPTION...] NAME...",
                "Print everything about containers, images, networks or volumes, as JSON.", CLI_OPTIONS(options), 1, -1,
                false };
        struct inspect inspect = { 0 };
        int first, r = cli_options_parse(&usage, argc, argv, &inspect, &first, err);

        return r != 0 ? MIN(r, 0) : inspect_all(argv + first, &inspect, err);
}

/* --- port ---------------------------------------------------------------------------------------------------------- */

static void print_address(const struct instance_port *port)
{
        const char *ip = port->host_ip && *port->host_ip ? port->host_ip : "0.0.0.0";
        const bool v6 = strchr(ip, ':') != NULL;

        printf("%s%s%s:%u\n", v6 ? "[" : "", ip, v6 ? "]" : "", port->host_port);
}

/* Without @wanted every port, "80/tcp -> 0.0.0.0:8080"; else the addresses of that one. */
static int print_ports(struct instance *inst, const char *name, const char *wanted, struct err **err)
{
        const struct instance_port *ports;
        bool found = false;
        size_t n;
        int r = instance_get_ports(inst, &ports, &n, err);

        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++) {
                const char *protocol = ports[i].protocol ? ports[i].protocol : "tcp";
                char number[24], full[32];

                snprintf(number, sizeof(number), "%u", ports[i].port);
                snprintf(full, sizeof(full), "%s/%s", number, protocol);
                if (wanted && strcmp(wanted, full) != 0 &&
                        (strcmp(wanted, number) != 0 || strcmp(protocol, "tcp") != 0))
                        continue;
                if (!wanted)
                        printf("%s -> ", full);
                print_address(&ports[i]);
                found = true;
        }
        if (wanted && !found)
                return err_set(err, ERR_NOT_FOUND, ENOENT, "'%s' has no published port '%s'", name, wanted);
        return 0;
}

int container_port_command(int argc, char **argv, struct err **err)
{
        const struct cli_usage usage = { "strata port", "CONTAINER [PORT[/PROTOCOL]]",
                "Say which ports of the host are a container's.", NULL, 1, 2, false };
        _cleanup_(container_choice_clear) struct container_choice chosen = { 0 };
        int r = container_choose(&usage, argc, argv, NULL, &chosen, err);

        return r != 0 ? MIN(r, 0) : print_ports(chosen.inst, chosen.words[0], chosen.words[1], err);
}
