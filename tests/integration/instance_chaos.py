#!/usr/bin/python3
# test: timeout=600
"""Random commands on a few instances while processes of ours are killed with SIGKILL: commands, their helpers, supervisors.

Afterwards everything can be removed, and no mount, control group, namespace, interface, nftables element, process or file is
left. INSTANCE_CHAOS=N sets the number of commands, SEED=N repeats a run (as far as timing lets it). With STRATA_ISOLATION=vm the
instances are machines, and strata-vmm is among what is killed.
"""

import glob
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("STRATA_BUILD", ROOT + "/build")
STRATA = os.environ.get("STRATA", BUILD + "/strata")
ASSETS = os.environ.get("ASSETS", ROOT + "/build/assets")
VM = os.environ.get("STRATA_ISOLATION") == "vm"
COMMANDS = "30" if VM else "80"
KILL_WITHIN = 2.5 if VM else 0.12  # seconds: a start takes so long
NAMES = ["one", "two", "three", "four"]
points = 0


def point(name, passed, *why):
    global points
    points += 1
    print(f"{'ok' if passed else 'not ok'} {points} - {name}", flush=True)
    if not passed:
        for line in why:
            print("#", str(line).replace("\n", "\n# "))


def skip_all(reason):
    print(f"1..0 # SKIP {reason}")
    sys.exit(0)


if os.geteuid() != 0:
    skip_all("not root")
if not shutil.which("busybox"):
    skip_all("busybox is not installed")
if "STRATA_TEST_NETNS" not in os.environ:  # bridges and ports of our own
    os.environ["STRATA_TEST_NETNS"] = "1"
    os.execvp("unshare", ["unshare", "-n", sys.executable, os.path.abspath(__file__)])

work = tempfile.mkdtemp(prefix="chaos-", dir=os.environ.get("TMPDIR"))
env = {k: v for k, v in os.environ.items() if k not in ("STRATA_IMAGE_ROOT", "STRATA_NET_ROOT", "XDG_RUNTIME_DIR")}
env["STRATA_ROOT"] = work + "/root"
seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
rng = random.Random(seed)
print(f"# SEED={seed}")
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def strata(*args, **kwargs):
    return subprocess.run([STRATA, *args], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **kwargs)


def make_image():
    tree = work + "/tree"
    os.makedirs(tree + "/bin")
    for d in ("dev", "proc", "sys", "etc", "tmp"):
        os.mkdir(f"{tree}/{d}")
    shutil.copy(shutil.which("busybox"), tree + "/bin/busybox")
    for program in ("sh", "sleep", "true", "cat", "yes", "head"):
        os.symlink("busybox", f"{tree}/bin/{program}")
    subprocess.run(["tar", "-C", tree, "-cf", work + "/image.tar", "."], check=True)
    return strata("image", "import", work + "/image.tar", "busybox")


def import_kernel():
    modules = glob.glob(ASSETS + "/kernel/lib/modules/*")
    if not modules or strata("kernel", "import", "--modules", modules[0], ASSETS + "/vmlinuz").returncode:
        skip_all(f"no kernel could be imported from {ASSETS}")


def machines():
    """Their processes have nothing of our environment."""
    found = {}
    for path in processes_of(set(os.listdir(work + "/root/instances"))):
        pid = int(path.split("/")[2])
        try:
            if os.readlink(f"/proc/{pid}/exe").endswith("/strata-vmm"):
                found[pid] = "strata-vmm"
        except OSError:
            pass
    return found


def ours():
    """Processes of ours for this root: {pid: kind}."""
    found = machines() if VM else {}
    for path in glob.glob("/proc/[0-9]*/environ"):
        pid = int(path.split("/")[2])
        try:
            exe = os.readlink(f"/proc/{pid}/exe")
            if pid != os.getpid() and exe.startswith(BUILD + "/") and f"STRATA_ROOT={env['STRATA_ROOT']}".encode() in open(path, "rb").read():
                found[pid] = os.path.basename(exe)
        except OSError:
            pass
    return found


def some_command():
    name = rng.choice(NAMES)
    network = rng.choice(["none", "bridge", "bridge", "mine"])
    script = rng.choice(["sleep 1000", "sleep 0.1", "exit 3", "yes | head -c 100000; sleep 1000"])
    return rng.choice([
        ["run", "-d", "--name", name, "--network", network, "busybox", "sh", "-c", script],
        ["run", "-d", "--rm", "--name", name, "--network", network, "-v", "/data", "busybox", "sh", "-c", script],
        ["run", "--rm", "--network", network, "busybox", "true"],
        ["run", "-d", "--restart", "on-failure:3", "--name", name, "--network", network, "-v", "vol:/data", "busybox", "sh", "-c", script],
        ["run", "-d", "-p", f"{20000 + NAMES.index(name)}:80", "--name", name, "busybox", "sh", "-c", script],
        *([] if VM else [
            ["run", "-d", "--userns", "auto", "--name", name, "--network", network, "-v", "vol:/data", "busybox", "sh", "-c", script],
            ["run", "-d", "--ipc", "container:" + rng.choice(NAMES), "--name", name, "--network", "none", "busybox", "sh", "-c", script],
        ]),
        ["cp", work + "/image.tar", name + ":/data/"],
        ["start", name], ["stop", "-t", "0", name], ["kill", name], ["rm", "-f", name], ["rm", "-f", name],
        ["restart", "-t", "0", name], ["exec", name, "true"], ["pause", name], ["unpause", name], ["ps", "-a"],
        ["cp", name + ":/bin", work + "/out"], ["cp", work + "/image.tar", name + ":/tmp/"], ["rename", name, rng.choice(NAMES)],
        ["update", "--memory", "64m", name], ["logs", name], ["create", "--name", name, "busybox", "sleep", "1000"],
        ["commit", name, "committed"], ["volume", "prune", "-f"], ["network", "prune", "-f"],
    ])  # fmt: skip


