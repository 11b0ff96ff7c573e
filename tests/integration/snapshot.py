#!/usr/bin/python3
# test: timeout=600
"""Snapshots by the control socket: of a Linux guest that computes, restored under other engines; pauses; files that are handed over; a VMM that is killed."""

import array
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time

from device_guest import ROOT, TMPDIR, Guest, done, equal, ok, prepare

CONTROL = TMPDIR + "/control"
ROUNDS = 160

# A chain of sums by programs of the guest's, whose end is known. It says how far it is, and takes its time, so that there are moments to choose from.
COMPUTE = f"""
sum=start; i=0
while [ $i -lt {ROUNDS} ]; do
        sum=$(echo $sum | sha256sum | cut -c1-64)
        i=$((i + 1))
        usleep 100000
        [ $((i % 10)) != 0 ] || echo "at $i"
done
echo "sum $sum"
"""


def chain():
    text = "start"
    for _ in range(ROUNDS):
        text = hashlib.sha256(text.encode() + b"\n").hexdigest()
    return text


class Control:
    """A connection to a machine's control socket."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(CONTROL)

    def ask(self, line, files=()):
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        self.socket.sendmsg([line.encode() + b"\n"], ancillary)
        answer = b""
        while not answer.endswith(b"ok\n") and not (answer.startswith(b"error") and answer.endswith(b"\n")):
            data = self.socket.recv(4096)
            if not data:
                break
            answer += data
        return answer.decode()

    def close(self):
        self.socket.close()


def ask(line, files=()):
    control = Control()
    answer = control.ask(line, files)
    control.close()
    return answer


class Restored(Guest):
    def __init__(self, directory, engine, *options):
        self.output = ""
        self.process = subprocess.Popen(
            [os.environ.get("STRATA_BUILD", ROOT + "/build") + "/strata-vmm", "run", "--restore", directory, "--engine", engine, *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


def sum_of(guest):
    guest.wait_for("sum ", 240)
    guest.wait_for("guest: script ended", 60)
    return guest.output.partition("sum ")[2][:64]


def still(guest):
    """Whether it prints nothing for a second and a half."""
    guest.wait_for("\0", 0.3)
    before = len(guest.output)
    guest.wait_for("\0", 1.5)
    return len(guest.output) == before


def computes(wanted):
    guest = Guest(COMPUTE, "--control", CONTROL, "--jail", "none")
    guest.wait_for("at 10\n")
    equal("a snapshot is taken while the guest computes", ask(f"snapshot {TMPDIR}/full"), "ok\n")
    guest.wait_for(f"at {random.randrange(2, 6) * 10}\n")
    equal("and another one of what changed", ask(f"snapshot-diff {TMPDIR}/diff"), "ok\n")
    ok("the diff is smaller", blocks("diff/memory.1") < blocks("full/memory.0") / 2, f"{blocks('diff/memory.1')} {blocks('full/memory.0')}")

    control = Control()
    equal("it is held", control.ask("hold"), "ok\n")
    ok("and stands still", still(guest))
    control.close()
    ok("who held it is gone, and it goes on", not still(guest))
    equal("pause", ask("pause"), "ok\n")
    ok("it stands still without a connection", still(guest))
    equal("it can be saved then", ask(f"snapshot-diff {TMPDIR}/paused"), "ok\n")
    equal("resume", ask("resume"), "ok\n")
    ok("what is not paused does not resume", ask("resume").startswith("error: "))
    ok("a directory that is none of ours stays", ask(f"snapshot {TMPDIR}").startswith("error: ") and os.path.isdir(TMPDIR))
    equal("the machine itself comes to the right end", sum_of(guest), wanted)
    guest.kill()
    for name, engine in ("full", "translate"), ("diff", "interp"), ("paused", "translate"):
        guest = Restored(f"{TMPDIR}/{name}", engine)
        equal(f"'{name}' under {engine} comes to the same end", sum_of(guest), wanted)
        guest.kill()


def blocks(name):
    return os.stat(f"{TMPDIR}/{name}").st_blocks


def refuses():
    result = subprocess.run(
        [os.environ.get("STRATA_BUILD", ROOT + "/build") + "/strata-vmm", "run", "--restore", f"{TMPDIR}/full", "--memory", "128M"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # fmt: skip
    ok("another size is refused", result.returncode == 124 and "262144 KiB" in result.stderr, result)
    shutil.copytree(f"{TMPDIR}/full", f"{TMPDIR}/short", copy_function=os.link)
    os.unlink(f"{TMPDIR}/short/memory.0")
    with open(f"{TMPDIR}/short/memory.0", "wb") as file:
        file.truncate(4096)
    result = subprocess.run(
        [os.environ.get("STRATA_BUILD", ROOT + "/build") + "/strata-vmm", "run", "--restore", f"{TMPDIR}/short"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # fmt: skip
    ok("a memory file that is too short is refused", result.returncode == 125 and "memory.0" in result.stderr, result)


def hands_over(wanted):
    """What a machine in its jail can do: write into files that it is given."""
    guest = Guest(COMPUTE, "--control", CONTROL, "--jail", "auto")
    guest.wait_for("at 10\n")
    os.mkdir(f"{TMPDIR}/handed")
    names = [f"{TMPDIR}/handed/state", f"{TMPDIR}/handed/memory.0"]
    files = [os.open(name, os.O_RDWR | os.O_CREAT, 0o600) for name in names]
    ok("without files it says what it needs", ask("snapshot -").startswith("error: "))
    equal("two files come with the request", ask("snapshot -", files), "layers 0\nok\n")
    guest.kill()
    guest = Restored(f"{TMPDIR}/handed", "translate", "--jail", "auto")
    equal("they are a snapshot", sum_of(guest), wanted)
    guest.kill()


def is_killed():
    guest = Guest("while :; do echo at; sleep 0.2; done", "--control", CONTROL, "--jail", "none")
    guest.wait_for("at\n")
    equal("there is a snapshot", ask(f"snapshot {TMPDIR}/kept"), "ok\n")
    before = os.stat(f"{TMPDIR}/kept/memory.0").st_ino
    control = Control()
    control.socket.send(f"snapshot {TMPDIR}/kept\n".encode())
    time.sleep(random.random() * 0.06)
    guest.process.send_signal(signal.SIGKILL)
    guest.process.wait()
    control.close()
    print(f"# the machine was killed {'before' if os.stat(f'{TMPDIR}/kept/memory.0').st_ino == before else 'after'} the new one had its name")
    guest = Restored(f"{TMPDIR}/kept", "translate")
    ok("a VMM that is killed leaves a whole one", guest.wait_for("at\n", 60), guest.output)
    guest.kill()


prepare()
WANTED = chain()
computes(WANTED)
refuses()
hands_over(WANTED)
is_killed()
done()
