"""The first steps of docs/quickstart.md, as they are printed: from a handler to a real answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from harness.java import java_home
from harness.processes import free_ports, group, kill
from harness.settings import ROOT, Ports
from harness.wait import until

PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
PORTS = Ports(8080, 8081, 8082, 7070, 7071)
"""Those of config.properties, which the page's commands name."""

START = "torchserve --start"
STOP = "torchserve --stop"


def files() -> dict[str, str]:
    """The fenced blocks that are files, by the name in their first line."""
    blocks = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return dict(blocks)


def commands() -> tuple[str, str]:
    """The indented lines up to the server's start, and those from there to its end."""
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    lines = [line[4:] for line in prose.splitlines() if line.startswith("    ")]
    wanted = [line for line in lines if not line.startswith("pip install")]
    started = next(at for at, line in enumerate(wanted) if line.startswith(START)) + 1
    stopped = wanted.index(STOP) + 1
    return "\n".join(wanted[:started]), "\n".join(wanted[started:stopped])


def on_ports(text: str, ports: Ports) -> str:
    """The text with other ports."""
    for old, new in zip(vars(PORTS).values(), vars(ports).values(), strict=True):
        text = re.sub(rf"(?<=[:=]){old}\b", str(new), text)
    return text


@pytest.mark.server
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's request is curl's")
def test_the_quickstarts_commands_work_as_they_are_printed(java, tmp_path):
    """Handler, settings, model, archive, check, server and request: the answer is the model's."""
    ports = free_ports()
    for name, text in files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name in ("config.properties", "log4j2.xml", "metrics.yaml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(on_ports(text, ports), encoding="utf-8")
    (tmp_path / "model_store").mkdir()
    # Sockets lie here, and the length of their paths is limited.
    short = tempfile.mkdtemp(prefix="ts-")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TS_")}
    environment |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "JAVA_HOME": str(java_home()),
        "TEMP": short,
        "TMPDIR": short,  # where the server's pid is
    }
    before, after = (on_ports(part, ports) for part in commands())

    def bash(script: str, console: Path) -> subprocess.Popen[bytes]:
        with console.open("wb") as out:
            return subprocess.Popen(
                ["bash", "-e", "-c", script],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    console, asked = tmp_path / "console", tmp_path / "asked"
    first = bash(before, console)
    try:
        assert first.wait(60) == 0, console.read_text()
        assert "check: status 200 application/json" in console.read_text()
        until(lambda: "Model server started." in console.read_text(), "the server's start", 60)
        second = bash(after, asked)
        assert second.wait(60) == 0, asked.read_text()
        until(lambda: not group(first.pid), "the server's end", 30)
    finally:
        kill(group(first.pid))
        shutil.rmtree(short)
    model = torch.jit.load(tmp_path / "model.pt")
    sample = json.loads((tmp_path / "sample.json").read_text())
    answer = int(model(torch.tensor([sample])).argmax())
    assert re.search(rf"^{answer}TorchServe has stopped", asked.read_text(), re.MULTILINE)
