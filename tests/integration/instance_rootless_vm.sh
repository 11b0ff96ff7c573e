#!/bin/bash
# test: timeout=300
# instance_rootless.sh behind the other wall.
STRATA_ISOLATION=vm exec "$(dirname "$0")/instance_rootless.sh"
