#!/bin/bash
# test: timeout=180
# Networks that a user makes without root: names, the way out, published ports, connect and disconnect, and nothing left whoever is killed.
if [ -z "${STRATA_TEST_USER:-}" ]; then
        if [ -z "${STRATA_TEST_MOUNTS:-}" ] && [ "$(id -u)" = 0 ]; then
                STRATA_TEST_MOUNTS=1 exec unshare -m "$0"
        fi
        . "$(dirname "$0")/run_lib.sh"
        command -v pasta >/dev/null || skip_all "passt is not installed"
        device_node /dev/net/tun 10 200 || skip_all "no /dev/net/tun"
        device_node /dev/fuse 10 229 # for --userns
        user_place strata-forward strata-vmm strata-init
        in_vm && cp -rL "$ASSETS/vmlinuz" "$ASSETS/kernel/lib/modules" "$TMPDIR/home/" && chmod -R a+rX "$TMPDIR/home"
        # pasta looks at the host's default route; behind it somebody answers.
        unshare -n sleep 170 &
        outside=$!
        while [ "$(readlink "/proc/$outside/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
        ip link add wire type veth peer name eth0 netns "$outside"
        ip address add 192.0.2.1/24 dev wire && ip link set wire up && ip route add default via 192.0.2.2
        nsenter -t "$outside" -n sh -c 'ip address add 192.0.2.2/24 dev eth0; ip link set eth0 up'
        nsenter -t "$outside" -n "$BUSYBOX" nc -ll -p 80 -e "$BUSYBOX" echo outside &
        server=$!
        as_user run_rootless_net.py
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
                pids strata-forward
                for pid in $(pgrep -u 23456 -f '/pasta '); do
                        [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] || echo "$pid"
                done
        } | wc -l
}
recovered() {
        strata ps >/dev/null
        [ "$(helpers)" = 0 ]
}
has() {
        [[ $1 == *"$2"* ]] && return
        printf '# got:  %s\n# part: %s\n' "$1" "$2"
        return 1
}
in_vm() {
        [ "${STRATA_ISOLATION:-}" = vm ]
}
differs() { # REASON NAME...: promises that a machine does not make
        local name
        for name in "${@:2}"; do skip "$name" "not with --isolation vm: $1"; done
}
strata image import "$TMPDIR/busybox.tar" busybox >/dev/null
! in_vm || strata kernel import --modules "$(echo "$TMPDIR"/modules/*)" "$TMPDIR/vmlinuz" >/dev/null
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
if in_vm; then
        differs "its networks do not change while it runs" "connect: reached from there" disconnect "it is still where it was"
        strata stop -t 0 b >/dev/null
        strata network connect --alias there other b
        strata start b >/dev/null
        is "connected while it stood still: reached from there, and from where it was" "$(ask other there)$(ask web b)" servedserved
        strata stop -t 0 b >/dev/null
        strata network disconnect other b
        strata start b >/dev/null
else
        strata network connect --alias there other b
        is "connect: reached from there" "$(ask other there)" served
        strata network disconnect other b
        is "disconnect" "$(ask other there)" ""
        is "it is still where it was" "$(ask web b)" served
fi
if in_vm; then
        differs "its default network is beside them" "the default network beside one's own: an error says why"
        is "it can be on the default network and one's own" "$(strata run --rm --network web --network bridge busybox ls /sys/class/net | tr '\n' ' ')" "eth0 eth1 lo "
else
        errors=$(strata network connect bridge b 2>&1)
        ok "the default network beside one's own: an error says why" has "$errors" "not on both"
fi
ok "a network in use is not removed" bash -c '! "$1" network rm web 2>/dev/null' _ "$STRATA"
ok "all is well" strata system check
strata restart -t 0 b >/dev/null
is "after a restart" "$(ask web b)" served
strata rm -f b >/dev/null
is "with the last container everything goes" "$(helpers)" 0

# --- published ports ------------------------------------------------------------------------------------------------------------

