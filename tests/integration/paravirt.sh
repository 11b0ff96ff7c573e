#!/bin/bash
# test: timeout=600
# Debian's kernel on two processors finds and uses what the hypervisor offers: PV IPIs, spinlocks with kicks, remote TLB flushes, steal time.
. "$(dirname "$0")/lib.sh"
needs_vmm
[ "${VMM:-strata}" = strata ] || skip_all "QEMU's TCG offers nothing of it"
assets kernel busybox
VM_TIMEOUT=240
log=$TMPDIR/console

# Both processors at work with threads of one address space, pipes and short processes; the sums say that nothing was lost.
probe='dmesg | grep -E "kvm-guest|PV qspinlock"
echo "steal columns: $(awk "/^cpu[0-9]/ && NF >= 9 && \$9 ~ /^[0-9]+\$/ { n++ } END { print n }" /proc/stat)"
for i in 1 2 3 4; do (n=0; j=0; while [ $j -lt 20 ]; do n=$((n + $(echo $j | cat))); j=$((j + 1)); done; echo "sum $i: $n" >/tmp/$i) & done
wait
cat /tmp/1 /tmp/2 /tmp/3 /tmp/4
echo "kicks and notes: done"'
guest_running "$ASSETS/busybox.cpio" "$probe" "$TMPDIR/probe.cpio"
vm "$log" --kernel "$ASSETS/vmlinuz" --initrd "$TMPDIR/probe.cpio" --memory 256M --cpus 2 --net none --append "$KERNEL_LINE -- run"
is "the guest ends with status 0" "$vm_status" 0 || show "$log"
ok "it sends IPIs by hypercall" says "$log" "setup PV IPIs"
ok "its spinlocks halt and kick" says "$log" "PV spinlocks enabled"
ok "it leaves notes to sleeping processors" says "$log" "KVM setup pv remote TLB flush"
is "each processor has a steal time" "$(line_after "$log" 'steal columns: ')" 2
for i in 1 2 3 4; do
        is "process $i computed right" "$(line_after "$log" "sum $i: ")" 190
done
ok "the kernel found nothing to warn of" test -z "$(grep -aE 'WARNING:|BUG:|Oops|soft lockup|rcu.*stall|Call Trace' "$log")"

vm "$log" --kernel "$ASSETS/vmlinuz" --initrd "$ASSETS/busybox.cpio" --memory 256M --cpus 1 --net none --append "$KERNEL_LINE -- poweroff"
ok "one processor needs no such spinlocks" says "$log" "PV spinlocks disabled, single CPU"
done_testing
