#!/bin/bash
# test: timeout=240
# Networks of containers in a namespace that plays the host: who reaches whom, by address, name and published port, and that
# nothing stays behind.
. "$(dirname "$0")/net_lib.sh"

# The outside: a host on the same wire.
container outside
ip link add wire type veth peer name eth0 netns "$outside"
ip address add 192.0.2.1/24 dev wire
ip link set wire up
inside "$outside" ip address add 192.0.2.2/24 dev eth0
inside "$outside" ip link set eth0 up
serve "$outside" 80 "outside"

container a
container b
container c
container d
is "a user-defined network" "$(net create web --ipv6 >/dev/null && echo created)" created
net create other >/dev/null
net create inner --internal >/dev/null
ok "a container on it" attach web a "$a" -p 8080:80 -p 127.0.0.1:8081:80 -p 5353:53/udp
ok "another one" attach web b "$b" --alias database --hold 0
attach other c "$c"
attach inner d "$d"
serve "$a" 80 "a"
serve "$c" 80 "c"

# --- by address ------------------------------------------------------------------------------------------------------

is "a neighbour by address" "$(get_in "$b" "$(address a)")" "a to $(address b)"
is "the host reaches its containers" "$(get "$(address a)" | cut -c1-1)" a
is "the outside by masquerading" "$(get_in "$a" 192.0.2.2)" "outside to 192.0.2.1"
ok "another network's container is not reached" nothing get_in "$b" "$(address c)"
ok "nor the other way" nothing get_in "$c" "$(address a)"
ok "an internal network reaches nothing outside" nothing get_in "$d" 192.0.2.2
ok "nor other networks" nothing get_in "$d" "$(address a)"
inside "$outside" ip route add "$(address a)/32" via 192.0.2.1
ok "what is not published is closed, also for who routes to it" nothing get_in "$outside" "$(address a)"
serve "$a" 8000 "a6" "::"
is "a neighbour by IPv6" "$(get_in "$b" "[$(of a ip6)]:8000")" "a6 to $(of b ip6)"

# --- published ports ----------------------------------------------------------------------------------------------------

is "a published port from outside" "$(get_in "$outside" 192.0.2.1:8080)" "a to 192.0.2.2"
is "and from the host by its address" "$(get 192.0.2.1:8080 | cut -c1-1)" a
is "and by 127.0.0.1" "$(get 127.0.0.1:8080 | cut -c1-1)" a
is "and from a neighbour" "$(get_in "$b" 192.0.2.1:8080 | cut -c1-1)" a
is "and from the container itself" "$(get_in "$a" 192.0.2.1:8080 | cut -c1-1)" a
is "and from another network" "$(get_in "$c" 192.0.2.1:8080 | cut -c1-1)" a
ok "but not from an internal one" nothing get_in "$d" 192.0.2.1:8080
is "one published on 127.0.0.1 is there" "$(get 127.0.0.1:8081 | cut -c1-1)" a
ok "and not outside" nothing get_in "$outside" 192.0.2.1:8081
ok "nor in a container" nothing get_in "$b" 192.0.2.1:8081
udp "$a" 53 'reply(b"pong " + data)'
is "a UDP port from outside" "$(inside "$outside" /usr/bin/python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2); s.sendto(b"x", ("192.0.2.1", 5353)); print(s.recv(100).decode())' 2>&1)" "pong x"

ip address add 2001:db8::1/64 dev wire nodad
inside "$outside" ip address add 2001:db8::2/64 dev eth0 nodad
container six
ok "what cannot work is refused: ::1" fails net attach web six "/proc/$six/ns/net" -p '[::1]:8089:8000'
attach web six "$six" -p 8088:8000
serve "$six" 8000 "six" "::"
is "a published port by IPv6" "$(get_in "$outside" '[2001:db8::1]:8088')" "six to 2001:db8::2"
is "the outside by IPv6" "$(serve "$outside" 81 outside :: && get_in "$six" '[2001:db8::2]:81')" "outside to 2001:db8::1"
end "$six"
net detach six

# The bridges route loopback addresses for that; containers must not profit: a packet for 127.0.0.1 on the bridge's wire, and one
# that says it comes from there.
/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory / 9999 >/dev/null 2>&1 &
/usr/bin/python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 9998))
while True:
    print(s.recv(100).decode(), flush=True)' >"$TMPDIR/heard" &
