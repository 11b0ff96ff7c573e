# Sourced by the tests of networks: a network namespace that plays the host, so that this machine's interfaces, rules and
# switches stay as they are; containers are namespaces with a process in them.
# shellcheck shell=bash

. "$(dirname "$0")/lib.sh"

[ "$(id -u)" = 0 ] || skip_all "network namespaces need root"
for tool in ip nft unshare nsenter curl; do
        command -v $tool >/dev/null || skip_all "$tool is not installed"
done
if [ "${NET_TEST_INSIDE:-}" != 1 ]; then
        NET_TEST_INSIDE=1 exec unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
ip link set lo up
echo 0 >/proc/sys/net/ipv4/ip_forward # a new namespace may have it from the host
unshare --net ip link show lo >/dev/null || skip_all "no network namespaces here"
nft add table inet probe 2>/dev/null && nft delete table inet probe || skip_all "the kernel has no nf_tables"

DRIVER=$BUILD/tests/net-driver
[ -x "$DRIVER" ] || skip_all "$DRIVER is not built"
PATH=$BUILD:$PATH # strata-resolve
export STRATA_NET_ROOT=$TMPDIR/net

net() {
        "$DRIVER" "$@"
}

# container NAME: a namespace with a process; its number is in the variable NAME.
container() {
        unshare --net sleep 1000 &
        printf -v "$1" %d $!
        local before
        before=$(readlink /proc/self/ns/net)
        until [ "$(readlink "/proc/${!1}/ns/net")" != "$before" ]; do sleep 0.01; done
}

# end PID...: the containers end, with everything in them.
end() {
        local pid ns process
        for pid in "$@"; do
                ns=$(readlink "/proc/$pid/ns/net")
                for process in /proc/[0-9]*; do
                        [ "$(readlink "$process/ns/net")" != "$ns" ] || kill -9 "${process#/proc/}" 2>/dev/null
                done
                wait "$pid" 2>/dev/null
        done
} 2>/dev/null

# serves PID SS-OPTIONS ADDRESS: somebody listens there.
serves() {
        inside "$1" ss "$2" | grep -q "$3"
}

# inside PID COMMAND...: inside its network.
inside() {
        local pid=$1
        shift
        nsenter -t "$pid" -n "$@"
}

# attach NETWORK NAME PID OPTION...: the endpoint's line is in $TMPDIR/NAME.
attach() {
        local network=$1 name=$2 pid=$3
        shift 3
        net attach "$network" "$name" "/proc/$pid/ns/net" --name "$name" --pid "$pid" "$@" >"$TMPDIR/$name" 2>>"$TMPDIR/notices"
}

# of NAME FIELD: of the endpoint, as attach printed it.
of() {
        sed -n "s/.* $2=\([^ ]*\).*/\1/p" "$TMPDIR/$1"
}
address() {
        of "$1" ip | sed 's,/.*,,'
}

# serve PID PORT TEXT [ADDRESS]: an HTTP server inside whose every answer is the text and who asked.
serve() {
        inside "$1" /usr/bin/python3 -c '
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(("%s to %s" % (sys.argv[2], self.client_address[0])).encode())
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[3] else socket.AF_INET
Server((sys.argv[3], int(sys.argv[1])), Handler).serve_forever()
' "$2" "$3" "${4:-0.0.0.0}" >/dev/null 2>&1 &
        eventually serves "$1" -tln ":$2 " || echo "# no server on port $2"
}

# udp PID PORT CODE: a server inside; the Python CODE gets each question as `data` and answers with reply(bytes).
udp() {
        inside "$1" /usr/bin/python3 -c '
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[1])))
while True:
    data, peer = s.recvfrom(600)
    exec(sys.argv[2], {"data": data, "reply": lambda b: s.sendto(b, peer)})
' "$2" "$3" >/dev/null 2>&1 &
        eventually serves "$1" -uln "0.0.0.0:$2 " || echo "# no server on port $2/udp"
}

# get ADDRESS:PORT: what a server there says, or nothing.
get() {
        curl -s -m 2 "http://$1/"
}
get_in() {
        inside "$1" curl -s -m 2 "http://$2/"
}
# nothing COMMAND...: it has no result.
nothing() {
        [ -z "$("$@")" ]
}

fails() {
        if "$@" >"$TMPDIR/failed" 2>&1; then return 1; else return 0; fi
}

# ask PID NAME [TYPE [PROTOCOL]]: what the resolver in the container says, on one line: the status, then what was asked for.
ask() {
        local pid=$1
        shift
        inside "$pid" /usr/bin/python3 "$ROOT/tests/integration/net_ask.py" 127.0.0.11 "$@" | paste -sd' '
}

our_links() {
        ip -o link | grep -oE ': (sv|st-|strata)[^:@]*'
}
# What is in the kernel and the store besides the definitions: for comparing with nothing.
leftovers() {
        eventually not our_links >/dev/null # the kernel takes a namespace's interfaces away in its own time
        net check
        our_links
        nft list tables | grep strata
        find "$STRATA_NET_ROOT/run" \( -type f -o -type l \) -printf '%P\n'
        find "$STRATA_NET_ROOT/run" -mindepth 3 -type d -printf '%P\n'
        pgrep -f '[s]trata-resolve' -r S,R,D
}
