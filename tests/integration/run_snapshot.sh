#!/bin/bash
# test: timeout=900
# strata snapshot, restore, clone: machines go on as they were, each as somebody else; nobody who is killed leaves a half.
export STRATA_ISOLATION=vm
. "$(dirname "$0")/run_lib.sh"

busybox_image box
mkdir -p "$TMPDIR/busybox/etc"
echo 0123456789abcdef0123456789abcdef >"$TMPDIR/busybox/etc/machine-id"
busybox_image box

silently() {
        "$@" >/dev/null
}

# ticks NAME: the last number that it has printed.
ticks() {
        strata logs "$1" 2>/dev/null | sed -n 's/^tick \([0-9]*\).*/\1/p' | tail -n 1
}

# goes_on NAME: it prints further numbers.
ticked() {
        [ "$(ticks "$1")" != "$2" ]
}
goes_on() {
        eventually ticked "$1" "$(ticks "$1")"
}

# inside NAME COMMAND
inside() {
        strata exec "$1" sh -c "$2" </dev/null
}

if ! strata run -d --name one box sh -c 'i=0; while :; do i=$((i + 1)); echo "tick $i"; sleep 0.1; done' >/dev/null 2>"$TMPDIR/errors"; then
        show "$TMPDIR/errors"
        ok "a machine runs" false
        done_testing
        exit
fi
goes_on one
inside one 'echo mine >/root/file; echo kept >/dev/shm/memory; rm /data/seed'

# --- taking -----------------------------------------------------------------------------------------------------------

ok "a machine that runs is saved" silently strata snapshot one warm
ok "and goes on" goes_on one
is "the snapshot is listed" "$(strata snapshot ls --format '{{.Name}} {{.Container}} {{.Image}} {{.Layers}}')" "warm one box 1"
is "its file is sparse" "$(test "$(du -k "$STRATA_ROOT/snapshots/warm/machine/memory.0" | cut -f1)" -lt 400000 && echo yes)" yes
saved=$(ticks one)
is "inspect says what it was" "$(strata snapshot inspect warm | sed -n 's/.*"instance": "\(.*\)",/\1/p')" one
# shellcheck disable=SC2016 # of $(...) in evals below
ok "containers are refused in words" eval "strata run -d --name plain --isolation container box sleep 100 >/dev/null
        ! strata snapshot plain no 2>\"$TMPDIR/errors\" && grep -q 'is a container' \"$TMPDIR/errors\""
strata rm -f plain >/dev/null
ok "a name that could leave the directory is refused" eval "! strata snapshot one ../warm 2>/dev/null"

# --- clones -----------------------------------------------------------------------------------------------------------

# weight NAME: its groups' part of the CPUs: v1's shares or v2's weight, nothing where the host has neither.
weight() {
        find /sys/fs/cgroup -path "*$(strata inspect -f '{{.Id}}' "$1")/*" \( -name cpu.shares -o -name cpu.weight \) -exec cat {} +
}

is "clones are named" "$(strata clone --count 3 --name twin warm 2>"$TMPDIR/errors" | tr '\n' ' ')" "twin-1 twin-2 twin-3 " || show "$TMPDIR/errors"
for name in twin-1 twin-2 twin-3; do
        ok "$name goes on" goes_on $name
        first=$(strata logs $name | sed -n 's/^tick //p' | head -n 1)
        ok "$name does so where it was saved" test "${first:-0}" -gt 1 -a "${first:-0}" -le $((saved + 1))
        is "$name has the memory and the files of then" "$(inside $name 'cat /dev/shm/memory /root/file; ls /data')" "kept
mine"
done
is "a clone that runs has no more of the CPUs than its original" "$(weight twin-1)" "$(weight one)"
for what in "host name:hostname" "MAC:cat /sys/class/net/eth0/address" "IP:ip -4 -o addr show eth0 | cut -d' ' -f7" \
        "machine id:cat /etc/machine-id" "next random bytes:head -c 1000 /dev/urandom | md5sum"; do
        for name in one twin-1 twin-2 twin-3; do
                inside $name "${what#*:}"
        done >"$TMPDIR/them"
        is "no two have the same ${what%%:*}" "$(sort -u "$TMPDIR/them" | grep -c .)" 4 || show "$TMPDIR/them"
