# SPDX-License-Identifier: Apache-2.0
"""Statistics over records of moves. Pure."""
import math
import statistics

MB = 1000000


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


def completed(runs):
    return [run for run in runs if run["status"] == "completed"]


def cells(runs):
    """Lists of runs of the same cell, in the order of their first appearance: of the newest build
    of Godwit that the cell was measured with."""
    found = {}
    for run in runs:
        key = (run["link"], run["guest"], run["mem_mb"], run.get("fault"), run["system"],
               run["config"])
        found.setdefault(key, []).append(run)
    return {key: [run for run in cell if key[4] == "qemu" or run.get("build") == cell[-1].get("build")]
            for key, cell in found.items()}


def causes_of(runs):
    """Medians of the bytes by cause, in the order of their appearance."""
    found = {}
    for run in runs:
        for cause, n_bytes in (run.get("bytes_by_cause") or {}).items():
            found.setdefault(cause, []).append(n_bytes)
    return {cause: median(n_bytes) for cause, n_bytes in found.items()}