def kill_something(command):
    """The command itself, or whatever of ours runs now."""
    victims = ours()
    if rng.random() < 0.4 or not victims:
        command.kill()
        return "command"
    pid = rng.choice(sorted(victims))
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return "nobody"
    return victims[pid]


def chaos(n):
    killed = {}
    for _ in range(n):
        command = subprocess.Popen([STRATA, *some_command()], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if rng.random() < 0.6:
            time.sleep(rng.random() ** 2 * KILL_WITHIN)
            who = kill_something(command)
            killed[who] = killed.get(who, 0) + 1
        try:
            command.wait(60)
        except subprocess.TimeoutExpired:
            stuck.append(command.args)
            command.kill()
            command.wait()
    return killed


def groups():
    ids = os.listdir(work + "/root/instances") + sorted(seen)
    return [g for pattern in ("/sys/fs/cgroup/*/strata-*", "/sys/fs/cgroup/strata-*") for g in glob.glob(pattern) if g.split("strata-")[1] in ids]


def until_gone(what):
    """Things that end by themselves in a moment."""
    for _ in range(100):
        left = what()
        if not left:
            return left
        time.sleep(0.1)
    return left


def wrong_states():
    """What ps calls running and has no process, or the reverse. Some are on their way."""
    wrong = []
    for line in filter(None, strata("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}").stdout.split("\n")):
        number, state = line.split()
        if state != "restarting" and (state in ("running", "paused")) != bool(processes_of({number})):
            wrong.append(line)
    return wrong


def mounts():
    return [line for line in open("/proc/self/mountinfo") if work in line]


def processes_of(ids):
    found = []
    for path in glob.glob("/proc/[0-9]*/cgroup"):
        try:
            text = open(path).read()
            found += [path] if any(i in text for i in ids) else []
        except OSError:
            pass
    return found


stuck, seen = [], set()
made = make_image()
if made.returncode:
    point("the image", False, made.stderr)
if VM:
    import_kernel()
strata("network", "create", "mine")
links_before = set(os.listdir("/sys/class/net"))
try:
    count = int(os.environ.get("INSTANCE_CHAOS", COMMANDS))
    for _ in range(0, count, 10):
        killed = chaos(10)
        seen.update(i for i in os.listdir(work + "/root/instances") if re.fullmatch("[0-9a-f]{64}", i))
    point(f"{count} commands came to an end", not stuck, stuck)

    listed = strata("ps", "-aq", "--no-trunc")
    point("they can be listed", listed.returncode == 0, listed.stderr)
    wrong = until_gone(wrong_states)
    point("ps says what runs", not wrong, wrong)

    problems = []
    for number in listed.stdout.split():
        removed = strata("rm", "-f", "-v", number)
        if removed.returncode:
            problems.append(removed.stderr)
    strata("volume", "prune", "-a", "-f")
    point("all can be removed", not problems, *problems)
    recovered = strata("system", "check")
    again = strata("system", "check")
    point("nothing is wrong afterwards", again.returncode == 0, recovered.stdout, recovered.stderr, again.stdout, again.stderr)
    point("no process of ours is left", not until_gone(ours), ours())
    point("no process of a container is left", not until_gone(lambda: processes_of(seen)), processes_of(seen))
    point("no control group is left", not until_gone(groups), groups())
    point("no mount is left", not mounts(), mounts())
    point("no directory of an instance is left", not os.listdir(work + "/root/instances"), os.listdir(work + "/root/instances"))
    point("no name is taken", not os.listdir(work + "/root/names"), os.listdir(work + "/root/names"))
    pins = os.listdir(work + "/root/images/instances")
    point("no image is pinned", not pins, pins)
    strata("network", "prune", "-f")
    left = until_gone(lambda: set(os.listdir("/sys/class/net")) - links_before)
    point("no interface is left", not left, left)
    checked = strata("image", "check")
    point("no image is damaged", checked.returncode == 0, checked.stdout, checked.stderr)
    ran = strata("run", "--rm", "--network", "none", "busybox", "true")
    point("a container can be run", ran.returncode == 0, ran.stderr)
finally:
    for number in strata("ps", "-aq").stdout.split():
        strata("rm", "-f", number)
    for pid in ours():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(work, ignore_errors=True)
print(f"1..{points}")
