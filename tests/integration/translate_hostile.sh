#!/bin/bash
# test: timeout=300
# Hostile 64-bit guests (tests/guests/hostile64). Random user programs at addresses that are not theirs do exactly what they do under the interpreter,
# whenever interrupts come; user code never sees a mapping that its kernel has had forgotten, on one CPU (every way to flush, PCIDs, global and
# large pages) and on a second one that runs meanwhile. The same seeds each time, so that a failure is of what
# was changed; HOSTILE_SEED=$RANDOM looks for new ones, HOSTILE_SEEDS=N runs N and not a few.
. "$(dirname "$0")/lib.sh"
[ "${VMM:-strata}" = strata ] || skip_all "only our machine has engines to compare"
needs_vmm
command -v gcc >/dev/null || skip_all "no C compiler"

seeds=${HOSTILE_SEEDS:-2}
first=${HOSTILE_SEED:-101}
guest=$TMPDIR/hostile64
"$ROOT/tests/guests/hostile64/build" "$guest" || { ok "the guest compiles" false; done_testing; exit; }

# run ENGINE CPUS OPTION...: the guest's words in $log. $shadow: when user memory is shown by the host's MMU (mmu/shadow.h).
log=$TMPDIR/log
shadow=never
run() {
        local engine=$1 cpus=$2
        shift 2
        VM_TIMEOUT=200 vm "$log" --kernel "$guest" --memory 64M --debug-exit --net none --console stdio --engine "$engine" --shadow "$shadow" --cpus "$cpus" --append "$*"
}

for ((seed = first; seed < first + seeds; seed++)); do
        run interp 1 test=probe count=1024 "seed=$seed"
        is "probe, seed $seed: the interpreter runs it" "$vm_status" 1 || show "$log"
        grep -v interrupted "$log" >"$TMPDIR/wanted"
        for shadow in auto always; do
                how="seed $seed, shadow $shadow"
                for timer in 0 4000 30000; do
                        run translate 1 test=probe count=1024 "seed=$seed" "timer=$timer"
                        ok "probe, $how, timer $timer: the translator does the same" cmp <(grep -v interrupted "$log") "$TMPDIR/wanted"
                        [ "$timer" = 0 ] || ok "interrupts came" says "$log" interrupted=0x1
                done
                run translate 1 test=tlb count=20000 "seed=$seed"
                is "tlb, $how: nothing stale is seen" "$vm_status" 1 || show "$log"
                run translate 1 test=tlb count=4000 "seed=$seed" timer=5000
                is "tlb, $how: nor between interrupts" "$vm_status" 1 || show "$log"
                run translate 2 test=race count=3000 "seed=$seed"
                is "race, $how: nothing stale is used by another CPU" "$vm_status" 1 || show "$log"
                run translate 2 test=race count=3000 "seed=$seed" timer=8000
                is "race, $how: nor between interrupts" "$vm_status" 1 || show "$log"
        done
done
# Programs that found something once.
while read -r seed shadow timer what; do
        run interp 1 test=probe count=512 "seed=$seed"
        grep -v interrupted "$log" >"$TMPDIR/wanted"
        run translate 1 test=probe count=512 "seed=$seed" "timer=$timer"
        ok "$what" cmp <(grep -v interrupted "$log") "$TMPDIR/wanted"
done <<'EOF'
70319761 always 0 a call through memory whose push misses does not look for its target again
148022816 never 4000 an interrupt at the entry of a block that was dropped goes back to its beginning
301713333 never 0 movsxd of 16 bits reads two bytes
EOF
for test in "1 test=tlb count=1000" "2 test=race count=300"; do
        read -r cpus options <<<"$test"
        VM_TIMEOUT=200 vm "$log" --kernel "$guest" --memory 64M --debug-exit --net none --console stdio --engine translate --check interp --cpus "$cpus" \
                --append "$options seed=$first" --stats "$TMPDIR/stats"
        is "$options: so it is block by block" "$vm_status" 1 || show "$log"
        ok "blocks of every CPU were compared" test "$(awk '$2 == "blocks_checked" && $3 > 1000 { n++ } END { print n }' "$TMPDIR/stats")" = "$cpus"
done
done_testing
