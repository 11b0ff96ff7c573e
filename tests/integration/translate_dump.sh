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

# vmulps ymm0, ymm1, [rbx+rax*4]; vaddps ymm0, ymm0, [rcx+rax*4]; vmovaps [rcx+rax*4], ymm0; add rax, 8; cmp rax, 80000h; jne -27
printf '\xc5\xf4\x59\x04\x83\xc5\xfc\x58\x04\x81\xc5\xfc\x29\x04\x81\x48\x83\xc0\x08\x48\x3d\x00\x00\x08\x00\x75\xe5' >"$TMPDIR/loop"
"$STRATA" vm translate-dump --raw --shadow --base 0x555555554000 "$TMPDIR/loop" >"$log" 2>&1
is "a loop of a busy process is its instructions and a way out" "$(sed -n '/^  0x555555554000/,/^  cold/p' "$log" | grep -c '^ *+0x')" 7 || show "$log"
is "with a comparison of each register before it" "$(sed '/^  0x555555554000/,$d' "$log" | grep -c 'movzx r11d, byte')" 3 || show "$log"

"$STRATA" vm translate-dump --raw --at 0x500000 "$TMPDIR/code" >"$log" 2>&1
is "an address without code is refused" $? 124
ok "by a sentence" grep -q 'no code at 0x500000' "$log"
"$STRATA" vm translate-dump >"$log" 2>&1
is "a file is needed" $? 124
done_testing
