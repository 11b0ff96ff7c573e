#!/usr/bin/python3
# test: fast timeout=60
"""The test runner counts what programs report, and notices every way in which a program can end without reporting."""

import importlib.machinery
import importlib.util
import pathlib
import sys
import tempfile
import types

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("runner", str(ROOT / "tests/run"))
runner = importlib.util.module_from_spec(importlib.util.spec_from_loader("runner", loader))
sys.modules["runner"] = runner  # dataclasses look their module up
loader.exec_module(runner)
points = 0


def ok(name, passed):
    global points
    points += 1
    print(f"{'ok' if passed else 'not ok'} {points} - {name}")


def counts(outcome):
    return len(outcome.passed), len(outcome.failed), len(outcome.skipped)


def run(script, timeout=20):
    with tempfile.TemporaryDirectory() as folder:
        options = types.SimpleNamespace(build=pathlib.Path(folder), assets=pathlib.Path(folder))
        program = runner.Program("probe", ["/bin/sh", "-c", script], timeout=timeout)
        return runner.run_program(program, options, pathlib.Path(folder) / "log")


ok("passed, failed and skipped tests are counted apart",
   counts(runner.parse_tap("1..3\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no KVM")) == (1, 1, 1))  # fmt: skip
ok("a skipped test's reason is kept", runner.parse_tap("ok 1 - c # SKIP no KVM\n1..1").skipped == [("c", "no KVM")])
ok("cmocka's way of skipping is no failure", counts(runner.parse_tap("1..1\nnot ok 1 # SKIP name")) == (0, 0, 1))
ok("several cmocka groups add up", counts(runner.parse_tap("1..1\nok 1 - a\n1..2\nok 1 - b\nok 2 - c")) == (3, 0, 0))
ok("a program that skips everything says so", runner.parse_tap("1..0 # SKIP not root").skipped == [("all", "not root")])
ok("too few results are a failure", counts(runner.parse_tap("1..2\nok 1 - a")) == (1, 1, 0))
ok("too many results are a failure", counts(runner.parse_tap("1..1\nok 1 - a\nok 2 - b")) == (2, 1, 0))
ok("no plan is a failure", counts(runner.parse_tap("ok 1 - a")) == (1, 1, 0))
ok("no output is a failure", counts(run("exit 0")) == (0, 1, 0))
ok("a good program passes", counts(run("echo 1..1; echo ok 1 - a")) == (1, 0, 0))
ok("a bad exit status is a failure", counts(run("echo 1..1; echo ok 1 - a; exit 3")) == (1, 1, 0))
ok("a crash is a failure", counts(run("echo 1..1; echo ok 1 - a; kill -SEGV $$")) == (1, 1, 0))
ok("a program that does not end is a failure", counts(run("echo 1..1; echo ok 1 - a; exec sleep 60", timeout=1)) == (1, 1, 0))
ok("a program that cannot be started is a failure", counts(
    runner.run_program(runner.Program("probe", ["/nonexistent"]), types.SimpleNamespace(build=ROOT, assets=ROOT),
                       pathlib.Path(tempfile.mkdtemp()) / "log")) == (0, 1, 0))  # fmt: skip
print(f"1..{points}")
