"""What a handler cannot do if some of its stages run in another process (`share_model`)."""

from __future__ import annotations

from collections.abc import Sequence

from micro_batch_handler.config import Stage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.torchserve.reading.stage_state import StageState

__all__ = ["refuse_state_across"]


def refuse_state_across(name: str, state: StageState, hosted: Sequence[Stage]) -> None:
    """Refuse what a hosted stage and another one share outside their payloads.

    Only what a stage returns travels between the processes, and in the one with the model two
    stages run at the same time for different requests. `thread_safe = True` changes nothing: it
    says that threads may share the state.

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
    if found.stored_in in hosted and found.read_in in hosted:
        why = "the process with the model calls them at the same time, for different requests"
    else:
        inside = found.stored_in if found.stored_in in hosted else found.read_in
        why = f"{inside} runs in another process"
    raise ConfigError(
        f"{name}: {found}, but with share_model {why}. Hand it on with the rows: return (images, "
        f"sizes) from preprocess, and sizes again from inference; load what is the same for all "
        f"requests in initialize; or set share_model to false"
    )
