#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The bench: endurance, outages, and Godwit beside QEMU's own migration.

usage: bench.py [quick|full|endurance|outage|compare]... (default: full)

    endurance   consecutive moves of a busy guest, there and back, verified after each
    outage      the same at 1 Gbit/s, each with an outage in the middle of the pre-copy
    compare     native QEMU and Godwit, interleaved, with the same guest on the same links
    quick       all parts with few runs (also: quick outage); full: all parts

Writes results.json (after every move) and results.md to build/bench, and logs of what failed.
Ends with 1 if any move of Godwit failed or any guest was damaged. All that it made is gone at the
end, also after Ctrl-C or a failure.
"""
import argparse
import contextlib
import datetime
import json
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests/scenario"), str(TOP / "tests/bench")]

import net  # noqa: E402
import report  # noqa: E402
import rig  # noqa: E402
from godwit import keep_logs  # noqa: E402
from rig import Godwit, Native  # noqa: E402

PARTS = ["endurance", "outage", "compare"]
FULL = {"moves": 50, "outages": 10, "runs": 3,
        "links": {"unshaped": ["writer-20"], "1gbit": ["writer-20"],
                  "100mbit-40ms": ["writer-5", "writer-20"]}}
QUICK = {"moves": 10, "outages": 2, "runs": 1, "links": {"1gbit": ["writer-20"]}}
BUSY_GUEST = "writer-20"
LIMIT_S = 120
OUTAGE_S = 20
OUTAGE_AT_PERCENT = 30
OUTAGE_LINKS = ["1gbit", "1gbit-box"]  # interfaces down; packets vanish silently
RECOVERED_BYTES = 1 << 20
RECOVERY_LIMIT_S = 120
MAX_FAILURES = 3


class Results:
    """What has been measured so far, in the file and in memory."""

    def __init__(self, folder, options):
        self.folder = folder
        self.file = folder / "results.json"
        guest = rig.GUESTS[BUSY_GUEST]
        self.data = {
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "status": "running", "machine": rig.describe_machine(), "outage_s": OUTAGE_S,
            "guest": f"{rig.MEMORY_MIB} MiB, {rig.VCPUS} vCPUs, witness filling {guest['fill']} MiB "
            f"and writing over {guest['set']} MiB at the rate in its name (MB/s)",
            "options": options, "runs": [],
        }

    @property
    def runs(self):
        return self.data["runs"]

    def note_system(self, godwit):
        self.data["machine"].update(godwit.machine, godwit_version=godwit.version)

    def add(self, run, **where):
        run = {**where, **run, "at": datetime.datetime.now(datetime.timezone.utc)
               .isoformat(timespec="seconds")}
        self.runs.append(run)
        self.write()
        told = [f"{where['part']:9} {where['link']:12} {run['guest']:10} "
                f"{run['system'] + ' ' + run['config']:18} {run['direction']} {run['status']}"]
        if run["status"] == "completed":
            told.append(f"{run['total_ms'] / 1000:6.2f} s, away {run['downtime_observed_ms']:4.0f} "
                        f"ms, {run['wire_bytes'] / report.MIB:6.1f} MiB, {run['rounds']} rounds")
        else:
            told.append(run.get("error") or "")
        print(": ".join(told), flush=True)

    def write(self):
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1) + "\n")
        part.replace(self.file)

    def good(self):
        """No move of Godwit failed (time-outs of a comparison apart), no guest was damaged."""
        for run in self.runs:
            accepted = ["completed"]
            if run["part"] == "compare":
                accepted.append("timeout")
                if run["system"] != "godwit":
                    accepted.append("failed")
            if run["status"] not in accepted:
                return False
        return bool(self.runs)


@contextlib.contextmanager
def cluster_on(link, logs):
    """Two hosts on this link; gone afterwards, with logs kept if something went wrong."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="gw-", dir="/var/tmp"))
    folder.chmod(0o755)
    cluster = None
    try:
        cluster = rig.make_cluster(folder, link)
        yield cluster
    except BaseException:
        keep_logs(folder, logs)
        raise
    finally:
        if cluster:
            cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


class Outage:
    """Takes the link down once in a move's pre-copy and looks how soon data flow again."""

    def __init__(self, cluster, source_side):
        self.link = cluster.link
        self.side = source_side
        self.recovery_ms = None
        self._thread = None

    def on_progress(self, move):
        if not self._thread and move["state"] == "precopy" and move["percent"] >= OUTAGE_AT_PERCENT:
            self.link.down()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def _run(self):
        time.sleep(OUTAGE_S)  # the outage itself
        self.link.up()
        up = time.monotonic()
        sent = rig.wire_bytes(self.link, self.side)
        while time.monotonic() < up + RECOVERY_LIMIT_S:
            if rig.wire_bytes(self.link, self.side) >= sent + RECOVERED_BYTES:
                self.recovery_ms = round(1000 * (time.monotonic() - up))
                return
            time.sleep(0.02)

    def judge(self, run):
        """Adds what was seen to the move's record; a move without an outage proves nothing."""
        if self._thread:
            self._thread.join()
            run["recovery_ms"] = self.recovery_ms
        elif run["status"] == "completed":
            run.update(status="failed", error="the pre-copy ended before there was an outage")


