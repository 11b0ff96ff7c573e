#pragma once

#include "cli.h"

int isa_census_command(int argc, char **argv, struct err **err);
