#!/bin/bash
# The interpreter's handlers go on to each other by tail calls. One that does so by an ordinary call works, but the host's stack grows with every
# instruction until it is full: so the machine code must have no indirect call in a handler (other than through a table of device functions).
. "$(dirname "$0")/lib.sh"
vmm=$BUILD/strata-vmm
[ -x "$vmm" ] || skip_all "$vmm is not built"
command -v objdump >/dev/null || skip_all "no objdump"
if grep -qE "__(asan|tsan|ubsan)_" < <(nm -D "$vmm"); then skip_all "sanitized builds do not use tail calls"; fi
code=$TMPDIR/code
objdump -d --no-show-raw-insn "$vmm" | awk '
        /^[0-9a-f]+ <.*>:$/ { name = substr($2, 2, length($2) - 3) }
        { print name "\t" $0 }' >"$code"

# A uop starts with its handler: NEXT loads from a fixed offset behind the current uop, ENTER_BLOCK from the block.
handlers=$(awk -F'\t' '$3 ~ /^jmp +\*/ || $0 ~ /jmp +\*(0x[0-9a-f]+)?\(%r/ { print $1 }' "$code" | sort -u | wc -l)
ok "handlers end in indirect jumps ($handlers functions do)" test "$handlers" -gt 500
nested=$(awk -F'\t' '$1 ~ /^(op|sys|jcc|mov|movzx|movsx|movsxd|lea|cmov|set|xchg|add|or|adc|sbb|and|sub|xor|cmp|test|lock|inc|dec|neg|not|rol|ror|rcl|rcr|shl|shr|sar|imul)_?.*(_slow|_[rm][rmi]?|_any|_u(8|16|32|64))?$/ &&
        $0 ~ /call +\*0x28\(%r/ { print $1 }' "$code" | sort -u)
is "handlers that call the next one" "$nested" ""
done_testing
