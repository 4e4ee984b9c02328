"""State between stages that share_model would put into two processes is refused."""

from __future__ import annotations

import ast

import pytest

from micro_batch_handler.errors import ConfigError
from micro_batch_handler.torchserve.reading.hosted_state import refuse_state_across
from micro_batch_handler.torchserve.reading.stage_state import state_in_file

HANDLER = """
class Handler:
    thread_safe = True

    def preprocess(self, data):
        self.sizes = [len(row) for row in data]
        return data

    def inference(self, batch):
        return [INFERENCE]

    def postprocess(self, outputs):
        return [POSTPROCESS]
"""


def refuse(hosted, inference="batch", postprocess="outputs"):
    source = HANDLER.replace("INFERENCE", inference).replace("POSTPROCESS", postprocess)
    state = state_in_file(ast.parse(source), "Handler")
    refuse_state_across("handler.py", state, hosted)


@pytest.mark.parametrize(
    ("hosted", "inference", "postprocess", "says"),
    [
        (["inference"], "self.sizes", "outputs", "read in inference (line 10)"),
        (["preprocess", "inference"], "batch", "self.sizes", "read in postprocess (line 13)"),
    ],
)
def test_state_across_the_processes_is_refused(hosted, inference, postprocess, says):
    """It is named with both lines, although threads might share it."""
    with pytest.raises(ConfigError, match="share_model to false") as caught:
        refuse(hosted, inference, postprocess)
    assert f"handler.py: self.sizes, stored in preprocess (line 6) and {says}" in str(caught.value)


def test_two_hosted_stages_may_not_share_either():
    """They run at the same time, in two threads."""
    with pytest.raises(ConfigError, match="at the same time, for different requests"):
        refuse(["preprocess", "inference"], "self.sizes")


@pytest.mark.parametrize(
    ("hosted", "inference", "postprocess"),
    [
        (["inference"], "batch", "self.sizes"),
        (["inference"], "batch", "outputs"),
    ],
)
def test_state_in_one_process_is_left_to_other_rules(hosted, inference, postprocess):
    """Preprocess and postprocess of a worker see each other's state."""
    refuse(hosted, inference, postprocess)
