#!/usr/bin/python3
# test: timeout=60 fast
"""What bench/guest/run says of measurements: which way ratios point, that a load without a right result has no time, and
what is missed."""

import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
points = 0


def ok(name, passed, detail=""):
    global points
    points += 1
    print(f"{'ok' if passed else 'not ok'} {points} - {name}", flush=True)
    for line in str(detail).splitlines() if not passed else []:
        print(f"# {line}")


def took(seconds, cpu_seconds=None):
    return {"seconds": seconds, "cpu_seconds": cpu_seconds or seconds, "host_seconds": seconds, "output": "1:0"}


def load(runs, simd=False, cpus=1):
    return {"cpus": cpus, "simd": simd, "rounds": 1, "command": "true", "runs": runs}


def run(native, ours, tcg):
    return {"native": took(*native), "translate": took(*ours), "tcg": took(*tcg)}


def result(loads):
    boot = {"engine": "translate", "cpus": 1, "elapsed": {"ratio": 0.4}, "cpu_time": {"ratio": 1.5}}
    return {
        "engines": ["translate"], "clock": "seconds", "quick": False, "runs": 1, "loads": loads, "boots": [boot],
        "memory_kib": {"translate": 40 * 1024}, "problems": [], "others": 0.0,
    }  # fmt: skip


def report(loads, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(result(loads), file)
        file.flush()
        done = subprocess.run([ROOT / "bench/guest/run", "--print", file.name, *options], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def line(text, start):
    """The words of the first line of @text that begins with @start, after it."""
    return next((row[len(start) :].split() for row in text.splitlines() if row.startswith(start)), [])


status, text = report({"a": load([run([1], [2], [8])]), "b": load([run([1], [8], [72])], simd=True)})
ok("the report of good measurements has status 0", status == 0, text)
ok("a row has times, speed against TCG and time against native", line(text, "a ") == ["1.000", "2.000", "4.00", "2.00", "8.000"], text)
speed = line(text, "speed against TCG, geometric mean")
ok("speed against TCG is the geometric mean of TCG's time through ours", speed[:2] == ["6.00", "times"] and "MUST" in speed, text)
native = line(text, "time against native, geometric mean")
ok("time against native is the geometric mean of ours through native's", native[0] == "4.00" and "MISSED" in native, text)
simd = line(text, "time against native, FP/SIMD, geometric mean")
ok("floating point is judged by itself", simd[0] == "8.00" and "MISSED" in simd, text)
ok("a boot in less than half of TCG's time is what was aimed at", "AIM" in line(text, "boot to first process"), text)
ok("a boot that was not measured is not passed", "not measured" in " ".join(line(text, "the same with 2 CPUs")), text)
ok("memory within the bound is passed", "MUST" in line(text, "VMM memory beyond the guest's"), text)

status, text = report({"a": load([run([1], [4], [2])])})
ok("one load slower than TCG is missed and named", {"0.50", "MISSED", "a"} <= set(line(text, "speed against TCG, slowest load")), text)

broken = {"native": took(1), "translate": {"error": "wrong result: 1:1, not 1:0"}, "tcg": took(9)}
status, text = report({"a": load([broken]), "b": load([run([1], [1], [2])])})
ok("a wrong result makes the status 1", status == 1, text)
ok("it is said where it happened", "a on translate: wrong result: 1:1, not 1:0" in text, text)
ok("it has no time and is in no mean", line(text, "a ")[1] == "-" and line(text, "speed against TCG, geometric mean")[0] == "2.00", text)
ok("it is counted", {"1.00", "MISSED"} <= set(line(text, "loads that failed")), text)

text = report({"a": load([run([1, 1], [2, 4], [8, 8])])}, "--time", "cpu")[1]
ok("--time cpu judges CPU time, boots too", line(text, "a ")[2] == "2.00" and "MISSED" in line(text, "boot to first process"), text)

text = report({"a": load([run([1], [2], [8])] * 2 + [run([1], [20], [8])])})[1]
ok("of several runs the median counts", line(text, "a ")[2] == "4.00", text)

text = report({"a": load([run([1], [2], [8])]), "2-b": load([run([1], [1], [64])], cpus=2)})[1]
ok("loads of two CPUs have a mean of their own", line(text, "speed against TCG, geometric mean")[0] == "4.00", text)
ok("and it is printed", line(text, "2 CPUs: speed against TCG, geometric mean")[0] == "64.00", text)

unknown = subprocess.run([ROOT / "bench/guest/run", "--only", "nothing"], capture_output=True, text=True)
ok("a load that does not exist is refused", unknown.returncode == 2 and "no load nothing" in unknown.stderr, unknown.stderr)
print(f"1..{points}")
sys.exit(0)
