#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The bench: Godwit beside QEMU's own migration, and Godwit under strain.

usage: bench.py [WORD | KEY=VALUE]...     (nothing: all parts in full, which takes a day)

    compare     native QEMU and Godwit in turn, the same guest on the same link (trusted: auto on hosts
                whose configuration lets memory travel without TLS, as QEMU's does)
    ablation    Godwit with each encoding off in turn
    faults      a connection reset and a 60 s outage in the middle of a move
    endurance   consecutive moves of a busy guest, there and back
    outage      the same at 1 Gbit/s, each with a 20 s outage
    quick       few cells, one run each: under 10 minutes
    new         begin a new results.json (the old one is kept beside it)
    publish     only put the report of what was measured into docs/performance.md

    guest= link= mem= config= fault=    lists, which cells;  runs=N each (3)
    limit=S per move (300)  f0=0|1|2 compute F0: no, yes, also without the disk  dwell=S before a return  moves=N  outages=N
    logs=1 keep the logs of good moves, too

    quick
    guest=idle,redis,gcc link=100mbit runs=3
    ablation guest=idle runs=3

Results are added to build/bench/results.json as they come; a cell that has its runs with this
build is not measured again. results.md, targets.md and chart.svg are made from it at the end.
Ends with 1 if a move of Godwit failed or a guest was damaged. All that it made is gone at the
end, also after Ctrl-C or a failure.
"""
import contextlib
import datetime
import hashlib
import json
import pathlib
import shutil
import signal
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests/scenario"), str(TOP / "tests/bench")]

import floor  # noqa: E402
import guests  # noqa: E402
import net  # noqa: E402
import plan  # noqa: E402
import report  # noqa: E402
import rig  # noqa: E402
import sample  # noqa: E402
import series  # noqa: E402
import stats  # noqa: E402
from godwit import keep_logs, page_faults_allowed  # noqa: E402
from guest import GuestError  # noqa: E402
from native import Native  # noqa: E402
from paths import BUILD  # noqa: E402

OUT = TOP / "build/bench"


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def build_id():
    """Of the programs under test."""
    digest = hashlib.sha256()
    for path in "src/daemon/godwitd", "src/cli/godwit":
        digest.update((BUILD / path).read_bytes())
    return digest.hexdigest()[:12]


class Group:
    """A cluster on a link with both systems, for one guest."""

    def __init__(self, cluster, guest, mem_mb):
        self.cluster = cluster
        self.files = guests.Files(cluster.folder, guest, mem_mb)
        self.godwit = rig.Godwit(cluster, self.files)
        machine = self.godwit.native_machine()
        version = self.godwit.machine["qemu_version"]
        self.native = Native(cluster, self.files, machine, version)
        self._state = guests.State(self.files, machine, version)

    def state(self):
        if not self._state.exists:
            print(f"{self._state.name}: booting it once", flush=True)
            self.native.save_state(self._state, guests.REST_S)
        return self._state

    def system_of(self, config):
        return self.native if config in plan.NATIVE else self.godwit

    def close(self):
        self.native.stop()
        self.godwit.stop()


class Bench:
    """What has been measured so far, in the file and in memory."""

    def __init__(self, options):
        self.options = options
        self.file = OUT / "results.json"
        self.build = build_id()
        self.n_bad = 0
        self.data = {"machine": {}, "runs": []}
        if self.file.exists():
            if options.new:
                self.file.rename(OUT / f"results-{int(self.file.stat().st_mtime)}.json")
            else:
                self.data = json.loads(self.file.read_text())
        self.data["machine"].update(rig.describe_machine())

    @property
    def runs(self):
        return self.data["runs"]

    @contextlib.contextmanager
    def cluster(self, link, guest, mem_mb, name, hosts=None):
        """Two hosts on this link with the guest; gone afterwards, with logs if a move failed."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="gw-", dir="/var/tmp"))
        folder.chmod(0o755)
        cluster, n_bad = None, self.n_bad
        logs = OUT / f"logs-{name}"
        if guests.is_real(guest):
            guests.prepare()
        try:
            cluster = rig.make_cluster(folder, link, hosts or {})
            group = Group(cluster, guest, mem_mb)
            self.data["machine"].update(group.godwit.machine, godwit_version=group.godwit.version)
            with contextlib.closing(group), page_faults_allowed():
                yield group
            if self.n_bad > n_bad or self.options.logs:
                keep_logs(folder, logs)
        except BaseException:
            keep_logs(folder, logs)
            raise
        finally:
            if cluster:
                cluster.close()
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, run, **where):
        run = {**where, **run, "build": self.build, "at": now()}
        self.runs.append(run)
        self.write()
        bad = run["status"] == "damaged" or run["status"] != "completed" and not (
            run["status"] == "timeout" or run["system"] == "qemu")
        self.n_bad += bad
        told = (f"{where['part']:9} {where['link']:11} {run['guest']:13} {run['mem_mb']} "
                f"{run['system'] + ' ' + run['config']:19} {run['status']}")
        if "total_ms" in run:
            told += (f": {run['total_ms'] / 1000:6.2f} s, away {run['downtime_observed_ms']:4.0f} "
                     f"ms, {run['wire_bytes'] / stats.MB:6.1f} MB, {run['rounds']} rounds")
        if run.get("error"):
            told += ": " + run["error"]
        print(told, flush=True)

    def write(self):
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1) + "\n")
        part.replace(self.file)

    # --- comparison

    def tells(self, run):
        """Whether a run with these programs need not be repeated."""
        if run["system"] == "qemu":  # fails with its connection, as it is known to
            return run["status"] in ("completed", "timeout") or run.get("fault")
        return run["status"] in ("completed", "timeout") and run["build"] == self.build

    def n_done(self, group, config):
        """Runs of this cell that there are."""
        cell = (group.part, group.link, group.guest, group.mem_mb, config, group.fault)
        return sum(self.tells(run) and cell == tuple(run.get(key) for key in (
            "part", "link", "guest", "mem_mb", "config", "fault")) for run in self.runs)

    def compare(self, group):
        """All configurations of a group in turn, again and again."""
        missing = {config: group.runs - self.n_done(group, config) for config in group.configs}
        n_rounds = max(missing.values(), default=0)
        if n_rounds <= 0:
            return
        name = "-".join(filter(None, [group.part, group.link, group.guest, str(group.mem_mb),
                                      group.fault]))
        with self.cluster(group.link, group.guest, group.mem_mb, name, group.hosts) as made:
            known = self.floor_of(made)
            for i in range(n_rounds):
                for config in plan.order(group.configs, i):
                    if missing[config] > i:
                        self.measure(made, group, config, known)

    def measure(self, made, group, config, known):
        """One run of a cell; the guest begins anew."""
        system = made.system_of(config)
        where = {"part": group.part, "link": group.link}
        if group.fault:
            where["fault"] = group.fault
        if known:
            unaware = config in ("unaware", "no-reference", "no-encodings")
            where["f0_bytes"] = known.get("f0_unaware_bytes" if unaware else "f0_bytes")
        try:
            system.start(made.state())
            reserve = sample.Reserve(3 * group.mem_mb << 20)
            time.sleep(guests.settle_s(group.guest))  # the workload's own time
            system.wait_idle()
            first = self.first_trip(system, config) if config in rig.RETURNS else {}
            fault = series.fault(group.fault, made.cluster, system.side)
            limit_s = self.options.limit_s + (2 * 60 if fault else 0)
            reserve.release()
            run = system.run(config, limit_s, fault and fault.on_progress)
            run["at_hand_mb"] = reserve.n_bytes >> 20
            if fault:
                fault.judge(run)
            self.add({**run, **first}, **where)
        except (AssertionError, OSError) as error:
            if not isinstance(error, GuestError) and not made.cluster.alpha.alive:
                raise
            self.add({"system": system.name, "version": system.version, "config": config,
                      "guest": group.guest, "mem_mb": group.mem_mb, "status": "failed",
                      "verified": False, "error": f"before the move: {error}"}, **where)
        finally:
            system.stop()

    def first_trip(self, system, config):
        """The way there and the stay, before the return that is measured."""
        run = system.run(config, self.options.limit_s)
        if run["status"] != "completed":
            raise GuestError(f"the first trip: {run['status']}: {run.get('error')}")
        time.sleep(self.options.dwell_s)  # the stay
        system.wait_idle()
        return {"first_trip_bytes": run["wire_bytes"], "first_trip_ms": run["total_ms"],
                "f0_bytes": None}

    def floor_of(self, made):
        state, wanted = made.state(), self.options.floor
        known = guests.known_floor(state)
        if wanted > 1 and "f0_unaware_bytes" not in known or wanted and not known:
            print(f"{state.name}: computing F0 (some minutes)", flush=True)
            known = floor.compute(made.native, state, wanted > 1)
        return known


