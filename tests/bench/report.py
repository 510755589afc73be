# SPDX-License-Identifier: Apache-2.0
"""The report of a bench: tables in Markdown. Pure but for write_all()."""
import chart
import targets
from stats import (MB, causes_of, cells, completed, median, shown, summary, table, values)

BEGIN, END = "<!-- bench: generated -->", "<!-- bench: end -->"

# What is told of a series of moves: heading, key, scale, digits.
FIGURES = [
    ("total time, s", "total_ms", 1000, 2),
    ("downtime, observed, ms", "downtime_observed_ms", 1, 0),
    ("downtime, Godwit's, ms", "downtime_godwit_ms", 1, 0),
    ("downtime, QEMU's, ms", "downtime_qemu_ms", 1, 0),
    ("longest other stall, ms", "longest_stall_ms", 1, 0),
    ("rounds", "rounds", 1, 0),
    ("on the wire, MB", "wire_bytes", MB, 1),
    ("core seconds, source", "cpu_s_source", 1, 2),
    ("core seconds, target", "cpu_s_target", 1, 2),
    ("memory, source, MB", "extra_mem_source_mb", 1, 0),
    ("memory, target, MB", "extra_mem_target_mb", 1, 0),
    ("others' use of the machine, % of a core", "others_cpu_percent", 1, 0),
    ("recovery after the outage, s", "recovery_ms", 1000, 2),
]


def series_table(runs):
    rows = []
    for heading, key, scale, digits in FIGURES:
        numbers = values(runs, key)
        if numbers:
            rows.append([heading] + [shown(number, scale, digits)
                                     for number in summary(numbers).values()])
    return table(["", "median", "p90", "max"], rows)


def failures(runs):
    return [f"- {run['link']}, {run['guest']}, {run['system']} {run['config']}: {run['status']}: "
            f"{run.get('error')}" for run in runs if run["status"] != "completed"]


def series(title, runs):
    good = completed(runs)
    lines = [f"### {title}", "",
             f"{len(good)} of {len(runs)} moves completed, {sum(run['verified'] for run in runs)} "
             f"verified by the guest itself, digests equal at both ends in "
             f"{sum(bool(run.get('digests_equal')) for run in runs)}.", "", series_table(good),
             *failures(runs)]
    return "\n".join(lines) + "\n"


COMPARED = [("total s", "total_ms", 1000, 2),
            ("downtime ms, observed", "downtime_observed_ms", 1, 0),
            ("QEMU's", "downtime_qemu_ms", 1, 0),
            ("wire MB", "wire_bytes", MB, 1), ("rounds", "rounds", 1, 0),
            ("core s, source", "cpu_s_source", 1, 2), ("target", "cpu_s_target", 1, 2),
            ("extra MB, source", "extra_mem_source_mb", 1, 0),
            ("target", "extra_mem_target_mb", 1, 0),
            ("F0 MB", "f0_bytes", MB, 1), ("guest %", "guest_cpu_percent", 1, 0),
            ("others %", "others_cpu_percent", 1, 0)]


def comparison(runs):
    """A table for each link and guest."""
    tables = {}
    for (link, guest, mem_mb, fault, system, config), cell in cells(runs).items():
        good = completed(cell)
        tables.setdefault((link, guest, mem_mb, fault), []).append(
            [f"{system} {config}", f"{len(good)}/{len(cell)}"]
            + [shown(median(values(good, key)), scale, digits)
               for _, key, scale, digits in COMPARED])
    heading = ["", "completed"] + [column[0] for column in COMPARED]
    text = []
    for (link, guest, mem_mb, fault), rows in tables.items():
        text += [f"**{link}, {guest}, {mem_mb} MiB{', ' + fault if fault else ''}**", "",
                 table(heading, rows), ""]
    return "\n".join(text + failures(runs)) + "\n"


def fault_table(runs):
    """What an outage or a reset costs."""
    rows = []
    for (link, guest, _, fault, system, config), cell in cells(runs).items():
        good = completed(cell)
        resent, wire = median(values(good, "resent_bytes")), median(values(good, "wire_bytes"))
        rows.append([fault, f"{link}, {guest}", f"{system} {config}", f"{len(good)}/{len(cell)}",
                     shown(median(values(good, "total_ms")), 1000, 1),
                     shown(median(values(good, "downtime_observed_ms"))),
                     shown(median(values(good, "recovery_ms")), 1000, 1), shown(wire, MB, 1),
                     shown(resent and 100 * resent / wire if resent is not None else None,
                           1, 2) if wire else "–"])
    return table(["fault", "cell", "", "completed", "total s", "downtime ms, observed",
                  "recovery s", "wire MB", "sent twice, %"], rows) + "\n"


def by_cause(runs):
    """Where Godwit's bytes went, by cell."""
    rows, names = [], {}
    for (link, guest, mem_mb, _, system, config), cell in cells(runs).items():
        causes = causes_of(completed(cell)) if system == "godwit" else {}
        if causes:
            names.update(dict.fromkeys(causes))
            rows.append(([f"{link}, {guest}, {mem_mb} MiB", config], causes))
    return table(["cell", "", *names], [
        head + [shown(causes.get(name), MB, 2) for name in names] for head, causes in rows])


def heading(machine):
    return (f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_mib']} MiB, Linux "
            f"{machine['kernel']}, QEMU {machine.get('qemu_version')} ({machine.get('accel')}), "
            f"Godwit {machine.get('godwit_version')}, TCP {machine['tcp_congestion_control']}.\n")


def parts_of(runs):
    parts = {}
    for run in runs:
        parts.setdefault(run["part"], []).append(run)
    return parts


def whole(data):
    """The report of all that is in results.json."""
    parts = parts_of(data["runs"])
    text = [heading(data["machine"])]
    if "compare" in parts:
        text += ["### Targets", "", targets.report_of(parts["compare"] + parts.get("faults", [])), "",
                 "### Side by side (medians)", "", comparison(parts["compare"]), "",
                 "### Godwit's bytes by cause, MB", "", by_cause(parts["compare"]), ""]
    if "ablation" in parts:
        text += ["### Each encoding off in turn", "", comparison(parts["ablation"])]
    if "faults" in parts:
        text += ["### Faults in the middle of a move", "", fault_table(parts["faults"])]
    if "endurance" in parts:
        text.append(series("Endurance: consecutive moves, there and back", parts["endurance"]))
    for link in sorted({run["link"] for run in parts.get("outage", [])}):
        runs = [run for run in parts["outage"] if run["link"] == link]
        text.append(series(f"Outage of 20 s in every pre-copy, {link}", runs))
    return "\n".join(text)


def put_between_marks(document, text):
    """The document with @text in place of what was generated before."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks '{BEGIN}' or '{END}'")
    return f"{before}{BEGIN}\n{text.strip()}\n{END}{after}"


def write_all(data, out):
    """results.md, targets.md and chart.svg; returns the first's text."""
    text = whole(data)
    (out / "results.md").write_text(text + "\n")
    compared = parts_of(data["runs"]).get("compare", [])
    (out / "targets.md").write_text(
        targets.report_of(compared + parts_of(data["runs"]).get("faults", [])) + "\n")
    (out / "chart.svg").write_text(chart.draw(chart.panels(compared)))
    return text
