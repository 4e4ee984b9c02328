"""A page in a real browser: what it looks like from inside, and whether it complains."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

__all__ = ["Box", "look_at"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--window-size=1200,1600",
]

ASK = """
<script>
const box = e => { const r = e.getBoundingClientRect();
                   return [e.textContent.trim(), r.left, r.top, r.right, r.bottom]; };
const boxes = what => [...document.querySelectorAll(what)].map(box);
const found = {texts: boxes("svg text, h1, h2, p, figcaption, th, td").filter(b => b[0]),
               bars: boxes("[id^=call-]"), waits: boxes("[id^=wait-]"), idle: boxes("[id^=idle-]"),
               path: boxes("#critical-path"), hosts: boxes("[id^=host-]"),
               tips: boxes("svg [id] > title"), legend: boxes("#legend"),
               wide: [["", 0, 0, document.documentElement.scrollWidth, innerWidth]]};
const out = document.createElement("pre");
out.id = "found"; out.textContent = JSON.stringify(found); document.body.append(out);
</script>
"""


class Box(NamedTuple):
    """Something on the page, in pixels."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box, slack: float = 1.0) -> bool:
        """Whether both cover some of the same place, by more than `slack` each way."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide > slack and high > slack


def look_at(page: Path, folder: Path) -> tuple[dict[str, list[Box]], list[str]]:
    """What is where on the page, and what the browser's console says; skips without a browser."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"there is no {', '.join(NAMES)}: apt-get install chromium")
    asking = folder / "asking.html"
    asking.write_text(page.read_text(encoding="utf-8") + ASK, encoding="utf-8")
    command = [program, *FLAGS, f"--user-data-dir={folder / 'browser'}", "--dump-dom"]
    ended = subprocess.run(
        [*command, asking.as_uri()], capture_output=True, text=True, timeout=100, check=True
    )
    [found] = re.findall(r'<pre id="found">(.*?)</pre>', ended.stdout, re.DOTALL)
    boxes: dict[str, Any] = json.loads(html.unescape(found))
    said = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    return {kind: [Box(*each) for each in some] for kind, some in boxes.items()}, said
