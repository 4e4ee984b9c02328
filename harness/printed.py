"""Commands that a page prints, run as they are printed, with a TorchServe on ports of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.java import java_home
from harness.processes import free_ports, group, kill
from harness.settings import on_ports
from harness.wait import until

__all__ = ["printed", "printed_commands"]

SERVER_FILES = ("config.properties", "log4j2.xml", "metrics.yaml")
START = "torchserve --start"
READY = "Model server started."
STOP = "torchserve --stop"
SECONDS = 60


def printed(text: str) -> tuple[str, str]:
    """The commands of a page up to the server's start, and those from there to its stop.

    They are the indented lines.
    """
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    started = next(at for at, line in enumerate(lines) if line.startswith(START)) + 1
    stopped = lines.index(STOP) + 1
    return "\n".join(lines[:started]), "\n".join(lines[started:stopped])


@contextmanager
def printed_commands(folder: Path) -> Iterator[Callable[[str], str]]:
    """A function that runs commands in a folder, and returns what they print.

    The server's files in the folder get other ports, and so do the commands. A start of the server
    lasts until it is ready; when the block is left, the server has to be gone.
    """
    ports = free_ports()
    for name in SERVER_FILES:
        path = folder / name
        path.write_text(on_ports(path.read_text(encoding="utf-8"), ports), encoding="utf-8")
    # Sockets lie here, and the length of their paths is limited.
    short = tempfile.mkdtemp(prefix="ts-")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TS_")}
    environment |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "JAVA_HOME": str(java_home()),
        "TEMP": short,
        "TMPDIR": short,  # where the server's pid is
    }
    leaders: list[int] = []

    def run(commands: str) -> str:
        console = Path(short, f"console-{len(leaders)}")
        with console.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-e", "-c", on_ports(commands, ports)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        leaders.append(process.pid)
        assert process.wait(SECONDS) == 0, console.read_text()
        if START in commands:
            until(lambda: READY in console.read_text(), "the server's start", SECONDS)
        return console.read_text()

    try:
        yield run
        until(lambda: not any(map(group, leaders)), "the server's end", SECONDS)
    finally:
        for leader in leaders:
            kill(group(leader))
        shutil.rmtree(short)
