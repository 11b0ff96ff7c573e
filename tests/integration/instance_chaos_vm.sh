#!/bin/bash
# test: timeout=900
# instance_chaos.py behind the other wall.
STRATA_ISOLATION=vm exec "$(dirname "$0")/instance_chaos.py"
