#!/bin/bash
# test: timeout=400
# boot_console.py under the translator.
ENGINE=translate exec "$(dirname "$0")/boot_console.py"
