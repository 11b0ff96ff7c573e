#!/bin/bash
# test: timeout=240
# The runtime killed at any moment: delete --force takes away what it left, and nothing of it runs on.
. "$(dirname "$0")/oci.bash"
make_bundle
seed=${SEED:-$RANDOM}
RANDOM=$seed
echo "# SEED=$seed"

# The payload marks itself by its argument.
mark=$((100000 + $$))
config "p['args'] = ['/bin/sleep', '$mark']; c['hooks'] = {'createRuntime': [{'path': '/bin/true'}]}"
count_mounts() {
        wc -l </proc/self/mountinfo
}
mounts=$(count_mounts)
survivors=0 undeleted=0
for i in $(seq 60); do
        id=$(name "chaos$i")
        oci_ids+=("$id")
        (cd "$bundle" && exec "$OCI" --root "$TMPDIR/state" create "$id" </dev/null >/dev/null 2>&1) &
        victim=$!
        # Over the time that a create takes, and a little beyond.
        sleep "0.$(printf '%04d' $((RANDOM % 250)))"
        kill -9 $victim 2>/dev/null
        wait $victim 2>/dev/null
        oci delete -f "$id" 2>>"$TMPDIR/errors" || undeleted=$((undeleted + 1))
done 2>/dev/null
is "every one could be deleted" "$undeleted" 0
[ ! -s "$TMPDIR/errors" ] || show "$TMPDIR/errors"
is "no state is left" "$(ls "$TMPDIR/state")" ""
ok "no process is left" eventually not pgrep -f "strata-oci.*$(name chaos)|sleep $mark"
is "no control group is left" "$(find /sys/fs/cgroup -maxdepth 5 -type d -name "$(name chaos)*" 2>/dev/null)" ""
is "no mount is left" "$(count_mounts)" "$mounts"

# Side by side, for the same name and for different ones.
config "p['args'] = ['/bin/true']"
for i in $(seq 20); do
        (cd "$bundle" && oci run "$(name "par$((i % 10))")" </dev/null >/dev/null 2>&1) &
done
wait
is "runs side by side leave nothing" "$(ls "$TMPDIR/state"; find /sys/fs/cgroup -maxdepth 5 -type d -name "$(name par)*" 2>/dev/null)" ""
done_testing
