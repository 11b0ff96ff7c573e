"""The machines that loads run on: ours, QEMU's, and the host itself in a chroot. All three hold the same root file system
and the same driver (driver.c), which speaks lines; only the way to start it differs."""

import ctypes
import os
import pathlib
import re
import select
import signal
import subprocess
import time

MESSAGE = re.compile(rb"@bench (\w+) ?([^\r\n]*)\r?\n")
NATIVE = "native"
TCG = "tcg"
# TCG does "rep movsb" byte by byte: a guest that is not told that it is fast copies by other means (README).
TCG_CPU = "max,erms=off,fsrm=off"

# Nothing is mitigated in either guest: TCG pays more for retpolines and page-table isolation than ours, which tells its
# guests that it needs none. tsc=reliable: without an HPET TCG's guests distrust it and fall back to the slow ACPI timer.
KERNEL_LINE = (
    "console=ttyS0 root=/dev/nvme0n1 ro rootfstype=ext4 init=/bench/driver panic=-1 loglevel=3 "
    "mitigations=off tsc=reliable random.trust_cpu=on"
)


class Failure(Exception):
    """A peer did not do what it was asked; the message says what, with the end of its output."""


def cpu_seconds(pid):
    """CPU time of process @pid with all its threads. The clock of a process is ~pid << 3 | 2: clock_getcpuclockid(3)."""
    return time.clock_gettime(ctypes.c_int((~pid << 3) | 2).value)


class Peer:
    """One driver and how to reach it. Started on first use and again after a failure."""

    def __init__(self, name, cpus, log=None):
        self.name, self.cpus, self.log = name, cpus, log
        self.process = None
        self.pending = b""
        self.has = set()  # inputs made in this one's /tmp
        self.serial = 0
        self.boot_seconds = None

    def command(self):
        raise NotImplementedError

    def start(self, timeout_s):
        start = time.monotonic()
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.pending = b""
        self.has = set()
        cpus = int(self.wait_for(b"ready", timeout_s)[0][0])
        self.boot_seconds = time.monotonic() - start
        if cpus != self.cpus:
            raise Failure(f"{self.name} has {cpus} CPUs, not {self.cpus}")

    def wait_for(self, word, timeout_s):
        """The words behind the next message @word and when it came; an "error" on the way is kept in self.error."""
        deadline = time.monotonic() + timeout_s
        self.error = ""
        while True:
            found = MESSAGE.search(self.pending)
            if found:
                self.pending = self.pending[found.end() :]
                if found[1] == word:
                    return found[2].decode(errors="replace").split(), time.monotonic()
                if found[1] == b"error":
                    self.error = found[2].decode(errors="replace")
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failure(f"{self.name}: no '{word.decode()}' within {timeout_s:.0f} s; {self.last_words()}")
            if not select.select([self.process.stdout], [], [], left)[0]:
                continue
            piece = self.process.stdout.read()
            if piece == b"":
                raise Failure(f"{self.name} ended with status {self.process.wait()}; {self.last_words()}")
            self.pending += piece or b""
            if self.log and piece:
                self.log.write(piece)
                self.log.flush()

    def last_words(self):
        text = self.pending[-600:].decode(errors="replace").strip()
        return f"its last output: {text}" if text else "it printed nothing more"

    def used_cpu(self):
        return cpu_seconds(self.process.pid)

    def run(self, command, timeout_s):
        """Runs @command and gives what was measured; raises Failure when it failed."""
        self.serial += 1
        self.process.stdin.write(f"run {self.serial} {command}\n".encode())
        self.process.stdin.flush()
        _, started = self.wait_for(b"start", timeout_s)
        cpu_before = self.used_cpu()
        (_, status, ns, cpu_ns), stopped = self.wait_for(b"stop", timeout_s)
        cpu_after = self.used_cpu()
        _, size, digest = self.wait_for(b"sum", timeout_s)[0]
        if int(status) != 0:
            raise Failure(f"{self.name}: status {int(status):#x}: {self.error}")
        return {
            "seconds": int(ns) / 1e9,
            "host_seconds": stopped - started,
            "cpu_seconds": int(cpu_ns) / 1e9 if self.name == NATIVE else cpu_after - cpu_before,
            "output": f"{size}:{digest}",
        }

    def stop(self):
        if not self.process:
            return
        self.process.stdin.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.process = None


class Native(Peer):
    """The root file system as a chroot in namespaces that vanish with it, on as many CPUs as the guests have."""

    def __init__(self, assets, cpus, log=None):
        super().__init__(NATIVE, cpus, log)
        self.root = assets / "bench-root"

    def command(self):
        where = sorted(os.sched_getaffinity(0))[-self.cpus :]
        mounts = (
            'mount -t proc proc "$0/proc" && mount -t sysfs -o ro sysfs "$0/sys" && '
            'mount -t tmpfs -o size=1g tmpfs "$0/tmp" && '
            'mount --rbind /dev "$0/dev" && exec chroot "$0" /bench/driver'
        )
        return [
            "taskset", "-c", ",".join(map(str, where)), "unshare", "--mount", "--pid", "--ipc", "--net", "--fork", "--kill-child",
            "sh", "-c", mounts, str(self.root),
        ]  # fmt: skip

    def used_cpu(self):
        return 0.0


class Strata(Peer):
    def __init__(self, engine, build, assets, cpus, memory, extra=(), log=None):
        super().__init__(engine, cpus, log)
        self.argv = [
            str(build / "strata"), "vm", "run", "--engine", engine, "--memory", f"{memory}M", "--cpus", str(cpus),
            "--net", "none", "--kernel", str(assets / "vmlinuz"), "--disk", f"{assets / 'bench.ext4'},ro,format=raw",
            "--append", KERNEL_LINE, *extra,
        ]  # fmt: skip

    def command(self):
        return self.argv


class Qemu(Peer):
    """TCG as fast as its options make it; bench/README.md says which were compared."""

    def __init__(self, assets, cpus, memory, cpu_model, log=None):
        super().__init__(TCG, cpus, log)
        self.argv = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35,hpet=off",
            "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", cpu_model, "-m", f"{memory}M", "-smp", str(cpus),
            "-serial", "stdio", "-kernel", str(assets / "vmlinuz"), "-append", KERNEL_LINE,
            "-drive", f"if=none,id=root,file={assets / 'bench.ext4'},format=raw,readonly=on",
            "-device", "nvme,drive=root,serial=root",
        ]  # fmt: skip

    def command(self):
        return self.argv


def own_memory(pid):
    """Resident KiB of process @pid beyond its guest's memory."""
    total, guest = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            guest = "memfd:guest-ram" in line
        elif line.startswith("Rss:") and not guest:
            total += int(line.split()[1])
    return total
