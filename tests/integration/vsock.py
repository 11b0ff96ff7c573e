#!/usr/bin/python3
# test: timeout=400
"""Virtio sockets with Linux's driver: both directions, many connections, much data, ends of either side."""

import hashlib
import os
import socket
import threading

from device_guest import TMPDIR, Guest, done, equal, ok, prepare

SOCKET = TMPDIR + "/vsock"
MANY = 300
BIG = 3 * 1024 * 1024 + 17

SCRIPT = f"""
vsock cid
vsock serve 5000 &
vsock many 1234 {MANY}
head -c {BIG} /dev/urandom >/tmp/big
echo "sum: $(sha256sum </tmp/big | cut -c1-64)"
echo "back: $(vsock cat 1235 </tmp/big | sha256sum | cut -c1-64)"
echo x | vsock cat 99
vsock wait 1236
"""


def listen(port):
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{SOCKET}_{port}")
    server.listen(64)
    return server


def echo(client):
    while data := client.recv(65536):
        client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    client.close()


def echo_server(port):
    def serve(server):
        while True:
            client, _ = server.accept()
            threading.Thread(target=echo, args=[client], daemon=True).start()

    threading.Thread(target=serve, args=[listen(port)], daemon=True).start()


def dial(line):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(SOCKET)
    client.sendall(line)
    return client


def greeting(client):
    answer = b""
    while not answer.endswith(b"\n"):
        byte = client.recv(1)
        if not byte:
            break
        answer += byte
    return answer


def round_trip(size):
    """Sends and gets back @size bytes through the guest's echo; True when they are the same."""
    client = dial(b"CONNECT 5000\n")
    if not greeting(client).startswith(b"OK "):
        return False
    sent, got = hashlib.sha256(), hashlib.sha256()

    def write():
        for _ in range(size // 4096):
            block = os.urandom(4096)
            sent.update(block)
            client.sendall(block)
        client.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=write)
    writer.start()
    while data := client.recv(65536):
        got.update(data)
    writer.join()
    client.close()
    return sent.digest() == got.digest()


def main():
    prepare()
    echo_server(1234)
    echo_server(1235)
    last = listen(1236)
    last.settimeout(1)
    guest = Guest(SCRIPT, "--vsock", f"cid=1234567,socket={SOCKET}")
    client = None
    for _ in range(250):
        try:
            client, _ = last.accept()  # the guest has done its part
            break
        except TimeoutError:
            if guest.process.poll() is not None:
                break
    if not ok("the guest connects", client, guest.wait_for("no such text", 1) or guest.output):
        done()
        return
    guest.wait_for("vsock: connected", 10)
    equal("the guest has the address it was given", guest.line("cid: "), "1234567")
    equal(f"{MANY} connections at once", guest.line("many: "), f"{MANY} of {MANY}")
    ok("3 MiB come back from the host as they were", guest.line("sum: ") == guest.line("back: ") is not None, guest.output)
    ok("a port without a listener refuses", "vsock: connect: Connection reset by peer" in guest.output, guest.output)

    ok("the guest serves", "vsock: serving" in guest.output, guest.output)
    ok("1 MiB goes to the guest and back", round_trip(1 << 20))
    results = []
    threads = [threading.Thread(target=lambda: results.append(round_trip(1 << 16))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal("20 connections to the guest at once", sum(results), 20)
    refused = dial(b"CONNECT 5001\n")
    equal("a port where the guest does not listen closes without OK", greeting(refused), b"")
    equal("a line that is none closes", greeting(dial(b"HELLO\n")), b"")

    ok("the socket is there while the machine runs", os.path.exists(SOCKET))
    client.close()
    equal("the machine ends with status 0", guest.status(), 0)
    ok("the guest sees the host's close", "vsock: end of file" in guest.output, guest.output)
    ok("the socket is gone with the machine", not os.path.exists(SOCKET))
    done()


main()
