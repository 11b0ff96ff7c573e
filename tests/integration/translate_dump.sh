#!/bin/bash
# `strata vm translate-dump`: what the translator makes of code, without running it; --trace translate shows the same of what runs.
. "$(dirname "$0")/lib.sh"
[ -x "$STRATA" ] || skip_all "$STRATA is not built"
log=$TMPDIR/dump

# mov rax, [rdi]; add rbx, rax; jz +2; cpuid; ret
printf '\x48\x8b\x07\x48\x01\xc3\x74\x02\x0f\xa2\xc3' >"$TMPDIR/code"
"$STRATA" vm translate-dump --raw --base 0x401000 "$TMPDIR/code" >"$log" 2>&1
is "a raw file is dumped" $? 0 || show "$log"
ok "an instruction that is copied says so" grep -qE '0x401003 +add rbx, rax +; identity' "$log"
ok "one that is not says why" grep -qE '0x401000 +mov rax, \[rdi\] +; inline: memory operand' "$log"
ok "one for C code says so" grep -qE '0x401008 +cpuid +; call-out: ' "$log"
ok "the host's code stands below" grep -qE '\+0x[0-9a-f]+ +48 01 c3 +add rbx, rax' "$log"
ok "ways out are explained" grep -qE '\[miss, read of 8; instruction at \+0x0' "$log"

"$STRATA" vm translate-dump --raw - <"$TMPDIR/code" >"$TMPDIR/stdin" 2>&1
is "standard input is read" "$(wc -l <"$TMPDIR/stdin")" "$(wc -l <"$log")"
"$STRATA" vm translate-dump --blocks 0 "$STRATA" >"$log" 2>&1
is "a whole program is dumped" $? 0 || { tail -n 5 "$log" >"$log.end" && show "$log.end"; }
ok "with totals" grep -qE '^[0-9]+ blocks, [0-9]+ instructions' "$log"
head -c 100000 /dev/urandom >"$TMPDIR/noise"
"$STRATA" vm translate-dump --raw --user --blocks 0 "$TMPDIR/noise" >"$log" 2>&1
is "noise is dumped" $? 0

"$STRATA" vm translate-dump --raw --at 0x500000 "$TMPDIR/code" >"$log" 2>&1
is "an address without code is refused" $? 124
ok "by a sentence" grep -q 'no code at 0x500000' "$log"
"$STRATA" vm translate-dump >"$log" 2>&1
is "a file is needed" $? 124
done_testing
