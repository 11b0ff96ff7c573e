#!/bin/bash
# What the VMM itself needs: its resident memory beyond the guest's stays within 16 MiB under the interpreter, with two CPUs after a Linux boot.
. "$(dirname "$0")/lib.sh"
needs_vmm
assets kernel busybox
log=$TMPDIR/console

"$BUILD/strata-vmm" run --kernel "$ASSETS/vmlinuz" --initrd "$ASSETS/busybox.cpio" --memory 256M --cpus 2 --net none \
        --engine interp --console "$log" --append "$KERNEL_LINE -- shell" </dev/null >"$TMPDIR/out" 2>&1 &
vmm=$!
trap 'kill "$vmm" 2>/dev/null' EXIT
for _ in $(seq 600); do
        grep -qa "first process runs" "$log" 2>/dev/null && break
        kill -0 "$vmm" 2>/dev/null || break
        sleep 0.2
done
ok "the guest is up" grep -qa "first process runs" "$log" || show "$TMPDIR/out"
# Resident kilobytes of every mapping but the guest's RAM.
own=$(awk '/^[0-9a-f]+-[0-9a-f]+ / { guest = /memfd:guest-ram/ } /^Rss:/ && !guest { n += $2 } END { print n + 0 }' "/proc/$vmm/smaps")
echo "# $own KiB"
ok "there is something to measure" test "${own:-0}" -gt 1000
ok "at most 16 MiB beyond the guest's memory" test "$own" -le 16384
kill -TERM "$vmm"
wait "$vmm"
is "SIGTERM ends it" $? 0
trap - EXIT
done_testing