peer() { # COMMAND ARGUMENT...: run_rootless_net.py says what that is
        timeout 20 /usr/bin/python3 "$(dirname "$0")/run_rootless_net.py" "$@"
}
network=web
serving() { # OPTION...: a container in whose network the servers of run_rootless_net.py are
        if in_vm; then # python is the host's, and runs inside
                strata run -d --network "$network" "$@" --name a -v /usr:/host:ro -v "$(dirname "$0"):/test:ro" -e PYTHONHOME=/host busybox \
                        /host/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /host/lib/x86_64-linux-gnu /host/bin/python3 /test/run_rootless_net.py serve >/dev/null
        else
                strata run -d --network "$network" "$@" --name a busybox sleep 1000 >/dev/null
        fi
        serve
}
said_serving() { # N: times
        [ "$(strata logs a 2>/dev/null | grep -c serving)" = "$1" ]
}
serve() { # N: as often as it was started
        if in_vm; then
                eventually said_serving "${1:-1}"
                return
        fi
        : >"$TMPDIR/serving"
        nsenter -t "$(strata inspect -f '{{.State.Pid}}' a)" -U --preserve-credentials -n \
                timeout 100 /usr/bin/python3 "$(dirname "$0")/run_rootless_net.py" serve >"$TMPDIR/serving" &
        servers+=($!)
        eventually test -s "$TMPDIR/serving"
}
servers=()
trap 'kill "${servers[@]}" 2>/dev/null' EXIT
listening() { # of the user's, on all addresses of this namespace
        ss -Hlntu | awk '{ print $1 " " $5 }' | grep -E ':(8|9)0[0-9][0-9]$' | sort | tr '\n' ';'
}
is "before: nobody listens" "$(listening)" ""
serving -p 8080:80 -p 127.0.0.1:8081:81 -p 8082:82/udp -p 9000-9002:80-82
is "exactly what was asked for is open" "$(listening)" "tcp 0.0.0.0:8080;tcp 0.0.0.0:9000;tcp 0.0.0.0:9001;tcp 0.0.0.0:9002;tcp 127.0.0.1:8081;udp 0.0.0.0:8082;"
is "a published port" "$(peer read 127.0.0.1 8080)" served
is "by an address of the host" "$(peer read 192.0.2.1 8080)" served
is "one of a range" "$(peer read 127.0.0.1 9000)" served
ok "one for an address is not open on others" bash -c '! "$@"' _ /usr/bin/python3 "$(dirname "$0")/run_rootless_net.py" read 192.0.2.1 8081 2>/dev/null
is "much data both ways at once, and its end" "$(peer echo 127.0.0.1 8081)" same
is "a slow reader gets everything" "$(peer slow 127.0.0.1 8081)" same
is "many at once" "$(peer many 127.0.0.1 9001)" same
is "UDP: by 127.0.0.1 and by an address, from clients apart" "$(peer udp 8082 127.0.0.1 192.0.2.1)" same
is "port" "$(strata port a | sort | tr '\n' ';')" "80/tcp -> 0.0.0.0:8080;80/tcp -> 0.0.0.0:9000;81/tcp -> 0.0.0.0:9001;81/tcp -> 127.0.0.1:8081;82/tcp -> 0.0.0.0:9002;82/udp -> 0.0.0.0:8082;"
is "a port where nobody listens in the container: a reset" "$(peer read 127.0.0.1 9002)" reset
ok "ps shows them" has "$(strata ps --format '{{.Ports}}')" "127.0.0.1:8081->81/tcp"
errors=$(strata run --rm --network other -p 8080:80 busybox true 2>&1)
ok "one that another container has is refused" has "$errors" "port 8080/tcp of the host is in use"
errors=$(strata run --rm -p 8082:80/udp busybox true 2>&1)
ok "also on the default network" has "$errors" "port 8082/udp of the host is in use"
ok "a program of the host does not get one" test "$(peer bind 8080)" = "in use"
errors=$(strata run --rm --network web -p 80:80 busybox true 2>&1)
ok "a privileged one: an error says which there are" has "$errors" "ip_unprivileged_port_start"
errors=$(strata run --rm --network web -p 8090:80/sctp busybox true 2>&1)
ok "SCTP: an error says why" has "$errors" "SCTP ports cannot be published without root"
is "other containers reach it at the host" "$(ask other '192.0.2.1 8080 ; :')" served
ok "all is well with ports" strata system check
kill -9 "$(pids strata-forward)"
ok "who serves the ports is killed: that is found" bash -c '! "$1" system check >/dev/null 2>&1' _ "$STRATA"
strata system check --repair >/dev/null 2>&1
is "and it is started again" "$(peer read 127.0.0.1 8080)" served
strata stop -t 0 a >/dev/null
is "after a stop nothing is open" "$(listening)" ""
strata start a >/dev/null
serve 2
is "and after a start again" "$(peer read 127.0.0.1 8080)" served
if in_vm; then
        differs "its networks do not change while it runs" "not after disconnect"