done
is "the host knows their addresses" "$(strata inspect -f '{{.NetworkSettings.IPAddress}}' twin-2)" \
        "$(inside twin-2 "ip -4 -o addr show eth0 | sed 's,.*inet \([0-9.]*\)/.*,\1,'")"
# shellcheck disable=SC2016 # the machine's shell
ok "clones reach each other" inside twin-1 "ping -c 1 -W 20 $(inside twin-2 "ip -4 -o addr show eth0 | sed 's,.*inet \([0-9.]*\)/.*,\1,'") >/dev/null"
ok "their clock is right" test $(($(date +%s) - $(inside twin-1 'date +%s'))) -lt 20
inside twin-1 'echo changed >/root/file'
is "what one writes is its own" "$(inside twin-2 'cat /root/file')" mine
is "hosts, resolv.conf and hostname are the clone's" "$(inside twin-1 'cat /etc/hostname')" "$(inside twin-1 hostname)"

# --- diffs ------------------------------------------------------------------------------------------------------------

ok "a diff of the machine that was saved" silently strata snapshot --diff one later
ok "a diff of a clone" silently strata snapshot --diff twin-1 branch
is "both are layers" "$(strata snapshot ls --format '{{.Layers}}' | sort | tr '\n' ' ')" "1 2 2 "
ok "snapshots that diffs began with can go" silently strata snapshot rm warm
ok "the clone of a diff runs" silently strata clone --name third branch
ok "what it needed is written down" grep -q "^1 " "$STRATA_ROOT/snapshots/branch/working-set"
is "with what changed since" "$(inside third 'cat /root/file /dev/shm/memory')" "changed
kept"
ok "it goes on" goes_on third
printf "ffffffff 0 1\\n0 7fffffffffffffff 7fffffffffffffff\\n0 z" >"$STRATA_ROOT/snapshots/later/working-set"
ok "the one of the original too, whatever is written there" eval "strata clone --name fourth later >/dev/null && goes_on fourth"

# --- restore, restart -------------------------------------------------------------------------------------------------

before=$(inside one hostname)
strata rm -f one >/dev/null
is "a removed machine is restored under its name" "$(strata restore later)" one
ok "it goes on" goes_on one
is "it has its host name" "$(inside one hostname)" "$before"
ok "its name is taken then" eval "! strata restore later 2>/dev/null"
strata stop -t 1 one >/dev/null
ok "a restored machine that was stopped starts anew" eval "strata start one >/dev/null && goes_on one"
is "with its files" "$(inside one 'cat /root/file; ls /dev/shm')" mine

# --- clone of what runs -----------------------------------------------------------------------------------------------

is "a machine that runs is cloned" "$(strata clone --rm --name direct one)" direct
ok "it goes on" goes_on direct
is "nothing is left of the way there" "$(strata snapshot ls -q | tr '\n' ' ')" "branch later "
strata stop -t 1 direct >/dev/null
gone() {
        ! strata inspect "$1" >/dev/null 2>&1
}
ok "--rm takes it away" eventually gone direct

# --- killed -----------------------------------------------------------------------------------------------------------

ok "before it there is a snapshot" silently strata snapshot one again
for delay in 0.02 0.05 0.1 0.15 0.2; do
        strata snapshot one again >/dev/null 2>&1 &
        sleep $delay
        kill -9 $! 2>/dev/null
        wait $! 2>/dev/null
        strata snapshot inspect again >/dev/null || echo "# no snapshot after $delay"
done
ok "who is killed lets the machine go on" goes_on one
ok "and leaves a whole snapshot" eval "strata clone --name whole again >/dev/null && goes_on whole"
ok "the next one takes away the rest" eval "strata snapshot one again >/dev/null && [ -z \"\$(ls -A '$STRATA_ROOT/snapshots' | grep partial)\" ]"
is "no image is pinned for nothing" "$(find "$STRATA_ROOT/images/instances" -maxdepth 1 -name 'snapshot-*' | wc -l)" "$(strata snapshot ls -q | wc -l)"
ok "all snapshots can go" eval "strata snapshot rm \$(strata snapshot ls -q) >/dev/null"
is "with their pins" "$(find "$STRATA_ROOT/images/instances" -maxdepth 1 -name 'snapshot-*' | wc -l)" 0
ok "nothing is left over" silently strata system check
done_testing
