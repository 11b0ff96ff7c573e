#!/bin/bash
# test: timeout=600
# What is cloned does not run before it has been told who it is, and has nothing that is another's. CLONES=N makes so many.
export STRATA_ISOLATION=vm
. "$(dirname "$0")/run_lib.sh"

CLONES=${CLONES:-3}
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

strata clone --count "$CLONES" --name twin warm >/dev/null
for i in $(seq "$CLONES"); do
        ok "twin-$i goes on" eventually printed "twin-$i" 300
        # What it was about to print when it was saved may be the first line.
        lines "twin-$i" | sed -n '2,$p' >"$TMPDIR/twin-$i"
        is "it has never been '$old' since" "$(grep -c "^$old" "$TMPDIR/twin-$i")" 0
        is "but one other" "$(cut -d' ' -f1 "$TMPDIR/twin-$i" | grep . | sort -u | grep -c .)" 1
done
# shellcheck disable=SC2046 # words
strata rm -f $(seq -f 'twin-%g' "$CLONES") >/dev/null
is "no two printed the same random bytes" "$(cat "$TMPDIR"/twin-* | cut -d' ' -f2 | sed '/^.\{64\}$/!d' | sort | uniq -d | grep -c .)" 0

# --- on a network -----------------------------------------------------------------------------------------------------

inside() {
        strata exec "$1" sh -c "$2" </dev/null
}
strata network create --subnet 10.88.0.0/24 mine >/dev/null
"$BUSYBOX" nc -ll -p 7000 -e "$BUSYBOX" cat &
server=$!
# shellcheck disable=SC2016 # the machine's shell
strata run -d --name connected --network mine box sh -c 'mkfifo /tmp/in; sleep 100000 >/tmp/in & nc 10.88.0.1 7000 </tmp/in >/tmp/out; echo ended; exec sleep 100000' >/dev/null
inside connected 'i=0; while [ $i -lt 100 ] && ! netstat -tn | grep -q ESTABLISHED; do i=$((i + 1)); sleep 0.1; done; echo a-machine-id >/etc/machine-id'
# echoed TEXT: it comes back to the machine on its connection
echoed() {
        inside connected "echo $1 >/tmp/in; i=0; while [ \$i -lt 100 ] && ! grep -q $1 /tmp/out; do i=\$((i + 1)); sleep 0.1; done; grep -q $1 /tmp/out"
}
ok "a machine is connected to a server" echoed before
ok "it is saved" eval "strata snapshot connected online >/dev/null"
sleep 3 # so that a clock that stood still meanwhile is seen
strata clone --count "$CLONES" --name on --rm online >/dev/null
clones=$(seq -f 'on-%g' "$CLONES")
has_ended() {
        [ "$(lines "$1")" = ended ]
}
wrong=
for name in $clones; do
        eventually has_ended "$name" || wrong+=" $name"
        [ -z "$(inside "$name" 'netstat -tn | grep 10.88')" ] || wrong+=" $name:netstat"
done
is "clones have none of its connections, and their programs know" "$wrong" ""
ok "it goes on with its own" echoed after
wrong=
for name in $clones; do
        from=$(date +%s) clock=$(inside "$name" 'date +%s') to=$(date +%s)
        [ "$clock" -ge $((from - 1)) ] && [ "$clock" -le $((to + 1)) ] || wrong+=" $name:$((clock - from))"
done
is "clones' clocks are right" "$wrong" ""
# answers NAME COMMAND: the first line, when there is one. The kernel gives link-local addresses up to a second after the link is up.
answers() {
        inside "$1" "$2" | head -n 1 | grep .
}
for what in "host name:hostname" "hardware address:cat /sys/class/net/eth0/address" "address:ip -4 -o addr show eth0 | sed 's/.*inet //; s/ .*//'" \
        "link-local address:ip -6 -o addr show eth0 | sed 's/.*inet6 //; s/ .*//'" \
        "machine id:cat /etc/machine-id" "next random bytes:head -c 1000 /dev/urandom | md5sum"; do
        for name in connected $clones; do
                eventually answers "$name" "${what#*:}"
        done >"$TMPDIR/them"
        is "no two have the same ${what%%:*}" "$(sort -u "$TMPDIR/them" | grep -c .)" $((CLONES + 1)) || show "$TMPDIR/them"
done
pkill -P $server
kill $server
# shellcheck disable=SC2086 # words
strata rm -f connected $clones >/dev/null
strata network rm mine >/dev/null

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
strata snapshot rm warm last again online >/dev/null 2>&1
ok "nothing is left over" eval "strata system check >/dev/null"
done_testing
