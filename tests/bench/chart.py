# SPDX-License-Identifier: Apache-2.0
"""The chart of a comparison as SVG: for each link and guest, time and bytes by cause against F0."""
import html

import stats

ROW, BAR = 20, 14           # pixels: a line of the chart, the bar in it
LABEL, PANEL, GAP = 150, 330, 40
NATIVE_COLOUR, GODWIT_COLOUR = "#9aa5b1", "#d9822b"
CAUSE_COLOURS = ["#d9822b", "#3f7cac", "#7a9e7e", "#95658b", "#c9b458", "#5c5c5c", "#b04a5a",
                 "#6bb0c9", "#2d2d6b", "#8c6d46"]


def panels(runs):
    """[{title, f0, rows: [{label, system, total_s, wire, causes}]}] from records of moves."""
    found = {}
    for (link, guest, mem_mb, fault, system, config), cell in stats.cells(runs).items():
        good = stats.completed(cell)
        if not good or fault:
            continue
        panel = found.setdefault((link, guest, mem_mb), {
            "title": f"{link}, {guest}, {mem_mb} MiB", "f0": None, "rows": []})
        floors = [run["f0_bytes"] for run in good if run.get("f0_bytes")]
        panel["f0"] = min(floors + ([panel["f0"]] if panel["f0"] else []), default=None)
        panel["rows"].append({
            "label": f"{system} {config}", "system": system,
            "total_s": stats.median(stats.values(good, "total_ms")) / 1000,
            "wire": stats.median(stats.values(good, "wire_bytes")),
            "causes": stats.causes_of(good)})
    return list(found.values())


def stacked(row):
    """(cause or None, bytes) that add up to what went over the wire."""
    told = [(cause, n_bytes) for cause, n_bytes in row["causes"].items() if n_bytes]
    rest = row["wire"] - sum(n_bytes for _, n_bytes in told)
    return told + [(None, rest)] if rest > 0 else told


class Drawing:
    def __init__(self):
        self.parts = []
        self.height = 10

    def box(self, x, y, width, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" '
                          f'height="{BAR}" fill="{colour}"/>')

    def text(self, x, y, words, anchor="start", weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
                          f'font-weight="{weight}">{html.escape(words)}</text>')

    def line(self, x, y, height):
        self.parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{y + height:.1f}" '
                          'stroke="#b00020" stroke-dasharray="3,2"/>')

    def svg(self):
        width = LABEL + 2 * PANEL + 3 * GAP
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{self.height}" '
                f'font-family="sans-serif" font-size="11">\n<rect width="{width}" '
                f'height="{self.height}" fill="white"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def draw_panel(drawing, panel, colours):
    drawing.height += ROW
    drawing.text(10, drawing.height, panel["title"], weight="bold")
    drawing.text(LABEL + PANEL - GAP, drawing.height, "total time, s", "end")
    floor = f" (line: F0, {panel['f0'] / 1e6:.1f} MB)" if panel["f0"] else ""
    drawing.text(LABEL + PANEL + GAP, drawing.height, "on the wire, MB" + floor)
    longest = max(row["total_s"] for row in panel["rows"])
    most = max(row["wire"] for row in panel["rows"])
    top = drawing.height + 6
    for i, row in enumerate(panel["rows"]):
        y = top + i * ROW
        drawing.text(LABEL - 6, y + BAR - 3, row["label"], "end")
        width = (PANEL - GAP) * row["total_s"] / longest
        drawing.box(LABEL, y, width, GODWIT_COLOUR if row["system"] == "godwit" else NATIVE_COLOUR)
        drawing.text(LABEL + width + 4, y + BAR - 3, f"{row['total_s']:.1f}")
        x = LABEL + PANEL + GAP
        for cause, n_bytes in stacked(row):
            width = (PANEL - GAP) * n_bytes / most
            drawing.box(x, y, width, colours.get(cause, NATIVE_COLOUR))
            x += width
        drawing.text(x + 4, y + BAR - 3, f"{row['wire'] / 1e6:.1f}")
    if panel["f0"]:
        drawing.line(LABEL + PANEL + GAP + (PANEL - GAP) * panel["f0"] / most, top - 3,
                     ROW * len(panel["rows"]))
    drawing.height = top + ROW * len(panel["rows"])


def draw(found):
    """@found: of panels()."""
    drawing = Drawing()
    causes = list(dict.fromkeys(cause for panel in found for row in panel["rows"]
                                for cause in row["causes"]))
    colours = {cause: CAUSE_COLOURS[i % len(CAUSE_COLOURS)] for i, cause in enumerate(causes)}
    for panel in found:
        draw_panel(drawing, panel, colours)
    drawing.height += ROW
    x = LABEL
    for cause in causes:
        drawing.box(x, drawing.height - BAR + 3, 10, colours[cause])
        drawing.text(x + 14, drawing.height, cause)
        x += 14 + 7 * len(cause) + 16
    drawing.height += 12
    return drawing.svg()
