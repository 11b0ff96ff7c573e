#include "gdb.h"

#include <errno.h>

int gdb_server_new(u16 port, struct gdb_server **ret, struct err **err)
{
        return err_set(err, ERR_UNSUPPORTED, ENOTSUP, "no debugger yet (port %u)", port);
}

int gdb_server_start(struct gdb_server *server, struct vm *vm, struct err **err)
{
        return 0;
}

struct gdb_server *gdb_server_free(struct gdb_server *server)
{
        return NULL;
}
