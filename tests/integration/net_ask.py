"""Asks a name server: net_ask.py SERVER NAME [TYPE [udp|tcp]] prints the status and the answers' data, one a line."""

import socket
import struct
import sys

TYPES = {"A": 1, "PTR": 12, "TXT": 16, "AAAA": 28}
STATUS = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP"}


def encode(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def decode(message, at):
    labels = []
    while message[at]:
        if message[at] >= 0xC0:
            at = (message[at] & 0x3F) << 8 | message[at + 1]
            continue
        labels.append(message[at + 1 : at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels)


def exchange(server, query, proto):
    if proto == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(9)
            s.connect((server, 53))
            s.send(query)
            return s.recv(65535)
    with socket.create_connection((server, 53), 9) as s:
        s.sendall(struct.pack("!H", len(query)) + query)
        data = b""
        while len(data) < 2 or len(data) < 2 + struct.unpack("!H", data[:2])[0]:
            piece = s.recv(65535)
            if not piece:
                raise OSError("closed")
            data += piece
        return data[2:]


def main():
    server, name, kind, proto = (sys.argv[1:] + ["A", "udp"][len(sys.argv) - 3 :])[:4]
    question = encode(name) + struct.pack("!HH", TYPES[kind], 1)
    reply = exchange(server, struct.pack("!HHHHHH", 0x1234, 0x0100, 1, 0, 0, 0) + question, proto)
    number, flags, _, answers = struct.unpack("!HHHH", reply[:8])
    assert number == 0x1234 and flags & 0x8000
    print(STATUS.get(flags & 15, flags & 15))
    at = 12 + len(question)
    for _ in range(answers):
        at += 2  # a pointer to the question's name
        kind, _, _, size = struct.unpack("!HHIH", reply[at : at + 10])
        data = reply[at + 10 : at + 10 + size]
        print({1: lambda: socket.inet_ntop(socket.AF_INET, data), 28: lambda: socket.inet_ntop(socket.AF_INET6, data)}.get(kind, lambda: decode(reply, at + 10))())
        at += 10 + size


try:
    main()
except OSError as e:
    print("no answer:", e)
    sys.exit(1)
