#!/bin/bash
# What translated code calls runs while the guest's vector registers are in the CPU: that code must not touch them, nor call anything that might. Looked
# at in the machine code of the two libraries that are compiled for it, and in what they want from elsewhere.
. "$(dirname "$0")/lib.sh"
libs=("$BUILD/src/cpu/translate/libtranslate_fast.a" "$BUILD/src/mmu/libmmu_quick.a")
for lib in "${libs[@]}"; do [ -f "$lib" ] || skip_all "$lib is not built"; done
command -v objdump >/dev/null || skip_all "no objdump"
if grep -qE "__(asan|tsan|ubsan)_" < <(nm "${libs[@]}" 2>/dev/null); then skip_all "sanitizers call their own run-time library"; fi

# Libraries are thin: the objects lie beside them.
objects=()
for lib in "${libs[@]}"; do mapfile -t -O "${#objects[@]}" objects < <(find "${lib%.a}.a.p" -name '*.o'); done
ok "there are objects to look at" test "${#objects[@]}" -ge 4
is "vector and x87 registers in them" "$(objdump -d --no-show-raw-insn "${objects[@]}" | grep -cE '%([xyz]?mm[0-9]|st\b|k[0-7])')" 0

# syscall() moves integer registers; whoever calls log_message and abort does not come back. pthread_mutex_trylock and _unlock of an ordinary mutex are a handful of integer instructions; _lock, mmu_walk and blocks_of_page are used by functions of
# links.c that only the outer loop calls.
allowed='syscall|log_message|abort|pthread_mutex_(trylock|unlock|lock)|mmu_walk|blocks_of_page|_GLOBAL_OFFSET_TABLE_|__stack_chk_fail|event_category|trace_mask'
defined=$(nm --defined-only "${objects[@]}" | awk 'NF == 3 { print $3 }' | sort -u)
wanted=$(nm --undefined-only "${objects[@]}" | awk 'NF == 2 { print $2 }' | sort -u)
is "what they call elsewhere" "$(comm -13 <(echo "$defined") <(echo "$wanted") | grep -vxE "$allowed")" ""
done_testing
