/* What a runtime makes in the root file system only to mount something there: directories and empty files that were not in
 * the image, and are not to be in the layer either (BuildKit leaves none). */
#pragma once

#include "base/err.h"

struct stubs {
        struct stub {
                char *path;  /* clean */
                size_t keep; /* so much of it was there before */
        } *list;
        size_t n;
};

/* Remembers what of the clean or absolute @target is missing in the tree @root. */
int stubs_note(struct stubs *stubs, int root, const char *target, struct err **err);
/* Removes what is there now, as far as nobody has put anything into it. */
void stubs_remove(struct stubs *stubs, int root);
void stubs_clear(struct stubs *stubs);
