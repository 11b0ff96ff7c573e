/* What a tmpfs with tmpcopyup starts with, and symlinks in place of bind mounts of them. */
#pragma once

#include "base/err.h"

/* Copies the tree at the O_PATH directory @from into the directory @to: files, directories, symlinks, with owner and
 * mode. */
int copy_up(int from, int to, struct err **err);
/* Makes at @path in @root a symlink to where the symlink @link points. */
int copy_symlink(int link, int root, const char *path, struct err **err);
