#!/usr/bin/python3
# test: timeout=400
"""The serial console on a terminal: typing reaches the guest, Ctrl-A X and SIGTERM end the machine, the terminal is
left as it was found."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ASSETS = os.environ.get("ASSETS", ROOT + "/build/assets")
STRATA = os.environ.get("STRATA", os.environ.get("STRATA_BUILD", ROOT + "/build") + "/strata")
BOOT_TIMEOUT_S = 120
points = 0


def ok(name, passed, detail=""):
    global points
    points += 1
    print(f"{'ok' if passed else 'not ok'} {points} - {name}", flush=True)
    if not passed and detail:
        for line in str(detail).splitlines()[-30:]:
            print(f"# {line}")
    return passed


class Machine:
    """A machine whose console is one end of a pseudo-terminal."""

    def __init__(self, append="quiet"):
        self.terminal, end = pty.openpty()
        self.before = termios.tcgetattr(end)
        self.process = subprocess.Popen(
            [ROOT + "/tests/vm", "--kernel", ASSETS + "/vmlinuz", "--initrd", ASSETS + "/busybox.cpio", "--memory", "256M",
             "--net", "none", "--append", "console=ttyS0 panic=-1 random.trust_cpu=on " + append],
            stdin=end, stdout=end, stderr=end, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(end, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self.end = end
        self.output = ""

    def wait_for(self, text, seconds=BOOT_TIMEOUT_S):
        deadline = time.monotonic() + seconds
        while text not in self.output:
            left = deadline - time.monotonic()
            ready = select.select([self.terminal], [], [], max(0, min(left, 0.5)))[0]
            if ready:
                self.output += os.read(self.terminal, 4096).decode(errors="replace")
            elif left <= 0 or self.process.poll() is not None:
                return text in self.output
        return True

    def type(self, text):
        os.write(self.terminal, text.encode())

    def status(self, seconds=30):
        """The exit status, or None when it had to be killed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return self.process.returncode
            self.wait_for("\0", 0.1)  # keep the terminal drained
        self.process.kill()
        self.process.wait()
        return None

    def restored(self):
        return termios.tcgetattr(self.end) == self.before

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.terminal)
        os.close(self.end)


def shell_ends_machine():
    machine = Machine()
    if ok("the shell comes up on the console", machine.wait_for("# "), machine.output):
        machine.output = ""
        machine.type("echo $((6 * 7))-answers\n")
        ok("what is typed is run, what it prints is shown", machine.wait_for("42-answers", 30), machine.output)
        machine.output = ""
        machine.type("sleep 1000\n")
        machine.wait_for("sleep 1000", 10)
        time.sleep(2)
        machine.type("\x03")
        machine.type("echo interrupted=$?\n")
        ok("Ctrl-C goes to the guest, not to the machine", machine.wait_for("interrupted=130", 30), machine.output)
        machine.output = ""
        # Ctrl-A twice is one Ctrl-A for the guest, where the shell's line editing goes to the start of the line.
        machine.type("cho beginning\x01\x01e\n")
        ok("Ctrl-A Ctrl-A reaches the guest as Ctrl-A", machine.wait_for("\nbeginning", 30), machine.output)
        machine.type("exit\n")
        ok("leaving the shell powers off: status 0", machine.status() == 0, machine.output)
        ok("the terminal is as it was", machine.restored())
    machine.close()


def escape_ends_machine(name, stage, append):
    machine = Machine(append)
    machine.wait_for(stage)
    machine.type("\x01x")
    status = machine.status()
    ok(f"Ctrl-A X ends the machine {name}", status is not None, machine.output)
    ok(f"Ctrl-A X {name}: status 0", status == 0, f"status {status}")
    ok(f"Ctrl-A X {name}: the terminal is as it was", machine.restored())
    machine.close()


def signal_ends_machine(number):
    machine = Machine()
    machine.wait_for("# ")
    machine.process.send_signal(number)
    status = machine.status()
    ok(f"{number.name} ends the machine", status is not None, machine.output)
    ok(f"{number.name}: the terminal is as it was", machine.restored())
    machine.close()


def main():
    if os.environ.get("VMM", "strata") == "strata" and not os.access(STRATA, os.X_OK):
        print(f"1..0 # SKIP {STRATA} is not built")
        return 0
    subprocess.run([ROOT + "/scripts/guest-assets", "--dir", ASSETS, "kernel", "busybox"], check=True)
    shell_ends_machine()
    escape_ends_machine("at the shell", "# ", "quiet")
    escape_ends_machine("while the kernel boots", "Linux version", "")
    signal_ends_machine(signal.SIGTERM)
    signal_ends_machine(signal.SIGHUP)
    print(f"1..{points}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
