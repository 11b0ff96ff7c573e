#!/bin/bash
# test: timeout=240
# Networks of containers: the bridge, published ports, names on networks of one's own, connect and disconnect, shared namespaces.
. "$(dirname "$0")/run_lib.sh"
busybox_image busybox 'CMD ["/bin/sh"]' 'EXPOSE 80'

fetch() { # ADDRESS PORT: what is said there
        /usr/bin/python3 -c 'import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
print(s.makefile().read().strip())' "$@" 2>&1 | tail -n 1
}
server='nc -ll -p 80 -e echo served' # -ll: one after the other
# A program of the host that would take the connections: by itself, and saying SO_REUSEADDR as servers do.
takes_port() { # PORT [reuse] [udp]
        /usr/bin/python3 -c 'import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM if "udp" in sys.argv else socket.SOCK_STREAM)
if "reuse" in sys.argv: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(sys.argv[1])))
if "udp" not in sys.argv: s.listen()' "$@" 2>/dev/null
}
refused() {
        ! "$@"
}
listens() { [ "$(fetch "$@")" = served ]; }

# --- the bridge --------------------------------------------------------------------------------------------------------------

run busybox sh -c 'ip -4 -o addr show eth0; ip route'
ok "an address" has "$out" "inet "
ok "a default route" has "$out" "default via"
run --network none busybox ip -o link
is "none: loopback alone" "$(wc -l <<<"$out")" 1
# shellcheck disable=SC2086 # words
strata run -d --name web -p 8080:80 -p 127.0.0.1::80 busybox $server >/dev/null
ok "a published port is open" eventually listens 127.0.0.1 8080
is "ps shows it" "$(strata ps --format '{{.Ports}}' | tr ',' '\n' | head -n 1)" "0.0.0.0:8080->80/tcp"
port=$(strata port web 80 | sed -n 's/127.0.0.1://p')
ok "port tells the chosen one" test "$port" -gt 0
ok "which is open" eventually listens 127.0.0.1 "$port"
is "port of all" "$(strata port web | head -n 1)" "80/tcp -> 0.0.0.0:8080"
try port web 81
ok "port of none" test "$status" != 0
address=$(strata inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web)
ok "inspect has the address" eventually listens "$address" 80
run busybox sh -c "nc $address 80 </dev/null"
is "others on the bridge reach it" "$out" served
run -p 8080:80 busybox true
is "a port is given once" "$status" 125
ok "the error names it" has "$errors" 8080
is "nothing is left of the failure" "$(strata ps -aq | wc -l)" 1
ok "no program of the host gets a published port" refused takes_port 8080
ok "nor one that was chosen" refused takes_port "$port"
ok "also when it says SO_REUSEADDR" refused takes_port 8080 reuse
strata restart -t 0 web >/dev/null
ok "nor after a restart" refused takes_port 8080
ok "which leaves it open" eventually listens 127.0.0.1 8080
if in_vm; then
        try network disconnect bridge web
        ok "a machine's networks stay while it runs" has "$errors" "while it runs"
        strata stop -t 0 web >/dev/null
else
        strata network disconnect bridge web
fi
ok "without its network it is free" takes_port 8080
strata rm -f web >/dev/null
strata run -d --name again --restart always -p 8080:80/udp busybox sleep 1000 >/dev/null
ok "nor one of UDP" refused takes_port 8080 udp
kill -9 "$(strata inspect -f '{{.State.Pid}}' again)"
started_again() { [ "$(strata inspect -f '{{.RestartCount}} {{.State.Status}}' again)" = "1 running" ]; }
ok "its policy starts it again" eventually started_again
ok "and the port is kept" refused takes_port 8080 udp
strata rm -f again >/dev/null
for name in some another; do
        strata run -d --name "$name" -p 8181-8182:80 busybox sleep 1000 >/dev/null
