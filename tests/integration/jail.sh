#!/bin/bash
# test: timeout=300
# The VMM's jail: machines of every engine run in it, it looks from outside as it should, works for a user without rights and
# with what the host lacks. (What is refused inside: tests/unit/test_vm_jail.c. Devices run in it in their own tests.)
#
# A machine that ends with "Bad system call" (status 159) made one that jail_syscalls.def does not list: `strace -f` shows which.
. "$(dirname "$0")/lib.sh"
needs_vmm
[ "${VMM:-strata}" = strata ] || skip_all "QEMU has its own"
assets kernel busybox
log=$TMPDIR/console
vmm=$BUILD/strata-vmm
machine=(--kernel "$ASSETS/vmlinuz" --initrd "$ASSETS/busybox.cpio" --memory 256M --net none --append "$KERNEL_LINE quiet -- reboot")

no_namespaces() {
        unshare -Ur bash -c 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"' - "$@"
}

EVENTUALLY=60 # machines boot meanwhile
# start OPTION...: a machine in the background that stays; waits until its guest runs.
start() {
        "$vmm" run --kernel "$ASSETS/vmlinuz" --initrd "$TMPDIR/initrd" --memory 256M --engine translate \
                --append "$KERNEL_LINE quiet" "$@" >"$log" 2>&1 </dev/null &
        pid=$!
        eventually grep -q "guest: stays" "$log" || show "$log"
}

status_line() {
        sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status"
}

gone() {
        eventually not test -e "$1"
}

if "$vmm" run --jail required "${machine[@]}" --engine translate >"$log" 2>&1 </dev/null; then
        required=required
else
        required=auto
        echo "# this host does not let us have all of the jail:"
        show "$log"
fi

for engine in translate interp; do
        vm "$log" "${machine[@]}" --jail $required --engine $engine
        is "a machine runs in the jail, engine $engine" "$vm_status" 0 || show "$log"
done
# Linux takes too long where KVM itself runs on an emulator: writes 9 to the debug-exit port instead.
if [ -w /dev/kvm ]; then
        /usr/bin/python3 - "$TMPDIR/guest" <<-'END'
		import struct, sys
		header = struct.pack("<8I", 0x1badb002, 1 << 16, 0xe4514ffe & 0xffffffff, 0x100000, 0x100000, 0, 0, 0x100020)
		code = bytes.fromhex("ba f4000000 b0 09 ee f4 ebfd")
		open(sys.argv[1], "wb").write(header + code + bytes(64))
	END
        vm "$log" --kernel "$TMPDIR/guest" --debug-exit --jail $required --engine kvm --memory 16M
        is "a machine runs in the jail, engine kvm" "$vm_status" 19 || show "$log"
else
        skip "a machine runs in the jail, engine kvm" "no /dev/kvm"
fi

if [ $required = required ]; then
        mkdir -m 755 "$TMPDIR/share"
        guest_running "$ASSETS/busybox.cpio" 'echo "guest: stays"; sleep 1000' "$TMPDIR/initrd"
        start --jail required --control "$TMPDIR/control" --vsock "cid=3,socket=$TMPDIR/vsock"
        is "its root directory is empty" "$(ls -A "/proc/$pid/root/" 2>&1)" ""
        is "it is mounted read-only, and nothing else is" "$(awk '{ print $5, $6 }' "/proc/$pid/mountinfo" | cut -c1-4)" "/ ro"
        is "it has no capability" "$(status_line CapEff) $(status_line CapPrm) $(status_line CapBnd)" "0000000000000000 0000000000000000 0000000000000000"
        is "it gets no new privileges" "$(status_line NoNewPrivs)" 1
        is "all its threads have a filter of system calls" "$(cat /proc/$pid/task/*/status | sed -n 's/^Seccomp:[[:space:]]*//p' | sort -u)" 2
        [ "$(id -u)" != 0 ] || is "it is nobody" "$(status_line Uid | tr -s '\t' ' ')" "65534 65534 65534 65534"
        same=
        for ns in user mnt net ipc uts cgroup; do
                [ "$(readlink /proc/$pid/ns/$ns)" != "$(readlink /proc/self/ns/$ns)" ] || same="$same $ns"
        done
        is "its namespaces are its own" "$same" ""
        is "it leaves no core file" "$(awk '/Max core file size/ { print $5, $6 }' "/proc/$pid/limits")" "0 0"
        ok "the control socket answers" grep -q "^ok" <(/usr/bin/python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1]); s.sendall(b"help\n"); s.shutdown(1)
while (d := s.recv(4096)): print(d.decode(), end="")' "$TMPDIR/control")
        kill -KILL "$pid"
        wait "$pid" 2>/dev/null
        ok "killed, it leaves no socket behind" gone "$TMPDIR/control"
        ok "nor the other one" gone "$TMPDIR/vsock"
        # A share that the guest may write: the capabilities over files, and no other.
        start --jail required --share "tag=x,path=$TMPDIR/share"
        [ "$(id -u)" != 0 ] || is "with a share it has the capabilities over files" "$(status_line CapEff)" 000000008000001b
        kill -KILL "$pid"
        wait "$pid" 2>/dev/null
else
        skip "the process as it looks from outside" "the host lacks some of the jail"
fi

# Without namespaces the rest remains.
if no_namespaces true 2>/dev/null; then
        no_namespaces "$vmm" run "${machine[@]}" --engine translate --jail required >"$log" 2>&1 </dev/null
        is "what is required and cannot be had is an error" $? 125
        ok "which says what it is" says "$log" "making namespaces"
        ok "and what to do" says "$log" "--jail auto"
        no_namespaces "$vmm" run "${machine[@]}" --engine translate >"$log" 2>&1 </dev/null
        is "without namespaces a machine runs in what there is" $? 0 || show "$log"
else
        skip "without namespaces" "user namespaces cannot be made and limited here"
fi

if [ "$(id -u)" = 0 ]; then
        # The commands may stand where others cannot go.
        cp "$vmm" "$ASSETS/vmlinuz" "$ASSETS/busybox.cpio" "$TMPDIR/"
        mkdir "$TMPDIR/own"
        chown 1000:1000 "$TMPDIR/own"
        chmod 755 "$TMPDIR" "$TMPDIR/strata-vmm"
        chmod 644 "$TMPDIR/vmlinuz" "$TMPDIR/busybox.cpio"
        guest_running "$TMPDIR/busybox.cpio" 'echo "here: yes"' "$TMPDIR/own/initrd"
        (cd "$TMPDIR/own" && setpriv --reuid 1000 --regid 1000 --clear-groups ../strata-vmm run --kernel ../vmlinuz --initrd initrd \
                --engine translate --jail $required --share "tag=x,path=." --control control --append "$KERNEL_LINE quiet") >"$log" 2>&1 </dev/null
        is "a user without rights can have it all" $? 0 || show "$log"
        ok "and a guest in it" says "$log" "here: yes"
        ok "and no socket is left" gone "$TMPDIR/own/control"
else
        skip "a user without rights can have it all" "we are one"
fi

"$vmm" run "${machine[@]}" --jail maybe >"$log" 2>&1
is "another word is bad usage" $? 124
done_testing
