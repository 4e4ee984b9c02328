"""The house rules: one-way imports, public names, documented tests."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import micro_batch_handler

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / micro_batch_handler.__name__
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if (path.parent / "__init__.py").exists())
"""Without the data: the files that `init` writes."""

TESTS = sorted([*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("benchmarks/**/test_*.py")])

ROOMS = [
    "errors",
    "config",
    "planning",
    "pipeline",
    "hosting",
    "tracing",
    "torchserve",
    "tools",
    "ray",
]
"""Each may import from those before it, and from itself."""


def imports(path: Path) -> set[str]:
    """All modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str | None:
    """The room a file stands in; None for the two doors of the package."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return first if first in ROOMS else None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    """A room imports only from itself and the rooms before it."""
    if room(path) is None:
        assert path.name in {"__init__.py", "__main__.py"}
        return
    allowed = ROOMS[: ROOMS.index(room(path)) + 1]

    found = imports(path)
    inside = {name.split(".")[1] for name in found if name.startswith(PACKAGE.name + ".")}

    assert not any(name.startswith(".") for name in found)
    assert inside - {"__version__"} <= set(allowed)


@pytest.mark.parametrize(
    ("room", "others"),
    [
        ("micro_batch_handler", {"harness", "tests", "benchmarks"}),
        ("harness", {"tests", "benchmarks"}),
        ("tests", {"benchmarks"}),
        ("benchmarks", {"tests"}),
    ],
)
def test_tests_and_benchmarks_share_only_the_harness(room, others):
    """Neither imports the other, nor does the harness import them, nor the package any of these."""
    found = {
        str(path.relative_to(ROOT)): sorted(wrong)
        for path in (ROOT / room).rglob("*.py")
        if (wrong := {name for name in imports(path) if name.split(".")[0] in others})
    }

    assert found == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_adapter_and_the_tools_know_torchserve(path):
    """The engine can serve another server, since it imports nothing of this one."""
    if room(path) in {"torchserve", "tools", "ray"}:
        return

    outside = {name.split(".")[0] for name in imports(path)}

    assert not outside & {"ts", "model_archiver"}


def test_the_public_names_are_what_the_package_says():
    """`__all__` is complete, each name loads, and another name is an AttributeError."""
    names = micro_batch_handler.__all__

    assert set(names) == {"MicroBatchHandler", "MicroBatchMixin", "MicroBatching", "__version__"}
    assert all(getattr(micro_batch_handler, name) for name in names)
    with pytest.raises(AttributeError, match="no_such"):
        _ = micro_batch_handler.no_such


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_its_job_and_its_public_names(path):
    """The docstring's first line is the file's job; `__all__` says what others may use."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    assert (ast.get_docstring(tree) or "").splitlines()[0].endswith((".", ":"))
    if path.name not in {"__init__.py", "__main__.py"}:
        assert "__all__" in {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_says_what_it_shows(path):
    """Each test has a docstring of one sentence."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} says nothing"


def test_the_examples_in_docstrings_hold():
    """Every `>>>` in the package gives what it says."""
    for path in MODULES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if ">>>" in path.read_text(encoding="utf-8"):
            failures, _ = doctest.testmod(importlib.import_module(name))
            assert not failures


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_of_the_package_is_long(path):
    """A file is about one noun, and 250 lines are the most that it may take."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250
