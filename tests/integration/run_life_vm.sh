#!/bin/bash
# test: timeout=900
# run_life.sh behind the other wall.
STRATA_ISOLATION=vm exec "$(dirname "$0")/run_life.sh"
