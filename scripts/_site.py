"""What mkdocs does not do by itself: pages from outside docs/, and links that work here and there.

Links are written for the repository, relative to the file that they stand in. On the site a link
to a page leads to that page, wherever its source is, and one to another file to the repository.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "measurements.md",
    "dashboards/README.md": "dashboards.md",
    **{
        f"examples/{page.parent.name}/README.md": f"examples/{page.parent.name}.md"
        for page in ROOT.glob("examples/*/README.md")
    },
}
"""Pages that stand beside what they are about, and where they are on the site."""

CODE_OR_LINK = re.compile(
    r"^```.*?^```$|`[^`\n]+`|(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<to>[^)\s]+)\)",
    re.DOTALL | re.MULTILINE,
)

SETUP = runpy.run_path(str(ROOT / "setup.py"))


def on_config(config: MkDocsConfig) -> None:
    """Show the repository on every page, if its address is known."""
    config.repo_url = SETUP["URL"] or None


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages from outside docs/."""
    from mkdocs.structure.files import File

    for source, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs passes all of them by name
    """Turn the links of a page of the repository into those of the site."""
    pages = {
        Path(file.abs_src_path).relative_to(ROOT).as_posix(): file.src_uri
        for file in files
        if file.abs_src_path and Path(file.abs_src_path).is_relative_to(ROOT)
    }
    here = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()

    def on_site(match: re.Match[str]) -> str:
        to = match["to"]
        if not to or "://" in to or to.startswith("#"):
            return match[0]
        path, hash_sign, anchor = to.partition("#")
        path = normpath(join(dirname(here), path))
        if path not in pages:
            return SETUP["in_repository"](match["picture"], match["text"], path)
        there = relpath(pages[path], dirname(page.file.src_uri) or ".")
        return f"{match['picture']}[{match['text']}]({there}{hash_sign}{anchor})"

    return CODE_OR_LINK.sub(on_site, markdown)
