#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs all tests part by part, adds up what passed, failed and was skipped, shows what failed.

A part that could not even start (a build that fails, a runner that dies) counts as one failure.
FUZZ_SECONDS (60) is the time for each fuzz target. Arguments name the parts to run; none: all.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as xml

TOP = pathlib.Path(__file__).resolve().parents[1]
LOGS = TOP / "build/test"
SEEDS = TOP / "build/fuzz/seeds"
FUZZ_SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))
TAIL_LINES = 40
PART_TIMEOUT_S = 25 * 60
# Folders whose code runs in several threads.
THREADED = {"lane", "store"}


class Result:
    def __init__(self):
        self.passed = 0
        self.failed = []   # names
        self.skipped = []  # "name: reason"


def run(command, log, timeout=PART_TIMEOUT_S, **env):
    """Runs with output to the log; returns whether it succeeded."""
    with open(LOGS / f"{log}.log", "a") as out:
        print("+", *command, file=out, flush=True)
        process = subprocess.Popen([str(word) for word in command], cwd=TOP, stdout=out,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   env={**os.environ, **env}, start_new_session=True)
        try:
            return process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            print(f"stopped after {timeout} s", file=out)
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 15)
                try:
                    process.wait(20)  # scenario tests clean up after themselves
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, 9)


def skip_reason(suite, case):
    """Meson leaves it in what the program printed."""
    skipped = case.find("skipped")
    printed = re.search(rf"^ok {re.escape(case.get('name'))} # SKIP (.+)$",
                        suite.findtext("system-out") or "", re.MULTILINE)
    return skipped.get("message") or skipped.text or (printed[1] if printed else "no reason")


def add_junit(result, path):
    """Adds the cases of a JUnit file, as meson and pytest write them."""
    for suite in xml.parse(path).iter("testsuite"):
        for case in suite.iter("testcase"):
            name = f"{case.get('classname')} {case.get('name')}"
            if case.find("failure") is not None or case.find("error") is not None:
                result.failed.append(name)
            elif case.find("skipped") is not None:
                result.skipped.append(f"{name}: {skip_reason(suite, case)}")
            else:
                result.passed += 1


def single(name, succeeded):
    result = Result()
    if succeeded:
        result.passed = 1
    else:
        result.failed.append(name)
    return result


# --- parts ------------------------------------------------------------------------------------


def build(kind, log):
    return run(["tools/build.sh", kind], log)


def checks():
    result = Result()
    for name, command in {
        "include order": ["/usr/bin/python3", "tools/check-includes.py"],
        "sizes": ["/usr/bin/python3", "tools/check-sizes.py"],
        "layout": ["tools/check-layout.sh"],
    }.items():
        if run(command, "checks"):
            result.passed += 1
        else:
            result.failed.append(name)
    return result


def meson_tests(kind, log, folders=None, **env):
    """Unit and simulation tests of one kind of build, all or those of some folders of src/."""
    if not build(kind, log):
        return single(f"build {kind}", False)
    folder = TOP / "build" / kind
    listed = json.loads(subprocess.check_output(["meson", "introspect", "--tests", folder]))
    names = [test["name"] for test in listed
             if folders is None or folders & set(pathlib.Path(test["cmd"][0]).parts)]
    junit = folder / "meson-logs/testlog.junit.xml"
    junit.unlink(missing_ok=True)
    succeeded = run(["meson", "test", "-C", folder, "--no-rebuild", "--timeout-multiplier", "4",
                     "--print-errorlogs", *names], log, **env)
    result = Result()
    if junit.exists():
        add_junit(result, junit)
    if not succeeded and not result.failed:  # a program that died between two subtests
        result.failed.append(f"{kind} tests")
    return result


