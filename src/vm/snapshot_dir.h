/* The names in a snapshot's directory; for snapshot_files.c, snapshot_dir.c, and who looks at the files besides. */
#pragma once

#include "snapshot_files.h"

#define SNAPSHOT_STATE      "state"
#define SNAPSHOT_MEMORY_NEW "memory.new" /* until its layer is known */
#define SNAPSHOT_CODE       "translations"
#define SNAPSHOT_NAME_SIZE  16

void snapshot_layer_name(unsigned layer, char ret[SNAPSHOT_NAME_SIZE]);
/* Whether the directory looks like a snapshot: it may be removed then. */
bool snapshot_is_at(int directory);
