#!/bin/bash
# test: timeout=600
# Debian's own kernel with a busybox initramfs: one and two processors, power-off, reboot, panic.
. "$(dirname "$0")/lib.sh"
needs_vmm
assets kernel busybox
log=$TMPDIR/console

boot() {
        local cpus=$1 initrd=$2 append=$3
        vm "$log" --kernel "$ASSETS/vmlinuz" --initrd "$initrd" --memory 256M --cpus "$cpus" --net none \
                --append "$KERNEL_LINE $append"
}

probe='echo "processors: $(grep -c ^processor /proc/cpuinfo)"
echo "kernel: $(uname -r)"
echo "memory: $(awk "/^MemTotal/ { print (\$2 > 150000 && \$2 < 262144) ? \"as given\" : \$2 }" /proc/meminfo)"
a=$(date +%s); usleep 1500000; b=$(date +%s)
echo "slept: $([ $((b - a)) -ge 1 ] && [ $((b - a)) -le 30 ] && echo "as asked" || echo "$a to $b")"
n=0; i=0; while [ $i -lt 300 ]; do n=$((n + i)); i=$((i + 1)); done; echo "sum: $n"
(for i in 1 2 3 4; do (echo "$i" | sha256sum >"/tmp/$i") & done; wait; cat /tmp/1 /tmp/2 /tmp/3 /tmp/4 | sha256sum | cut -c1-16)
echo "date: $(date +%Y)"'
guest_running "$ASSETS/busybox.cpio" "$probe" "$TMPDIR/probe.cpio"
sums=$(for i in 1 2 3 4; do echo "$i" | sha256sum; done | sha256sum | cut -c1-16)

for cpus in 1 2; do
        boot $cpus "$TMPDIR/probe.cpio" ""
        is "$cpus cpu: power-off ends with status 0" "$vm_status" 0 || show "$log"
        is "$cpus cpu: the guest has as many processors" "$(line_after "$log" 'processors: ')" $cpus
        is "$cpus cpu: it is the packaged kernel" "$(line_after "$log" 'kernel: ')" "$(cat "$ASSETS/kernel-version")"
        is "$cpus cpu: it has the memory that was given" "$(line_after "$log" 'memory: ')" "as given"
        is "$cpus cpu: time passes" "$(line_after "$log" 'slept: ')" "as asked"
        is "$cpus cpu: the clock was set from the RTC" "$(line_after "$log" 'date: ')" "$(date +%Y)"
        is "$cpus cpu: the shell computes" "$(line_after "$log" 'sum: ')" 44850
        ok "$cpus cpu: processes and pipes carry the right bytes" says "$log" "$sums"
        ok "$cpus cpu: the kernel found nothing to warn of" test -z "$(grep -aE 'WARNING:|BUG:|Oops|soft lockup|rcu.*stall|Call Trace' "$log")"
done

boot 1 "$ASSETS/busybox.cpio" "-- reboot"
is "reboot ends with status 0" "$vm_status" 0 || show "$log"
ok "the guest asked for it" says "$log" "guest: reboot"
boot 2 "$ASSETS/busybox.cpio" "-- reboot"
is "reboot with two processors ends with status 0" "$vm_status" 0 || show "$log"
boot 1 "$ASSETS/busybox.cpio" "-- crash"
is "a panic that reboots ends with status 0" "$vm_status" 0
ok "the panic was printed" says "$log" "Attempted to kill init"
done_testing
