#!/bin/bash
# test: timeout=1800
# Debian's kernel to a busybox shell and back under lockstep checking: every block that the translator runs is compared with the interpreter.
# LOCKSTEP_CPUS=2: with that many CPUs.
. "$(dirname "$0")/lib.sh"
[ "${VMM:-strata}" = strata ] || skip_all "only our machine has engines to compare"
needs_vmm
assets kernel busybox
guest_running "$ASSETS/busybox.cpio" 'n=0; i=0; while [ $i -lt 100 ]; do n=$((n + i)); i=$((i + 1)); done; echo "sum: $n"
echo x | sha256sum' "$TMPDIR/probe.cpio"
VM_TIMEOUT=1700 vm "$TMPDIR/log" --kernel "$ASSETS/vmlinuz" --initrd "$TMPDIR/probe.cpio" --memory 256M --net none --append "$KERNEL_LINE no-steal-acc" \
        --cpus "${LOCKSTEP_CPUS:-1}" --engine translate --check interp --stats "$TMPDIR/stats"
is "the machine ends by itself" "$vm_status" 0 || show "$TMPDIR/log"
is "the shell computes" "$(line_after "$TMPDIR/log" 'sum: ')" 4950
ok "a program computes" says "$TMPDIR/log" 73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac
checked=$(awk '$2 == "blocks_checked" { n += $3 } END { print n }' "$TMPDIR/stats")
ok "blocks were compared: ${checked:-none}" test "${checked:-0}" -gt 10000000
done_testing
