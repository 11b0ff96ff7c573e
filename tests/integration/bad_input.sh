#!/bin/bash
# test: fast timeout=300
# Wrong, damaged and foreign input: one sentence that names it, a hint where there is one, the documented status,
# and nothing left behind. Nothing here boots a guest that is worth waiting for.
. "$(dirname "$0")/lib.sh"
[ "${VMM:-strata}" = strata ] || skip_all "this is about our command only"
needs_vmm
assets kernel busybox
log=$TMPDIR/log
kernel=$ASSETS/vmlinuz
initrd=$ASSETS/busybox.cpio
unset VMM

before=$(mktemp -u)
listing() {
        find "$TMPDIR" -mindepth 1 ! -path "$log" ! -path "$before" | sort
}

# refused NAME STATUS PATTERN OPTION...: the machine does not start; the message matches PATTERN (extended, any case).
refused() {
        local name=$1 status=$2 pattern=$3
        shift 3
        listing >"$before"
        VM_TIMEOUT=60 vm "$log" "$@"
        is "$name: status $status" "$vm_status" "$status" || show "$log"
        ok "$name: the message says so" grep -qiE -- "$pattern" "$log" || show "$log"
        # One sentence, at most one hint.
        ok "$name: one sentence and at most one hint" brief || show "$log"
        ok "$name: nothing is left behind" unchanged
}

brief() {
        local sentences hints
        sentences=$(grep -vc '^hint:' "$log")
        hints=$(grep -c '^hint:' "$log")
        [ "$sentences" = 1 ] && [ "$hints" -le 1 ] && ! grep -qE 'Sanitizer|Assertion|core dumped|\(null\)' "$log"
}

unchanged() {
        listing | diff "$before" - >/dev/null
}

# hinted NAME OPTION...: as refused, and there is a hint. Only where the user can do something that is not obvious.
hinted() {
        refused "$@"
        ok "$1: there is a hint" grep -q '^hint:' "$log"
}

# ---- the command line
refused "no kernel" 124 "kernel"
refused "an unknown option" 124 "frobnicate" --kernel "$kernel" --frobnicate
refused "an option without its value" 124 "memory" --kernel "$kernel" --memory
refused "a word too many" 124 "surplus" --kernel "$kernel" surplus
refused "memory that is no number" 124 "lots" --kernel "$kernel" --memory lots
refused "memory with a foreign unit" 124 "512Q" --kernel "$kernel" --memory 512Q
refused "negative memory" 124 "-5M" --kernel "$kernel" --memory -5M
refused "memory that wraps" 124 "memory" --kernel "$kernel" --memory 99999999999999999999G
refused "no processors" 124 "cpus" --kernel "$kernel" --cpus 0
refused "too many processors" 124 "100000" --kernel "$kernel" --cpus 100000
refused "an unknown engine" 124 "steam" --kernel "$kernel" --engine steam
refused "an unknown network" 124 "carrier-pigeon" --kernel "$kernel" --net carrier-pigeon
refused "a disk with an unknown option" 124 "sideways" --kernel "$kernel" --disk "$initrd,sideways"
refused "a disk with an unknown format" 124 "floppy" --kernel "$kernel" --disk "$initrd,format=floppy"

# ---- kernels
refused "a kernel that is not there" 125 "no-such-kernel" --kernel "$TMPDIR/no-such-kernel"
refused "a directory as kernel" 125 "$TMPDIR" --kernel "$TMPDIR"
: >"$TMPDIR/empty"
refused "an empty kernel" 125 "empty" --kernel "$TMPDIR/empty"
head -c 100000 /dev/urandom >"$TMPDIR/noise"
refused "noise as kernel" 125 "noise" --kernel "$TMPDIR/noise"
cp /bin/busybox "$TMPDIR/program"
refused "a user program as kernel" 125 "program" --kernel "$TMPDIR/program"
for part in 200 600 4000 1000000 13000000; do
        head -c $part "$kernel" >"$TMPDIR/truncated"
        refused "a kernel cut off after $part bytes" 125 "truncated" --kernel "$TMPDIR/truncated"
done
{ head -c 8000000 "$kernel" && head -c 100000 /dev/urandom && tail -c +8100001 "$kernel"; } >"$TMPDIR/damaged"
refused "a kernel with noise in its payload" 125 "damaged" --kernel "$TMPDIR/damaged"

# ---- initrd, memory
refused "an initrd that is not there" 125 "no-such-initrd" --kernel "$kernel" --initrd "$TMPDIR/no-such-initrd"
refused "a directory as initrd" 125 "$TMPDIR" --kernel "$kernel" --initrd "$TMPDIR"
hinted "too little memory for the kernel" 125 "memory" --kernel "$kernel" --memory 16M
truncate -s 600M "$TMPDIR/huge"
hinted "an initrd that does not fit" 125 "initrd|memory" --kernel "$kernel" --initrd "$TMPDIR/huge" --memory 512M
rm "$TMPDIR/huge"
refused "a command line longer than the kernel takes" 125 "command line" --kernel "$kernel" --append "$(head -c 70000 /dev/zero | tr '\0' x)"

