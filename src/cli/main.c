#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef STRATA_VERSION
#define STRATA_VERSION "unknown"
#endif

static const struct command commands[] = {
        { "vm", "COMMAND", "run a virtual machine", NULL, cli_vm_commands },
        { "image", "COMMAND", "container images: registries, archives, the store", NULL, cli_image_commands },
        { "isa", "COMMAND", "look at machine code as a virtual machine monitor does", NULL, cli_isa_commands },
        { 0 },
};

static void print_command(const char *path, const struct command *command)
{
        const int used = printf("  %s %s %s", path, command->name, command->arguments);

        printf("%*s %s\n", MAX(46 - used, 0), "", command->summary);
}

static void print_commands(const char *path, const struct command *table)
{
        char longer[128];

        printf("usage: %s COMMAND [ARGUMENT...]\n\ncommands:\n", path);
        for (const struct command *command = table; command->name; command++) {
                snprintf(longer, sizeof(longer), "%s %s", path, command->name);
                if (!command->sub)
                        print_command(path, command);
                for (const struct command *sub = command->sub; sub && sub->name; sub++)
                        print_command(longer, sub);
        }
        printf("\nEach of them explains itself with --help.\n");
}

static bool is_help(const char *word)
{
        return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

static int no_such_command(const char *path, const char *word, const struct command *table, struct err **err)
{
        char known[256] = "";
        int r;

        for (; table->name; table++) {
                if (known[0])
                        strncat(known, ", ", sizeof(known) - strlen(known) - 1);
                strncat(known, table->name, sizeof(known) - strlen(known) - 1);
        }
        if (word)
                r = err_set(err, ERR_USAGE, EINVAL, "'%s' is not a command of '%s'", word, path);
        else
                r = err_set(err, ERR_USAGE, EINVAL, "'%s' needs a command", path);
        return err_hint(err, r, "there is: %s; see '%s --help'", known, path);
}

/* Walks the tables along the words of the command line. argv[0] is the last word of @path. */
static int dispatch(const char *path, const struct command *table, int argc, char **argv, struct err **err)
{
        char longer[128];

        if (argc < 2)
                return no_such_command(path, NULL, table, err);
        if (is_help(argv[1])) {
                print_commands(path, table);
                return 0;
        }
        for (const struct command *command = table; command->name; command++) {
                if (strcmp(command->name, argv[1]) != 0)
                        continue;
                if (!command->sub)
                        return command->run(argc - 1, argv + 1, err);
                snprintf(longer, sizeof(longer), "%s %s", path, command->name);
                return dispatch(longer, command->sub, argc - 1, argv + 1, err);
        }
        return no_such_command(path, argv[1], table, err);
}

int cli_option_error(int argc, char *const argv[], int returned, const char *command, struct err **err)
{
        const char *word = optind > 0 && optind <= argc ? argv[optind - 1] : "";
        int r;

        if (returned == ':')
                r = err_set(err, ERR_USAGE, EINVAL, "option '%s' needs a value", word);
        else
                r = err_set(err, ERR_USAGE, EINVAL, "unknown option '%s'", word);
        return err_hint(err, r, "see '%s --help'", command);
}

int main(int argc, char **argv)
{
        struct err *err = NULL;
        int status;

        opterr = 0;
        if (argc == 2 && strcmp(argv[1], "--version") == 0) {
                puts("strata " STRATA_VERSION);
                return 0;
        }
        status = dispatch("strata", commands, argc, argv, &err);
        if (status < 0) {
                status = err_exit_status(err);
                err_print(err, "strata");
                err_free(err);
                return status;
        }
        if (fflush(stdout) != 0 || ferror(stdout)) {
                fprintf(stderr, "strata: writing the output: %s\n", strerror(errno));
                return 125;
        }
        return status;
}
