#!/bin/bash
# test: timeout=600
# Containers and machines on the same networks: names, addresses, published ports, what is refused.
. "$(dirname "$0")/run_lib.sh"

unset STRATA_ISOLATION
[ -s "$ASSETS/vmlinuz" ] || skip_all "there is no kernel in $ASSETS (scripts/guest-assets kernel)"
[ -e /dev/net/tun ] || skip_all "there is no /dev/net/tun"
strata kernel import --modules "$(echo "$ASSETS"/kernel/lib/modules/*)" "$ASSETS/vmlinuz" >/dev/null || skip_all "no kernel could be imported"
busybox_image bb
strata network create web >/dev/null
strata network create --internal inner >/dev/null

# address NAME NETWORK
address() {
        strata inspect -f "{{(index .NetworkSettings.Networks \"$2\").IPAddress}}" "$1"
}
answers() {
        [ "$(curl -s -m 3 "http://$1/hostname")" = "$2" ]
}

strata run -d --name box --hostname box --network web bb httpd -f -p 80 -h /etc >/dev/null
strata run -d --name machine --hostname machine --isolation vm --network web --network-alias other -p 127.0.0.1:8090:80 bb httpd -f -p 80 -h /etc >/dev/null
answering() {
        answers 127.0.0.1:8090 machine
}
ok "a machine's published port" eventually answering
is "a container finds a machine by name" "$(strata exec box wget -q -O - http://machine/hostname)" machine
is "and by its alias" "$(strata exec box wget -q -O - http://other/hostname)" machine
is "a machine finds a container by name" "$(strata exec machine wget -q -O - http://box/hostname)" box
is "a name is the address that inspect shows" "$(strata exec box nslookup machine | awk '/^Name/ { n = 1 } n && /^Address/ { print $2 }')" "$(address machine web)"
is "backwards, too" "$(strata exec machine nslookup "$(address box web)" 2>/dev/null | grep -oE 'name = [a-z]*')" "name = box"
is "a machine has the hardware address that inspect shows" "$(strata exec machine cat /sys/class/net/eth0/address)" "$(strata inspect -f '{{(index .NetworkSettings.Networks "web").MacAddress}}' machine)"
is "its default route is the network's gateway" "$(strata exec machine ip route | awk '/^default/ { print $3 }')" "$(strata network inspect -f '{{(index .IPAM.Config 0).Gateway}}' web)"
ok "it reaches the outside of its network" strata exec machine sh -c "nc -z -w 2 $(strata network inspect -f '{{(index .IPAM.Config 0).Gateway}}' web) 1 2>&1 | grep -q refused || ping -c 1 -W 2 $(strata network inspect -f '{{(index .IPAM.Config 0).Gateway}}' web) >/dev/null"

run --isolation vm --network web --network inner bb sh -c 'ls /sys/class/net; wget -q -O - http://box/hostname; ip route | grep -c ^default'
is "a machine on two networks has two interfaces, one default route" "$(paste -sd' ' <<<"$out")" "eth0 eth1 lo box 1"
run --isolation vm --network none bb sh -c 'ls /sys/class/net'
is "one on none has loopback alone" "$out" lo
run --isolation vm --network host bb true
ok "the host's network is refused" has "$errors" "kernel of its own"
run --isolation vm --network container:box bb true
ok "a container's, too" has "$errors" "its own"

strata rm -f box machine >/dev/null
is "nobody is found by their names" "$(strata run --rm --network web bb nslookup machine 2>&1 | grep -c 'Address.*10\.2')" 0
ok "and their networks are nobody's" strata network rm web inner
done_testing
