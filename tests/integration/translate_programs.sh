#!/bin/bash
# test: timeout=1200
# Debian's programs that are hard on a translator: LuaJIT computes what it computes without compiling, gdb sees in the guest what it sees on the host,
# stress-ng verifies what it did. PROGRAMS_SECONDS=N runs each stressor for N seconds, PROGRAMS_CPUS="1 2" machines of 1 and of 2 CPUs.
. "$(dirname "$0")/lib.sh"
needs_vmm
for command in gdb gcc; do command -v "$command" >/dev/null || skip_all "no $command"; done
assets kernel programs

gcc -O1 -g -static -o "$TMPDIR/debuggee" "$ROOT/tests/guests/programs/debuggee.c"
gdb -nx -batch -x "$ROOT/tests/guests/programs/gdb.script" "$TMPDIR/debuggee" 2>&1 | grep '^gdb: ' >"$TMPDIR/gdb.wanted"
ok "gdb runs here" test "$(wc -l <"$TMPDIR/gdb.wanted")" = 6

log=$TMPDIR/console
for cpus in ${PROGRAMS_CPUS:-2}; do
        cp --sparse=always --reflink=auto "$ASSETS/programs.ext4" "$TMPDIR/root.img"
        ENGINE=${ENGINE:-translate} VM_TIMEOUT=1100 vm "$log" --kernel "$ASSETS/vmlinuz" --disk "$TMPDIR/root.img" --memory 768M --cpus "$cpus" --net none \
                --append "$KERNEL_LINE root=/dev/nvme0n1 rw init=/programs/init stress=${PROGRAMS_SECONDS:-1}"
        is "$cpus CPUs: power-off ends with status 0" "$vm_status" 0 || show "$log"
        ok "$cpus CPUs: the guest has them" says "$log" "guest: $cpus CPUs, ${PROGRAMS_SECONDS:-1} seconds each"
        jit=$(line_after "$log" 'guest: jit ')
        is "$cpus CPUs: LuaJIT's results are those without compiling" "$jit" "$(line_after "$log" 'guest: nojit ')"
        is "$cpus CPUs: and right" "$jit" "9a740b44fb72782277e160f8b129b595  -"
        ok "$cpus CPUs: it did compile" grep -qE 'guest: [1-9][0-9]* traces compiled' "$log"
        ok "$cpus CPUs: gdb in the guest sees what gdb sees here" cmp <(tr -d '\r' <"$log" | sed -n 's/^guest: gdb: /gdb: /p') "$TMPDIR/gdb.wanted"
        while read -r stressor; do
                ok "$cpus CPUs: stress-ng's $stressor verifies" says "$log" "guest: $stressor ended with status 0"
        done < <(sed -n 's/^for stressor in \(.*\); do$/\1/p' "$ROOT/tests/guests/programs/init" | tr ' ' '\n')
        ok "$cpus CPUs: the kernel had nothing to complain about" test -z "$(grep -aE 'BUG|WARNING:|soft lockup|rcu.*stall|Oops|traps:' "$log")"
done
done_testing
