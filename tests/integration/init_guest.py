"""For tests of strata-init in a machine: an initial file system with it, scripts, and a client of the agent. The numbers are those of
src/init/messages.def."""

import atexit
import os
import socket
import struct
import subprocess
import time

from device_guest import ASSETS, ROOT, STRATA, TMPDIR

BUILD = os.path.dirname(STRATA)
TTY, STDIN, NO_NEW_PRIVS, PID_NS, INSIDE = 1, 2, 4, 8, 16
SYSTEM, MOUNT, ROOT_IS, FILE, LINK, SYSCTL, ADDRESS = range(3, 10)
START, STARTED, FAILED, EXITED, SIGNAL, RESIZE = range(16, 22)
DATA, END, ROOM = range(32, 35)
DONE, ASK_STATS, STATS, POWER_OFF = 48, 49, 50, 51


def u(value):
    return struct.pack("<I", value & 0xFFFFFFFF)


def text(value):
    data = value.encode() + b"\0"
    return u(len(data)) + data


def texts(values):
    return u(len(values)) + b"".join(text(value) for value in values)


def frame(kind, number, *fields):
    payload = b"".join(fields)
    return struct.pack("<IHHI", len(payload), kind, 0, number) + payload


def start(number, argv, flags=0, env=("PATH=/bin",)):
    nothing = u(0)
    return frame(START, number, texts(argv), texts(env), u(0), u(0), u(flags), text("/"), text("test"), u(0o22), nothing, nothing,
                 struct.pack("<Q", 2**64 - 1), u(0), u(80), u(25))  # fmt: skip


def mount(number, source, target, kind, flags=0, options=""):
    return frame(MOUNT, number, text(source), text(target), text(kind), u(flags), text(options))


def setup():
    """A root that is shared by the tag "root", with the usual file systems."""
    safe = 2 | 4 | 8  # MS_NOSUID | MS_NODEV | MS_NOEXEC
    return (
        frame(SYSTEM, 2, text("init-test"), struct.pack("<Q", time.time_ns()), os.urandom(64))
        + mount(3, "root", "/newroot", "virtiofs")
        + frame(ROOT_IS, 4, text("/newroot"))
        + mount(5, "proc", "/proc", "proc", safe)
        + mount(6, "dev", "/dev", "devtmpfs")
        + mount(7, "devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666")
    )


def make_initrd():
    """strata-init and the modules of the guest `devices`."""
    tree, base, path = TMPDIR + "/initrd", TMPDIR + "/devices", TMPDIR + "/init.cpio"
    for directory in (tree + "/lib", base):
        os.makedirs(directory)
    with open(ASSETS + "/devices.cpio", "rb") as archive:
        subprocess.run(["cpio", "-i", "--quiet", "--no-absolute-filenames", "-d", "modules/*"], cwd=base, stdin=archive, check=True)
    with open(base + "/modules/order") as order, open(tree + "/modules", "w") as modules:
        for name in order.read().split():
            os.rename(f"{base}/modules/{name}", f"{tree}/lib/{name}")
            modules.write(f"/lib/{name}\n")
    subprocess.run(["cp", BUILD + "/strata-init", tree + "/init"], check=True)
    subprocess.run(f"find . | cpio -o -H newc --quiet -R 0:0 >{path}", cwd=tree, shell=True, check=True)
    return path


def make_root():
    root = TMPDIR + "/root"
    os.makedirs(root + "/bin")
    subprocess.run(["cp", "/bin/busybox", root + "/bin/"], check=True)
    for name in "sh cat echo hostname id ls sleep stty sync true dd sha256sum head reboot ps kill".split():
        os.symlink("busybox", f"{root}/bin/{name}")
    return root


class Machine:
    """A machine whose main process is @argv."""

    def __init__(self, initrd, root, argv, flags=PID_NS, script=None, **streams):
        self.socket, self.script = f"{TMPDIR}/agent", f"{TMPDIR}/script"
        ready, given = os.pipe()
        with open(self.script, "wb") as file:
            file.write(script or setup() + start(1, argv, flags))
        self.process = subprocess.Popen(
            [STRATA + "-vmm", "run", "--kernel", ASSETS + "/vmlinuz", "--initrd", initrd, "--memory", "192M", "--engine",
             os.environ["ENGINE"], "--append", "console=ttyS0 panic=-1 quiet random.trust_cpu=on", "--console", TMPDIR + "/console",
             "--share", f"tag=root,path={root}", "--agent", f"socket={self.socket},script={self.script},ready={given}"],
            pass_fds=[given], **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        )  # fmt: skip
        atexit.register(self.kill)  # also when a test gives up
        os.close(given)
        with os.fdopen(ready) as line:
            self.ready = line.read().strip()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Client:
    """One process at a time, or one question."""

    def __init__(self, machine):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(60)
        self.connection.connect(machine.socket)
        self.pending = b""
        self.number = 0

    def send(self, data):
        self.connection.sendall(data)

    def next(self):
        """(type, number, payload), or None when the agent closed the connection."""
        while True:
            if len(self.pending) >= 12:
                size, kind, _, number = struct.unpack("<IHHI", self.pending[:12])
                if len(self.pending) >= 12 + size:
                    payload, self.pending = self.pending[12 : 12 + size], self.pending[12 + size :]
                    return kind, number, payload
            data = self.connection.recv(65536)
            if not data:
                return None
            self.pending += data

    def run(self, argv, given=b"", flags=INSIDE):
        """Exit status and output; "failed" and why."""
        self.number += 1
        number, output, room = self.number, b"", 65536
        self.send(start(number, argv, flags | (STDIN if given else 0)))
        ended = not given
        while True:
            while room and given:
                part, given = given[: min(room, 16384)], given[min(room, 16384) :]
                room -= len(part)
                self.send(frame(DATA, number, u(0), part))
            if not given and not ended:
                ended = True
                self.send(frame(END, number, u(0)))
            message = self.next()
            if message is None:
                return None, output
            kind, _, payload = message
            if kind == DATA:
                output += payload[4:]
                self.send(frame(ROOM, number, payload[:4], u(len(payload) - 4)))
            elif kind == ROOM:
                room += struct.unpack("<II", payload)[1]
            elif kind == FAILED:
                return "failed", payload[8:].split(b"\0")[0]
            elif kind == EXITED:
                status, signal = struct.unpack("<II", payload)
                return (128 + signal if signal else status), output
