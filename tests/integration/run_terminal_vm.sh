#!/bin/bash
# test: timeout=600
# run_terminal.py behind the other wall.
STRATA_ISOLATION=vm exec "$(dirname "$0")/run_terminal.py"