# ---- disks
disk_refused() {
        local name=$1 pattern=$2
        shift 2
        refused "$name" 125 "$pattern" --kernel "$kernel" --initrd "$initrd" --disk "$@"
}
disk_refused "a disk that is not there" "no-such-disk" "$TMPDIR/no-such-disk"
disk_refused "a directory as disk" "$TMPDIR" "$TMPDIR"
disk_refused "an empty disk" "empty" "$TMPDIR/empty,format=raw"
head -c 1000 /dev/urandom >"$TMPDIR/odd"
VM_TIMEOUT=5 vm "$log" --kernel "$kernel" --disk "$TMPDIR/odd,format=raw"
ok "a disk that is no multiple of 512 bytes is used with a warning that names it" grep -q "warning:.*$TMPDIR/odd" "$log" || show "$log"
if command -v qemu-img >/dev/null; then
        qemu-img create -q -f qcow2 "$TMPDIR/good.qcow2" 64M
        head -c 60 "$TMPDIR/good.qcow2" >"$TMPDIR/short.qcow2"
        disk_refused "a truncated qcow2 header" "short.qcow2" "$TMPDIR/short.qcow2,format=qcow2"
        { printf 'QFI\373\0\0\0\003' && head -c 500 /dev/urandom; } >"$TMPDIR/noise.qcow2"
        disk_refused "noise behind a qcow2 magic" "noise.qcow2" "$TMPDIR/noise.qcow2"
        qemu-img create -q -f qcow2 -b "$TMPDIR/good.qcow2" -F qcow2 "$TMPDIR/orphan.qcow2"
        mv "$TMPDIR/good.qcow2" "$TMPDIR/moved.qcow2"
        disk_refused "a backing file that is gone" "good.qcow2" "$TMPDIR/orphan.qcow2"
        # A chain that bites its tail.
        cp "$TMPDIR/moved.qcow2" "$TMPDIR/a.qcow2"
        qemu-img rebase -u -f qcow2 -b a.qcow2 -F qcow2 "$TMPDIR/a.qcow2"
        disk_refused "a disk that is its own backing file" "a.qcow2" "$TMPDIR/a.qcow2"
        qemu-img create -q -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s --object secret,id=s,data=x "$TMPDIR/luks.qcow2" 1M &&
                disk_refused "an encrypted qcow2 file" "luks.qcow2" "$TMPDIR/luks.qcow2"
fi
disk_refused "raw data given as qcow2" "noise" "$TMPDIR/noise,format=qcow2"

# Rights: as root every file may be written, so somebody else tries.
if [ "$(id -u)" = 0 ] && setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$STRATA" -a -r "$kernel" 2>/dev/null; then
        head -c 1048576 /dev/zero >"$TMPDIR/locked"
        chmod 644 "$TMPDIR/locked"
        chmod 755 "$TMPDIR"
        as_nobody() {
                timeout --foreground -s KILL 60 setpriv --reuid=65534 --regid=65534 --clear-groups \
                        "$STRATA" vm run --engine interp --kernel "$kernel" "$@" </dev/null >"$log" 2>&1
                vm_status=$?
        }
        as_nobody --net none --disk "$TMPDIR/locked"
        is "a disk that may not be written: status 125" "$vm_status" 125
        ok "a disk that may not be written: the message names it" grep -q "locked" "$log"
        ok "a disk that may not be written: the hint is 'ro'" grep -q "^hint:.*ro" "$log" || show "$log"
        as_nobody --net tap=stratanone
        is "no right to make a tap device: status 125" "$vm_status" 125
        ok "no right to make a tap device: the message names it" grep -qE "stratanone|/dev/net/tun" "$log"
        ok "no right to make a tap device: there is a hint" grep -q "^hint:" "$log" || show "$log"
else
        skip "a disk that may not be written" "needs root, and a checkout that user 65534 can read"
        skip "no right to make a tap device" "needs root, and a checkout that user 65534 can read"
fi

# ---- busy gdb port
/usr/bin/python3 -c '
import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); print(s.getsockname()[1], flush=True); time.sleep(100)' >"$TMPDIR/port" &
holder=$!
eventually test -s "$TMPDIR/port"
refused "a gdb port in use" 125 "$(cat "$TMPDIR/port")" --kernel "$kernel" --gdb "$(cat "$TMPDIR/port")"
kill $holder

# ---- waiting for what is outside
refused "a descriptor to wait for that is a word" 124 "descriptor" --kernel "$kernel" --wait later
refused "a descriptor to wait for that nobody opened" 125 "descriptor 9" --kernel "$kernel" --wait 9
refused "a descriptor to wait for that says nothing" 125 "descriptor 9 ended" --kernel "$kernel" --wait 9 9</dev/null
# What is removed just before the byte was there all the time that the machine must not look at it.
mkdir "$TMPDIR/early"
VM_TIMEOUT=60 vm "$log" --kernel "$kernel" --share "tag=early,path=$TMPDIR/early" --wait 9 9< <(sleep 1; rmdir "$TMPDIR/early"; echo)
is "a share that was there before it was said: status 125" "$vm_status" 125
ok "a share that was there before it was said: the message names it" grep -q "$TMPDIR/early" "$log" || show "$log"

# ---- --help
"$STRATA" vm run --help >"$log" 2>&1
is "--help: status 0" $? 0
for word in kernel initrd append memory cpus engine disk net console debug-exit stats trace gdb; do
        ok "--help explains --$word" grep -qE "^ *(-., )?--$word" "$log"
done
done_testing
