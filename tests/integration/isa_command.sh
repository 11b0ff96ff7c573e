#!/bin/bash
# test: fast timeout=60
# `strata isa` on real programs and on bad input, and the command's own manners.
. "$(dirname "$0")/lib.sh"

[ -x "$STRATA" ] || skip_all "$STRATA is not built"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# json FILE EXPRESSION: Python's value of EXPRESSION, where d is the JSON document in FILE.
json() {
        /usr/bin/python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"
}

# fails STATUS TEXT ARGUMENT...: strata ends with STATUS, nothing on stdout, TEXT on stderr in its first line.
fails() {
        local status=$1 text=$2 got
        shift 2
        "$STRATA" "$@" >"$dir/out" 2>"$dir/err"
        got=$?
        [ $got = "$status" ] && [ ! -s "$dir/out" ] && head -n 1 "$dir/err" | grep -qF -- "$text" && return
        echo "# status $got"
        show "$dir/err"
        return 1
}

census() {
        "$STRATA" isa census "$@"
}

# into FILE COMMAND...: its output in FILE, so that it does not mix with the TAP.
into() {
        local file=$1
        shift
        "$@" >"$file"
}

# --- real input ----------------------------------------------------------------------------------------------------

ok "busybox is counted" into "$dir/busybox.json" census --format json --limit all /bin/busybox
is "busybox has the instructions that a program has" \
        "$(json "$dir/busybox.json" 'd["instructions"] > 100000 and d["classes"]["safe"] > 0.99 * d["instructions"]')" True
is "the classes add up" "$(json "$dir/busybox.json" 'sum(d["classes"].values()) == d["instructions"]')" True
is "the mnemonics add up" "$(json "$dir/busybox.json" 'sum(d["mnemonics"].values()) == d["instructions"]')" True
is "every violation is listed" "$(json "$dir/busybox.json" 'len(d["findings"]) == d["violations"] > 0')" True
is "a static program with cpuid is not strictly virtualizable" "$(json "$dir/busybox.json" 'd["strictly_virtualizable"]')" False
is "nothing but the result is written into a pipe" "$(census /bin/busybox 2>&1 >/dev/null)" ""

# The oracle: binutils, on a function that the sweep cannot miss.
if command -v objdump >/dev/null; then
        objdump -d --no-show-raw-insn /bin/busybox | grep -cE '\scpuid\s*$' >"$dir/objdump"
        is "as many cpuid as objdump finds" "$(json "$dir/busybox.json" 'd["mnemonics"]["cpuid"]')" "$(cat "$dir/objdump")"
else
        skip "as many cpuid as objdump finds" "no objdump"
fi
ok "a shared object is counted" into "$dir/libc" census --limit all "$(ldd /bin/bash | sed -n 's/.*=> \(.*libc\.so\.6\) .*/\1/p')"
ok "symbols name the places" grep -qE '0x[0-9a-f]{16}  [a-z ]+ \S+\+0x' "$dir/libc"

kernel=$(find /boot "$ASSETS" -maxdepth 1 -name 'vmlinuz*' 2>/dev/null | head -n 1)
if [ -n "$kernel" ]; then
        ok "the kernel inside a bzImage is counted" into "$dir/kernel.json" census --format json "$kernel"
        is "it has what makes x86 hard to virtualize" \
                "$(json "$dir/kernel.json" '{"popfq", "pushfq", "iretq", "mov to sreg"} <= {s["instruction"] for s in d["sensitive"] if s["violates"]}')" True
        head -c 100000 "$kernel" >"$dir/short"
        ok "a truncated bzImage is refused" fails 125 "$dir/short" isa census "$dir/short"
else
        skip "the kernel inside a bzImage is counted" "no kernel here; make assets"
fi

# --- raw code and machines -----------------------------------------------------------------------------------------

printf '\x0f\x01\xe0\x9d\xc3' >"$dir/code" # smsw eax; popf; ret
census --raw --base 0x7c00 --format json "$dir/code" >"$dir/raw.json"
is "a raw file is where --base says" "$(json "$dir/raw.json" 'd["findings"][0]["address"], d["violations"]')" "('0x7c03', 1)"
census --raw --machine classic --format json "$dir/code" >"$dir/raw.json"
is "without UMIP smsw does not trap" "$(json "$dir/raw.json" 'd["violations"]')" 2
census --raw --machine linux,-umip --format json "$dir/code" >"$dir/raw.json"
is "settings of a machine can be changed" "$(json "$dir/raw.json" 'd["violations"], "umip" in d["machine"]["settings"]')" "(2, False)"
census --raw --mode real --format json "$dir/code" >"$dir/raw.json"
is "in virtual-8086 mode with UMIP the same code is strictly virtualizable" "$(json "$dir/raw.json" 'd["strictly_virtualizable"]')" True
is "--limit 0 lists nothing and counts all the same" \
        "$(census --raw --machine classic --limit 0 --format json "$dir/code" | tee "$dir/raw.json" | json /dev/stdin '(len(d["findings"]), d["violations"])')" "(0, 2)"

