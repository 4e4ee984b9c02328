"""A virtual environment for each peer, made once in .run/peers/."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.peer import Peer

__all__ = ["prepare", "python_of"]

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".run" / "peers"

REQUIREMENTS = ("requirements.txt", "requirements-no-deps.txt")
"""The second is installed without what it asks for."""


def python_of(peer: Peer) -> Path:
    """Its interpreter, whether it is there or not."""
    return ENVIRONMENTS / peer.key / "bin" / "python"


def prepare(peer: Peer) -> None:
    """Make the peer's environment, unless it is there with the same requirements.

    Raises:
        subprocess.CalledProcessError: pip could not; its message is on the terminal.
    """
    files = [Path(__file__).parent / peer.key / name for name in REQUIREMENTS]
    found = b"".join(file.read_bytes() for file in files if file.exists())
    state = f"{peer.python} {hashlib.sha256(found).hexdigest()}"
    stamp = ENVIRONMENTS / peer.key / "installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == state:
        return
    sys.stderr.write(f"installing {peer.title} into {stamp.parent.relative_to(ROOT)}\n")
    interpreter = peer.python or sys.executable
    _run([interpreter, "-m", "venv", "--clear", str(stamp.parent)])
    for file, options in zip(files, ([], ["--no-deps"]), strict=True):
        if file.exists():
            pip = [str(python_of(peer)), "-m", "pip", "install", "-q", "--no-input"]
            _run([*pip, "--disable-pip-version-check", *options, "-r", str(file)])
    stamp.write_text(state, encoding="utf-8")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)  # noqa: S603
