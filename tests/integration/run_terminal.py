#!/usr/bin/python3
# test: timeout=120
"""Terminals of what is run: raw mode, size and its changes, detaching by keys and coming back, ctrl-c, exec -t."""

import fcntl
import os
import pathlib
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

if os.geteuid() == 0 and "STRATA_TEST_NETNS" not in os.environ:
    os.environ["STRATA_TEST_NETNS"] = "1"
    os.execvp("unshare", ["unshare", "-n", "/usr/bin/python3", *sys.argv])

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("STRATA_BUILD", ROOT / "build"))
STRATA = os.environ.get("STRATA", str(BUILD / "strata"))
TMP = pathlib.Path(os.environ.get("TMPDIR") or tempfile.mkdtemp())
os.environ["STRATA_ROOT"] = str(TMP / "root")
os.environ.pop("STRATA_IMAGE_ROOT", None)
points = 0


def ok(name, passed, detail=""):
    global points
    points += 1
    print(f"{'ok' if passed else 'not ok'} {points} - {name}", flush=True)
    if not passed:
        print(f"# {detail!r}", flush=True)


def skip_all(reason):
    print(f"1..0 # SKIP {reason}")
    sys.exit(0)


def strata(*words):
    return subprocess.run([STRATA, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)


class Terminal:
    """A command of strata's at a terminal of ours."""

    def __init__(self, *words, rows=24, columns=80):
        self.master, slave = pty.openpty()
        self.size(rows, columns)
        self.modes = termios.tcgetattr(slave)
        self.process = subprocess.Popen([STRATA, *words], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))  # fmt: skip
        self.slave = slave
        self.text = ""

    def size(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def read(self, timeout=0.1):
        if select.select([self.master], [], [], timeout)[0]:
            self.text += os.read(self.master, 65536).decode(errors="replace")

    def expect(self, text, timeout=20):
        """Whether @text comes; what was before it is forgotten."""
        end = time.monotonic() + timeout
        while text not in self.text and time.monotonic() < end:
            self.read()
        found = text in self.text
        if found:
            self.text = self.text.split(text, 1)[1]
        return found

    def wait(self, timeout=20):
        end = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < end:
            self.read()
        for _ in range(3):
            self.read(0.05)
        return self.process.poll()

    def is_restored(self):
        return termios.tcgetattr(self.slave) == self.modes

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def make_image():
    busybox = subprocess.run(["sh", "-c", "command -v busybox"], capture_output=True, text=True).stdout.strip()
    if not busybox:
        skip_all("busybox is not installed")
    tree = TMP / "busybox"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (tree / name).mkdir(parents=True)
    subprocess.run(["cp", busybox, tree / "bin/busybox"], check=True)
    for name in ("sh", "stty", "cat", "sleep", "echo", "true", "tty"):
        (tree / "bin" / name).symlink_to("busybox")
    subprocess.run(["tar", "-C", tree, "-cf", TMP / "busybox.tar", "."], check=True)
    strata("image", "import", str(TMP / "busybox.tar"), "busybox")


def import_kernel():
    """The one that all guests of the tests have."""
    assets = pathlib.Path(os.environ.get("ASSETS", ROOT / "build/assets"))
    modules = list(assets.glob("kernel/lib/modules/*"))
    if not modules:
        skip_all(f"there is no kernel in {assets} (scripts/guest-assets kernel)")
    imported = strata("kernel", "import", "--modules", str(modules[0]), str(assets / "vmlinuz"))
    if imported.returncode != 0:
        skip_all(f"no kernel could be imported: {imported.stderr}")


def tests():
    t = Terminal("run", "-it", "--rm", "--name", "size", "--network", "none", "busybox", "sh", rows=33, columns=101)
    t.expect("# ")
    t.type("stty size\r")
    ok("the terminal has our size", t.expect("33 101"), t.text)
    t.size(44, 90)
    os.kill(t.process.pid, signal.SIGWINCH)
    time.sleep(0.3)
    t.type("stty size\r")
    ok("and follows its changes", t.expect("44 90"), t.text)
    t.type("sleep 1000\r")
    time.sleep(0.3)
    t.type("\x03")
    t.type("echo sta\"\"tus $?\r")
    ok("ctrl-c interrupts the command inside", t.expect("status 130"), t.text)
    t.type("exit 5\r")
    ok("the status comes back", t.wait() == 5, t.process.returncode)
    ok("our terminal is as it was", t.is_restored())
    t.close()

    t = Terminal("run", "-it", "--name", "keys", "--network", "none", "busybox", "sh")
    t.expect("# ")
    t.type("VALUE=kept; echo do''ne\r")
    t.expect("done")
    t.type("\x10\x11")
    ok("ctrl-p ctrl-q detaches", t.wait() == 0, (t.process.returncode, t.text))
    ok("our terminal is as it was then, too", t.is_restored())
    t.close()
    state = strata("inspect", "-f", "{{.State.Status}}", "keys").stdout.strip()
    ok("the container goes on", state == "running", state)
    t = Terminal("attach", "keys")
    t.type("echo is $VALUE\r")
    ok("attach comes back to it", t.expect("is kept"), t.text)
    t.type("exit 6\r")
    ok("attach has its status", t.wait() == 6, t.process.returncode)
    t.close()
    strata("rm", "-f", "keys")

    t = Terminal("run", "-it", "--rm", "--name", "own", "--detach-keys", "ctrl-x,q", "--network", "none", "busybox", "sh")
    t.expect("# ")
    t.type("\x18")
    t.type("q")
    ok("--detach-keys chooses others", t.wait() == 0, t.process.returncode)
    t.close()
    t = Terminal("exec", "-it", "own", "sh", rows=20, columns=70)
    t.expect("# ")
    t.type("tty; stty size; exit 7\r")
    ok("exec -t has a terminal", t.expect("/dev/pts/"), t.text)
    ok("of our size", t.expect("20 70"), t.text)
    ok("exec has the status", t.wait() == 7, t.process.returncode)
    ok("our terminal is as it was after exec", t.is_restored())
    t.close()
    strata("rm", "-f", "own")

    t = Terminal("run", "-t", "--rm", "--network", "none", "busybox", "sh", "-c", "echo a; echo b >&2")
    status = t.wait()
    ok("-t without -i prints both streams", status == 0 and "a\nb\n" in t.text.replace("\r", ""), (status, t.text))
    t.close()
    r = strata("run", "-it", "--rm", "--network", "none", "busybox", "true")
    ok("-it without a terminal is an error with a hint", r.returncode == 125 and "hint: " in r.stderr, r)
    r = strata("run", "-it", "--rm", "--detach-keys", "ctrl-", "--network", "none", "busybox", "true")
    ok("keys that are none are an error", r.returncode == 125 and "detach-keys" in r.stderr, r)


def main():
    if os.geteuid() != 0:
        skip_all("not root")
    if not os.access(STRATA, os.X_OK):
        skip_all(f"{STRATA} is not built")
    make_image()
    if os.environ.get("STRATA_ISOLATION") == "vm":
        import_kernel()
    try:
        tests()
    finally:
        for name in ("size", "keys", "own"):
            strata("rm", "-f", name)
    print(f"1..{points}")


main()
