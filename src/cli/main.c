#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "container_commands.h"
#include "options.h"

#ifndef STRATA_VERSION
#define STRATA_VERSION "unknown"
#endif

static const struct command container_commands[] = {
        CONTAINER_COMMANDS,
        { "ls", "[OPTION...]", "list them", container_ps_command, NULL },
        { "ps", "[OPTION...]", "list them", container_ps_command, NULL },
        { "inspect", "[OPTION...] CONTAINER...", "everything about some, as JSON", container_inspect_command, NULL },
        { "prune", "[OPTION...]", "remove those that do not run", container_prune_command, NULL },
        { 0 },
};

static const struct command system_commands[] = {
        { "check", "[OPTION...]", "whether everything is whole", system_check_command, NULL },
        { "prune", "[OPTION...]", "remove what nobody uses", system_prune_command, NULL },
        { "df", "[OPTION...]", "what takes how much room", system_df_command, NULL },
        { "events", "[OPTION...]", "what happens", container_events_command, NULL },
        { "info", "[OPTION...]", "what this host is and has", system_info_command, NULL },
        { 0 },
};

static const struct command commands[] = {
        CONTAINER_COMMANDS,
        { "snapshot", "[OPTION...] CONTAINER SNAPSHOT|ls|rm|inspect", "save a machine while it runs", container_snapshot_command, NULL },
        { "restore", "[OPTION...] SNAPSHOT", "let a saved machine go on", container_restore_command, NULL },
        { "clone", "[OPTION...] SNAPSHOT|CONTAINER", "start machines that go on from a snapshot", container_clone_command, NULL },
        { "ps", "[OPTION...]", "list containers", container_ps_command, NULL },
        { "inspect", "[OPTION...] NAME...", "everything about something, as JSON", container_inspect_command, NULL },
        { "events", "[OPTION...]", "what happens to containers", container_events_command, NULL },
        { "info", "[OPTION...]", "what this host is and has", system_info_command, NULL },
        { "container", "COMMAND", "the same, as docker also calls them; prune", NULL, container_commands },
        { "image", "COMMAND", "images", NULL, cli_image_commands },
        { "network", "COMMAND", "networks", NULL, cli_network_commands },
        { "volume", "COMMAND", "volumes", NULL, cli_volume_commands },
        { "kernel", "COMMAND", "kernels of machines", NULL, cli_kernel_commands },
        { "system", "COMMAND", "the whole host", NULL, system_commands },
        { "vm", "COMMAND", "virtual machines", NULL, cli_vm_commands },
        { "isa", "COMMAND", "machine code as a virtual machine monitor sees it", NULL, cli_isa_commands },
        { 0 },
};

/* Words that start work of a container's supervisor; nobody types them. */
static const char *const helper_words[] = { "instance-start", "instance-clean", "instance-health" };

/* Commands about images that docker has without "image", too. */
static const struct {
        const char *word, *command;
} image_words[] = {
        { "build", "build" },
        { "pull", "pull" },
        { "push", "push" },
        { "images", "ls" },
        { "rmi", "rm" },
        { "tag", "tag" },
        { "save", "save" },
        { "load", "load" },
        { "import", "import" },
        { "history", "history" },
        { "login", "login" },
        { "logout", "logout" },
};

static const char *image_command(const char *word)
{
        for (size_t i = 0; i < ARRAY_SIZE(image_words); i++)
                if (strcmp(image_words[i].word, word) == 0)
                        return image_words[i].command;
        return NULL;
}

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
                if (!command->sub || command->sub == container_commands) /* those stand here already */
                        print_command(path, command);
                for (const struct command *sub = command->sub; sub && command->sub != container_commands && sub->name;
                        sub++)
                        print_command(longer, sub);
        }
        printf("\nEach of them explains itself with --help.%s\n",
                table == commands ? " build, pull, images, rmi and docker's other words for images do without 'image', too."
                                  : "");
}

static bool is_help(const char *word)
{
        return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

static int no_such_command(const char *path, const char *word, const struct command *table, struct err **err)
{
        const char *meant = NULL;
        unsigned best = CLI_NEAR + 1;
        int r = err_set(err, ERR_USAGE, EINVAL, "'%s' is not a command of '%s'", word, path);

        for (; table->name; table++) {
                const unsigned d = cli_distance(word, strlen(word), table->name);

                if (d < best) {
                        best = d;
                        meant = table->name;
                }
        }
        if (meant)
                return err_hint(err, r, "did you mean '%s %s'? See '%s --help'", path, meant, path);
        return err_hint(err, r, "see '%s --help'", path);
}

static int needs_command(const char *path, struct err **err)
{
        return err_hint(err, err_set(err, ERR_USAGE, EINVAL, "'%s' needs a command", path), "see '%s --help'", path);
}

/* By its name, or docker's longer one for it. */
static const struct command *find_command(const struct command *table, const char *word)
{
        static const char *const longer[][2] = { { "list", "ls" }, { "remove", "rm" } };

        for (const struct command *command = table; command->name; command++)
                if (strcmp(command->name, word) == 0)
                        return command;
        for (size_t i = 0; i < ARRAY_SIZE(longer); i++)
                if (strcmp(longer[i][0], word) == 0)
                        return find_command(table, longer[i][1]);
        return NULL;
}

/* Whether it is about what there is already, called by its name. As docker's, such a command's status is 1 when nobody has that name; 125 is
 * that of `run` and `create` for whatever keeps them from running something. */
static bool is_about_existing(const struct command *command)
{
        static const struct command *const tables[] = { container_commands, cli_network_commands, cli_volume_commands };
        static const char *const of_images[] = { "inspect", "tag", "save", "history" };

        if (command->run == container_run_command || command->run == container_create_command)
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
                for (const struct command *one = tables[i]; one->name; one++)
                        if (one->run == command->run)
                                return true;
        for (size_t i = 0; i < ARRAY_SIZE(of_images); i++)
                if (find_command(cli_image_commands, of_images[i])->run == command->run)
                        return true;
        return false;
}

static int run_command(const struct command *command, int argc, char **argv, struct err **err)
{
        const int r = command->run(argc, argv, err);

        return r < 0 && err_get_id(*err) == ERR_NOT_FOUND && is_about_existing(command) ? 1 : r;
}

/* Walks the tables along the words of the command line. argv[0] is the last word of @path.
 * Returns the status, or less than 0 where the error says it. */
static int dispatch(const char *path, const struct command *table, int argc, char **argv, struct err **err)
{
        const struct command *command;
        char longer[128];

        if (argc < 2)
                return needs_command(path, err);
        if (is_help(argv[1])) {
                print_commands(path, table);
                return 0;
        }
        command = find_command(table, argv[1]);
        if (command && !command->sub)
                return run_command(command, argc - 1, argv + 1, err);
        if (command) {
                snprintf(longer, sizeof(longer), "%s %s", path, command->name);
                return dispatch(longer, command->sub, argc - 1, argv + 1, err);
        }
        if (table == commands && image_command(argv[1])) {
                argv[1] = (char *)image_command(argv[1]);
                return dispatch("strata image", cli_image_commands, argc, argv, err);
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
        for (size_t i = 0; argc >= 2 && i < ARRAY_SIZE(helper_words); i++)
                if (strcmp(argv[1], helper_words[i]) == 0)
                        return instance_helper_main(argc - 1, argv + 1);
        if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0)) {
                puts("strata " STRATA_VERSION);
                return 0;
        }
        status = dispatch("strata", commands, argc, argv, &err);
        if (status < 0 || err) {
                if (status < 0)
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