else
        strata network disconnect web a
        is "not after disconnect" "$(listening)" ""
fi
strata rm -f a >/dev/null
serving -p 80 -p 8000-8005:81
port=$(strata port a 80/tcp)
is "a port that was chosen" "$(peer read 127.0.0.1 "${port#*:}")" served
kill -9 "$(pids strata-supervise)"
forwards() {
        [ -n "$(pids strata-forward)" ]
}
eventually not forwards
is "the supervisor is killed: nothing is open" "$(listening)" ""
strata rm -f a >/dev/null
strata network create --internal inside >/dev/null
strata run -d --name a --network inside -p 8080:80 busybox sleep 100 >/dev/null 2>&1
is "nothing of an internal network is open" "$(listening)" ""
strata rm -f a >/dev/null
strata network create --ipv6 six >/dev/null
strata run -d --name a --network six -p 8080:80 -p '[::1]:8081:80' busybox nc -ll -p 80 -e echo served >/dev/null
is "IPv6: where the network has it, also on ::1" "$(listening)" "tcp 0.0.0.0:8080;tcp [::1]:8081;tcp [::]:8080;"
is "it answers" "$(peer read ::1 8080)$(peer read ::1 8081)$(peer read 127.0.0.1 8080)" servedservedserved
strata rm -f a >/dev/null
strata network rm inside six >/dev/null
if in_vm; then
        differs "its users are its own" "a user namespace of its own: published ports, names" "and the default network"
elif command -v fuse-overlayfs >/dev/null && [ -c /dev/fuse ]; then
        serving -p 8080:80 --userns 0:0:1
        is "a user namespace of its own: published ports, names" "$(peer read 127.0.0.1 8080)$(ask web a)" servedserved
        strata rm -f a >/dev/null
        is "and the default network" "$(strata run --rm --userns 0:0:1 busybox sh -c 'ip -4 -o address show eth0' | grep -c 'inet ')" 1
else
        skip "a user namespace of its own" "no fuse-overlayfs"
fi
is "no process is left" "$(helpers)" 0

# --- the default network --------------------------------------------------------------------------------------------------------

default_serving() { # OPTION...
        if in_vm; then
                network=bridge serving "$@"
        else
                strata run -d "$@" --name a busybox sh -c 'nc -ll -p 80 -e echo served & nc -ll -p 81 -e cat' >/dev/null
        fi
}
answering() {
        [ "$(peer read 127.0.0.1 8080 2>/dev/null)" = served ]
}
outside() { # COMMAND...: in the container
        strata exec a sh -c "timeout 2 nc $* </dev/null" 2>/dev/null
}
default_serving -p 8080-8081:80-81 -p 127.0.0.1:9001:81 -p 8082:82/udp
eventually answering
is "on the default network exactly what was asked for is open" "$(listening)" "tcp 0.0.0.0:8080;tcp 0.0.0.0:8081;tcp 127.0.0.1:9001;udp 0.0.0.0:8082;"
is "a published port" "$(peer read 127.0.0.1 8080)" served
! in_vm || is "by an address of the host" "$(peer read 192.0.2.1 8080)" served # Debian 12's pasta waits for the client's first byte
ok "one for an address is not open on others there" bash -c '! "$@"' _ /usr/bin/python3 "$(dirname "$0")/run_rootless_net.py" read 192.0.2.1 9001 2>/dev/null
is "much data both ways at once there" "$(peer echo 127.0.0.1 9001)" same
! in_vm || is "UDP there" "$(peer udp 8082 127.0.0.1)" same # a container has no program that answers it
is "port there" "$(strata port a | sort | tr '\n' ';')" "80/tcp -> 0.0.0.0:8080;81/tcp -> 0.0.0.0:8081;81/tcp -> 127.0.0.1:9001;82/udp -> 0.0.0.0:8082;"
ok "ps shows them there" has "$(strata ps --format '{{.Ports}}')" "127.0.0.1:9001->81/tcp"
is "the outside is reached from there" "$(outside 192.0.2.2 80 | head -n 1)" outside
ok "the host's loopback is not from there" test -z "$(outside 10.0.2.2 8080)"
is "inspect has its address" "$(strata inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' a)" "$(strata exec a ip -4 -o address show eth0 | awk '{ sub("/.*", "", $4); print $4 }')"
errors=$(strata run --rm -p 8080:80 busybox true 2>&1)
ok "one that another has is refused there" has "$errors" "port 8080/tcp of the host is in use"
ok "and a privileged one" has "$(strata run --rm -p 80:80 busybox true 2>&1)" "ip_unprivileged_port_start"
ok "SCTP, too" has "$(strata run --rm -p 8090:80/sctp busybox true 2>&1)" "SCTP ports cannot be published without root"
ok "all is well there" strata system check
strata stop -t 0 a >/dev/null
is "after a stop nothing is open there" "$(listening)$(helpers)" 0
strata rm -f a >/dev/null
default_serving -p 80 -p 8000-8005:81
port=$(strata port a 80/tcp)
chosen() {
        [ "$(peer read 127.0.0.1 "${port#*:}" 2>/dev/null)" = served ]
}
ok "a port that was chosen there" eventually chosen
id=$(strata inspect -f '{{.Id}}' a)
first=$(strata inspect -f '{{.State.Pid}}' a)
kill -9 "$(pids strata-supervise)"
gone() {
        strata ps >/dev/null
        [ -z "$(listening)" ] && [ "$(helpers)" = 0 ] && ! pgrep -f "/helpers/$id.pid" >/dev/null && ! kill -0 "$first" 2>/dev/null
}
ok "its supervisor is killed: nothing is open, nobody is left" eventually gone
strata rm -f a >/dev/null
if in_vm; then
        default_serving -p 8080:80
        eventually answering
        id=$(strata inspect -f '{{.Id}}' a)
        first=$(strata inspect -f '{{.State.Pid}}' a)
        kill -9 "$first"
        ok "the machine is killed: nothing is open, nobody is left" eventually gone
        is "its status is 137" "$(strata wait a)" 137
        strata rm -f a >/dev/null
fi

# --- clones of machines ---------------------------------------------------------------------------------------------------------

if in_vm; then
        strata run -d --name a -p 8080:80 busybox nc -ll -p 80 -e echo served >/dev/null
        eventually answering
        is "a machine is saved and cloned" "$(strata snapshot a warm; strata clone --count 2 --name twin warm | tr '\n' ' ')" $'warm\ntwin-1 twin-2 '
        answers= addresses=
        for name in a twin-1 twin-2; do
                port=$(strata port $name 80/tcp)
                answers+=$(peer read 127.0.0.1 "${port#*:}")
                addresses+=$(strata exec $name ip -4 -o address show eth0 | grep -o 'inet [0-9.]*')$'\n'
        done
        is "each has a port of its own" "$answers" servedservedserved
        is "and an address" "$(sort -u <<<"$addresses" | grep -c inet)" 3
        strata rm -f a twin-1 twin-2 >/dev/null
        strata restore warm >/dev/null
        is "a restored one has its port again" "$(peer read 127.0.0.1 8080)" served
        strata rm -f a >/dev/null
        strata snapshot rm warm >/dev/null
        is "nothing of them is left" "$(listening)$(helpers)" 0
fi

# --- somebody is killed ---------------------------------------------------------------------------------------------------------

strata run -d --name a --network web busybox nc -ll -p 80 -e echo served >/dev/null
kill -9 "$(pids strata-supervise)"
eventually recovered # it takes a moment to die
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
