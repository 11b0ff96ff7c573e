/* `strata vm`: the machine itself is another program, strata-vmm, which stands beside this one and carries none of the
 * libraries that only the command needs. */
#include "cli.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd_vm_dump.h"

#define VMM "strata-vmm"

/* The path of @name in the directory of the running program. */
static int beside_me(const char *name, char ret_path[PATH_MAX], struct err **err)
{
        char path[PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
        char *slash;

        if (n < 0)
                return err_sys(err, errno, "finding the directory of this program");
        path[n] = '\0';
        slash = strrchr(path, '/');
        if (!slash || snprintf(ret_path, PATH_MAX, "%.*s/%s", (int)(slash - path), path, name) >= PATH_MAX)
                return err_set(err, ERR_TOO_LARGE, ENAMETOOLONG, "the path of %s is too long", name);
        return 0;
}

static int vm_run(int argc, char **argv, struct err **err)
{
        static char name[] = VMM;
        char path[PATH_MAX];
        int r;

        r = beside_me(VMM, path, err);
        if (r < 0)
                return r;
        argv[0] = name;
        execv(path, argv);
        r = err_sys(err, errno, "starting '%s'", path);
        return err_hint(err, r, "strata and " VMM " must be in the same directory; `make` builds both");
}

const struct command cli_vm_commands[] = {
        { "run", "[OPTION...]", "boot a kernel (answered by strata-vmm)", vm_run, NULL },
        { "translate-dump", "[OPTION...] FILE", "print what the translator makes of the code in a file", cli_vm_translate_dump, NULL },
        { 0 },
};
