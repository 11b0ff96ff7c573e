#!/bin/bash
# test: timeout=60
# A user who is not root: the default network through pasta.
. "$(dirname "$0")/net_lib.sh"
command -v pasta >/dev/null || skip_all "passt is not installed"
command -v setpriv >/dev/null || skip_all "setpriv is not installed"

# pasta looks at the host's default route.
container outside
ip link add wire type veth peer name eth0 netns "$outside"
ip address add 192.0.2.1/24 dev wire
ip link set wire up
ip route add default via 192.0.2.2
inside "$outside" ip address add 192.0.2.2/24 dev eth0
inside "$outside" ip link set eth0 up
serve "$outside" 80 "outside"
mount -t tmpfs none /dev/net 2>/dev/null && mknod -m 666 /dev/net/tun c 10 200 || skip_all "no /dev/net/tun"

install -d -o 1000 -g 1000 "$TMPDIR/user"
install -m 755 "$DRIVER" "$TMPDIR/user/driver"
chmod o+x "$TMPDIR"
# Is pid in a user namespace of its own, and mapped?
is_apart() {
        [ "$(readlink "/proc/$pid/ns/user")" != "$(readlink /proc/self/ns/user)" ] && grep -q ' 1000 ' "/proc/$pid/uid_map"
}
# namespace OPTION...: a process of that user in namespaces of its own; its number is in pid.
namespace() {
        setpriv --reuid 1000 --regid 1000 --clear-groups unshare --user --map-root-user "$@" sleep 100 &
        pid=$!
        eventually is_apart || skip_all "no user namespaces for users here"
}
driver() {
        nsenter -t "$pid" -U -- "$TMPDIR/user/driver" "$@"
}
namespace --net
export STRATA_NET_ROOT=$TMPDIR/user/net

ok "a network of one's own is made" driver create web
ok "and removed" driver rm web
driver attach bridge a /proc/$pid/ns/net --pid $pid -p 8080:80 >"$TMPDIR/a"
ok "the default one is not" test $? = 0
serve $pid 80 "a"
is "a published port from the host" "$(get 127.0.0.1:8080 | cut -c1-1)" a
is "and from outside" "$(get_in "$outside" 192.0.2.1:8080 | cut -c1-1)" a
is "the outside is reached" "$(get_in $pid 192.0.2.2 | cut -c1-7)" outside
ok "the host's loopback is not" nothing get_in $pid "$(of a gateway):8080"
ok "all is well" nothing driver check
end $pid
# the namespace of its user, for the rest
namespace
ok "it is detached from elsewhere" driver detach a
ok "and nothing is wrong" nothing driver check
is "no pasta is left" "$(pgrep -c pasta -r S,R)" 0
is "nothing is left" "$(find "$STRATA_NET_ROOT/run" \( -type f -o -type l \) -printf '%P\n')" ""
kill $pid
done_testing
