/* What the members of a configuration may say, alone and together. Private to spec/. */
#pragma once

#include "spec.h"

/* Also fills namespaces_new, namespaces_joined and namespace_path. */
int spec_check(struct spec *spec, struct err **err);
int spec_check_process(const struct spec_process *process, struct err **err);
