/* The container's root becomes "/", the host's is gone. Runs in the container's process, which must have one thread. */
#pragma once

#include "internal.h"

/* @replaceable: nothing was asked of the propagation of the root. l->root is the new root afterwards. */
int root_swap(struct launch *l, bool replaceable, struct err **err);
