/* `strata vm translate-dump`. */
#pragma once

#include "cli.h"

int cli_vm_translate_dump(int argc, char **argv, struct err **err);
