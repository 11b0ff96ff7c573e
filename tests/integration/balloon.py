#!/usr/bin/python3
# test: timeout=400
"""The balloon with Linux's driver: memory leaves the host and comes back, statistics, free page reports; the control socket."""

import os
import socket
import time

from device_guest import TMPDIR, Guest, done, equal, ok, prepare

CONTROL = TMPDIR + "/control"
MIB = 1 << 20

# Fills memory, frees it again: what nobody uses is reported. Says so each time and goes on after a while.
FILL = """
mkdir /fill
mount -t tmpfs -o size=300M none /fill
dd if=/dev/zero of=/fill/x bs=1M count=200 2>/dev/null
echo "guest: full"
sleep 3
rm /fill/x
echo "guest: free"
sleep 60
"""


def request(line):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(CONTROL)
        client.sendall(line.encode() + b"\n")
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while True:
            try:
                data = client.recv(4096)
            except ConnectionResetError:
                continue  # it did not read all of a bad line; what it said is there
            if not data:
                return answer.decode()
            answer += data


def info():
    return dict(line.rsplit(" ", 1) for line in request("balloon").splitlines() if " " in line)


def resident(guest):
    """Bytes of the guest's RAM that the host has memory for."""
    fds = f"/proc/{guest.process.pid}/fd"
    for fd in os.listdir(fds):
        try:
            if "guest-ram" in os.readlink(f"{fds}/{fd}"):
                return os.stat(f"{fds}/{fd}").st_blocks * 512
        except OSError:
            pass
    return None


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


def main():
    prepare()
    guest = Guest(FILL, "--balloon", "--control", CONTROL, memory="512M")
    if not ok("the guest fills its memory", guest.wait_for("guest: full"), guest.output):
        done()
        return
    full = resident(guest)
    ok("200 MiB and more are resident", full > 200 * MIB, full)
    guest.wait_for("guest: free")
    ok("memory that the guest frees leaves the host by itself", wait_until(lambda: resident(guest) < full - 150 * MIB), resident(guest))

    equal("a target is taken", request("balloon 256M"), "ok\n")
    ok("the guest inflates the balloon", wait_until(lambda: info()["actual"] == str(256 * MIB)), info())
    total = int(info()["total"])
    ok("the guest has that much less", total < 256 * MIB, total)
    ok("its statistics make sense", 0 < int(info()["free"]) <= int(info()["available"]) + 64 * MIB <= total + 64 * MIB, info())
    equal("the balloon goes back", request("balloon 0"), "ok\n")
    ok("the guest deflates it", wait_until(lambda: info()["actual"] == "0"), info())
    ok("the guest has its memory again", wait_until(lambda: int(info()["total"]) > total + 200 * MIB), info())

    ok("more than there is is refused", request("balloon 9G").startswith("error: "))
    ok("nonsense is refused", request("balloon much").startswith("error: "))
    ok("an unknown request is refused", request("fly").startswith("error: unknown request"))
    ok("a line without end is refused", "too long" in request("x" * 1000))
    ok("help lists the requests", "balloon [SIZE]" in request("help"))
    equal("several requests on one connection", request("help\nballoon 0\nballoon 0").count("ok\n"), 3)
    guest.process.terminate()
    equal("the machine ends with status 0", guest.status(), 0)
    ok("the socket is gone with it", not os.path.exists(CONTROL))

    guest = Guest("sleep 30", "--control", CONTROL)
    ok("a machine without a balloon says so", wait_until(lambda: os.path.exists(CONTROL)) and "no balloon" in request("balloon"))
    guest.process.terminate()
    equal("and ends", guest.status(), 0)
    done()


main()
