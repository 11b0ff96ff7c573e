#!/bin/bash
# test: timeout=300
# hostile_guest.sh under the translator.
ENGINE=translate exec "$(dirname "$0")/hostile_guest.sh"
