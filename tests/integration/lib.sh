# Sourced by the integration tests: TAP output, the machine under test, guests, clean-up.
# shellcheck shell=bash

set -uo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=${STRATA_BUILD:-$ROOT/build}
STRATA=${STRATA:-$BUILD/strata}
ASSETS=${ASSETS:-$ROOT/build/assets}

# --- results -------------------------------------------------------------------------------------------------------

tap_points=0

# ok NAME COMMAND...: one test point, passed when COMMAND succeeds.
ok() {
        local name=$1
        shift
        tap_points=$((tap_points + 1))
        if "$@"; then
                echo "ok $tap_points - $name"
        else
                echo "not ok $tap_points - $name"
                echo "# failed: $*"
                return 1
        fi
}

# is NAME GOT WANTED: one test point, passed when the two are the same text.
is() {
        ok "$1" test "$2" = "$3" && return
        printf '# got:    %s\n# wanted: %s\n' "$2" "$3"
        return 1
}

skip() {
        tap_points=$((tap_points + 1))
        echo "ok $tap_points - $1 # SKIP $2"
}

# Every test script ends with this.
done_testing() {
        echo "1..$tap_points"
}

# skip_all REASON: nothing of this script can run here.
skip_all() {
        echo "1..0 # SKIP $1"
        exit 0
}

# show FILE: print it as a TAP comment, made printable.
show() {
        tr -d '\r' <"$1" | LC_ALL=C sed -e 's/[^[:print:][:space:]]/?/g' -e 's/^/# | /'
}
