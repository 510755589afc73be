# SPDX-License-Identifier: Apache-2.0
"""What Godwit is to reach, judged from the records of moves. Pure.

All comparisons are between medians of completed moves of the same guest on the same link. A native
configuration that did not converge in time has no median: a ratio to it cannot be missed, and the
table says so. Godwit's contender is the configuration "auto", or "lane" where that was not run.
"""
import dataclasses

import stats

NATIVE_CONFIGS = ["plain", "xbzrle", "multifd", "multifd-zstd", "postcopy"]
MBIT = {"100mbit": 100, "1gbit": 1000, "1gbit-box": 1000, "1gbit-lossy": 1000}
DASH = "–"


@dataclasses.dataclass
class Verdict:
    cell: str
    what: str
    godwit: float = None
    other: float = None   # what it is compared with
    must: float = None    # at most, or at least where least is set
    least: bool = False
    digits: int = 2
    note: str = ""

    @property
    def value(self):
        """What is compared with `must`: a ratio, or the figure itself."""
        if self.other is None:
            return self.godwit
        return None if self.godwit is None or not self.other else self.godwit / self.other

    @property
    def met(self):
        if self.must is None or self.value is None:
            return None
        return self.value >= self.must if self.least else self.value <= self.must

    def row(self):
        sign = "≥" if self.least else "≤"
        verdict = {True: "met", False: "**missed**", None: DASH}[self.met]
        return [self.cell, self.what, stats.shown(self.godwit, 1, self.digits),
                stats.shown(self.other, 1, self.digits),
                stats.shown(self.value, 1, 3) if self.other is not None else DASH,
                DASH if self.must is None else f"{sign} {self.must}", verdict, self.note]


class Cell:
    """All configurations of one guest on one link."""

    def __init__(self, link, guest, mem_mb):
        self.link = link
        self.guest = guest
        self.mem_mb = mem_mb
        self.runs = {}  # config -> runs

    @property
    def name(self):
        return f"{self.link}, {self.guest}, {self.mem_mb} MiB"

    def has(self, config):
        return bool(self.runs.get(config))

    def median(self, config, key, scale=1.0):
        number = stats.median(stats.values(stats.completed(self.runs.get(config, [])), key))
        return None if number is None else number / scale

    @property
    def contender(self):
        return "auto" if self.has("auto") else "lane" if self.has("lane") else None

    def best_native(self, key, scale=1.0):
        """(figure, configuration)"""
        found = [(self.median(config, key, scale), config) for config in NATIVE_CONFIGS]
        return min(((number, config) for number, config in found if number is not None),
                   default=(None, None))


def cells_of(runs):
    found = {}
    for key, cell_runs in stats.cells(runs).items():
        link, guest, mem_mb, fault, _, config = key
        if not fault:
            cell = found.setdefault((link, guest, mem_mb), Cell(link, guest, mem_mb))
            cell.runs[config] = cell_runs
    return list(found.values())


def beside(cell, config, other, key, what, must):
    """Godwit's @config against the native configuration @other."""
    scale, unit = {"total_ms": (1000, "s"), "wire_bytes": (1e6, "MB"),
                   "downtime_observed_ms": (1, "ms")}[key]
    theirs = cell.median(other, key, scale)
    note = "" if theirs is not None or not cell.has(other) else f"{other} did not finish"
    return Verdict(cell.name, f"{config}: {what}, {unit}, beside {other}",
                   cell.median(config, key, scale), theirs, must if theirs else None, note=note)


def slow_link(cell):
    """100 Mbit/s with 40 ms."""
    ours = cell.contender
    if cell.guest == "idle":
        if ours:
            yield beside(cell, ours, "multifd-zstd", "wire_bytes", "wire bytes", 0.12)
            yield beside(cell, ours, "multifd-zstd", "total_ms", "total time", 0.18)
            yield Verdict(cell.name, f"{ours}: observed downtime, ms",
                          cell.median(ours, "downtime_observed_ms"), None, 150, digits=0)
        if cell.has("unaware"):
            yield beside(cell, "unaware", "multifd-zstd", "wire_bytes", "wire bytes", 0.90)
            yield beside(cell, "unaware", "multifd-zstd", "total_ms", "total time", 0.85)
        if cell.has("return"):
            yield Verdict(cell.name, "return: wire bytes, MB, beside the first trip",
                          cell.median("return", "wire_bytes", 1e6),
                          cell.median("return", "first_trip_bytes", 1e6), 0.06)
    elif cell.guest in ("redis", "gcc") and ours:
        best, config = cell.best_native("total_ms", 1000)
        yield Verdict(cell.name, f"{ours}: total time, s, beside the best native ({config})",
                      cell.median(ours, "total_ms", 1000), best, best and 0.25)


