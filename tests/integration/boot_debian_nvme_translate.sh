#!/bin/bash
# test: timeout=900
# boot_debian_nvme.sh under the translator.
ENGINE=translate exec "$(dirname "$0")/boot_debian_nvme.sh"
