#!/bin/bash
# test: timeout=600
# What is cloned does not run before it has been told who it is.
export STRATA_ISOLATION=vm
. "$(dirname "$0")/run_lib.sh"

CLONES=3
command -v gcc >/dev/null || skip_all "no C compiler"
busybox_image box
gcc -O1 -static -o "$TMPDIR/busybox/bin/identity" "$ROOT/tests/guests/programs/identity.c" || exit 1
busybox_image box

# lines NAME: what it has printed
lines() {
        strata logs "$1" 2>/dev/null
}
# printed NAME N: at least so much
printed() {
        [ "$(lines "$1" | head -n "$2" | grep -c .)" = "$2" ]
}

if ! strata run -d --name one --network none box /bin/identity >/dev/null 2>"$TMPDIR/errors"; then
        show "$TMPDIR/errors"
        ok "a machine runs" false
        done_testing
        exit
fi
ok "the machine says who it is, again and again" eventually printed one 200
old=$(lines one | head -n 1 | cut -d' ' -f1)
ok "it is saved" eval "strata snapshot one warm >/dev/null"
before=$(lines one | grep -c .)
ok "it goes on" eventually printed one $((before + 200))
strata rm -f one >/dev/null

strata clone --count $CLONES --name twin warm >/dev/null
for i in $(seq $CLONES); do
        ok "twin-$i goes on" eventually printed "twin-$i" 300
        # What it was about to print when it was saved may be the first line.
        lines "twin-$i" | sed -n '2,$p' >"$TMPDIR/twin-$i"
        is "it has never been '$old' since" "$(grep -c "^$old" "$TMPDIR/twin-$i")" 0
        is "but one other" "$(cut -d' ' -f1 "$TMPDIR/twin-$i" | grep . | sort -u | grep -c .)" 1
done
strata rm -f $(seq -f 'twin-%g' $CLONES) >/dev/null
is "no two printed the same random bytes" "$(cat "$TMPDIR"/twin-* | cut -d' ' -f2 | sed '/^.\{64\}$/!d' | sort | uniq -d | grep -c .)" 0

# A command that is killed while it saves: the machine goes on.
strata run -d --name two --network none box /bin/identity >/dev/null
for delay in 0.01 0.03 0.1; do
        strata snapshot two again >/dev/null 2>&1 &
        sleep $delay
        kill -9 $! 2>/dev/null
        wait $! 2>/dev/null
done
before=$(lines two | grep -c .)
ok "who is killed while saving lets its processes go on" eventually printed two $((before + 200))
is "others can be started, as a container's" "$(strata exec two sh -c 'cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | grep -c .' </dev/null | head -n 1)" "0::/"
ok "and it can be saved" eval "strata snapshot two last >/dev/null"
ok "it stops" eval "strata stop -t 1 two >/dev/null"
strata rm -f two >/dev/null
strata snapshot rm warm last again >/dev/null 2>&1
ok "nothing is left over" eval "strata system check >/dev/null"
done_testing