# --- list and classify ---------------------------------------------------------------------------------------------

"$STRATA" isa list --format json >"$dir/list.json"
is "the list has every class" "$(json "$dir/list.json" 'sorted({i["class"] for i in d["instructions"]})')" \
        "['behaviour-sensitive', 'control-sensitive', 'privileged', 'safe']"
is "every line has a reason and a source" "$(json "$dir/list.json" 'all(i["reason"] and i["source"] for i in d["instructions"])')" True
is "lar violates whatever the monitor sets" \
        "$("$STRATA" isa list --machine strict --format json >"$dir/l" && json "$dir/l" '[i["violates"] for i in d["instructions"] if i["instruction"] == "lar"]')" "[True]"
ok "classify explains popf" grep -q control-sensitive <("$STRATA" isa classify 9d)
is "classify knows the levels" "$("$STRATA" isa classify --format json fa >"$dir/l" && json "$dir/l" 'd[0]["outcome_by_cpl"]')" "['runs', 'faults', 'faults', 'faults']"
is "classify takes bytes in any spelling" "$("$STRATA" isa classify 0x0f 01,E0 '\x90' | grep -c class)" 2

# --- bad input -----------------------------------------------------------------------------------------------------

: >"$dir/empty"
echo "plain text" >"$dir/text"
head -c 70 /bin/busybox >"$dir/truncated"
ok "a missing file" fails 125 "No such file" isa census "$dir/missing"
ok "a directory" fails 125 "directory" isa census "$dir"
ok "an empty file" fails 125 "is empty" isa census "$dir/empty"
ok "a foreign file" fails 125 "neither ELF nor a bzImage" isa census "$dir/text"
ok "a truncated ELF file" fails 125 "truncated" isa census "$dir/truncated"
ok "no file" fails 124 "one FILE" isa census
ok "two files" fails 124 "one FILE" isa census a b
ok "an unknown option" fails 124 "--frob" isa census --frob
ok "an option without its value" fails 124 "--limit" isa census /bin/busybox --limit
ok "a bad number" fails 124 "many" isa census --limit many /bin/busybox
ok "a bad machine" fails 124 "486" isa census --machine 486 /bin/busybox
ok "a bad mode" fails 124 "smm" isa list --mode smm
ok "a bad format" fails 124 "xml" isa list --format xml
ok "bytes that are no instruction" fails 124 "no instruction" isa classify 06
ok "bytes that are not hexadecimal" fails 124 "'g'" isa classify 0g
ok "half a byte" fails 124 "odd" isa classify 123
ok "an unknown command" fails 124 "frobnicate" frobnicate
ok "an unknown command of a group" fails 124 "frobnicate" isa frobnicate
ok "no command" fails 124 "needs a command" isa
ok "an unknown command comes with a hint" grep -q '^hint: ' "$dir/err"
is "a full disk is noticed" "$("$STRATA" isa list 2>&1 >/dev/full | grep -c 'writing the output')" 1

# --- the command ---------------------------------------------------------------------------------------------------

ok "--version" grep -qE '^strata [0-9]+\.[0-9]+' <("$STRATA" --version)
ok "--help lists the commands" grep -q 'strata isa census' <("$STRATA" --help)
for command in census list classify; do
        ok "isa $command --help" grep -q "usage: strata isa $command" <("$STRATA" isa $command --help)
done

# vm run is another program in the same directory, whatever that is called and wherever one stands.
mkdir "$dir/bin"
cp "$STRATA" "$dir/bin/strata"
STRATA=$dir/bin/strata
ok "without strata-vmm beside it vm run says so" fails 125 "$dir/bin/strata-vmm" vm run
# shellcheck disable=SC2016
printf '#!/bin/bash\necho "$0: $*"; exit 33\n' >"$dir/bin/strata-vmm"
chmod +x "$dir/bin/strata-vmm"
is "vm run hands its options over" "$(cd / && "$STRATA" vm run --kernel 'a b' --help; echo $?)" "$dir/bin/strata-vmm: --kernel a b --help
33"

done_testing
