#!/bin/bash
# test: fast timeout=120
# A real gdb at the debugger's port: breakpoint, step, watchpoint, registers and memory, and what happens when it leaves.
. "$(dirname "$0")/lib.sh"
[ "${VMM:-strata}" = strata ] || skip_all "this is about our stub only"
command -v gdb >/dev/null || skip_all "gdb is not installed"
needs_vmm

# A multiboot kernel at 0x100000 whose code counts in ecx and at 0x200000:
#   0x100020 mov ebx, 0x200000   0x100025 inc ecx   0x100026 mov [ebx], ecx   0x100028 jmp 0x100025
kernel=$TMPDIR/counter
{
        printf '\x02\xb0\xad\x1b\x00\x00\x01\x00\xfe\x4f\x51\xe4' # magic, flags, checksum
        printf '\x00\x00\x10\x00\x00\x00\x10\x00\x2a\x00\x10\x00\x00\x10\x10\x00\x20\x00\x10\x00' # addresses
        printf '\xbb\x00\x00\x20\x00\x41\x89\x0b\xeb\xfb'
} >"$kernel"

port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$STRATA" vm run --engine "${ENGINE:-interp}" --kernel "$kernel" --memory 8M --console none --gdb "$port" </dev/null >"$TMPDIR/vm.log" 2>&1 &
machine=$!

cat >"$TMPDIR/script" <<END
set pagination off
set confirm off
set tcp connect-timeout 20
target remote 127.0.0.1:$port
printf "start %lx\n", \$rip
break *0x100026
continue
continue
continue
printf "breakpoint %lx ecx %ld\n", \$rip, \$rcx
stepi
printf "step %lx\n", \$rip
printf "memory %d\n", *(int *)0x200000
delete
set var \$rcx = 1000
set var *(int *)0x200004 = 77
watch *(int *)0x200000
continue
printf "watch %d\n", *(int *)0x200000
printf "other %d\n", *(int *)0x200004
delete
monitor info
detach
END
timeout 60 gdb -nx -batch -x "$TMPDIR/script" >"$TMPDIR/gdb.log" 2>&1
log=$TMPDIR/gdb.log
ok "the machine waits before its first instruction" says "$log" "start 100020" || show "$log"
ok "a breakpoint stops each time it is passed" says "$log" "breakpoint 100026 ecx 3"
ok "a step is one instruction" says "$log" "step 100028"
ok "memory is the guest's" says "$log" "memory 3"
ok "a watchpoint stops at a write, with the register that was set" says "$log" "watch 1001"
ok "a write to memory stays" says "$log" "other 77"
ok "monitor info prints the CPU" says "$log" "vCPU 0:"
ok "the machine goes on when the debugger leaves" kill -0 "$machine"

timeout 60 gdb -nx -batch -ex "target remote 127.0.0.1:$port" -ex 'printf "count %d\n", *(int *)0x200000 > 2000' \
        -ex 'monitor quit' >"$log" 2>&1
ok "the next debugger finds it where it got to" says "$log" "count 1" || show "$log"
wait "$machine"
is "monitor quit ends it: status 0" $? 0
done_testing
