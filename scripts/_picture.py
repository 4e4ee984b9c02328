"""A layered drawing as SVG, for light and for dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from _layers import Edge, Layers

# In pixels.
BOX_WIDTH, BOX_HEIGHT = 172, 46
ACROSS, DOWN = 196, 82  # from the middle of a box to that of the next
MARGIN, HEADING = 28, 78
PORT = 22  # between two arrows at the same side of a box
TIP = 7

COLOURS = {
    "tools": "#e8862e",
    "torchserve": "#4c78a8",
    "tracing": "#b279a2",
    "hosting": "#2a9d8f",
    "pipeline": "#54a24b",
    "planning": "#d1495b",
}
"""For a room and those inside it; the others are grey."""
GREY = "#8a8f98"

HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" \
height="{height}" role="img" aria-labelledby="title desc">
<title id="title">The rooms of micro_batch_handler and what they import</title>
<desc id="desc">{description}</desc>
<style>
text{{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;fill:#1f2328}}
.page{{fill:#ffffff}} .heading{{font-size:17px;font-weight:600}} .note,.size{{fill:#57606a}}
.note{{font-size:13px}} .name{{font-size:14px;font-weight:600}} .size{{font-size:12px}}
.name,.size{{text-anchor:middle}} .box{{fill-opacity:.16;stroke-width:1.5}}
.arrow{{stroke:#57606a;stroke-width:1.5;fill:none}} .tip{{fill:#57606a}}
.circle{{stroke:#d1242f;stroke-width:2;stroke-dasharray:6 4;fill:none}}
@media (prefers-color-scheme: dark){{
text{{fill:#e6edf3}} .page{{fill:#0d1117}} .note,.size{{fill:#9da7b3}}
.arrow{{stroke:#9da7b3}} .tip{{fill:#9da7b3}}}}
</style>
<defs><marker id="tip" markerUnits="userSpaceOnUse" markerWidth="8" markerHeight="10" refX="1" \
refY="5" orient="auto"><path class="tip" d="M0 0 L8 5 L0 10 z"/></marker></defs>
<rect class="page" width="{width}" height="{height}" rx="8"/>
<text class="heading" x="{margin}" y="36">The rooms of micro_batch_handler</text>
<text class="note" x="{margin}" y="57">An arrow leads from a room to one that it imports. \
What follows from other arrows is left out.</text>"""


def picture(layers: Layers, sizes: Mapping[str, str]) -> str:
    """The text of the file; how large a room is stands in lines of class `size` only."""
    x = {node: round(MARGIN + BOX_WIDTH / 2 + place * ACROSS) for node, place in layers.x.items()}
    y = {node: HEADING + BOX_HEIGHT // 2 + row * DOWN for node, row in layers.row.items()}
    described = "; ".join(
        f"{node} imports {', '.join(to for start, to in layers.direct if start == node)}"
        for node in layers.row
        if any(start == node for start, _ in layers.direct)
    )
    lines = [
        HEAD.format(
            width=max(x.values()) + BOX_WIDTH // 2 + MARGIN,
            height=max(y.values()) + BOX_HEIGHT // 2 + MARGIN,
            margin=MARGIN,
            description=described,
        )
    ]
    leave = _ports(layers.direct, x, 0)
    arrive = _ports(layers.direct, x, 1)
    for edge in layers.direct:
        start, to = edge
        points = [(leave[edge], y[start] + BOX_HEIGHT // 2)]
        for row, place in enumerate(layers.bends[edge], layers.row[start] + 1):
            across = round(MARGIN + BOX_WIDTH / 2 + place * ACROSS)
            down = HEADING + row * DOWN
            points += [(across, down), (across, down + BOX_HEIGHT)]
        points.append((arrive[edge], y[to] - BOX_HEIGHT // 2 - TIP))
        lines.append(f'<path class="arrow" d="{_curve(points)}" marker-end="url(#tip)"/>')
    lines += [
        f'<path class="circle" d="M{x[start]} {y[start]} L{x[to]} {y[to]}"/>'
        for start, to in layers.circular
    ]
    for node in layers.row:
        lines += _box(node, sizes[node], x[node], y[node])
    return "\n".join([*lines, "</svg>", ""])


def _box(node: str, size: str, x: int, y: int) -> list[str]:
    """A room, with its middle at these coordinates."""
    colour = COLOURS.get(node.split("/", maxsplit=1)[0], GREY)
    corner = f'x="{x - BOX_WIDTH // 2}" y="{y - BOX_HEIGHT // 2}"'
    box = f'{corner} width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7"'
    return [
        f'<rect class="page" {box}/>',
        f'<rect class="box" {box} fill="{colour}" stroke="{colour}"/>',
        f'<text class="name" x="{x}" y="{y - 3}">{node}</text>',
        f'<text class="size" x="{x}" y="{y + 14}">{size}</text>',
    ]


def _ports(edges: list[Edge], x: Mapping[str, int], end: int) -> dict[Edge, int]:
    """Where each edge leaves its first node (end 0), or arrives at its second (end 1)."""
    ports = {}
    for node in x:
        here = sorted(
            (edge for edge in edges if edge[end] == node), key=lambda edge: x[edge[1 - end]]
        )
        for place, edge in enumerate(here):
            ports[edge] = round(x[node] + (place - (len(here) - 1) / 2) * PORT)
    return ports


def _curve(points: list[tuple[int, int]]) -> str:
    """A smooth path through points, vertical at each of them."""
    parts = [f"M{points[0][0]} {points[0][1]}"]
    for (x1, y1), (x2, y2) in pairwise(points):
        half = (y1 + y2) // 2
        parts.append(f"C{x1} {half} {x2} {half} {x2} {y2}")
    return " ".join(parts)
