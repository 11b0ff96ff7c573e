"""What the Python tests of devices share: TAP points, and a machine with the guest `devices` that runs a script."""

import atexit
import os
import select
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ASSETS = os.environ.get("ASSETS", ROOT + "/build/assets")
STRATA = os.environ.get("STRATA", os.environ.get("STRATA_BUILD", ROOT + "/build") + "/strata")
TMPDIR = os.environ.get("TMPDIR") or tempfile.mkdtemp()
BOOT_TIMEOUT_S = 120
os.environ.setdefault("ENGINE", "translate")  # these are about devices; their guests have much to do
points = 0


def ok(name, passed, detail=""):
    global points
    points += 1
    print(f"{'ok' if passed else 'not ok'} {points} - {name}", flush=True)
    if not passed and detail:
        for line in str(detail).splitlines()[-30:]:
            print(f"# {line}")
    return passed


def equal(name, got, wanted):
    return ok(name, got == wanted, f"got:    {got!r}\nwanted: {wanted!r}")


def done():
    print(f"1..{points}")


def prepare():
    """Ends the program where there is nothing to test."""
    if os.environ.get("VMM", "strata") != "strata" or not os.access(STRATA, os.X_OK):
        print(f"1..0 # SKIP {STRATA} is not built, or another VMM is asked for")
        sys.exit(0)
    subprocess.run([ROOT + "/scripts/guest-assets", "--dir", ASSETS, "devices"], check=True)


class Guest:
    """A machine that runs @script as its first process's work; options are those of `strata vm run`."""

    def __init__(self, script, *options, memory="256M"):
        initrd = tempfile.mktemp(dir=TMPDIR)
        subprocess.run(
            ["bash", "-c", '. "$1"/tests/integration/lib.sh && guest_running "$2" "$3" "$4"', "-", ROOT, ASSETS + "/devices.cpio", script, initrd],
            check=True,
        )
        self.output = ""
        self.process = subprocess.Popen(
            [ROOT + "/tests/vm", "--kernel", ASSETS + "/vmlinuz", "--initrd", initrd, "--memory", memory,
             "--append", "console=ttyS0 panic=-1 random.trust_cpu=on quiet", *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        atexit.register(self.kill)  # also when a test gives up

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _read(self, seconds):
        """False when nothing will come any more."""
        pipe = self.process.stdout
        if not select.select([pipe], [], [], seconds)[0]:
            return True
        data = os.read(pipe.fileno(), 65536)
        self.output += data.decode(errors="replace").replace("\r", "")
        return bool(data)

    def wait_for(self, text, seconds=BOOT_TIMEOUT_S):
        deadline = time.monotonic() + seconds
        while text not in self.output and time.monotonic() < deadline:
            if not self._read(0.2):
                break
        return text in self.output

    def line(self, prefix):
        """What follows @prefix on the first line that begins with it."""
        for line in self.output.splitlines():
            if line.startswith(prefix):
                return line[len(prefix) :]
        return None

    def status(self, seconds=BOOT_TIMEOUT_S):
        """The exit status once it ended; None when it had to be killed."""
        deadline = time.monotonic() + seconds
        while self._read(0.2) and time.monotonic() < deadline:
            pass
        try:
            return self.process.wait(max(1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            return None
