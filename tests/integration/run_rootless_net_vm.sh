#!/bin/bash
# test: timeout=900
# run_rootless_net.sh behind the other wall.
STRATA_ISOLATION=vm exec "$(dirname "$0")/run_rootless_net.sh"
