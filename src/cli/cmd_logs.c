/* `strata logs` and `strata events`: what happened. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "container_cli.h"
#include "filter.h"
#include "template.h"

/* --- logs ---------------------------------------------------------------------------------------------------------- */

struct logs {
        struct instance_log_options options;
        bool times, details;
        bool in_line[3]; /* whether a stream's last piece ended without a newline */
};

static int parse_tail(void *member, const char *text, struct err **err)
{
        if (strcmp(text, "all") != 0)
                return cli_parse_number(member, text, err);
        *(s64 *)member = -1;
        return 0;
}

static int print_line(void *opaque, int stream, s64 time_ns, const char *data, size_t len)
{
        struct logs *logs = opaque;
        FILE *out = stream == 2 ? stderr : stdout;

        if (logs->times && !logs->in_line[stream == 2 ? 2 : 1])
                fprintf(out, "%s ", listing_time(time_ns).text);
        if (len)
                logs->in_line[stream == 2 ? 2 : 1] = data[len - 1] != '\n';
        fwrite(data, 1, len, out);
        return fflush(out) == 0 ? 0 : 1; /* nobody reads any more */
}

int container_logs_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("follow", 'f', FLAG, offsetof(struct logs, options.follow), NULL, "until it ends"),
                CLI_PARSED("tail", 'n', offsetof(struct logs, options.tail), "N", "lines from the end (default: all)",
                        parse_tail),
                CLI_PARSED("since", 0, offsetof(struct logs, options.since_ns), "TIME",
                        "as 2026-01-31T12:00:00Z, 10m (ago), seconds since 1970", cli_parse_time),
                CLI_PARSED("until", 0, offsetof(struct logs, options.until_ns), "TIME", "the same", cli_parse_time),
                CLI_OPTION("timestamps", 't', FLAG, offsetof(struct logs, times), NULL, "before each line"),
                CLI_OPTION("details", 0, IGNORED, 0, NULL, NULL),
                { 0 },
        };
        const struct cli_usage usage = { "strata logs", "[OPTION...] CONTAINER",
                "Print what a container wrote: its standard output and its standard error.", CLI_OPTIONS(options), 1, 1,
                false };
        _cleanup_(container_choice_clear) struct container_choice chosen = { 0 };
        struct logs logs = { .options.tail = -1 };
        int r = container_choose(&usage, argc, argv, &logs, &chosen, err);

        if (r == 0)
                r = instance_logs(chosen.inst, &logs.options, print_line, &logs, err);
        return MIN(r, 0);
}

/* --- events -------------------------------------------------------------------------------------------------------- */

struct events {
        s64 since, until;
        struct cli_words filters;
        const char *format;
        struct template *template; /* NULL: lines or JSON */
        struct err *err;
};

static json_t *event_row(const struct instance_host_event *event)
{
        json_t *attributes = json_pack("{s:s, s:s}", "name", event->name, "image", event->image);
        char code[16];

        snprintf(code, sizeof(code), "%d", event->exit_code);
        if (strcmp(event->action, "die") == 0)
                json_object_set_new(attributes, "exitCode", json_string(code));
        if (*event->detail)
                json_object_set_new(attributes, "detail", json_string(event->detail));
        return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:{s:s, s:o}, s:s, s:I, s:I}", "status", event->action, "id",
                event->id, "from", event->image, "Type", "container", "Action", event->action, "ID", event->id, "Actor",
                "ID", event->id, "Attributes", attributes, "scope", "local", "time",
                (json_int_t)(event->time_ns / (s64)NSEC_PER_SEC), "timeNano", (json_int_t)event->time_ns);
}

static void print_event_line(const struct instance_host_event *event)
{
        printf("%s container %s %s (image=%s, name=%s", listing_time(event->time_ns).text, event->action, event->id,
                event->image, event->name);
        if (strcmp(event->action, "die") == 0)
                printf(", exitCode=%d", event->exit_code);
        if (*event->detail)
                printf(", %s", event->detail);
        printf(")\n");
}

static int print_event(void *opaque, const struct instance_host_event *event)
{
        struct events *events = opaque;
        _cleanup_json_ json_t *row = NULL;
        const bool named = filter_equals(&events->filters, "container", event->name) ||
                           filter_begins(&events->filters, "container", event->id);

        if (!named || !filter_equals(&events->filters, "event", event->action) ||
                !filter_equals(&events->filters, "image", event->image) ||
                !filter_equals(&events->filters, "type", "container"))
                return 0;
        if (!events->format) {
                print_event_line(event);
        } else {
                row = event_row(event);
                if (events->template && template_run(events->template, row, stdout, &events->err) < 0)
                        return 1;
                if (!events->template)
                        json_dumpf(row, stdout, JSON_COMPACT);
                putchar('\n');
        }
        return fflush(stdout) == 0 ? 0 : 1;
}

static int follow_events(struct events *events, struct err **err)
{
        static const char *const known[] = { "container", "event", "image", "type", NULL };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        int r = filter_check(&events->filters, known, err);

        if (r == 0 && events->format && strcmp(events->format, "json") != 0)
                r = template_parse(events->format, &events->template, err);
        if (r == 0)
                r = instance_host_open(NULL, &host, err);
        if (r == 0)
                r = instance_events(host, events->since, events->until, print_event, events, err);
        if (r >= 0 && events->err) {
                *err = TAKE_PTR(events->err);
                r = -EINVAL;
        }
        template_free(events->template);
        return MIN(r, 0);
}

int container_events_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_PARSED("since", 0, offsetof(struct events, since), "TIME",
                        "also what happened since then (default: now)", cli_parse_time),
                CLI_PARSED("until", 0, offsetof(struct events, until), "TIME", "end then (default: never)",
                        cli_parse_time),
                CLI_OPTION("filter", 'f', LIST, offsetof(struct events, filters), "KEY=VALUE",
                        "container, event, image, type"),
                CLI_OPTION("format", 0, TEXT, offsetof(struct events, format), "FORMAT",
                        "json or a template as '{{.Action}}'"),
                { 0 },
        };
        const struct cli_usage usage = { "strata events", "[OPTION...]",
                "Say what happens to containers, as it happens.", CLI_OPTIONS(options), 0, 0, false };
        struct events events = { .since = CLI_UNSET };
        int first, r = cli_options_parse(&usage, argc, argv, &events, &first, err);

        if (events.since == CLI_UNSET)
                cli_parse_time(&events.since, "0", NULL); /* a duration of nothing ago: now */
        if (r == 0)
                r = follow_events(&events, err);
        cli_words_clear(&events.filters);
        return MIN(r, 0);
}
