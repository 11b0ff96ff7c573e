#!/bin/bash
# test: timeout=900
# Disks seen through virtio-blk (modules from the kernel's package) and NVMe: every byte arrives, in raw and qcow2 files,
# with and without a backing file; a read-only disk stays as it was.
. "$(dirname "$0")/lib.sh"
needs_vmm
command -v qemu-img >/dev/null || skip_all "qemu-img is not installed"
assets kernel virtio
log=$TMPDIR/console
size=$((10 * 1024 * 1024))

# In each disk the guest takes the sum of everything, overwrites an unaligned stretch, says what that was, and reads
# everything again from the device, not from its page cache.
guest_script='
i=0
for disk in $DISKS; do
        echo "size $i: $(blockdev --getsize64 /dev/$disk)"
        echo "before $i: $(sha256sum </dev/$disk | cut -c1-64)"
        dd if=/dev/urandom of=/tmp/new bs=1000 count=3333 2>/dev/null
        if dd if=/tmp/new of=/dev/$disk bs=1000 seek=4001 conv=notrunc,fsync 2>/tmp/error; then
                echo "wrote $i: $(sha256sum </tmp/new | cut -c1-64)"
        else
                echo "wrote $i: refused"
        fi
        sync
        echo 3 >/proc/sys/vm/drop_caches
        echo "after $i: $(sha256sum </dev/$disk | cut -c1-64)"
        i=$((i + 1))
        # Refusing to write to the last one is an error, and meant.
        if [ $i -lt 4 ] && dmesg | grep -iE "I/O error|timeout|abort"; then
                echo "guest: I/O errors"
        fi
done
'

# stretch FILE: the sum of what the guest overwrote.
stretch() {
        tail -c +$((4001 * 1000 + 1)) "$1" | head -c $((3333 * 1000)) | sha256sum | cut -c1-64
}

sum() {
        sha256sum <"$1" | cut -c1-64
}

qcow2_clean() {
        qemu-img check -q -f qcow2 "$1" >"$TMPDIR/check" 2>&1 || {
                show "$TMPDIR/check"
                return 1
        }
}

flatten() {
        qemu-img convert -f qcow2 -O raw "$1" "$2"
}

# outside FILE: the sum of everything but the overwritten stretch.
outside() {
        { head -c $((4001 * 1000)) "$1" && tail -c +$((7334 * 1000 + 1)) "$1"; } | sha256sum | cut -c1-64
}

# The same four disks on either bus.
run_bus() {
        local bus=$1 names=$2 d=$TMPDIR/$1 i
        mkdir "$d"
        head -c $size /dev/urandom >"$d/raw"
        head -c $size /dev/urandom >"$d/flat"
        qemu-img convert -f raw -O qcow2 "$d/flat" "$d/qcow2"
        # The base is half the size: what lies beyond it reads as zeros.
        head -c $((size / 2)) /dev/urandom >"$d/base"
        qemu-img create -q -f qcow2 -b base -F raw "$d/overlay" $size
        head -c $size /dev/urandom >"$d/readonly"
        flatten "$d/overlay" "$d/overlay.before"
        local before=("$(sum "$d/raw")" "$(sum "$d/flat")" "$(sum "$d/overlay.before")" "$(sum "$d/readonly")")
        local base_before raw_outside
        base_before=$(sum "$d/base")
        raw_outside=$(outside "$d/raw")

        guest_running "$ASSETS/virtio.cpio" "DISKS='$names'; $guest_script" "$d/initrd"
        VM_TIMEOUT=400 vm "$log" --kernel "$ASSETS/vmlinuz" --initrd "$d/initrd" --memory 256M --net none \
                --append "$KERNEL_LINE quiet" \
                --disk "$d/raw,bus=$bus" --disk "$d/qcow2,format=qcow2,bus=$bus" \
                --disk "$d/overlay,format=qcow2,bus=$bus" --disk "$d/readonly,ro,bus=$bus"
        is "$bus: power-off ends with status 0" "$vm_status" 0 || show "$log"

        local what=(raw qcow2 "qcow2 with a backing file" read-only)
        for i in 0 1 2 3; do
                is "$bus ${what[i]}: the size is right" "$(line_after "$log" "size $i: ")" $size
                is "$bus ${what[i]}: every byte is read" "$(line_after "$log" "before $i: ")" "${before[i]}"
        done
        flatten "$d/qcow2" "$d/qcow2.after"
        flatten "$d/overlay" "$d/overlay.after"
        i=0
        local file
        for file in raw qcow2.after overlay.after; do
                is "$bus ${what[i]}: what the guest wrote is in the file" "$(stretch "$d/$file")" "$(line_after "$log" "wrote $i: ")"
                is "$bus ${what[i]}: the guest reads back what is in the file" "$(line_after "$log" "after $i: ")" "$(sum "$d/$file")"
                i=$((i + 1))
        done
        is "$bus raw: nothing else changed" "$(outside "$d/raw")" "$raw_outside"
        is "$bus qcow2: nothing else changed" "$(outside "$d/qcow2.after")" "$(outside "$d/flat")"
        is "$bus qcow2 with a backing file: nothing else changed" "$(outside "$d/overlay.after")" "$(outside "$d/overlay.before")"
        is "$bus: the backing file is untouched" "$(sum "$d/base")" "$base_before"
        ok "$bus: qemu-img finds the qcow2 file sound" qcow2_clean "$d/qcow2"
        ok "$bus: qemu-img finds the overlay sound" qcow2_clean "$d/overlay"
        is "$bus read-only: writing is refused" "$(line_after "$log" 'wrote 3: ')" refused
        is "$bus read-only: the file is untouched" "$(sum "$d/readonly")" "${before[3]}"
        ok "$bus: the guest saw no I/O error" test -z "$(grep -a 'guest: I/O errors' "$log")"
        rm -r "$d"
}

run_bus virtio "vda vdb vdc vdd"
run_bus nvme "nvme0n1 nvme1n1 nvme2n1 nvme3n1"
done_testing
