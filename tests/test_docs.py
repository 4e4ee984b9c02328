"""The repository's pages: their links, the paths that they name, the picture of the imports.

`scripts/docs` checks the same links as the site has them.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from tests.fakes import Plain, fake_context

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for folder in (".", "docs", "benchmarks", "dashboards", "examples/*", "model_store")
    for page in ROOT.glob(f"{folder}/*.md")
)
TOP = r"benchmarks|dashboards|deploy|docs|examples|harness|micro_batch_handler|scripts|tests"
CODE = re.compile(r"^```[\s\S]*?^```$|^    .*$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings: `## Who's there?` is `#whos-there`."""
    headings = re.findall(
        r"^#+ (.+)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(page):
    """Each relative link names a file of the repository and, after #, one of its headings."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        to = (page.parent / path) if path else page

        assert to.exists(), link
        assert not anchor or anchor in anchors(to), link


@pytest.mark.parametrize("url", ["", "https://example.org/me/it"])
def test_the_readme_on_pypi_has_no_relative_links(url, monkeypatch):
    """They lead to the repository, which they name in full, or are left out with their pictures."""
    spec = importlib.util.spec_from_file_location("package_metadata", ROOT / "setup.py")
    metadata = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(metadata)
    monkeypatch.setattr(metadata, "URL", url)

    links = re.findall(r"\]\(([^)\s]+)\)", metadata.readme())

    assert all(link.startswith(("https://", "#")) for link in links)
    assert (f"{url}/blob/main/docs/faults.md" in links) is bool(url)
    assert (f"{url}/raw/main/docs/batch-path.svg" in links) is bool(url)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_the_text_exist(page):
    """A path that begins with a folder of the repository, such as `tests/gpu`, is in it."""
    if page.name == "CHANGELOG.md":
        pytest.skip("it tells of files that are gone, too")
    named = re.findall(rf"`((?:{TOP})/[\w./-]*)`", page.read_text(encoding="utf-8"))

    assert not [path for path in named if not (ROOT / path).exists()]


def test_each_room_has_a_line_in_the_design():
    """The table of rooms names each folder of the package, and files that are there."""
    package = ROOT / "micro_batch_handler"
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+)` \|.*\|(.*)\|$", page.split("\n## Rooms\n")[1], re.MULTILINE)
    folders = {
        path.parent.relative_to(package).as_posix() for path in package.rglob("__init__.py")
    } - {"."}

    assert folders <= {room for room, _ in rows}
    for room, files in rows:
        there = package / room
        assert there.is_dir() or there.with_suffix(".py").is_file(), room
        assert all((there / file).is_file() for file in re.findall(r"`(.+?)`", files)), files


def first_calls(folder: Path) -> list[tuple[str, int]]:
    """The file and the first line of each function in a folder that one cut batch calls, in order.

    Before it, whole batches have shown that the payloads can be cut.
    """
    calls: dict[tuple[str, int], None] = {}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            calls.setdefault((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    sizes = {"preprocess": 1, "inference": 2, "postprocess": 4}
    threading.setprofile(note)  # for the lanes, which start with the handler
    try:
        handler = Plain()
        handler.initialize(
            fake_context(0, model_yaml={"micro_batching": {"micro_batch_size": sizes}})
        )
        for requests in (2, 4):
            handler.handle([{"body": "text"}] * requests, fake_context(requests))
        calls.clear()
        sys.setprofile(note)
        handler.handle([{"body": "text"}] * 4, fake_context(4))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return [call for call in calls if call[0].startswith(str(folder))]


def first_line(file: Path, name: str) -> int:
    """Where a function begins, decorators included; its name is `function` or `Class.method`."""
    scope: ast.AST = ast.parse(file.read_text(encoding="utf-8"))
    for part in name.split("."):
        (scope,) = (
            node for node in ast.iter_child_nodes(scope) if getattr(node, "name", "") == part
        )
    return min(node.lineno for node in [scope, *scope.decorator_list])


def test_the_path_in_the_design_is_the_one_that_a_batch_takes():
    """The functions that the table names are called, for the first time, in its order."""
    package = ROOT / "micro_batch_handler"
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    path = page.split("\n## The path of a batch\n")[1].split("\n## ")[0]
    named = re.findall(r"\| `([\w/]+\.py)` \| `([\w.]+)` \|$", path, re.MULTILINE)
    wanted = {(str(package / file), first_line(package / file, name)): name for file, name in named}

    called = [wanted[call] for call in first_calls(package) if call in wanted]

    assert called == [name for _, name in named]
    assert len(named) > 5, "the table is there"


def test_the_path_of_a_hosted_call_names_functions_that_exist():
    """Each function is in the file that the table gives."""
    package = ROOT / "micro_batch_handler"
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    path = page.split("\n## The path of a hosted call\n")[1].split("\n## ")[0]
    named = re.findall(r"\| `([\w/]+\.py)` \| `([\w.]+)` \|$", path, re.MULTILINE)

    assert all(first_line(package / file, name) for file, name in named)
    assert len(named) > 20, "the table is there"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The picture that scripts/draw-imports makes now, and the process that made it."""
    picture = tmp_path_factory.mktemp("drawn") / "imports.svg"
    command = [sys.executable, ROOT / "scripts" / "_imports.py", "--output", picture]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return picture.read_text(encoding="utf-8"), done


def sizes(picture: str) -> list[int]:
    """The lines of code that stand in the boxes."""
    found = re.findall(r'class="size".* ([\d,]+) lines</text>', picture)
    return [int(lines.replace(",", "")) for lines in found]


def test_the_picture_of_the_imports_is_true(drawn):
    """docs/imports.svg has the rooms and arrows of the code, and sizes that are within a tenth."""
    kept, now = (ROOT / "docs" / "imports.svg").read_text(encoding="utf-8"), drawn[0]

    def without_sizes(picture: str) -> list[str]:
        return [line for line in picture.splitlines() if 'class="size"' not in line]

    assert without_sizes(kept) == without_sizes(now), "run scripts/draw-imports"
    assert sizes(kept) == pytest.approx(sizes(now), rel=0.1), "run scripts/draw-imports"


def test_no_rooms_import_each_other_in_a_circle(drawn):
    """All arrows between rooms point down; what makes a circle is named."""
    assert drawn[1].returncode == 0, drawn[1].stderr
