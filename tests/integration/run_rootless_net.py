"""The other side of published ports, for run_rootless_net.sh.

read HOST PORT         what a server says ("reset": it was not one)
echo HOST PORT         sends 16 MiB to a server that sends everything back, and reads meanwhile
slow HOST PORT         the same, but reads only when nothing can be sent any more
many HOST PORT         50 connections that are open together
udp PORT HOST...       two clients for each address; an answer must come from where was asked
bind PORT              whether a program gets it
serve                  TCP: port 80 says "served", 81 sends everything back; UDP: so does 82
"""
import os
import select
import socket
import sys
import threading


def connect(host, port):
    return socket.create_connection((host, int(port)), 10)


def read(host, port):
    try:
        with connect(host, port) as s:
            print(s.makefile().read().strip())
    except ConnectionResetError:
        print("reset")


def exchange(host, port, patient):
    data, got, sent, stuck = os.urandom(16 << 20), bytearray(), 0, not patient
    with connect(host, port) as s:
        s.setblocking(False)
        while True:
            readable, writable, _ = select.select([s] if stuck else [], [s] if sent < len(data) else [], [], None if stuck else 1)
            stuck = stuck or not writable
            if writable:
                sent += s.send(data[sent : sent + 65536])
                if sent == len(data):
                    s.shutdown(socket.SHUT_WR)
                    stuck = True
            if readable:
                part = s.recv(65536)
                if not part:
                    break
                got += part
    print("same" if got == data else f"{len(got)} of {len(data)} bytes")


def many(host, port):
    peers = [connect(host, port) for _ in range(50)]
    for i, s in enumerate(peers):
        s.sendall(b"%d\n" % i)
    for s in peers:
        s.shutdown(socket.SHUT_WR)
    same = all(s.makefile().read() == f"{i}\n" for i, s in enumerate(peers))
    print("same" if same else "different")


def udp(port, *hosts):
    for host in hosts:
        for text in (b"one", b"two"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.settimeout(10)
                s.sendto(text, (host, int(port)))
                answer, sender = s.recvfrom(100)
                if answer != text or sender != (host, int(port)):
                    print(f"{answer} from {sender}")
                    return
    print("same")


def bind(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", int(port)))
            s.listen()
        except OSError:
            print("in use")


def send_back(peer):
    while part := peer.recv(65536):
        peer.sendall(part)
    peer.close()


def serve():
    says, echo = (socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100) for port in (80, 81))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("", 82))
    print("serving", flush=True)
    while True:
        for s in select.select([says, echo, datagrams], [], [])[0]:
            if s is datagrams:
                s.sendto(*s.recvfrom(65536))
                continue
            peer = s.accept()[0]
            if s is says:
                peer.sendall(b"served\n")
                peer.close()
            else:
                threading.Thread(target=send_back, args=(peer,), daemon=True).start()


COMMANDS = {
    "serve": serve,
    "read": read,
    "echo": lambda host, port: exchange(host, port, False),
    "slow": lambda host, port: exchange(host, port, True),
    "many": many,
    "udp": udp,
    "bind": bind,
}
COMMANDS[sys.argv[1]](*sys.argv[2:])
