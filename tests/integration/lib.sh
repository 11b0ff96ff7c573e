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
        tr -d '\r' <"$1" | LC_ALL=C awk '{ gsub(/[^[:print:][:space:]]/, "?"); print "# | " $0 }'
}

# eventually COMMAND...: until it succeeds, so many seconds at most.
EVENTUALLY=20
eventually() {
        local end=$((SECONDS + EVENTUALLY))
        until "$@"; do
                [ "$SECONDS" -lt "$end" ] || return
                sleep 0.05
        done
}

# not COMMAND...
not() {
        ! "$@"
}

# --- machines ------------------------------------------------------------------------------------------------------

VM_TIMEOUT=${VM_TIMEOUT:-120}

# The kernel's messages on the serial port, a panic ends the machine, and no random number is waited for.
KERNEL_LINE="console=ttyS0 panic=-1 random.trust_cpu=on"

# vm LOG OPTION...: run a machine (options of `strata vm run`) until it ends, its console and messages in LOG.
# The status is in vm_status: the machine's own, or 137 when it had to be killed after VM_TIMEOUT seconds.
vm() {
        local log=$1
        shift
        timeout --foreground -s KILL "$VM_TIMEOUT" "$ROOT/tests/vm" "$@" </dev/null >"$log" 2>&1
        # shellcheck disable=SC2034 # for the caller
        vm_status=$?
}

needs_vmm() {
        [ "${VMM:-strata}" = qemu ] || [ -x "$STRATA" ] || skip_all "$STRATA is not built"
}

# assets WHAT...: the guests that this script boots.
assets() {
        "$ROOT/scripts/guest-assets" --dir "$ASSETS" "$@" >"$TMPDIR/assets.log" 2>&1 && return
        show "$TMPDIR/assets.log"
        echo "Bail out! the guests could not be made"
        exit 1
}

# make_busybox DIR: a root file system of busybox's commands, which is $BUSYBOX.
make_busybox() {
        local d=$1 program
        mkdir -p "$d"/{bin,dev,etc,proc,root,sys,tmp,home/user}
        cp "$BUSYBOX" "$d/bin/busybox"
        for program in $("$BUSYBOX" --list); do
                [ "$program" = busybox ] || ln -s busybox "$d/bin/$program"
        done
        printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n' >"$d/etc/passwd"
        printf 'root:x:0:\nuser:x:1000:\n' >"$d/etc/group"
        chmod 1777 "$d/tmp"
}

# guest_running BASE SCRIPT OUTPUT: an initramfs that is BASE plus the text SCRIPT as /run.sh.
# (The kernel unpacks archives that stand one behind the other, each at a multiple of four bytes.)
guest_running() {
        local tree
        tree=$(mktemp -d)
        printf '%s\n' "$2" >"$tree/run.sh"
        {
                cat "$1"
                (cd "$tree" && echo run.sh | cpio --quiet -o -H newc -R 0:0)
        } >"$3"
        rm -r "$tree"
}

# says LOG TEXT: the machine printed a line that contains TEXT.
# (Not tr | grep -q: grep leaves at the first match, and under pipefail the tr that then writes to nobody makes the whole a failure.)
says() {
        grep -qF -- "$2" < <(tr -d '\r' <"$1") && return
        echo "# not in $1: $2"
        return 1
}

# line_after LOG PREFIX: what follows PREFIX on the first line that begins with it.
line_after() {
        tr -d '\r' <"$1" | sed -n "s/^$2//p" | head -n 1
}

TMPDIR=${TMPDIR:-$(mktemp -d)}
