"""A self-contained HTML page: one file that loads nothing, to read on a screen or on paper."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

__all__ = ["figure", "heading", "inline_svg", "page", "paragraph", "preformatted", "table"]

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1rem 0; background: #fff; border-radius: 6px; padding: .5rem; overflow-x: auto; }
figure svg { width: 100%; height: auto; display: block; }
@media screen { figure svg { min-width: 42rem; } }
figcaption { color: #333; font-size: .9rem; padding: 0 .5rem .5rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
.wide, pre { overflow-x: auto; }
footer { font-size: .8rem; opacity: .8; overflow-wrap: anywhere; }
@media print {
  :root { color-scheme: light; }
  body { max-width: none; margin: 0; }
  figure, tr { break-inside: avoid; }
  .wide, pre { overflow: visible; }
}
"""


def page(title: str, parts: Iterable[str], about: str = "") -> str:
    """The whole page.

    Args:
        title: in the tab and as the heading, as plain text.
        parts: of the page, as HTML, from the functions below.
        about: how the page was made, as plain text, in small letters at the end.
    """
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style></head><body><main>",
        f"<h1>{html.escape(title)}</h1>",
        *parts,
        "</main>",
    ]
    if about:
        lines.append(f"<footer><p>{html.escape(about)}</p></footer>")
    return "\n".join([*lines, "</body></html>"]) + "\n"


def heading(text: str) -> str:
    """A heading inside the page, from plain text."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str, lead: str = "") -> str:
    """A paragraph, from plain text, after `lead` in bold; no line begins with a per cent sign."""
    before = f"<strong>{html.escape(lead)}</strong> " if lead else ""
    return f"<p>{before}{html.escape(text)}</p>".replace(" %", "\N{NO-BREAK SPACE}%")


def preformatted(text: str) -> str:
    """Plain text whose lines stay as they are."""
    return f'<pre tabindex="0">{html.escape(text)}</pre>'


def figure(svg: str, caption: str) -> str:
    """A picture with plain text under it; its background is always white."""
    return f'<figure tabindex="0">{svg}<figcaption>{html.escape(caption)}</figcaption></figure>'


def inline_svg(drawn: Any, label: str, tips: Mapping[str, str] = MappingProxyType({})) -> str:
    """A figure of matplotlib's as SVG for a page; its text stays text.

    Args:
        drawn: the `matplotlib.figure.Figure`.
        label: says what the picture shows, for screen readers; each picture of a page needs its
            own.
        tips: the identifier (`gid`) of a part -> plain text, which is shown beside the pointer.
    """
    import matplotlib as mpl  # of an extra, which only those who draw have

    out = io.StringIO()
    # Identifiers are the same in every run, and differ between the pictures of a page.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "svg.id": None}):
        drawn.savefig(out, format="svg", metadata={"Date": None})
    text = re.sub(
        r'<g id="([^"]+)">',
        lambda found: (
            found[0] + (f"<title>{html.escape(tip)}</title>" if (tip := tips.get(found[1])) else "")
        ),
        out.getvalue(),
    )
    named = f'<svg role="img" aria-label="{html.escape(label)}"'
    return text[text.index("<svg") :].replace("<svg", named, 1)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text; if it is too wide, it scrolls by itself, with the keyboard too."""
    lines = [
        '<div class="wide" tabindex="0"><table><thead>',
        _row(head, '<th scope="col">', "</th>"),
        "</thead><tbody>",
        *(_row(cells, "<td>", "</td>") for cells in rows),
        "</tbody></table></div>",
    ]
    return "\n".join(lines)


def _row(cells: Sequence[str], begin: str, end: str) -> str:
    return f"<tr>{''.join(f'{begin}{html.escape(cell)}{end}' for cell in cells)}</tr>"
