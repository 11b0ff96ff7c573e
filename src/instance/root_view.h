/* An instance's root file system, for a look from outside. */
#pragma once

#include "internal.h"

struct root_view {
        int fd;   /* of a running one as it sees it, with its volumes; else mounted for us alone */
        int lock; /* of a stopped one: it stays stopped; -1 */
};
#define ROOT_VIEW_NONE \
        {              \
                -1, -1 \
        }

int root_view_open(struct instance *inst, struct root_view *ret, struct err **err);
void root_view_close(struct root_view *view);
