# SPDX-License-Identifier: Apache-2.0
"""Statistics over records of moves, and their tables in Markdown."""
import math
import statistics

CAUSES = ["page", "zero", "opaque", "control", "overhead"]
MIB = 1 << 20


def values(runs, key):
    return [run[key] for run in runs if run.get(key) is not None]


def median(numbers):
    return statistics.median(numbers) if numbers else None


def p90(numbers):
    """The smallest value that 90 % of the values do not exceed."""
    return sorted(numbers)[math.ceil(0.9 * len(numbers)) - 1] if numbers else None


def summary(numbers):
    return {"median": median(numbers), "p90": p90(numbers), "max": max(numbers, default=None)}


def shown(number, scale=1.0, digits=0):
    return "–" if number is None else f"{number / scale:.{digits}f}"


def table(headings, rows):
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


# What is told of a series of moves: heading, key, scale, digits.
FIGURES = [
    ("total time, s", "total_ms", 1000, 2),
    ("downtime, observed, ms", "downtime_observed_ms", 1, 0),
    ("downtime, Godwit's, ms", "downtime_godwit_ms", 1, 0),
    ("downtime, QEMU's, ms", "downtime_qemu_ms", 1, 0),
    ("longest other stall, ms", "longest_stall_ms", 1, 0),
    ("rounds", "rounds", 1, 0),
    ("on the wire, MiB", "wire_bytes", MIB, 1),
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
            told = summary(numbers)
            rows.append([heading] + [shown(told[name], scale, digits) for name in told])
    causes = [run["bytes_by_cause"] for run in runs if run.get("bytes_by_cause")]
    for cause in CAUSES:
        told = summary([n_bytes[cause] for n_bytes in causes if cause in n_bytes])
        if told["max"] is not None:
            rows.append([f"– {cause}, MiB"] + [shown(told[name], MIB, 2) for name in told])
    return table(["", "median", "p90", "max"], rows)


def series(title, runs):
    good = [run for run in runs if run["status"] == "completed"]
    lines = [f"## {title}", "",
             f"{len(good)} of {len(runs)} moves completed, {sum(run['verified'] for run in runs)} "
             f"verified by the guest itself, digests equal at both ends in "
             f"{sum(bool(run.get('digests_equal')) for run in runs)}.", "", series_table(good)]
    lines += [f"- move {i}: {run['status']}: {run.get('error')}"
              for i, run in enumerate(runs, 1) if run["status"] != "completed"]
    return "\n".join(lines) + "\n"


def cells(runs):
    """Lists of runs of the same cell, in the order of their first appearance."""
    found = {}
    for run in runs:
        found.setdefault((run["link"], run["guest"], run["system"], run["config"]), []).append(run)
    return found


COMPARED = [("total s", "total_ms", 1000, 2), ("wall s", "wall_ms", 1000, 2),
            ("downtime ms, observed", "downtime_observed_ms", 1, 0),
            ("downtime ms, QEMU's", "downtime_qemu_ms", 1, 0),
            ("wire MiB", "wire_bytes", MIB, 1), ("rounds", "rounds", 1, 0),
            ("core s, source", "cpu_s_source", 1, 2), ("core s, target", "cpu_s_target", 1, 2),
            ("others %", "others_cpu_percent", 1, 0)]


def comparison(runs):
    rows = []
    for (link, guest, system, config), cell in cells(runs).items():
        good = [run for run in cell if run["status"] == "completed"]
        rows.append([link, guest, f"{system} {config}", f"{len(good)}/{len(cell)}"]
                    + [shown(median(values(good, key)), scale, digits)
                       for _, key, scale, digits in COMPARED])
    heading = ["link", "guest", "system", "completed"] + [column[0] for column in COMPARED]
    failed = [f"- {run['link']}, {run['system']} {run['config']}: {run['status']}: "
              f"{run.get('error')}" for run in runs if run["status"] != "completed"]
    return "\n".join(["## Side by side (medians)", "", table(heading, rows), *failed]) + "\n"


def whole(results):
    """The report of a run of the bench."""
    machine = results["machine"]
    parts = {}
    for run in results["runs"]:
        parts.setdefault(run["part"], []).append(run)
    text = [f"# Bench of {results['started']}", "",
            f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_mib']} MiB, Linux "
            f"{machine['kernel']}, QEMU {machine.get('qemu_version')} ({machine.get('accel')}), "
            f"Godwit {machine.get('godwit_version')}, TCP {machine['tcp_congestion_control']}. "
            f"Guest: {results['guest']}.", ""]
    if "endurance" in parts:
        text.append(series("Endurance: consecutive moves, there and back", parts["endurance"]))
    for link in sorted({run["link"] for run in parts.get("outage", [])}):
        runs = [run for run in parts["outage"] if run["link"] == link]
        text.append(series(f"Outage of {results['outage_s']} s in every pre-copy, {link}", runs))
    if "compare" in parts:
        text.append(comparison(parts["compare"]))
    return "\n".join(text)
