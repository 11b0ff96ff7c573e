#!/bin/bash
# test: timeout=600
# virtio.sh under the translator.
ENGINE=translate exec "$(dirname "$0")/virtio.sh"
