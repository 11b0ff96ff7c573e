#!/bin/bash
# The interpreter against the CPU it runs on: thousands of random instructions here, a million in `make fuzz`. DIFF_SEED chooses others.
. "$(dirname "$0")/lib.sh"
diff=$BUILD/tests/diff/diff-host
[ -x "$diff" ] || skip_all "$diff is not built"
seed=${DIFF_SEED:-$RANDOM$RANDOM}
for bits in 64 32; do
        ok "random $bits-bit instructions, seed $seed" "$diff" --bits $bits --seed "$seed" --cases "${DIFF_CASES:-20000}"
done
done_testing
