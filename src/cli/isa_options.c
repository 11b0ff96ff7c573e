#include "isa_options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

static const struct {
        const char *name;
        enum isa_mode mode;
        unsigned bits;
} mode_names[] = {
        { "long", ISA_MODE_LONG, 0 },
        { "compat", ISA_MODE_COMPAT, 0 },
        { "compat16", ISA_MODE_COMPAT, 16 },
        { "protected", ISA_MODE_PROTECTED, 0 },
        { "protected16", ISA_MODE_PROTECTED, 16 },
        { "vm86", ISA_MODE_VM86, 0 },
        { "real", ISA_MODE_REAL, 0 },
};

void isa_options_init(struct isa_options *options)
{
        *options = (struct isa_options){ .machine = ISA_MACHINE_LINUX,
                .ctx = isa_machine(ISA_MACHINE_LINUX, ISA_MODE_LONG) };
}

static int take_mode(struct isa_options *options, const char *value, struct err **err)
{
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(mode_names); i++) {
                if (strcmp(mode_names[i].name, value) == 0) {
                        options->ctx.mode = mode_names[i].mode;
                        options->bits = mode_names[i].bits;
                        options->mode_given = true;
                        return 0;
                }
        }
        r = err_set(err, ERR_USAGE, EINVAL, "'%s' is not a mode", value);
        return err_hint(err, r, "modes are long, compat, compat16, protected, protected16, vm86 and real");
}

/* One of "linux", "+umip", "-tsd", "iopl3". */
static int take_machine_word(struct isa_options *options, const char *word, bool first, struct err **err)
{
        int r;

        for (int id = 0; first && id < ISA_MACHINE_COUNT; id++) {
                if (strcmp(word, isa_machine_name((enum isa_machine_id)id)) == 0) {
                        options->machine = (enum isa_machine_id)id;
                        options->ctx.knobs = isa_machine(options->machine, ISA_MODE_LONG).knobs;
                        return 0;
                }
        }
        for (int knob = 0; (word[0] == '+' || word[0] == '-') && knob < ISA_KNOB_COUNT; knob++) {
                if (strcmp(word + 1, isa_knob_name((enum isa_knob)knob)) == 0) {
                        options->ctx.knobs &= ~(1u << knob);
                        options->ctx.knobs |= (u32)(word[0] == '+') << knob;
                        return 0;
                }
        }
        if (strncmp(word, "iopl", 4) == 0 && word[4] >= '0' && word[4] <= '3' && word[5] == '\0') {
                options->ctx.iopl = (u8)(word[4] - '0');
                return 0;
        }
        r = err_set(err, ERR_USAGE, EINVAL, "'%s' is not a machine or a setting of one", word);
        return err_hint(err, r, "examples: linux, classic, strict, linux,-umip, classic,+tsd,iopl3; see --help");
}

static int take_machine(struct isa_options *options, const char *value, struct err **err)
{
        _cleanup_free_ char *copy = strdup(value);
        char *save = NULL;
        bool first = true;

        if (!copy)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory");
        for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save), first = false) {
                int r = take_machine_word(options, word, first, err);

                if (r < 0)
                        return r;
        }
        return 0;
}

int isa_options_take(struct isa_options *options, int option, const char *value, struct err **err)
{
        switch (option) {
        case ISA_OPTION_MACHINE:
                return take_machine(options, value, err);
        case ISA_OPTION_MODE:
                return take_mode(options, value, err);
        case ISA_OPTION_FORMAT:
                if (strcmp(value, "table") != 0 && strcmp(value, "json") != 0)
                        return err_set(err, ERR_USAGE, EINVAL, "'%s' is not a format; there are table and json", value);
                options->json = strcmp(value, "json") == 0;
                return 0;
        case ISA_OPTION_HELP:
                options->help = true;
                return 0;
        default:
                return 1;
        }
}

void isa_options_print_help(void)
{
        puts("  --machine NAME[,+SETTING][,-SETTING][,iopl0..3]\n"
             "                    the real CPU and how it is set up (default: linux)");
        for (int id = 0; id < ISA_MACHINE_COUNT; id++)
                printf("                      %-10s %s\n", isa_machine_name((enum isa_machine_id)id),
                        isa_machine_text((enum isa_machine_id)id));
        puts("                    settings:");
        for (int knob = 0; knob < ISA_KNOB_COUNT; knob++)
                printf("                      %-10s %s\n", isa_knob_name((enum isa_knob)knob),
                        isa_knob_text((enum isa_knob)knob));
        puts("  --mode MODE       long, compat, compat16, protected, protected16, vm86, real (judged as a monitor\n"
             "                    would run it, in virtual-8086 mode)\n"
             "  --format FORMAT   table (default) or json");
}

char *isa_options_machine_text(const struct isa_options *options)
{
        char *text = NULL;
        size_t len = 0;
        FILE *f = open_memstream(&text, &len);

        if (!f)
                return NULL;
        fprintf(f, "%s (", isa_machine_name(options->machine));
        for (int knob = 0; knob < ISA_KNOB_COUNT; knob++)
                if (options->ctx.knobs >> knob & 1)
                        fprintf(f, "%s, ", isa_knob_name((enum isa_knob)knob));
        fprintf(f, "iopl%u), %s mode", options->ctx.iopl, isa_mode_name(options->ctx.mode));
        if (fclose(f) != 0) {
                free(text);
                return NULL;
        }
        return text;
}

json_t *isa_options_to_json(const struct isa_options *options)
{
        json_t *settings = json_array();

        for (int knob = 0; knob < ISA_KNOB_COUNT; knob++)
                if (options->ctx.knobs >> knob & 1)
                        json_array_append_new(settings, json_string(isa_knob_name((enum isa_knob)knob)));
        return json_pack("{s:s, s:s, s:i, s:o}", "name", isa_machine_name(options->machine), "mode",
                isa_mode_name(options->ctx.mode), "iopl", options->ctx.iopl, "settings", settings);
}

int isa_print_json(json_t *json, struct err **err)
{
        int r;

        if (!json)
                return err_set(err, ERR_NO_MEMORY, ENOMEM, "no memory for the JSON output");
        r = json_dumpf(json, stdout, JSON_INDENT(2));
        json_decref(json);
        if (r < 0)
                return err_sys(err, errno ? errno : EIO, "writing the output");
        putchar('\n');
        return 0;
}
