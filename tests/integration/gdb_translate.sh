#!/bin/bash
# test: timeout=120
# gdb.sh under the translator.
ENGINE=translate exec "$(dirname "$0")/gdb.sh"
