/* Saved state of the controller (state.c). Written while it is quiesced: nothing is in flight but completions that wait for
 * room in their queue. */
#pragma once

#include "internal.h"

struct nvme_saved;

void nvme_saved_write(struct nvme *n, struct state_out *out);
/* Reads and validates; changes nothing. */
int nvme_saved_read(struct nvme *n, struct state_in *in, struct nvme_saved **ret, struct err **err);
/* Applies to a controller without queues and commands; frees @saved. */
void nvme_saved_apply(struct nvme *n, struct nvme_saved *saved);
