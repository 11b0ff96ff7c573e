#!/bin/bash
# test: timeout=300
# The translator against the interpreter: thousands of instructions of every form, alone and in small programs, at CPL 3 and CPL 0. The cases are the
# same every time; a million others are tried in `make fuzz`. DIFF_SEED chooses others.
. "$(dirname "$0")/lib.sh"
diff=$BUILD/tests/diff/diff-engines
[ -x "$diff" ] || skip_all "$diff is not built"
"$diff" --engine translate --against interp --seed "${DIFF_SEED:-1}" --cases "${DIFF_CASES:-20000}"
