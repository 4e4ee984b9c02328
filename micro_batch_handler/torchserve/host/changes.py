"""Changes of the handler's state by a hosted stage, which no other process sees."""

from __future__ import annotations

import logging
from typing import Any

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.torchserve.reading.accesses import HANDLE
from micro_batch_handler.torchserve.reading.reader import accesses_of
from micro_batch_handler.torchserve.reading.source import source_of_class
from micro_batch_handler.torchserve.reading.stage_state import state_of_class
from micro_batch_handler.torchserve.refusals import OR_NOT
from micro_batch_handler.torchserve.state_watch import StateWatch

__all__ = ["HostWatch"]

logger = logging.getLogger("micro_batch_handler.torchserve.host.changes")


class HostWatch:
    """Looks for state that one hosted stage changes and other stages may read.

    What reading the class shows was refused when the model was loaded, or matters to this stage
    alone. An attribute of the handler that others may read fails this call and all later ones:
    their answers would be wrong. State in helper objects and modules is mostly a cache: it is
    logged, once.

    Args:
        handler: that was loaded in this process.
        stage: that is watched.
    """

    def __init__(self, handler: Any, stage: Stage) -> None:
        kind = type(handler)
        self._stage = stage
        self._why = ""
        self._logged: set[str] = set()
        self._watch: StateWatch | None = None
        if getattr(kind, "thread_safe", False) is True:
            return
        self._watch = StateWatch(handler, state_of_class(kind).harmless)
        source = source_of_class(kind)
        others = [accesses_of(source, each) for each in (*STAGES, HANDLE) if each != stage]
        self._read = {key for each in others for key in each.loads}
        self._may_read_any = any(each.escapes for each in others)
        self._direct = {"self", *(base.__name__ for base in kind.__mro__)}

    def begin(self) -> None:
        """A call begins."""
        if self._watch is not None:
            self._watch.begin()

    def look(self) -> None:
        """A call has returned.

        Raises:
            ConfigError: this one, or an earlier one, has changed what other stages may read.
        """
        name = "" if self._watch is None else self._watch.changed()
        if name and not self._why:
            self._found(name)
        if self._why:
            raise ConfigError(self._why)

    def _found(self, name: str) -> None:
        place, _, attribute = name.rpartition(".")
        why = (
            f"{self._stage} changes {name} in the process with the model (share_model), which no "
            f"other process sees. If other stages read it, return it with the rows instead, "
            f"{OR_NOT}; if none does, say thread_safe = True in the class"
        )
        if place in self._direct and (self._may_read_any or f".{attribute}" in self._read):
            self._why = why
        elif name not in self._logged:
            self._logged.add(name)
            logger.warning("%s", why)
