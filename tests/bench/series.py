# SPDX-License-Identifier: Apache-2.0
"""What happens to a link during a move, and Godwit's long series of moves: endurance, outage."""
import subprocess
import threading
import time

import rig
from system import wire_bytes

BUSY_GUEST = "writer-20-64"
MEM_MB = 1024
LIMIT_S = 120
OUTAGE_S = 20
OUTAGE_AT_PERCENT = 30
OUTAGE_LINKS = ["1gbit", "1gbit-box"]  # interfaces down; packets vanish silently
RECOVERED_BYTES = 1 << 20
RECOVERY_LIMIT_S = 120
MAX_FAILURES = 3


class Outage:
    """Takes the link down once in a move's pre-copy and looks how soon data flow again."""

    def __init__(self, cluster, source_side, seconds=OUTAGE_S):
        self.link = cluster.link
        self.side = source_side
        self.seconds = seconds
        self.recovery_ms = None
        self._thread = None

    def on_progress(self, move):
        if not self._thread and move["state"] == "precopy" and move["percent"] >= OUTAGE_AT_PERCENT:
            self.link.down()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def _run(self):
        time.sleep(self.seconds)  # the outage itself
        self.link.up()
        up = time.monotonic()
        sent = wire_bytes(self.link, self.side)
        while time.monotonic() < up + RECOVERY_LIMIT_S:
            if wire_bytes(self.link, self.side) >= sent + RECOVERED_BYTES:
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


class Reset:
    """Resets every TCP connection from the source's host to the target's, once."""

    def __init__(self, cluster, source_side):
        self.source = cluster.hosts[source_side]
        self.target = cluster.hosts[1 - source_side]
        self.n_reset = None

    def on_progress(self, move):
        if (self.n_reset is None and move["state"] == "precopy"
                and move["percent"] >= OUTAGE_AT_PERCENT):
            done = self.source.namespace.run(["ss", "-H", "-t", "-K", "dst", self.target.address])
            self.n_reset = len(done.stdout.splitlines())

    def judge(self, run):
        run["n_reset"] = self.n_reset
        if not self.n_reset and run["status"] == "completed":
            run.update(status="failed", error="no connection was reset during the pre-copy")


def fault(name, cluster, source_side):
    """One of plan.FAULTS, or None."""
    if name == "reset":
        return Reset(cluster, source_side)
    return Outage(cluster, source_side, 60) if name else None


def must_stop(runs):
    """After damage, when nobody knows where the guest is, or when too much has failed."""
    return bool(runs) and (not runs[-1]["verified"]
                           or sum(run["status"] == "failed" for run in runs) >= MAX_FAILURES)


def endurance(bench, options):
    """Consecutive moves of a busy guest, there and back, verified after each."""
    with bench.cluster("unshaped", BUSY_GUEST, MEM_MB, "endurance") as group:
        godwit, runs = group.godwit, []
        godwit.start(group.state())
        while len(runs) < options.moves and not must_stop(runs):
            runs.append(godwit.run("lane", LIMIT_S))
            bench.add(runs[-1], part="endurance", link="unshaped")


def outage(bench, options):
    """The same at 1 Gbit/s, each with an outage in the middle of the pre-copy."""
    for i, link in enumerate(OUTAGE_LINKS):
        share = options.outages // 2 + (options.outages % 2 if i == 0 else 0)
        if not share:
            continue
        with bench.cluster(link, BUSY_GUEST, MEM_MB, f"outage-{link}") as group:
            godwit, runs = group.godwit, []
            godwit.start(group.state())
            while len(runs) < share and not must_stop(runs):
                cut = Outage(group.cluster, godwit.side)
                run = godwit.run("lane", LIMIT_S + OUTAGE_S + RECOVERY_LIMIT_S, cut.on_progress)
                cut.judge(run)
                runs.append(run)
                bench.add(run, part="outage", link=link)
