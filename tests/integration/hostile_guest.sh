#!/bin/bash
# test: timeout=300
# Guests that hammer every port, write everywhere, crash and loop: the machine around them neither crashes, nor hangs, nor grows.
. "$(dirname "$0")/lib.sh"
needs_vmm
command -v as >/dev/null && command -v ld >/dev/null || skip_all "no assembler"
truncate -s 4M "$TMPDIR/disk1" "$TMPDIR/disk2"

# build NAME MODE SEED COUNT
build() {
        as --32 --defsym MODE="$2" --defsym SEED="$3" --defsym COUNT="$4" "$ROOT/tests/guests/hostile.S" -o "$TMPDIR/$1.o" &&
                ld -m elf_i386 -N -Ttext 0x100000 -e _start "$TMPDIR/$1.o" -o "$TMPDIR/$1" 2>"$TMPDIR/ld"
}

# hostile NAME SECONDS: run it with every kind of device; $status, and $peak in KiB.
hostile() {
        /usr/bin/time -f %M -o "$TMPDIR/peak" timeout --foreground -s TERM -k 20 "$2" "$BUILD/strata-vmm" run --kernel "$TMPDIR/$1" \
                --memory 128M --net none --debug-exit --console none --engine "${ENGINE:-interp}" --cpus 2 \
                --disk "$TMPDIR/disk1" --disk "$TMPDIR/disk2,bus=virtio" </dev/null >"$TMPDIR/log" 2>&1
        status=$?
        peak=$(tail -n 1 "$TMPDIR/peak")
}

for seed in 1 77 4711; do
        for guest in "ports 1 60000" "memory 2 200000" "ram 3 200000"; do
                read -r name mode count <<<"$guest"
                build "$name" "$mode" "$seed" "$count" || { ok "$name assembles" false; continue; }
                hostile "$name" 100
                is "$name, seed $seed: the machine lives to the end" "$status" 1 || show "$TMPDIR/log"
                ok "$name, seed $seed: it did not grow beyond the guest's 128 MiB by much ($peak KiB)" test "$peak" -lt $(((128 + 40) * 1024))
        done
done

build fault 4 1 1 && hostile fault 60
is "a triple fault ends with status 126" "$status" 126 || show "$TMPDIR/log"
build loop 5 1 1 && hostile loop 4
is "a guest that loops in an exception ends on SIGTERM" "$status" 124 || show "$TMPDIR/log" # timeout's own status: TERM sufficed
build halt 6 1 1 && hostile halt 4
is "a guest that halts with interrupts off ends on SIGTERM" "$status" 124 || show "$TMPDIR/log"
done_testing
