#!/bin/bash
# test: timeout=180
# Networks that a user makes without root: names, the way out, connect and disconnect, and nothing left whoever is killed.
if [ -z "${STRATA_TEST_USER:-}" ]; then
        if [ -z "${STRATA_TEST_MOUNTS:-}" ] && [ "$(id -u)" = 0 ]; then
                STRATA_TEST_MOUNTS=1 exec unshare -m "$0"
        fi
        . "$(dirname "$0")/run_lib.sh"
        command -v pasta >/dev/null || skip_all "passt is not installed"
        mount -t tmpfs none /dev/net 2>/dev/null && mknod -m 666 /dev/net/tun c 10 200 || skip_all "no /dev/net/tun"
        chmod 755 "$TMPDIR"
        busybox_image busybox
        mkdir "$TMPDIR/home" && cp "$TMPDIR/busybox.tar" "$TMPDIR/home/" && chown -R 23456:23456 "$TMPDIR/home"
        # What the user can reach: the build may be in a directory that is root's alone.
        mkdir "$TMPDIR/bin" && cp "$BUILD"/strata{,-supervise,-resolve} "$TMPDIR/bin/"
        setpriv --reuid=23456 --regid=23456 --clear-groups test -x "$TMPDIR/bin/strata" || skip_all "users cannot reach $TMPDIR"
        setpriv --reuid=23456 --regid=23456 --clear-groups unshare -U true 2>/dev/null || skip_all "users have no namespaces here"
        cp "$ROOT"/tests/integration/{lib.sh,run_rootless_net.sh} "$TMPDIR/bin/"
        # pasta looks at the host's default route; behind it somebody answers.
        unshare -n sleep 170 &
        outside=$!
        while [ "$(readlink "/proc/$outside/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
        ip link add wire type veth peer name eth0 netns "$outside"
        ip address add 192.0.2.1/24 dev wire && ip link set wire up && ip route add default via 192.0.2.2
        nsenter -t "$outside" -n sh -c 'ip address add 192.0.2.2/24 dev eth0; ip link set eth0 up'
        nsenter -t "$outside" -n "$BUSYBOX" nc -ll -p 80 -e "$BUSYBOX" echo outside &
        server=$!
        dir=$TMPDIR
        STRATA_TEST_USER=1 HOME=$dir/home TMPDIR=$dir/home STRATA=$dir/bin/strata \
                setpriv --reuid=23456 --regid=23456 --clear-groups bash "$dir/bin/run_rootless_net.sh"
        kill $server $outside
        exit
fi
. "$(dirname "$0")/lib.sh"
export STRATA_ROOT=$TMPDIR/root
strata() {
        "$STRATA" "$@"
}
pids() { # PATTERN: of this test's processes of that command line
        pgrep -u 23456 -f "^$(dirname "$STRATA")/$1"
}
helpers() { # what of ours and of pasta runs for the user's networks
        local pid
        {
                pids strata-resolve
                for pid in $(pgrep -u 23456 -f '/pasta '); do
                        [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] || echo "$pid"
                done
        } | wc -l
}
has() {
        [[ $1 == *"$2"* ]] && return
        printf '# got:  %s\n# part: %s\n' "$1" "$2"
        return 1
}
strata image import "$TMPDIR/busybox.tar" busybox >/dev/null
ask() { # NETWORK NAME: what is said at its port 80
        strata run --init --rm --network "$1" busybox sh -c "timeout 2 nc $2 80 </dev/null" 2>/dev/null | head -n 1 # pasta says it several times when the end comes at once, and does not always pass that on
}

strata network create --subnet 10.88.0.0/24 web >/dev/null
strata network create other >/dev/null
is "network ls" "$(strata network ls --format '{{.Name}}' | tr '\n' ' ')" "bridge none host other web "
ok "nothing runs for a network without containers" test "$(helpers)" = 0
strata run -d --name a --network web --network-alias friend --ip 10.88.0.7 busybox nc -ll -p 80 -e echo served >/dev/null
is "--ip" "$(strata inspect -f '{{.NetworkSettings.Networks.web.IPAddress}}' a)" 10.88.0.7
is "by name" "$(ask web a)" served
is "by alias" "$(ask web friend)" served
is "by address" "$(ask web 10.88.0.7)" served
is "not from another network" "$(ask other 10.88.0.7)" ""
is "the outside is reached" "$(ask web 192.0.2.2)" outside
ok "the host's loopback is not" test -z "$(ask web 10.0.2.2)"
is "network inspect has it" "$(strata network inspect -f '{{len .Containers}}' web)" 1
strata rename a b
is "a new name is answered" "$(ask web b)" served
strata network connect --alias there other b
is "connect: reached from there" "$(ask other there)" served
strata network disconnect other b
is "disconnect" "$(ask other there)" ""
is "it is still where it was" "$(ask web b)" served
errors=$(strata network connect bridge b 2>&1)
ok "the default network beside one's own: an error says why" has "$errors" "not on both"
errors=$(strata run --rm --network web -p 8080:80 busybox true 2>&1)
ok "a port on one's own: an error says why" has "$errors" "needs root"
ok "a network in use is not removed" bash -c '! "$1" network rm web 2>/dev/null' _ "$STRATA"
ok "all is well" strata system check
strata restart -t 0 b >/dev/null
is "after a restart" "$(ask web b)" served
strata rm -f b >/dev/null
is "with the last container everything goes" "$(helpers)" 0

# --- somebody is killed ---------------------------------------------------------------------------------------------------------

strata run -d --name a --network web busybox nc -ll -p 80 -e echo served >/dev/null
kill -9 "$(pids strata-supervise)"
strata ps >/dev/null
is "the supervisor: nothing is left" "$(helpers)" 0
strata rm -f a >/dev/null
strata run -d --name a --network web busybox nc -ll -p 80 -e echo served >/dev/null
kill -9 "$(pids 'strata-resolve hold')"
strata system check >/dev/null
strata restart -t 0 a >/dev/null
is "who keeps the namespace: made anew" "$(ask web a)" served
strata rm -f a >/dev/null
is "nothing is left" "$(helpers)" 0
is "prune" "$(strata network prune -f | sort | tr '\n' ' ')" "other web "
ok "all is well" strata system check
is "no state either" "$(find "$STRATA_ROOT/net/run" \( -type f -o -type l \) -printf '%P\n')" ""
done_testing