def run_parts(bench, options):
    found = plan.groups(options, rig.possible)
    if found:
        print(f"{len(found)} groups, about {plan.estimated_s(found, options) / 60:.0f} minutes if "
              "nothing was measured before", flush=True)
    for group in found:
        bench.compare(group)
    if "endurance" in options.parts:
        series.endurance(bench, options)
    if "outage" in options.parts:
        series.outage(bench, options)


def publish(data):
    document = TOP / "docs/performance.md"
    text = "![time and bytes by cause](performance.svg)\n\n" + report.write_all(data, OUT)
    document.write_text(report.put_between_marks(document.read_text(), text))
    shutil.copy(OUT / "chart.svg", document.with_suffix(".svg"))


def main():
    try:
        options = plan.parse(sys.argv[1:])
    except plan.BadWord as error:
        sys.exit(f"bench: {error}\n\n{__doc__}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    net.sweep()
    OUT.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    if options.publish:
        publish(bench.data)
        return 0
    status = 0
    try:
        run_parts(bench, options)
    except KeyboardInterrupt:
        status = 1
        print("\ninterrupted; everything is cleaned up", file=sys.stderr)
    except Exception as error:
        status = 1
        print(f"\nThe bench failed: {type(error).__name__}: {error}\nLogs: {OUT}", file=sys.stderr)
    bench.write()
    if bench.runs:
        print("\n" + report.write_all(bench.data, OUT))
    if bench.n_bad:
        print(f"{bench.n_bad} moves of Godwit failed (logs: {OUT}/logs-*)", file=sys.stderr)
    return 1 if status or bench.n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
