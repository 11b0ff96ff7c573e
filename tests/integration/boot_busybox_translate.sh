#!/bin/bash
# test: timeout=600 fast
# boot_busybox.sh under the translator.
ENGINE=translate exec "$(dirname "$0")/boot_busybox.sh"