def sanitized_tests():
    return meson_tests("asan", "asan", ASAN_OPTIONS="abort_on_error=1:detect_leaks=1",
                       UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")


def threaded_tests():
    """With what tests/tools/tsan_glib.c knows, and without GLib's own allocator."""
    return meson_tests("tsan", "tsan", THREADED, TSAN_OPTIONS="halt_on_error=1",
                       G_SLICE="always-malloc",
                       LD_PRELOAD=str(TOP / "build/tsan/tests/tools/libtsan_glib.so"))


def fuzz():
    """Each target for some time, two at once; a crash leaves its input in build/test/fuzz."""
    if not build("fuzz", "fuzz"):
        return single("build fuzz", False)
    result = Result()
    left = sorted(path for path in (TOP / "build/fuzz/tests/fuzz").glob("fuzz-*")
                  if path.is_file() and os.access(path, os.X_OK))
    if not left:
        return single("fuzz: no targets", False)
    shutil.rmtree(SEEDS, ignore_errors=True)
    if not run([TOP / "build/fuzz/tests/fuzz/make-seeds", SEEDS], "fuzz"):
        return single("fuzz: make-seeds", False)
    while left:
        pair, left = left[:2], left[2:]
        running = [(target, start_fuzzer(target)) for target in pair]
        for target, process in running:
            if process.wait() == 0:
                result.passed += 1
            else:
                result.failed.append(f"{target.name} (build/test/{target.name}.log)")
                subprocess.run(f"tail -n 30 {LOGS}/{target.name}.log >>{LOGS}/fuzz.log", shell=True)
    return result


def start_fuzzer(target):
    """New inputs go to a corpus that later runs begin with; seeds are text, or made from code."""
    corpus = TOP / "build/fuzz/corpus" / target.name
    crashes = LOGS / "fuzz"
    for folder in corpus, crashes:
        folder.mkdir(parents=True, exist_ok=True)
    seeds = [folder / target.name for folder in (TOP / "tests/fuzz/seeds", SEEDS)]
    with open(LOGS / f"{target.name}.log", "w") as out:
        return subprocess.Popen(
            [target, f"-max_total_time={FUZZ_SECONDS}", "-rss_limit_mb=2048", "-timeout=20",
             f"-artifact_prefix={crashes}/{target.name}-", corpus,
             *(folder for folder in seeds if folder.is_dir())],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def pytest(log, *arguments, **env):
    junit = LOGS / f"{log}.xml"
    junit.unlink(missing_ok=True)
    succeeded = run(["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider",
                     "--durations=5", f"--junitxml={junit}", *arguments], log, **env)
    result = Result()
    if junit.exists():
        add_junit(result, junit)
    if not succeeded and not result.failed:
        result.failed.append(log)
    return result


def guest():
    return single("guest", run(["tests/guest/mkguest.sh"], "guest"))


def tools():
    return pytest("tools", "tests/tools", "tests/bench")


def scenarios():
    return pytest("scenarios", "tests/scenario", "-m", "not faults")


def sanitized_scenarios():
    """The whole way once, and every fault, with daemons that are sanitized and have fault points."""
    return pytest("asan-scenarios", "tests/scenario", "-m", "sanitized or faults",
                  GODWIT_BUILD="build/asan", ASAN_OPTIONS="abort_on_error=1:detect_leaks=0",
                  UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")


PARTS = {
    "checks": checks,
    "unit": lambda: meson_tests("plain", "unit"),
    "asan": sanitized_tests,
    "tsan": threaded_tests,
    "fuzz": fuzz,
    "guest": guest,
    "tools": tools,
    "scenarios": scenarios,
    "asan-scenarios": sanitized_scenarios,
}


def show_failure(part, result):
    for name in result.failed:
        print(f"   failed: {name}")
    log = LOGS / f"{part}.log"
    if log.exists():
        print(f"   the end of {log.relative_to(TOP)}:")
        for line in log.read_text(errors="replace").splitlines()[-TAIL_LINES:]:
            print(f"   | {line}")


def main():
    wanted = sys.argv[1:] or list(PARTS)
    if wanted == ["help"]:
        print(f"usage: tools/test.sh [PART...]   all parts, in this order:\n  {' '.join(PARTS)}")
        return 0
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        sys.exit(f"test: no such part: {unknown[0]} (there are: {', '.join(PARTS)})")
    LOGS.mkdir(parents=True, exist_ok=True)
    total = Result()
    for part in wanted:
        (LOGS / f"{part}.log").unlink(missing_ok=True)
        start = time.monotonic()
        print(f"== {part}", flush=True)
        result = PARTS[part]()
        print(f"   {result.passed} passed, {len(result.failed)} failed, {len(result.skipped)} "
              f"skipped in {time.monotonic() - start:.0f} s", flush=True)
        for skipped in result.skipped:
            print(f"   skipped: {skipped}")
        if result.failed:
            show_failure(part, result)
        total.passed += result.passed
        total.failed += result.failed
        total.skipped += result.skipped
    skipped = f", {len(total.skipped)} skipped" if total.skipped else ""
    print(f"{total.passed} passed, {len(total.failed)} failed{skipped}")
    return 1 if total.failed else 0


try:
    sys.exit(main())
except KeyboardInterrupt:
    sys.exit("test: interrupted; what was started is stopped")
