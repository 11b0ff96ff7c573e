#!/usr/bin/python3
# test: timeout=400
"""strata-init in a machine, and the agent in its strata-vmm: the main process, further ones, ends of all kinds."""

import hashlib
import os
import pty
import select
import signal
import subprocess
import threading
import time

from device_guest import TMPDIR, done, equal, ok, prepare
from init_guest import ASK_STATS, INSIDE, PID_NS, STATS, STDIN, TTY, Client, Machine, frame, make_initrd, make_root, setup, start


def finish(machine, given=None):
    out, err = machine.process.communicate(given, timeout=120)
    return machine.process.returncode, out, err


def main_process(initrd, root):
    machine = Machine(initrd, root, ["sh", "-c", "echo $$ $(hostname); cat; echo problem >&2; echo kept >/kept; exit 7"], PID_NS | STDIN,
                      stdin=subprocess.PIPE)  # fmt: skip
    equal("READY-FD says that it started", machine.ready, "started")
    data = os.urandom(1 << 20)
    status, out, err = finish(machine, data)
    equal("its status is the machine's", status, 7)
    equal("its input and output are ours", hashlib.sha256(out).digest(), hashlib.sha256(b"1 init-test\n" + data).digest())
    equal("its errors too", err, b"problem\n")
    ok("what it wrote is in the shared root", open(root + "/kept").read() == "kept\n")
    ok("the socket is gone with the machine", not os.path.exists(machine.socket))


def further_processes(initrd, root):
    machine = Machine(initrd, root, ["sh", "-c", "trap 'echo caught; exit 3' TERM; echo up; while :; do sleep 0.1; done"])
    client = Client(machine)
    equal("a further process runs, in the main one's namespace", client.run(["sh", "-c", "read a b </proc/1/stat; echo $a; exit 5"]), (5, b"1\n"))
    equal("a command that is not there fails", client.run(["no-such"]), ("failed", b"executing 'no-such'"))
    data = os.urandom(3 << 20)
    equal("3 MiB go there and back", client.run(["cat"], data), (0, data))
    client.send(frame(ASK_STATS, 99))
    equal("it can be asked about the machine", client.next()[0], STATS)

    results = []

    def many():
        own = Client(machine)
        results.extend(own.run(["sh", "-c", "echo $((6 * 7))"]) for _ in range(5))

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal("40 processes from 8 clients", results, [(0, b"42\n")] * 40)

    # A client that goes away leaves its process behind, which can go on writing.
    other = Client(machine)
    other.send(start(1, ["sh", "-c", "echo begun; dd if=/dev/zero bs=64k count=20; echo written >/left"], INSIDE))
    while b"begun" not in (other.next() or (0, 0, b"begun"))[2]:
        pass
    other.connection.close()
    deadline = time.monotonic() + 30
    while not os.path.exists(root + "/left") and time.monotonic() < deadline:
        time.sleep(0.05)
    ok("a process outlives its client", os.path.exists(root + "/left"))

    bad = Client(machine)
    bad.send(b"\xff" * 64)
    equal("a client that talks nonsense is cut off", bad.next(), None)
    waiting = threading.Thread(target=lambda: results.append(client.run(["sleep", "1000"])))
    waiting.start()
    time.sleep(0.3)
    machine.process.send_signal(signal.SIGTERM)
    status, out, _ = finish(machine)
    equal("a signal goes to the main process", (status, out), (3, b"up\ncaught\n"))
    waiting.join(30)
    ok("which takes the others along", results[-1][0] in (137, 143, None), results[-1])


def terminal(initrd, root):
    master, slave = pty.openpty()
    subprocess.run(["stty", "rows", "33", "cols", "77"], stdin=slave, check=True)
    machine = Machine(initrd, root, ["sh", "-c", "stty size; echo -n 'name? '; read x; echo hello $x; exit 4"], PID_NS | TTY | STDIN,
                      stdin=slave, stdout=slave, stderr=slave, start_new_session=True)  # fmt: skip
    os.close(slave)
    output = b""
    while machine.process.poll() is None:
        if select.select([master], [], [], 0.1)[0]:
            try:
                output += os.read(master, 4096)
            except OSError:
                break
        if b"name?" in output and b"world" not in output:
            os.write(master, b"world\n")
    equal("a terminal's status", machine.process.wait(60), 4)
    ok("a terminal has our size", b"33 77" in output, output)
    ok("and what is typed is read", b"hello world" in output, output)
    os.close(master)


def ends(initrd, root):
    machine = Machine(initrd, root, ["no-such-command"])
    equal("a command that is not there is said", machine.ready, "error: executing 'no-such-command': No such file or directory")
    equal("and has status 127", finish(machine)[0], 127)

    machine = Machine(initrd, root, [], script=setup() + frame(4, 90, *[b"\1\0\0\0\0"] * 3, b"\0\0\0\0", b"\1\0\0\0\0") + start(1, ["true"]))
    ok("a script that cannot be carried out is said", machine.ready.startswith("error: mounting "), machine.ready)
    equal("and ends the machine", finish(machine)[0], 125)

    machine = Machine(initrd, root, ["sh", "-c", "reboot -f; sleep 100"], 0)
    equal("a machine that is switched off ends its main process", finish(machine)[0], 128 + signal.SIGKILL)

    machine = Machine(initrd, root, ["sleep", "1000"])
    machine.process.send_signal(signal.SIGKILL)
    equal("a machine can be killed", machine.process.wait(30), -signal.SIGKILL)

    with open(TMPDIR + "/junk", "wb") as file:
        file.write(b"junk")
    vmm = [a for a in machine.process.args]
    vmm[-1] = f"socket={TMPDIR}/agent,script={TMPDIR}/junk"
    refused = subprocess.run(vmm, capture_output=True, text=True)
    equal("a script that is none is refused", (refused.returncode, "no script for an agent" in refused.stderr), (125, True))


def main():
    prepare()
    initrd, root = make_initrd(), make_root()
    main_process(initrd, root)
    further_processes(initrd, root)
    terminal(initrd, root)
    ends(initrd, root)
    done()


main()
