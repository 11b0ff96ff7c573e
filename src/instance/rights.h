/* What a container's process may: capabilities, seccomp, security options. */
#pragma once

#include "internal.h"

/* Bit n: CAP n. From the default set, --cap-add, --cap-drop, --privileged. */
int rights_capabilities(const struct instance_config *config, u64 *ret, struct err **err);
/* A capabilities object of the runtime specification; @effective: for a user who is not root they are only the bounding set. */
json_t *rights_capabilities_json(u64 set, bool effective);
json_t *seccomp_default_profile(u64 capabilities);

/* --security-opt */
struct security {
        bool no_new_privileges;
        bool unconfined;          /* no seccomp */
        const char *seccomp_file; /* NULL: the default profile */
        const char *apparmor;     /* NULL: none */
        const char *label;
};
int security_parse(const struct instance_config *config, struct security *ret, struct err **err);
/* linux.seccomp, or NULL. */
int security_seccomp(const struct security *security, u64 capabilities, json_t **ret, struct err **err);