container i
attach other i "$i"
# say SOURCE DESTINATION TEXT: a UDP packet to port 9998 in a frame to the bridge
say() {
        inside "$i" /usr/bin/python3 -c '
import socket, struct, sys
source, destination, text, bridge = socket.inet_aton(sys.argv[1]), socket.inet_aton(sys.argv[2]), sys.argv[3].encode(), bytes.fromhex(sys.argv[4].replace(":", ""))
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(text), 1, 0, 64, 17, 0, source, destination)
n = sum(struct.unpack("!10H", ip))
n = ~((n & 0xffff) + (n >> 16)) & 0xffff
packet = ip[:10] + struct.pack("!H", n) + ip[12:] + struct.pack("!HHHH", 1000, 9998, 8 + len(text), 0) + text
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
s.send(bridge + s.getsockname()[4] + b"\x08\0" + packet)' "$1" "$2" "$3" "$(cat "/sys/class/net/$(net ls | awk '$2 == "other" { print $4 }')/address")"
}
mount -t sysfs none /sys 2>/dev/null
say "$(address i)" 127.0.0.1 to-loopback
say 127.0.0.1 "$(of i gateway)" from-loopback
say "$(address i)" "$(of i gateway)" plain
eventually test -s "$TMPDIR/heard"
is "packets to and from the host's loopback are dropped" "$(paste -sd' ' "$TMPDIR/heard")" plain

container e
ok "a port that is published already is refused" fails net attach web e "/proc/$e/ns/net" -p 8080:80
ok "with its number" grep -q '8080/tcp' "$TMPDIR/failed"
ok "a port of a program of the host is refused" fails net attach web e "/proc/$e/ns/net" -p 9999:80
is "and nothing of the container is left" "$(net endpoints | grep -c '^e ')" 0
ok "a host port that is free is chosen" attach web e "$e" -p 80 -p 8100-8101:81-82 --hold 1
port=$(grep -oE 'port=0.0.0.0:[0-9]+:80/' "$TMPDIR/e" | cut -d: -f2)
serve "$e" 80 "e"
is "and works" "$(get 127.0.0.1:"$port" | cut -c1-1)" e
ok "as does a range" grep -q 'port=0.0.0.0:8100:81/tcp port=0.0.0.0:8101:82/tcp' "$TMPDIR/e"

# The operator's rules.
nft add table inet operator
nft add chain inet operator forward '{ type filter hook forward priority 10; policy accept; }'
nft add rule inet operator forward meta l4proto tcp ct original proto-dst 8080 drop
ok "the operator's drop wins" nothing get_in "$outside" 192.0.2.1:8080
nft delete table inet operator
nft add table inet operator
nft add chain inet operator input '{ type filter hook input priority 0; policy drop; }'
: >"$TMPDIR/notices"
container f
attach other f "$f" -p 8200:80
ok "and an input policy that published ports pass by is told of" grep -q 'operator input' "$TMPDIR/notices"
nft delete table inet operator

# --- virtual machines ----------------------------------------------------------------------------------------------------

"$DRIVER" attach web vm - --tap --hold 3 >"$TMPDIR/vm" 2>&1 &
vm=$!
eventually test -s "$TMPDIR/vm"
is "a virtual machine gets a tap on the bridge" "$(ip -o link show dev "$(of vm host)" | grep -oE 'master [^ ]*')" "master $(net ls | awk '$2 == "web" { print $4 }')"
kill "$vm"
wait "$vm" 2>/dev/null
ok "which goes with it" fails ip link show dev "$(of vm host)"
net detach vm

# guest NETWORK NAME OPTION...: a machine on the network: its process is $cable, its network inside is the namespace $guest.
guest() {
        local network=$1 name=$2
        shift 2
        container guest
        rm -f "$TMPDIR/$name"
        "$DRIVER" attach "$network" "$name" "/proc/$guest/ns/net" --name "$name" --guest "$@" >"$TMPDIR/$name" 2>>"$TMPDIR/notices" &
        cable=$!
        eventually grep -q '^cable' "$TMPDIR/$name"
        inside "$guest" ip link set eth0 address "$(of "$name" mac)"
        inside "$guest" ip link set eth0 up
        inside "$guest" ip link set lo up
        inside "$guest" ip address add "$(of "$name" ip)" dev eth0
        inside "$guest" ip route add default via "$(of "$name" gateway)"
}

# ask_as PID SERVER NAME [TYPE [PROTOCOL]]
ask_as() {
        local pid=$1
        shift
        inside "$pid" /usr/bin/python3 "$ROOT/tests/integration/net_ask.py" "$@" 2>/dev/null | paste -sd' '
}