def fast_link(cell):
    ours = cell.contender
    best, config = cell.best_native("total_ms", 1000)
    limit = 0.85 if cell.link == "1gbit" else 1.05
    if ours and cell.link == "1gbit":
        yield beside(cell, ours, "plain", "total_ms", "total time", 0.50)
        for end in "source", "target":
            used = cell.median(ours, f"cpu_s_{end}")
            yield Verdict(cell.name, f"{ours}: core seconds per GiB, {end}",
                          None if used is None else used * 1024 / cell.mem_mb, None, 3)
    tls = "TLS, native without" if cell.link == "unshaped" else ""
    for one, note in (ours, tls), ("trusted", ""):
        if one and cell.has(one):
            yield Verdict(cell.name, f"{one}: total time, s, beside the best native ({config})",
                          cell.median(one, "total_ms", 1000), best, best and limit, note=note)


def downtime(cell, ours):
    key = "downtime_observed_ms"
    best, config = cell.best_native(key)
    yield beside(cell, ours, "plain", key, "observed downtime", 1.0)
    yield Verdict(cell.name, f"{ours}: observed downtime, ms, beside the best native ({config})",
                  cell.median(ours, key), best, best and 1.1, digits=0)


def every_cell(cell):
    ours = cell.contender
    if cell.has("trusted"):
        yield from downtime(cell, "trusted")
    if not ours:
        return
    yield from downtime(cell, ours)
    total_s, wire = cell.median(ours, "total_ms", 1000), cell.median(ours, "wire_bytes")
    if cell.link in MBIT and total_s and wire:
        use = wire * 8 / (MBIT[cell.link] * 1e6 * total_s)
        yield Verdict(cell.name, f"{ours}: E_link", use, None, 0.95, True)
    floor = cell.median(ours, "f0_bytes")
    if floor and wire:
        yield Verdict(cell.name, f"{ours}: E_bytes", floor / wire, None, 0.80, True)


def convergence(cell):
    """Guests that write faster than the link takes: how many rounds, beside plain."""
    if (cell.link, cell.guest) in (("100mbit", "redis"), ("1gbit", "writer-80-64")) and cell.contender:
        yield Verdict(cell.name, f"{cell.contender}: rounds, beside plain",
                      cell.median(cell.contender, "rounds"), cell.median("plain", "rounds"), digits=0)


def faults(runs):
    for (link, guest, mem_mb, fault, system, config), found in stats.cells(runs).items():
        if not fault or system != "godwit":
            continue
        good = stats.completed(found)
        name = f"{link}, {guest}, {mem_mb} MiB, {fault}"
        yield Verdict(name, f"{config}: share of moves completed", len(good) / len(found), None, 1,
                      True)
        shares = [run["resent_bytes"] / run["wire_bytes"] for run in good
                  if run.get("resent_bytes") is not None]
        yield Verdict(name, f"{config}: share of bytes sent twice", stats.median(shares), None,
                      0.01, digits=4)


def verdicts(runs):
    found = []
    for cell in cells_of(runs):
        if cell.link == "100mbit":
            found += slow_link(cell)
        elif cell.link in ("1gbit", "unshaped"):
            found += fast_link(cell)
        found += every_cell(cell)
        found += convergence(cell)
    return found + list(faults(runs))


def report_text(found):
    told = [verdict for verdict in found if verdict.met is not None]
    n_met = sum(verdict.met for verdict in told)
    return (f"{n_met} of {len(told)} targets met.\n\n" + stats.table(
        ["cell", "what", "Godwit", "other", "ratio", "must be", "", "note"],
        [verdict.row() for verdict in found]))


def report_of(runs):
    return report_text(verdicts(runs))
