/* Lines of an instance's /etc/passwd and /etc/group. */
#pragma once

#include "internal.h"

/* With keep-id a process of the instance is somebody of whom the image may know nothing: what looks up its own user (whoami, ssh, PostgreSQL) would
 * fail. Adds who has started the instance, by name, with the ids that are theirs inside, to the /etc/passwd and /etc/group in @root that lack them.
 * Files that the image does not have are not made; other instances are left as they are. @root is the writable root of the instance; in the helper. */
int passwd_add_user(const struct instance *inst, int root, struct err **err);
