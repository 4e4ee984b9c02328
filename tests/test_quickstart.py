"""The first steps of docs/quickstart.md, as they are printed: from a handler to a real answer."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch

from harness.printed import printed, printed_commands
from harness.settings import ROOT

PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")


def files() -> dict[str, str]:
    """The fenced blocks that are files, by the name in their first line."""
    blocks = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return dict(blocks)


def commands() -> tuple[str, str]:
    """The page's commands, but for the package's installation."""
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    return printed(re.sub(r"^    pip install.*$", "", prose, flags=re.MULTILINE))


@pytest.mark.server
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's request is curl's")
def test_the_quickstarts_commands_work_as_they_are_printed(java, tmp_path):
    """Handler, settings, model, archive, check, server and request: the answer is the model's."""
    for name, text in files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name in ("config.properties", "log4j2.xml", "metrics.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "model_store").mkdir()
    before, after = commands()

    with printed_commands(tmp_path) as run:
        assert "check: status 200 application/json" in run(before)
        asked = run(after)

    model = torch.jit.load(tmp_path / "model.pt")
    sample = json.loads((tmp_path / "sample.json").read_text())
    answer = int(model(torch.tensor([sample])).argmax())
    assert re.search(rf"^{answer}TorchServe has stopped", asked, re.MULTILINE)
