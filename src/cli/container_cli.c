#include "container_cli.h"
#include "filter.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PROGRAM "strata"

int container_run_failed(struct err **err)
{
        static const struct {
                enum err_id id;
                int status;
        } commands_fault[] = { { ERR_NO_COMMAND, CONTAINER_STATUS_NO_COMMAND },
                { ERR_NOT_EXECUTABLE, CONTAINER_STATUS_NOT_EXECUTABLE } };
        int status = CONTAINER_STATUS_OURS;

        for (size_t i = 0; i < ARRAY_SIZE(commands_fault); i++)
                if (err_get_id(*err) == commands_fault[i].id)
                        status = commands_fault[i].status;
        err_print(*err, PROGRAM);
        *err = err_free(*err);
        return status;
}

int container_exec_failed(int r, struct err **err)
{
        return err_get_id(*err) == ERR_NOT_FOUND ? r : container_run_failed(err);
}

int container_report(struct err **err)
{
        err_print(*err, PROGRAM);
        *err = err_free(*err);
        return 1;
}

bool container_confirm(const char *what)
{
        char answer[16] = "";

        fprintf(stderr, "%s\nGo on? [y/N] ", what);
        return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

int container_open(const char *name, struct instance_host **ret_host, struct instance **ret, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        int r = instance_host_open(NULL, &host, err);

        if (r == 0)
                r = instance_find(host, name, ret, err);
        if (r == 0)
                *ret_host = TAKE_PTR(host);
        return r;
}

void container_choice_clear(struct container_choice *choice)
{
        instance_free(choice->inst);
        instance_host_close(choice->host);
}

int container_choose(const struct cli_usage *usage, int argc, char **argv, void *target, struct container_choice *ret,
        struct err **err)
{
        int first, r = cli_options_parse(usage, argc, argv, target, &first, err);

        if (r != 0)
                return r;
        ret->words = argv + first;
        return container_open(argv[first], &ret->host, &ret->inst, err);
}

int container_each_name(char *const *names, container_named_fn *fn, void *opaque, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        int status = 0, r = instance_host_open(NULL, &host, err);

        if (r < 0)
                return r;
        for (; *names; names++) {
                struct err *own = NULL;

                if (fn(host, *names, opaque, &own) < 0)
                        status = container_report(&own);
        }
        return status;
}

static int remove_named(struct instance_host *host, const char *name, void *opaque, struct err **err)
{
        const int r = (*(container_remove_fn *const *)opaque)(host, name, err);

        if (r == 0)
                puts(name);
        return r;
}

int container_remove_command(const struct cli_usage *usage, container_remove_fn *remove, int argc, char **argv, struct err **err)
{
        int first, r = cli_options_parse(usage, argc, argv, NULL, &first, err);

        return r != 0 ? MIN(r, 0) : container_each_name(argv + first, remove_named, &remove, err);
}

struct each {
        container_fn *fn;
        void *opaque;
        unsigned flags;
};

static int each_container(struct instance_host *host, const char *name, void *opaque, struct err **err)
{
        const struct each *each = opaque;
        _cleanup_(instance_freep) struct instance *inst = NULL;
        _cleanup_(err_freep) struct err *own = NULL;
        int r = instance_find(host, name, &inst, &own);

        if (r < 0 && err_get_id(own) == ERR_NOT_FOUND && (each->flags & CONTAINER_MISSING_IS_FINE))
                return 0;
        if (r >= 0)
                r = each->fn(host, inst, each->opaque, &own);
        if (r < 0) {
                *err = TAKE_PTR(own);
        } else if (!(each->flags & CONTAINER_QUIET)) {
                puts(name);
                fflush(stdout);
        }
        return r;
}

int container_each(char *const *names, container_fn *fn, void *opaque, unsigned flags, struct err **err)
{
        struct each each = { fn, opaque, flags };

        return container_each_name(names, each_container, &each, err);
}

int list_command_run(const struct cli_usage *usage, const char *const *filter_keys, const char *table,
        int (*collect)(struct list_command *list, struct err **err), int argc, char **argv, struct list_command *list,
        struct err **err)
{
        int first = argc, r = cli_options_parse(usage, argc, argv, list, &first, err);

        list->rows = json_array();
        list->words = argv + first;
        if (table && (!list->listing.format || strcmp(list->listing.format, "table") == 0))
                list->listing.format = table;
        if (r == 0)
                r = listing_check(&list->listing, err);
        if (r == 0 && filter_keys)
                r = filter_check(&list->filters, filter_keys, err);
        if (r == 0) {
                r = collect(list, err);
                if (r < 0 && err && !*err)
                        err_sys(err, -r, "%s", usage->command);
        }
        if (r == 0)
                r = listing_print(&list->listing, list->rows, stdout, err);
        json_decref(list->rows);
        cli_words_clear(&list->filters);
        return MIN(r, 0);
}

struct listing_text container_short_id(const char *id)
{
        struct listing_text text;

        snprintf(text.text, sizeof(text.text), "%.*s", CONTAINER_ID_DIGITS, id);
        return text;
}

char *container_labels_text(const struct instance_pairs *labels)
{
        char *text = NULL;
        size_t len = 0;
        FILE *out = open_memstream(&text, &len);

        if (!out)
                return NULL;
        for (size_t i = 0; i < labels->n; i++)
                fprintf(out, "%s%s=%s", i ? "," : "", labels->item[i].key, labels->item[i].value);
        return fclose(out) == 0 ? text : NULL;
}

/* --- ports --------------------------------------------------------------------------------------------------------- */

static const char *protocol_of(const struct instance_port *port)
{
        return port->protocol ? port->protocol : "tcp";
}

static void print_port(FILE *out, const struct instance_port *port, bool first)
{
        const char *ip = port->host_ip && *port->host_ip ? port->host_ip : "0.0.0.0";
        const bool v6 = strchr(ip, ':') != NULL;

        fprintf(out, "%s%s%s%s:%u->%u/%s", first ? "" : ", ", v6 ? "[" : "", ip, v6 ? "]" : "", port->host_port,
                port->port, protocol_of(port));
}

/* Whether an exposed "80/tcp" is among the published ones. */
static bool is_published(const struct instance_port *ports, size_t n, const char *exposed)
{
        for (size_t i = 0; i < n; i++) {
                char text[24];

                snprintf(text, sizeof(text), "%u/%s", ports[i].port, protocol_of(&ports[i]));
                if (strcmp(text, exposed) == 0)
                        return true;
        }
        return false;
}

char *container_ports_text(struct instance *inst)
{
        const struct instance_config *config = instance_get_config(inst);
        const struct instance_port *ports = NULL;
        char *text = NULL;
        size_t n = 0, len = 0;
        bool first = true;
        FILE *out = open_memstream(&text, &len);

        if (!out)
                return NULL;
        if (instance_get_ports(inst, &ports, &n, NULL) < 0)
                n = 0;
        for (size_t i = 0; i < n; i++, first = false)
                print_port(out, &ports[i], first);
        for (size_t i = 0; i < config->exposed.n; i++)
                if (!is_published(ports, n, config->exposed.item[i])) {
                        fprintf(out, "%s%s", first ? "" : ", ", config->exposed.item[i]);
                        first = false;
                }
        return fclose(out) == 0 ? text : NULL;
}
