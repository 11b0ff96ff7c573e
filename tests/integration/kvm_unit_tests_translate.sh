#!/bin/bash
# test: timeout=1800
# kvm_unit_tests.sh under the translator.
ENGINE=translate exec "$(dirname "$0")/kvm_unit_tests.sh" "$@"
