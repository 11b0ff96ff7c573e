/* `strata kernel`: the kernels of machines. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "container_cli.h"
#include "instance/kernel.h"

/* --- import ------------------------------------------------------------------------------------------------------- */

static int import_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = {
                CLI_OPTION("name", 0, TEXT, offsetof(struct kernel_import, name), "NAME",
                        "its name here (default: " KERNEL_DEFAULT ")"),
                CLI_OPTION("modules", 0, TEXT, offsetof(struct kernel_import, modules), "DIR",
                        "its modules (default: /lib/modules/RELEASE, or the package's)"),
                CLI_OPTION("append", 0, TEXT, offsetof(struct kernel_import, append), "TEXT",
                        "its command line, instead of the one that starts fastest"),
                { 0 },
        };
        const struct cli_usage usage = { "strata kernel import", "[OPTION...] FILE",
                "Make a kernel for machines from a bzImage, a vmlinux or a Debian package.", CLI_OPTIONS(options), 1, 1,
                false };
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        struct kernel_import import = { .name = KERNEL_DEFAULT };
        int first, r = cli_options_parse(&usage, argc, argv, &import, &first, err);

        if (r != 0)
                return MIN(r, 0);
        import.file = argv[first];
        r = instance_host_open(NULL, &host, err);
        if (r == 0)
                r = kernel_import(host, &import, err);
        if (r == 0)
                puts(import.name);
        return r;
}

/* --- ls ----------------------------------------------------------------------------------------------------------- */

static const struct listing_column columns[] = {
        { "Name", "NAME", false },
        { "Release", "RELEASE", false },
        { "Size", "SIZE", false },
        { "CreatedAt", "CREATED AT", false },
        { "Append", "COMMAND LINE", true },
        { "Kernel", "KERNEL", true },
        { "Initrd", "INITRD", true },
        { 0 },
};

static int ls_one(void *opaque, const struct kernel *kernel)
{
        struct list_command *ls = opaque;

        return json_array_append_new(ls->rows,
                       json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "Name", kernel->name, "Release",
                               kernel->release, "Size", listing_size(kernel->bytes).text, "CreatedAt", kernel->created,
                               "Append", kernel->append, "Kernel", kernel->image, "Initrd", kernel->initrd)) < 0
                       ? -ENOMEM
                       : 0;
}

static int ls_kernels(struct list_command *ls, struct err **err)
{
        _cleanup_(instance_host_closep) struct instance_host *host = NULL;
        int r = instance_host_open(NULL, &host, err);

        return r < 0 ? r : kernel_list(host, ls_one, ls, err);
}

static int ls_command(int argc, char **argv, struct err **err)
{
        static const struct cli_option options[] = { LIST_QUIET("names"), LIST_FORMAT("Kernel"), { 0 } };
        const struct cli_usage usage = { "strata kernel ls", "[OPTION...]", "List the kernels of machines.",
                CLI_OPTIONS(options), 0, 0, false };
        struct list_command ls = { .listing.columns = columns };

        return list_command_run(&usage, NULL, NULL, ls_kernels, argc, argv, &ls, err);
}

/* --- rm ----------------------------------------------------------------------------------------------------------- */

static int rm_command(int argc, char **argv, struct err **err)
{
        const struct cli_usage usage = { "strata kernel rm", "KERNEL...",
                "Remove kernels. Machines that run one run on; those that are to start with it do not any more.", NULL, 1,
                -1, false };

        return container_remove_command(&usage, kernel_remove, argc, argv, err);
}

const struct command cli_kernel_commands[] = {
        { "import", "[OPTION...] FILE", "make one from a file or package", import_command, NULL },
        { "ls", "[OPTION...]", "list them", ls_command, NULL },
        { "list", "[OPTION...]", "list them", ls_command, NULL },
        { "rm", "KERNEL...", "remove some", rm_command, NULL },
        { 0 },
};
