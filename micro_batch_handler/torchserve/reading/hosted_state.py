"""What a handler cannot do if some of its stages run in another process (`share_model`)."""

from __future__ import annotations

from collections.abc import Sequence

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.torchserve.reading.stage_state import StageState

__all__ = ["refuse_state_across"]


def refuse_state_across(name: str, state: StageState, hosted: Sequence[Stage]) -> None:
    """Refuse what a stage keeps for another that runs in another process and never gets it.

    `thread_safe = True` changes nothing: it says that threads may share the state, and processes
    cannot.

    Args:
        name: of the handler, for the message.
        state: as its source shows.
        hosted: the stages that run in the process with the model.

    Raises:
        ConfigError: there is such state; it says where it is stored and read.
    """
    found = state.across(hosted)
    if found is None:
        return
    both = STAGES[:2]
    ways = ["set micro_batching.share_model to false"]
    if state.across(both) is None:
        ways.insert(0, f"set micro_batching.hosted_stages to [{', '.join(both)}]")
    raise ConfigError(
        f"{name}: {found}, which share_model puts into two processes. Hand it on with the rows: "
        f"return (images, sizes) from preprocess, and sizes again from inference; or "
        f"{', or '.join(ways)}"
    )
