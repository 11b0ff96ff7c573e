"""`strata run` for bench/container: against `podman run`, alone, and among many others.

Everything happens below one temporary directory and in the caller's network namespace.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import time

# Root here may not raise limits; podman's defaults do.
PODMAN_LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
IMAGE = "localhost/bench:1"


class Strata:
    name = "strata"

    def __init__(self, build, folder):
        self.build = build
        self.command = [str(build / "strata")]
        self.environment = {**os.environ, "STRATA_ROOT": str(folder / "strata")}

    def run(self, *words):
        return [*self.command, "run", *words]

    def import_image(self, archive):
        self.check("image", "import", str(archive), IMAGE)

    def check(self, *words):
        return subprocess.run([*self.command, *words], env=self.environment, check=True, capture_output=True, text=True).stdout

    def finish(self):
        ids = self.check("ps", "-aq").split()
        if ids:
            self.check("rm", "-f", *ids)
        self.check("network", "prune", "-f")


class Podman(Strata):
    name = "podman"

    def __init__(self, folder):  # pylint: disable=super-init-not-called
        self.command = [shutil.which("podman"), "--cgroup-manager=cgroupfs", "--root", str(folder / "podman"), "--runroot",
                        str(folder / "podman-run"), "--network-config-dir", str(folder / "podman-net")]  # fmt: skip
        self.environment = dict(os.environ)

    def run(self, *words):
        return [*self.command, "run", *PODMAN_LIMITS, *words]

    def import_image(self, archive):
        self.check("import", str(archive), IMAGE)

    def finish(self):
        self.check("rm", "-af")
        subprocess.run(["umount", "-q", *(line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()
                                          if "/podman/" in line.split()[1])], check=False, capture_output=True)  # fmt: skip


def make_archive(folder, busybox):
    rootfs = folder / "engine-rootfs"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(busybox, rootfs / "bin/busybox")
    for name in ("true", "sleep"):
        (rootfs / "bin" / name).symlink_to("busybox")
    archive = folder / "engine.tar"
    subprocess.run(["tar", "-C", rootfs, "-cf", archive, "."], check=True)
    return archive


def milliseconds(engine, *words):
    command = engine.run("--rm", *words, IMAGE, "true")
    start = time.perf_counter()
    process = subprocess.run(command, env=engine.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: status {process.returncode}: {process.stderr.strip()[-300:]}")
    return (time.perf_counter() - start) * 1000


def against_podman(strata, podman, rounds, words):
    """Medians, and the median of the pairs' ratios; None without podman."""
    times = {engine: [] for engine in (strata, podman) if engine}
    for i in range(rounds + 1):
        for engine in list(times)[:: 1 if i % 2 else -1]:
            t = milliseconds(engine, *words)
            if i:
                times[engine].append(t)
    medians = {engine.name: statistics.median(values) for engine, values in times.items()}
    return medians, statistics.median(a / b for a, b in zip(times[strata], times[podman])) if podman else None


def resident_kib(build, what="Rss"):
    """Of all processes whose program is one of ours. "Pss": what several share counts once."""
    total = {}
    for process in pathlib.Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            program = pathlib.Path(os.readlink(process / "exe"))
            if program.parent != build:
                continue
            rollup = (process / "smaps_rollup").read_text()
        except OSError:
            continue
        total[program.name] = total.get(program.name, 0) + sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(f"{what}:"))
    return total


def idle_memory(strata, *words):
    before = resident_kib(strata.build)
    strata.check("run", "-d", "--name", "idle", *words, IMAGE, "sleep", "1000")
    time.sleep(0.5)
    after = resident_kib(strata.build)
    strata.check("rm", "-f", "idle")
    return {name: kib - before.get(name, 0) for name, kib in after.items() if kib > before.get(name, 0)}


def growth(strata, most, samples=25):
    """[(containers that run, median ms of one more)]; the last point is one container again."""
    points, running = [], []
    for target in [*(n for n in (1, 50, 100, 200, 500) if n < most), most, 1]:
        while len(running) < target:
            batch = [subprocess.Popen(strata.run("-d", IMAGE, "sleep", "10000"), env=strata.environment, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, text=True) for _ in range(min(4, target - len(running)))]  # fmt: skip
            for process in batch:
                running.append(process.communicate()[0].strip())
                if process.returncode != 0:
                    raise RuntimeError(f"container {len(running)} of {target} did not start")
        if len(running) > target:
            strata.check("rm", "-f", *running[target:])
            del running[target:]
        os.sync()
        points.append((target, statistics.median(milliseconds(strata) for _ in range(samples))))
    return points


def growth_ratio(points):
    """Of the largest point to the mean of the first and the last, which are one container: a machine that became slower meanwhile is no growth."""
    return max(points)[1] / statistics.mean((points[0][1], points[-1][1]))


def print_points(figure, name, points, unit):
    print(f"{figure:8} {name:11} " + ", ".join(f"{n} running: {value:.1f} ms" for n, value in points) + f" {unit}")
