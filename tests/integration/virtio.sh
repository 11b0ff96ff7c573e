#!/bin/bash
# test: timeout=600
# The other virtio devices, driven by the modules of the kernel's own package: network on a tap device and in user
# mode (passt), console on hvc0, random numbers. Runs in a network namespace of its own.
. "$(dirname "$0")/lib.sh"
needs_vmm
if [ -z "${IN_NAMESPACE:-}" ]; then
        unshare --net true 2>/dev/null || skip_all "no right to make a network namespace (not root?)"
        [ -c /dev/net/tun ] || skip_all "/dev/net/tun does not exist"
        IN_NAMESPACE=1 exec unshare --net "$0"
fi
assets kernel virtio
log=$TMPDIR/console

# An address that user mode can lend to the guest: passt takes over the one of the default route.
ip link set lo up
ip tuntap add dev uplink mode tap # not every kernel has dummy interfaces
ip addr add 198.51.100.10/24 dev uplink
ip link set uplink up
ip route add default via 198.51.100.1

# The server: one page and one file whose sum is known.
mkdir "$TMPDIR/www"
echo "page from the host" >"$TMPDIR/www/page"
head -c $((3 * 1024 * 1024 + 17)) /dev/urandom >"$TMPDIR/www/file"
busybox httpd -f -p 8000 -h "$TMPDIR/www" &
server=$!
cleanup() {
        kill $server 2>/dev/null
        wait $server 2>/dev/null
}
trap cleanup EXIT

guest_script='
ip link set lo up
fetch() {
        echo "page: $(timeout 60 wget -q -O - http://$1:8000/page)"
        echo "sum: $(timeout 120 wget -q -O - http://$1:8000/file | sha256sum | cut -c1-64)"
}
case $NET in
tap)
        ip addr add 192.0.2.2/24 dev eth0
        ip link set eth0 up
        fetch 192.0.2.1
        ping -c 3 -W 5 192.0.2.1 | grep "packets received\|packet loss"
        ping -c 2 -W 5 -s 1400 192.0.2.1 | grep -q " 0% packet loss" && echo "large pings: answered"
        # The other way round: the host asks the guest.
        echo "guest: serving"
        printf "HTTP/1.0 200 OK\r\n\r\npage from the guest\n" | timeout 60 nc -l -p 8080 >/dev/null
        ;;
user)
        printf "%s\n" "#!/bin/sh" \
                "[ \"\$1\" = bound ] || exit 0" \
                "ip addr add \$ip/\${mask:-24} dev \$interface" \
                "ip route add default via \$router dev \$interface onlink" \
                "echo \$router >/tmp/router" >/dhcp
        chmod +x /dhcp
        ip link set eth0 up
        udhcpc -i eth0 -s /dhcp -n -q -t 10 >/dev/null 2>&1
        echo "lease: $([ -s /tmp/router ] && echo yes)"
        fetch "$(cat /tmp/router)"
        ;;
esac
echo "rng: $(cat /sys/class/misc/hw_random/rng_current)"
echo "random: $(dd if=/dev/hwrng bs=512 count=8 2>/dev/null | wc -c)"
echo "random differs: $([ "$(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | sha256sum)" != "$(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | sha256sum)" ] && echo yes)"
[ $NET = tap ] || seq 1 2000 | sed "s/^/count /"
'

# The passt processes that this script's machine left behind; others may run for other reasons.
own_passt() {
        local pid
        for pid in $(pgrep passt); do
                ! grep -qz "^VIRTIO_TEST=$VIRTIO_TEST\$" "/proc/$pid/environ" || echo "$pid"
        done
}
export VIRTIO_TEST=$$

# run_net KIND --net-value PROLOGUE OPTION...
run_net() {
        local kind=$1 net=$2 prologue=$3
        shift 3
        guest_running "$ASSETS/virtio.cpio" "$prologue; NET=$kind; $guest_script" "$TMPDIR/initrd"
        VM_TIMEOUT=250 vm "$log" --kernel "$ASSETS/vmlinuz" --initrd "$TMPDIR/initrd" --memory 256M \
                --append "$KERNEL_LINE quiet" --net "$net" "$@"
        is "$kind: power-off ends with status 0" "$vm_status" 0 || show "$log"
        is "$kind: the guest fetches a page from the host" "$(line_after "$log" 'page: ')" "page from the host"
        is "$kind: 3 MiB arrive intact" "$(line_after "$log" 'sum: ')" "$(sha256sum <"$TMPDIR/www/file" | cut -c1-64)"
        is "$kind: the virtio generator feeds the guest's" "$(line_after "$log" 'rng: ')" virtio_rng.0
        is "$kind: random bytes come" "$(line_after "$log" 'random: ')" 4096
        is "$kind: they are not always the same" "$(line_after "$log" 'random differs: ')" yes
}

ip tuntap add dev stratatap mode tap
ip addr add 192.0.2.1/24 dev stratatap
ip link set stratatap up
# The host's half of the conversation: once the guest serves, ask it.
ask_guest() {
        local EVENTUALLY=200
        eventually grep -qF "guest: serving" "$log" && eventually timeout 60 busybox wget -q -O "$TMPDIR/from-guest" http://192.0.2.2:8080/page
}
ask_guest 2>/dev/null &
asker=$!
run_net tap tap=stratatap :
# By now it has asked, or there is nobody to ask.
(sleep 5 && kill $asker) 2>/dev/null &
wait $asker
is "tap: pings are answered" "$(grep -ac '3 packets received' "$log")" 1
ok "tap: pings of 1,400 bytes are answered" says "$log" "large pings: answered"
is "tap: the host fetches a page from the guest" "$(cat "$TMPDIR/from-guest" 2>/dev/null)" "page from the guest"

# Everything this guest says goes over the virtio console.
run_net user user 'exec </dev/hvc0 >/dev/hvc0 2>&1' --console-virtio
is "hvc0: 2,000 lines arrive in order" "$(tr -d '\r' <"$log" | sed -n 's/^count //p' | sha256sum)" "$(seq 1 2000 | sha256sum)"
is "user: the guest got an address by DHCP" "$(line_after "$log" 'lease: ')" yes
no_passt() { # it sees by itself that the machine has gone
        [ -z "$(own_passt)" ]
}
ok "user: passt goes with the machine" eventually no_passt
done_testing
