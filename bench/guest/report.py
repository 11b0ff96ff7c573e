"""From measurements to the table, the means and the verdicts. Works on the dictionary that --json writes, and on nothing
else, so that an older run can be printed again."""

import dataclasses
import math
import statistics

from peers import NATIVE, TCG


def median_ratio(runs, above, below, clock):
    """Median over the runs of @above's time / @below's; None when no run has both. Both ran within seconds."""
    ratios = [
        run[above][clock] / run[below][clock]
        for run in runs
        if clock in run.get(above, {}) and clock in run.get(below, {})
    ]
    return statistics.median(ratios) if ratios else None


def median_time(runs, peer, clock):
    times = [run[peer][clock] for run in runs if clock in run.get(peer, {})]
    return statistics.median(times) if times else None


def geometric_mean(ratios):
    ratios = [ratio for ratio in ratios if ratio]
    return math.exp(statistics.mean(map(math.log, ratios))) if ratios else None


def number(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def errors(load):
    """What went wrong with a load, each once: [(peer, message)]."""
    found = {(peer, result["error"]) for run in load["runs"] for peer, result in run.items() if "error" in result}
    return sorted(found)


class Ratios:
    """Speed against TCG and slowness against native of one engine, per load."""

    def __init__(self, result, engine, clock):
        self.loads = {
            name: (
                load,
                median_ratio(load["runs"], TCG, engine, clock),
                median_ratio(load["runs"], engine, NATIVE, clock),
            )
            for name, load in result["loads"].items()
        }

    def some(self, which, cpus=1, simd=None):
        """(ratio, name) of loads of that kind; @which 1: against TCG, 2: against native."""
        return [
            (entry[which], name)
            for name, entry in self.loads.items()
            if entry[which] and entry[0]["cpus"] == cpus and simd in (None, entry[0]["simd"])
        ]

    def mean(self, which, **kind):
        return geometric_mean([ratio for ratio, _ in self.some(which, **kind)])


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table of what is wanted."""

    figure: str
    value: float | None
    must: float | None
    aim: float | None
    unit: str = "times"
    larger_is_better: bool = False
    note: str = ""

    def meets(self, bound):
        return self.value >= bound if self.larger_is_better else self.value <= bound

    def verdict(self):
        if self.value is None:
            return "not measured"
        if self.must is None:
            return ""
        if self.aim is not None and self.meets(self.aim):
            return "AIM"
        return "MUST" if self.meets(self.must) else "MISSED"

    def bound(self, bound):
        return "" if bound is None else f"{'>=' if self.larger_is_better else '<='} {bound:g}"


def wanted(result, engine, clock):
    """The lines that say whether @engine is as fast as it has to be."""
    ratios = Ratios(result, engine, clock)
    slowest = min(ratios.some(1), default=(None, "nothing measured"))
    worst_simd = max(ratios.some(2, simd=True), default=(None, "nothing measured"))
    boots = {
        boot["cpus"]: boot["elapsed" if clock == "seconds" else "cpu_time"]["ratio"]
        for boot in result["boots"]
        if boot["engine"] == engine
    }
    slowest2 = min(ratios.some(1, cpus=2), default=(None, "nothing measured"))
    failed = [name for name, load in result["loads"].items() if errors(load)]
    own = result["memory_kib"].get(engine)
    return [
        Line("speed against TCG, geometric mean", ratios.mean(1), 3, 6.5, larger_is_better=True),
        Line("speed against TCG, slowest load", slowest[0], 1, None, larger_is_better=True, note=slowest[1]),
        Line("time against native, geometric mean", ratios.mean(2), 3, 1.3),
        Line("time against native, FP/SIMD, geometric mean", ratios.mean(2, simd=True), 1.3, 1.05, note=f"worst: {worst_simd[1]} {number(worst_simd[0])}"),
        Line("boot to first process, time against TCG", boots.get(1), 1, 0.5),
        Line("the same with 2 CPUs", boots.get(2), 1, 0.5),
        Line("VMM memory beyond the guest's, idle", own and own / 1024, 64, 24, unit="MiB"),
        Line("loads that failed or gave a wrong result", len(failed), 0, 0, unit="", note=" ".join(failed)),
        Line("2 CPUs: speed against TCG, geometric mean", ratios.mean(1, cpus=2), None, None, note=f"slowest: {slowest2[1]} {number(slowest2[0])}"),
        Line("2 CPUs: time against native, geometric mean", ratios.mean(2, cpus=2), None, None),
    ]  # fmt: skip


def table(rows, left=1):
    """Rows of strings as text, the first @left columns left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    )


def print_loads(result, clock):
    engines = result["engines"]
    head = ["load", "native s"]
    for engine in engines:
        head += [f"{engine} s", "speed, tcg 1", "time, native 1"]
    head += ["tcg s", ""]
    rows = [head]
    for name, load in result["loads"].items():
        runs = load["runs"]
        row = [name, number(median_time(runs, NATIVE, clock), 3)]
        for engine in engines:
            row += [
                number(median_time(runs, engine, clock), 3),
                number(median_ratio(runs, TCG, engine, clock)),
                number(median_ratio(runs, engine, NATIVE, clock)),
            ]
        row += [
            number(median_time(runs, TCG, clock), 3),
            "FAILED: " + ", ".join(peer for peer, _ in errors(load)) if errors(load) else "",
        ]
        rows.append(row)
    print(table(rows))


def print_report(result):
    clock = result["clock"]
    print_loads(result, clock)
    for name, load in result["loads"].items():
        for peer, message in errors(load):
            print(f"{name} on {peer}: {message}")
    for what, message in result["problems"]:
        print(f"{what}: {message}")
    ratios = [median_ratio(load["runs"], TCG, NATIVE, clock) for load in result["loads"].values() if load["cpus"] == 1]
    print(f"\nTCG itself, time against native, geometric mean: {number(geometric_mean(ratios))}")
    print(
        f"clock: {'elapsed time' if clock == 'seconds' else 'CPU time'}; beside this, programs of others used {result['others']:.0%} of a CPU"
    )
    for engine in result["engines"]:
        rows = [(engine, "is", "must", "aim", "verdict", "")]
        for line in wanted(result, engine, clock):
            rows.append(
                (
                    line.figure,
                    f"{number(line.value)} {line.unit}".strip(),
                    line.bound(line.must),
                    line.bound(line.aim),
                    line.verdict(),
                    line.note,
                )
            )
        print("\n" + table(rows))
