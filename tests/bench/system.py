# SPDX-License-Identifier: Apache-2.0
"""What the systems under test have in common: a guest, a move that is measured, its record."""
import time

from guest import GuestError, Observer
from net import Wanbox
from sample import Sampler

import guests

BEAT_US = 10000


class MoveFailed(Exception):
    """The move did not complete; the guest still runs where it was."""

    def __init__(self, status, message, **figures):
        super().__init__(message)
        self.status = status
        self.figures = figures


def wire_bytes(link, side):
    """What has gone out of this side of the link."""
    return link.stats()[side]["bytes"] if isinstance(link, Wanbox) else link.sent_bytes(side)


def switchover_ms(steps_us, switch):
    """How long each step of the guest's absence took, from its last beat to its first."""
    last_beat_us = switch["us"] - switch["downtime_us"] - BEAT_US
    steps_us = {"last_beat": last_beat_us, **steps_us, "first_beat": switch["us"]}
    names = list(steps_us)
    return {f"{before}_to_{after}": round((steps_us[after] - steps_us[before]) / 1000, 1)
            for before, after in zip(names, names[1:])}


class System:
    """One system with its guest on one of the cluster's hosts."""

    name = version = None

    def __init__(self, cluster, files):
        self.cluster = cluster
        self.files = files
        self.observer = None
        self.side = 0

    # --- what each system does in its own way

    def sockets(self, port):
        """The guest's serial port on each host."""
        raise NotImplementedError

    def witness(self):
        raise NotImplementedError

    def processes(self):
        """For the Sampler."""
        raise NotImplementedError

    def _start_guest(self, state):
        """On side 0."""
        raise NotImplementedError

    def _move(self, config, limit_s, on_progress):
        """Moves to the other side; returns its figures, among them `began_us` (monotonic)."""
        raise NotImplementedError

    # --- the life of a guest

    def start(self, state):
        """The guest runs from its saved state, on side 0."""
        self.side = 0
        try:
            self._start_guest(state)
            self.observer = Observer(self.sockets(1), self.cluster.folder / f"{self.name}-beats.log")
            self.observer.wait_beating(0)
            self.observer.says.clear()  # we may have come in the middle of a line
        except BaseException:
            self.stop()
            raise

    def wait_idle(self):
        """Until nothing of this system but the guest is at work."""

    def stop(self):
        """The guest and all that belongs to it is gone."""
        if self.observer:
            self.observer.close()
        self.observer = None

    def run(self, config, limit_s=120, on_progress=None):
        """Moves once and verifies. Never raises for what a move can do wrong: see `status`."""
        record = {
            "system": self.name, "version": self.version, "config": config,
            "guest": self.files.guest, "mem_mb": self.files.mem_mb,
            "vcpus": guests.vcpus(self.files.guest), "direction": "ab"[self.side] + "-"
            + "ab"[1 - self.side], "status": "completed", "verified": False,
        }
        try:
            self._measure(record, config, limit_s, on_progress)
        except MoveFailed as failure:
            record.update(failure.figures, status=failure.status, error=str(failure))
        except (AssertionError, OSError) as failure:
            record.update(status="failed", error=str(failure))
            return record  # where the guest is, if anywhere, is not known: no word from it
        self._verify(record)
        return record

    def _measure(self, record, config, limit_s, on_progress):
        source, target = self.side, 1 - self.side
        n_before, self.observer.stall_us = len(self.observer.switches), 0
        sent = wire_bytes(self.cluster.link, source)
        returned = wire_bytes(self.cluster.link, target)
        with Sampler(self.processes(), self.files.mem_mb << 20) as sampler:
            asked_us = time.monotonic_ns() // 1000
            figures = self._move(config, limit_s, on_progress)
            self.observer.wait(lambda: len(self.observer.switches) > n_before,
                               what="the guest's first beat on the target")
        switch = self.observer.switches[n_before]
        record["wire_bytes"] = wire_bytes(self.cluster.link, source) - sent
        record["wire_back_bytes"] = wire_bytes(self.cluster.link, target) - returned
        record["total_ms"] = round((switch["us"] - figures.pop("began_us")) / 1000)
        record["wall_ms"] = round((switch["us"] - asked_us) / 1000)
        record["downtime_observed_ms"] = round(switch["downtime_us"] / 1000, 1)
        record["longest_stall_ms"] = round(self.observer.stall_us / 1000, 1)
        if "steps_us" in figures:
            record["switchover_ms"] = switchover_ms(figures.pop("steps_us"), switch)
        record.update(figures, **sampler.results())
        self.side = target

    def _verify(self, record):
        try:
            self.observer.wait_beating(self.side)
            answer = self.witness().verify()
            self.observer.check()
            record.update(verified=True, verified_pages=answer["pass_pages"],
                          verify_ms=answer["pass_ms"])
        except GuestError as damage:
            record.update(status="damaged", error=str(damage))
        except (AssertionError, OSError) as failure:
            record.update(status="failed", error=f"the guest cannot be verified: {failure}")