def must_stop(runs):
    """After damage, when nobody knows where the guest is, or when too much has failed."""
    return bool(runs) and (not runs[-1]["verified"]
                           or sum(run["status"] == "failed" for run in runs) >= MAX_FAILURES)


def endurance(results, options):
    link = "unshaped"
    with cluster_on(link, results.folder / "logs-endurance") as cluster:
        godwit = Godwit(cluster, BUSY_GUEST)
        results.note_system(godwit)
        runs = []
        while len(runs) < options["moves"] and not must_stop(runs):
            runs.append(godwit.run("lane", LIMIT_S))
            results.add(runs[-1], part="endurance", link=link)
        keep_failed(results, cluster, runs, "endurance")


def outage(results, options):
    for i, link in enumerate(OUTAGE_LINKS):
        share = options["outages"] // 2 + (options["outages"] % 2 if i == 0 else 0)
        if not share:
            continue
        with cluster_on(link, results.folder / f"logs-outage-{link}") as cluster:
            godwit = Godwit(cluster, BUSY_GUEST)
            results.note_system(godwit)
            runs = []
            while len(runs) < share and not must_stop(runs):
                cut = Outage(cluster, godwit.side)
                run = godwit.run("lane", LIMIT_S + OUTAGE_S + RECOVERY_LIMIT_S, cut.on_progress)
                cut.judge(run)
                runs.append(run)
                results.add(run, part="outage", link=link)
            keep_failed(results, cluster, runs, f"outage-{link}")


def compare(results, options):
    for link, guests in options["links"].items():
        for guest in guests:
            with cluster_on(link, results.folder / f"logs-{link}-{guest}") as cluster:
                compare_on(results, cluster, link, guest, options["runs"])


def compare_on(results, cluster, link, guest, n_runs):
    """All configurations in turn, again and again; each round begins with another one."""
    godwit = Godwit(cluster, guest)
    results.note_system(godwit)
    native = Native(cluster, guest, like=godwit)
    cells = [(native, config) for config in rig.NATIVE] + [(godwit, "lane"), (godwit, "direct")]
    runs = {godwit: [], native: []}
    for i in range(n_runs):
        for system, config in cells[i % len(cells):] + cells[:i % len(cells)]:
            other = native if system is godwit else godwit
            if must_stop(runs[system]):
                continue
            if not must_stop(runs[other]):
                other.rest()
            system.wake()
            run = system.run(config, LIMIT_S)
            runs[system].append(run)
            results.add(run, part="compare", link=link)
    keep_failed(results, cluster, runs[godwit] + runs[native], f"{link}-{guest}")


def keep_failed(results, cluster, runs, name):
    if any(run["status"] != "completed" for run in runs):
        keep_logs(cluster.folder, results.folder / f"logs-{name}")


def options_of(words, arguments):
    options = dict(QUICK if "quick" in words else FULL)
    options["parts"] = [part for part in PARTS if part in words] or PARTS
    for name in "moves", "outages", "runs":
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    if arguments.link:
        options["links"] = {link: FULL["links"].get(link, [BUSY_GUEST]) for link in arguments.link}
    return options


def parse(command):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="PART",
                        help="quick, full, endurance, outage, compare")
    parser.add_argument("--moves", type=int, help="of the endurance part")
    parser.add_argument("--outages", type=int, help="moves with an outage")
    parser.add_argument("--runs", type=int, help="per cell of the comparison")
    parser.add_argument("--link", action="append", choices=list(rig.LINKS))
    parser.add_argument("--out", type=pathlib.Path, default=TOP / "build/bench")
    arguments = parser.parse_args(command)
    unknown = set(arguments.words) - {"quick", "full", *PARTS}
    if unknown:
        parser.error(f"no such part: {' '.join(sorted(unknown))} (quick, full, "
                     f"{', '.join(PARTS)})")
    return arguments


def main():
    arguments = parse(sys.argv[1:])
    options = options_of(arguments.words, arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    net.sweep()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for old in arguments.out.glob("logs-*"):
        shutil.rmtree(old, ignore_errors=True)
    results = Results(arguments.out, options)
    try:
        for part in options["parts"]:
            {"endurance": endurance, "outage": outage, "compare": compare}[part](results, options)
        results.data["status"] = "passed" if results.good() else "failed"
    except KeyboardInterrupt:
        results.data["status"] = "interrupted"
        print("\ninterrupted; everything is cleaned up", file=sys.stderr)
    except Exception as error:
        results.data.update(status="failed", error=f"{type(error).__name__}: {error}")
        print(f"\nThe bench failed: {error}\nLogs: {arguments.out}", file=sys.stderr)
    results.data["ended"] = datetime.datetime.now(datetime.timezone.utc).isoformat(
        timespec="seconds")
    results.write()
    text = report.whole(results.data) if results.runs else ""
    (arguments.out / "results.md").write_text(text)
    print("\n" + text)
    return 0 if results.data["status"] == "passed" else 1


if __name__ == "__main__":
    sys.exit(main())
