/* Private RAM's part of the guest-physical map; see private.c. For memory.c only. */
#pragma once

#include "memory.h"

/* What is left of the pieces while slot after slot is mapped. */
struct private_pieces {
        const struct guest_memory_piece *pieces;
        size_t n;
};

int private_init(struct guest_memory *mem, struct err **err);
void private_free(struct guest_memory *mem);
/* Maps RAM's bytes [offset, offset + size), the next ones of @list. MAP_FAILED and errno, EINVAL when the pieces are not these bytes. */
void *private_map(struct private_pieces *list, u64 offset, u64 size);
int private_discard(struct guest_memory *mem, const struct memory_slot *slot, u64 gpa, u64 len);
