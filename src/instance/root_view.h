/* An instance's root file system, for a look from outside. */
#pragma once

#include "internal.h"

/* @root is an O_PATH descriptor of it. */
typedef int root_view_fn(void *opaque, int root, struct err **err);

/* Calls @fn with the root as a process of the instance sees it: its volumes, its ids; a stopped one stays stopped meanwhile. Where that
 * takes other namespaces than ours @fn is called in a child: what it finds out goes through descriptors or shared memory. */
int root_view_run(struct instance *inst, root_view_fn *fn, void *opaque, struct err **err);