done
is "one of several host ports" "$(strata port some; strata port another)" $'80/tcp -> 0.0.0.0:8181\n80/tcp -> 0.0.0.0:8182'
is "inspect has what was asked for" "$(strata inspect -f '{{(index (index .HostConfig.PortBindings "80/tcp") 0).HostPort}}' another)" 8181-8182
run -p 8181-8182:80 busybox true
ok "none is left: the error names them" has "$errors" "8181 to 8182"
strata rm -f some another >/dev/null
ok "a removed one's ports are free" takes_port 8080 udp
ok "a removed one's port is closed" bash -c '! (exec 3<>/dev/tcp/127.0.0.1/8080) 2>/dev/null'
# shellcheck disable=SC2086
strata run -d --name all -P busybox $server >/dev/null
port=$(strata port all 80 | head -n 1 | sed 's/.*://')
ok "-P opens what the image exposes" eventually listens 127.0.0.1 "$port"
strata rm -f all >/dev/null
run --add-host other:10.9.8.7 --dns 10.9.8.6 --dns-search example.org -h box busybox cat /etc/hosts /etc/resolv.conf
ok "--add-host" has "$out" "10.9.8.7"
ok "--dns" has "$out" "nameserver 10.9.8.6"
ok "--dns-search" has "$out" "search example.org"
ok "its own name" has "$out" box

# --- networks of one's own ---------------------------------------------------------------------------------------------------

id=$(strata network create --subnet 10.77.0.0/24 --label a=b mine)
is "network create prints the id" "${#id}" 64
is "network ls" "$(strata network ls --format '{{.Name}}' | tr '\n' ' ')" "bridge none host mine "
is "network ls --filter" "$(strata network ls -q --filter label=a)" "${id:0:12}"
is "network inspect" "$(strata network inspect -f '{{(index .IPAM.Config 0).Subnet}}' mine)" 10.77.0.0/24
try network create mine
is "a name is taken once" "$status" 125
# shellcheck disable=SC2086
strata run -d --name server --network mine --network-alias alias --ip 10.77.0.50 busybox $server >/dev/null
is "--ip" "$(strata inspect -f '{{.NetworkSettings.Networks.mine.IPAddress}}' server)" 10.77.0.50
answered() { strata run --rm --network mine busybox sh -c "nc $1 80 </dev/null"; }
is "by name" "$(answered server)" served
is "by alias" "$(answered alias)" served
is "by the id's beginning" "$(answered "$(strata ps -q)")" served
run busybox sh -c "nc -w 2 10.77.0.50 80 </dev/null"
ok "another network does not reach it" test "$out" != served
try network rm mine
is "a network in use is not removed" "$status" 1
strata run -d --name client busybox sleep 1000 >/dev/null
in_vm && strata stop -t 0 client >/dev/null
strata network connect --alias friend mine client
in_vm && strata start client >/dev/null
is "connect: reached by name" "$(strata exec client sh -c 'nc server 80 </dev/null')" served
is "on both" "$(strata inspect -f '{{len .NetworkSettings.Networks}}' client)" 2
is "connect: found by alias" "$(strata run --rm --network mine busybox ping -c 1 friend >/dev/null 2>&1; echo $?)" 0
try network connect mine client
is "connect twice is an error" "$status" 125
strata restart -t 0 client >/dev/null
is "it is kept over a restart" "$(strata exec client sh -c 'nc server 80 </dev/null')" served
in_vm && strata stop -t 0 client >/dev/null
strata network disconnect mine client
in_vm && strata start client >/dev/null
ok "disconnect" bash -c "! $STRATA exec client sh -c 'nc -w 2 10.77.0.50 80 </dev/null' 2>/dev/null | grep -q served"
is "on one" "$(strata inspect -f '{{len .NetworkSettings.Networks}}' client)" 1
try network disconnect mine client
ok "disconnect twice is an error" test "$status" != 0
run --network container:server busybox sh -c 'nc 127.0.0.1 80 </dev/null'
if in_vm; then
        ok "--network container:NAME is refused" has "$errors" "kernel of its own"
        run --isolation container --network container:server busybox true
        ok "and a container cannot join a machine" has "$errors" "kernel of its own"
else
        is "--network container:NAME" "$out" served
        run --network container:server busybox hostname
        is "--network container:NAME: its host name" "$out" "$(strata exec server hostname)"
fi
strata rename server renamed
is "a new name is answered" "$(answered renamed)" served
strata rm -f renamed client >/dev/null
strata create --name names --network mine busybox >/dev/null
strata network prune -f >/dev/null
is "prune leaves what a container names" "$(strata network ls -q --filter name=mine | wc -l)" 1
strata rm names >/dev/null
is "prune" "$(strata network prune -f)" mine
try network rm mine
is "rm of nothing" "$status" 1
strata network create --internal inside >/dev/null
run --network inside busybox ip route
ok "--internal has no way out" bash -c '! grep -q default <<<"$1"' _ "$out"
strata network rm inside >/dev/null
ok "nothing is left" strata system check
is "no interface either" "$(ip -o link | grep -cv ': lo:')" 0
done_testing
