#!/usr/bin/env python3
"""plot.py RESULTS.json PLOT.svg: draws what the harness measured, one row of panels a data set.

Left: searches a second against recall@10, a line for each peer, of the settings that no other setting of it beats in
both. The axis of recall is that of log(1 - recall), so that .90, .99 and .999 lie equally far apart. Right, where measured: searches a second under filters, by the share of rows that
they leave, at the fastest setting with a recall of at least .95. Needs nothing but Python.
"""
import json
import math
import re
import sys
from html import escape

# Okabe and Ito's colours, which people with any kind of colour vision tell apart, without the yellow; ours is the first.
OURS, YARDSTICK = "#D55E00", "#333333"
OTHERS = ["#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F"]
DASHES = ["", "7 3", "2 3", "9 3 2 3"]
MARKS = ["circle", "square", "diamond", "triangle"]

ENOUGH = 0.95  # recall that a filtered search must reach
RECALLS = [0.80, 0.90, 0.95, 0.98, 0.99, 0.995, 0.999]  # ticks
LEFT, RIGHT = 0.80, 0.9995  # ends of the axis; what is better stands at its right end

WIDTH, HEIGHT, TOP = 620, 400, 74  # of the large panel, and the room above it
SIDE, GAP, LABELS = 210, 60, 190  # width of the small one; room between axes; room for names
MARGIN, BELOW = 76, 62


