#!/bin/bash
# What the VMM itself needs: its resident memory beyond the guest's with two CPUs after a Linux boot stays within 16 MiB under the interpreter and
# within 64 MiB under the translator, most of them translated code.
. "$(dirname "$0")/lib.sh"
needs_vmm
assets kernel busybox
log=$TMPDIR/console

# measure ENGINE LIMIT_MIB
measure() {
        local engine=$1 limit=$2 vmm own
        rm -f "$log"
        "$BUILD/strata-vmm" run --kernel "$ASSETS/vmlinuz" --initrd "$ASSETS/busybox.cpio" --memory 256M --cpus 2 --net none \
                --engine "$engine" --console "$log" --append "$KERNEL_LINE -- shell" </dev/null >"$TMPDIR/out" 2>&1 &
        vmm=$!
        # shellcheck disable=SC2064 # this one
        trap "kill $vmm 2>/dev/null" EXIT
        for _ in $(seq 600); do
                grep -qa "first process runs" "$log" 2>/dev/null && break
                kill -0 "$vmm" 2>/dev/null || break
                sleep 0.2
        done
        ok "$engine: the guest is up" grep -qa "first process runs" "$log" || show "$TMPDIR/out"
        # Resident kilobytes of every mapping but the guest's RAM.
        own=$(awk '/^[0-9a-f]+-[0-9a-f]+ / { guest = /memfd:guest-ram/ } /^Rss:/ && !guest { n += $2 } END { print n + 0 }' "/proc/$vmm/smaps")
        echo "# $engine: $own KiB"
        ok "$engine: there is something to measure" test "${own:-0}" -gt 1000
        ok "$engine: at most $limit MiB beyond the guest's memory" test "$own" -le $((limit * 1024))
        kill -TERM "$vmm"
        wait "$vmm"
        is "$engine: SIGTERM ends it" $? 0
        trap - EXIT
}

measure interp 16
measure translate 64
done_testing