container peer
attach web peer "$peer"
guest web machine -p 8300:80
dns=$(of machine dns)
serve "$guest" 80 "machine"
serve "$peer" 80 "peer"
is "a machine's resolver is another address of the network" "${dns%.*} $([ "$dns" = "$(address machine)" ] || echo other)" "$(address machine | sed 's/\.[0-9]*$//') other"
is "a machine asks for a container by name" "$(ask_as "$guest" "$dns" peer)" "NOERROR $(address peer)"
is "by TCP, too" "$(ask_as "$guest" "$dns" peer A tcp)" "NOERROR $(address peer)"
is "a container asks for a machine by name" "$(ask "$peer" machine)" "NOERROR $(address machine)"
is "and each reaches the other" "$(get_in "$guest" "$(address peer)") $(get_in "$peer" "$(address machine)")" "peer to $(address machine) machine to $(address peer)"
is "nobody else gets an answer of a machine's resolver" "$(ask_as "$peer" "$dns" peer A tcp | sed "s,^no answer: .*,no answer,")" "no answer"
is "a machine's published port" "$(get 127.0.0.1:8300 | cut -d' ' -f1)" machine
is "nothing is amiss with it" "$(net check)" ""
resolver=$(pgrep -f "strata-resolve machine ")
misses() { # WHAT: it is amiss
        net check >"$TMPDIR/check"
        grep -q "$1" "$TMPDIR/check"
}
kill -9 "$resolver"
eventually misses resolver
is "a resolver that was killed comes back" "$(grep -c resolver "$TMPDIR/check") $(ask_as "$guest" "$dns" peer)" "1 NOERROR $(address peer)"
kill -9 "$cable"
wait "$cable" 2>/dev/null
net check >"$TMPDIR/check"
ok "a machine that was killed is taken off its network" grep -q "'machine' is on the network 'web' still" "$TMPDIR/check"
is "with its resolver" "$(pgrep -f 'strata-resolve machine ')$(ls "$STRATA_NET_ROOT"/run/*/addresses/*/ | grep -cx "$dns")" 0
guest web machine
net detach machine
is "one that is detached leaves no resolver" "$(pgrep -f 'strata-resolve machine ')" ""
kill "$cable"
wait "$cable" 2>/dev/null
end "$peer"
net detach peer

# --- a UDP client that goes on while the container is replaced ------------------------------------------------------------

container old
container new
attach other old "$old" -p 5300:53/udp
udp "$old" 53 'reply(b"old")'
udp "$new" 53 'reply(b"new")'
inside "$outside" /usr/bin/python3 -c '
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
while True:
    s.sendto(b"x", ("192.0.2.1", 5300))
    try:
        print(s.recv(10).decode(), flush=True)
    except OSError:
        pass
    time.sleep(0.05)' >"$TMPDIR/heard" &
client=$!
eventually test -s "$TMPDIR/heard"
end "$old"
net detach old
attach other new "$new" -p 5300:53/udp
hears_new() {
        [ "$(tail -n 1 "$TMPDIR/heard")" = new ]
}
eventually hears_new
kill "$client"
version=$(uname -r | awk -F. '{ print $1 * 1000 + $2 }')
if [ "$version" -ge 6009 ]; then
        is "reaches the new one" "$(tail -n 1 "$TMPDIR/heard")" new
else
        skip "reaches the new one" "the kernel cannot forget some flows before 6.9"
fi
end "$new"
net detach new

# --- names --------------------------------------------------------------------------------------------------------------------

is "a neighbour by name" "$(ask "$b" a A)" "NOERROR $(address a)"
is "in capitals, by TCP" "$(ask "$b" A A tcp)" "NOERROR $(address a)"
is "by its IPv6 address" "$(ask "$b" a AAAA)" "NOERROR $(of a ip6)"
is "by an alias" "$(ask "$a" database A)" "NOERROR $(address b)"
is "an address by its name" "$(ask "$b" "$(address a | awk -F. '{print $4"."$3"."$2"."$1}').in-addr.arpa" PTR)" "NOERROR a"
ok "a name of another network is unknown" test "$(ask "$c" a A)" != "NOERROR $(address a)"
is "an internal network asks nobody outside" "$(ask "$d" example.org A)" "NXDOMAIN"
# A server outside that knows everything.
# shellcheck disable=SC2016
udp "$outside" 53 '
answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x08\x08\x04\x04"
reply(b"\0\0" + data[2:])  # wrong number
reply(data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0\1x\0\0\1\0\1" + answer)  # wrong question
reply(data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:] + answer)'
container g
attach other g "$g" --dns 192.0.2.2
is "other names are asked outside, and forged replies ignored" "$(ask "$g" example.org A)" "NOERROR 8.8.4.4"