class Svg:
    """Collects elements."""

    def __init__(self):
        self.parts = []

    def add(self, tag, text=None, **attributes):
        given = "".join(f' {name.replace("_", "-")}="{escape(str(value))}"' for name, value in attributes.items()
                        if value not in (None, ""))
        self.parts.append(f"<{tag}{given}/>" if text is None else f"<{tag}{given}>{escape(text)}</{tag}>")

    def line(self, x1, y1, x2, y2, stroke, **attributes):
        self.add("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", stroke=stroke, **attributes)

    def text(self, x, y, text, size=12, fill="#333", **attributes):
        self.add("text", text, x=f"{x:.1f}", y=f"{y:.1f}", font_size=size, fill=fill, **attributes)

    def mark(self, style, x, y, hollow=False):
        r = 3.6
        corners = {"square": [(-1, -1), (1, -1), (1, 1), (-1, 1)], "diamond": [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
                   "triangle": [(0, -1.3), (1.3, 1), (-1.3, 1)]}.get(style.mark)
        look = {"fill": "#fff" if hollow else style.colour, "stroke": style.colour, "stroke_width": 1.3}
        if corners:
            self.add("polygon", points=" ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in corners), **look)
        else:
            self.add("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=r, **look)

    def path(self, style, points):
        self.add("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), fill="none", stroke=style.colour,
                 stroke_width=style.width, stroke_dasharray=style.dash, stroke_linejoin="round")


class Style:
    """How a peer is drawn: ours in one colour and thick, the yardstick dark, the others by turns."""

    def __init__(self, colour, turn, width):
        self.colour, self.width = colour, width
        self.dash, self.mark = DASHES[turn % len(DASHES)], MARKS[turn % len(MARKS)]


def styles(peers):
    ours = sorted(peer for peer in peers if peer.startswith("embdb"))
    others = [peer for peer in peers if peer not in ours and peer != "hnswlib"]
    found = {peer: Style(OURS, n, 2.8) for n, peer in enumerate(ours)}
    found["hnswlib"] = Style(YARDSTICK, 0, 1.8)
    for n, peer in enumerate(others):
        found[peer] = Style(OTHERS[n % len(OTHERS)], n // len(OTHERS) + n % len(OTHERS) % 2, 1.6)
    return found


class LogAxis:
    """Places of searches a second, between powers of ten and their halves that enclose all values."""

    def __init__(self, values, top, height):
        self.low, self.high = math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.05
        self.top, self.height = top, height

    def place(self, value):
        return self.top + self.height * (self.high - math.log10(value)) / (self.high - self.low)

    def ticks(self):
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = [1, 2, 5] if self.high - self.low < 2.5 else [1]
        ticks = [step * 10 ** power for power in powers for step in steps]
        return [tick for tick in ticks if self.low <= math.log10(tick) <= self.high]

    def draw(self, svg, left, width):
        for tick in self.ticks():
            y = self.place(tick)
            svg.line(left, y, left + width, y, "#e4e4e4")
            svg.text(left - 8, y + 4, f"{tick:,.0f}" if tick >= 1 else f"{tick:g}", text_anchor="end")


def place_of_recall(recall, left, width):
    miss = 1 - min(max(recall, LEFT), RIGHT)
    return left + width * math.log(miss / (1 - LEFT)) / math.log((1 - RIGHT) / (1 - LEFT))


def unbeaten(curve):
    """Pairs (recall, QPS), recall ascending, without those that another surpasses in both."""
    kept = []
    for recall, qps in sorted((point["recall"], point["qps"]) for point in curve if point.get("qps", 0) > 0):
        while kept and kept[-1][1] <= qps:
            kept.pop()
        kept.append((recall, qps))
    return kept


def visible(curve):
    """What is unbeaten from LEFT on, the first pair interpolated where a line comes from further left."""
    points = unbeaten(curve)
    inside = [point for point in points if point[0] >= LEFT]
    before = [point for point in points if point[0] < LEFT]
    if inside and before and inside[0][0] > LEFT:
        (r0, q0), (r1, q1) = before[-1], inside[0]
        share = (LEFT - r0) / (r1 - r0)
        inside.insert(0, (LEFT, math.exp(math.log(q0) * (1 - share) + math.log(q1) * share)))
    return inside


def best_filtered(curve):
    """The fastest with enough recall, else that with the most recall: (recall, QPS)."""
    points = [(point["recall"], point["qps"]) for point in curve if point.get("qps", 0) > 0]
    enough = [point for point in points if point[0] >= ENOUGH]
    return max(enough, key=lambda point: point[1]) if enough else max(points, default=None)


def filtered(peer):
    """Share of the rows in percent → (recall, QPS)."""
    measured = peer.get("filter")
    if not isinstance(measured, dict):
        return {}
    shares = {key: re.fullmatch(r"([\d.]+)%", key) for key in measured}
    found = {float(match[1]): best_filtered(measured[key]) for key, match in shares.items() if match and measured[key]}
    return {share: found[share] for share in sorted(found) if found[share]}


def names(svg, ends, x, top, height):
    """Writes the name of each line beside its end, none over another."""
    step = min(14.0, height / max(len(ends), 1))
    ends = sorted(ends, key=lambda end: end[1])
    places, last = [], top - step
    for _, y, _, _ in ends:
        last = max(y, last + step)
        places.append(last)
    limit = top + height
    for n in reversed(range(len(places))):
        places[n] = min(places[n], limit)
        limit = places[n] - step
    for (from_x, from_y, peer, style), y in zip(ends, places):
        svg.line(from_x + 6, from_y, x - 4, y, style.colour, stroke_width=0.6, stroke_dasharray="1 3")
        svg.mark(style, x + 2, y)
        svg.text(x + 10, y + 4, peer, 12, font_weight="bold" if style.width > 2 else None)


def panel_of_recall(svg, curves, look, left, top):
    axis = LogAxis([qps for curve in curves.values() for _, qps in curve], top, HEIGHT)
    axis.draw(svg, left, WIDTH)
    for recall in RECALLS:
        x = place_of_recall(recall, left, WIDTH)
        svg.line(x, top, x, top + HEIGHT, "#e4e4e4")
        svg.text(x, top + HEIGHT + 18, f"{recall:.3f}".lstrip("0").rstrip("0").ljust(3, "0"), text_anchor="middle")
    svg.text(left + WIDTH, top + HEIGHT + 18, "1", text_anchor="middle")
    svg.text(left + WIDTH / 2, top + HEIGHT + 40, "recall@10", 13, text_anchor="middle")
    svg.text(left, top - 14, "searches a second, one core, processor time", 13)
    ends = []
    for peer in drawing_order(curves, look):
        points = [(place_of_recall(recall, left, WIDTH), axis.place(qps)) for recall, qps in curves[peer]]
        svg.path(look[peer], points)
        for x, y in points:
            svg.mark(look[peer], x, y)
        ends.append((*points[-1], peer, look[peer]))
    names(svg, ends, left + WIDTH + 14, top, HEIGHT)


def panel_of_filters(svg, found, look, left, top):
    shares = sorted({share for points in found.values() for share in points})
    axis = LogAxis([qps for points in found.values() for _, qps in points.values()], top, HEIGHT)
    axis.draw(svg, left, SIDE)
    place = {share: left + SIDE * (n + 0.5) / len(shares) for n, share in enumerate(shares)}
    for share, x in place.items():
        svg.line(x, top, x, top + HEIGHT, "#e4e4e4")
        svg.text(x, top + HEIGHT + 18, f"{share:g} %", text_anchor="middle")
    svg.text(left + SIDE / 2, top + HEIGHT + 40, "rows that the filter leaves", 13, text_anchor="middle")
    svg.text(left, top - 14, f"under a filter, at recall ≥ {ENOUGH:g} (hollow: it falls short)", 13)
    ends = []
    for peer in drawing_order(found, look):
        points = [(place[share], axis.place(qps), recall) for share, (recall, qps) in found[peer].items()]
        svg.path(look[peer], [(x, y) for x, y, _ in points])
        for x, y, recall in points:
            svg.mark(look[peer], x, y, hollow=recall < ENOUGH)
        ends.append((*points[-1][:2], peer, look[peer]))
    names(svg, ends, left + SIDE + 8, top, HEIGHT)


def drawing_order(peers, look):
    """Ours last, on top of the others."""
    return sorted(peers, key=lambda peer: look[peer].width)


def legend(svg, peers, look, left, top, width):
    x = left
    for peer in peers:
        needed = 50 + 7 * len(peer)
        if x + needed > left + width:
            x, top = left, top + 20
        svg.path(look[peer], [(x, top), (x + 28, top)])
        svg.mark(look[peer], x + 14, top)
        svg.text(x + 34, top + 4, peer, 12)
        x += needed
    return top + 20


def draw(results):
    """The picture as text; None where nothing was measured that it could show."""
    svg, top, widest = Svg(), 0, 0
    look = styles(list(dict.fromkeys(peer for peers in results.values() for peer in peers)))
    for dataset, peers in results.items():
        peers = {peer: found for peer, found in peers.items() if isinstance(found, dict)}
        curves = {peer: visible((found.get("search") or {}).get("curve") or []) for peer, found in peers.items()}
        curves = {peer: curve for peer, curve in curves.items() if curve}
        if not curves:
            continue
        filters = {peer: points for peer, found in peers.items() if (points := filtered(found))}
        svg.text(MARGIN, top + 30, dataset, 18, font_weight="bold")
        panel_of_recall(svg, curves, look, MARGIN, top + TOP)
        width = MARGIN + WIDTH + LABELS
        if filters:
            panel_of_filters(svg, filters, look, width + GAP, top + TOP)
            width += GAP + SIDE + LABELS
        shown = [peer for peer in look if peer in curves or peer in filters]
        top = legend(svg, shown, look, MARGIN, top + TOP + HEIGHT + BELOW, width - MARGIN) + 10
        widest = max(widest, width)
    if not svg.parts:
        return None
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{widest}" height="{top}" viewBox="0 0 {widest} {top}" '
            'font-family="Helvetica, Arial, DejaVu Sans, sans-serif">')
    ground = f'<rect width="{widest}" height="{top}" fill="#fff"/>'
    return "\n".join([head, ground, *svg.parts, "</svg>", ""])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    with open(sys.argv[1], encoding="utf-8") as file:
        picture = draw(json.load(file))
    if picture is None:
        sys.exit(f"{sys.argv[1]}: no search was measured that reaches a recall of {LEFT:g}")
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write(picture)


if __name__ == "__main__":
    main()