# --- when somebody interferes ----------------------------------------------------------------------------------------------

ok "all is well" nothing net check
nft flush ruleset
ok "a flushed ruleset is found" grep -q 'the table is gone' <(net check)
is "and comes back with the ports" "$(get_in "$outside" 192.0.2.1:8080)" "a to 192.0.2.2"
nft flush ruleset
container h
attach other h "$h"
is "attaching brings it back, too" "$(get_in "$outside" 192.0.2.1:8080)" "a to 192.0.2.2"
kill -9 "$(pgrep -f '[s]trata-resolve b')"
ok "a killed resolver is found" eventually misses "resolver of 'b'"
is "and comes back" "$(ask "$b" a A)" "NOERROR $(address a)"
ip link delete "$(net ls | awk '$2 == "web" { print $4 }')"
net check >/dev/null
is "so does a removed bridge" "$(get_in "$b" "$(address a)")" "a to $(address b)"

# --- what belongs to nobody -----------------------------------------------------------------------------------------------

run=$(echo "$STRATA_NET_ROOT"/run/*-*)
key=$(net ls | awk '$2 == "web" { print $1 }')
bridge=$(net ls | awk '$2 == "web" { print $4 }')
ln -s "ghost name" "$run/addresses/$key/10.220.0.77"
mkdir -p "$run/names/$key/ghost" && ln -s 10.220.0.77 "$run/names/$key/ghost/ghost"
ip link add sv000000000000 type veth peer name ghost
ip link set sv000000000000 master "$bridge"
table=$(nft list tables | awk '/strata/ { print $3 }')
nft add element inet "$table" ports4 '{ tcp . 9000 : 10.220.0.77 . 80 }'
mkdir -p "$run/endpoints/ghost" && echo '{' >"$run/endpoints/ghost/$key.json"
mkdir -p "$STRATA_NET_ROOT/run/00000000-1/endpoints/x"
: >"$STRATA_NET_ROOT/networks/.99.x.json"
: >"$run/helpers/spook.dns"
is "an address, a name, an interface, a port, a record, a helper: each is found" "$(net check | sort | cut -d' ' -f1-3 | paste -sd,)" \
        "1 published ports,a helper of,the address 10.220.0.77,the interface 'sv000000000000',the name 'ghost',the record '$key.json'"
ok "and gone" nothing net check
is "with the files of an earlier boot, and of a killed process" "$(find "$STRATA_NET_ROOT" -name "0000*" -o -name ".99*")" ""
is "and no other port" "$(get 127.0.0.1:8080 | cut -c1-1)" a

# --- the end ---------------------------------------------------------------------------------------------------------------------

ok "a network in use is not removed" fails net rm web
net detach b web
is "a detached container's name is gone" "$(ask "$a" b A | grep -c "$(address b)")" 0
is "and its interface, at once" "$(inside "$b" ip -o link | grep -c eth0)" 0
end "$a"
ok "a dead container is detached" net detach a
ok "and again" net detach a
ok "its port is free" nothing get 127.0.0.1:8080
inside "$h" sleep 1000 &
shared=$!
sleep 0.1
kill -9 "$h"
wait "$h" 2>/dev/null
net detach h
end "$b" "$c" "$d" "$e" "$f" "$g" "$i"
ok "what nobody detached is found" test "$(net check | grep -c 'is on the network')" -ge 5
ok "all is well afterwards" nothing net check
net create kept >/dev/null
sleep 3 # the one whose namespace lives on: h
net check >/dev/null
is "an interface goes though its namespace is shared" "$(inside "$shared" ip -o link | grep -c eth0)" 0
end "$shared"
is "prune removes what nobody uses" "$(net prune | sort | paste -sd' ')" "inner kept other web"
is "nothing is left" "$(leftovers)" ""
is "forwarding is off again" "$(cat /proc/sys/net/ipv4/ip_forward)" 0

# --- what it costs --------------------------------------------------------------------------------------------------------------------

container x
attach bridge warm "$x"
net detach warm bridge
net bench 20 "/proc/$x/ns/net" | sort -n | awk '{ a[NR] = $1; d[NR] = $2 } END { print "# attach " a[int(NR / 2) + 1] " us, detach of a living one " d[int(NR / 2) + 1] " us" }'
end "$x"
done_testing
