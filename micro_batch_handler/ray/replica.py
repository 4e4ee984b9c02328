"""What runs in Ray's processes: a model, and the frontend that clients talk to.

of one archive       ModelWithFrontend: no hop between the two
of several           FrontendOfSeveral -> a ModelReplica for each model and version
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from micro_batch_handler.config.limits import response_timeout_of
from micro_batch_handler.ray.answers import Part
from micro_batch_handler.ray.batching import BatchQueue
from micro_batch_handler.ray.frontend import Frontend
from micro_batch_handler.ray.model_archive import ModelArchive
from micro_batch_handler.ray.served_model import ServedModel
from micro_batch_handler.ray.wire_request import WireRequest

__all__ = ["ModelReplica", "ModelWithFrontend"]


class ModelReplica:
    """One model in one process.

    Args:
        archive: what to load.
        install_requirements: whether to install its requirements with pip.
    """

    def __init__(self, archive: ModelArchive, *, install_requirements: bool = False) -> None:
        self._model = ServedModel(archive, install_requirements=install_requirements)
        self._batches = BatchQueue(
            self._model.answers,
            archive.batch_size,
            archive.batch_delay_s,
            self._model.in_flight,
            response_timeout_of(archive.model_yaml),
        )

    async def answer(self, request: WireRequest) -> Part:
        """The answer to one request, which shares a batch with others."""
        return await self._batches.answer(request)

    async def parts(self, request: WireRequest) -> AsyncGenerator[Part, None]:
        """The parts of the answer to one request as its handler sends them, and then the last."""
        if not self._model.sends_parts:
            yield await self.answer(request)
            return
        loop = asyncio.get_running_loop()
        sent: asyncio.Queue[Part | None] = asyncio.Queue()
        key = request["requestId"].decode()
        # The handler's thread sends parts before it answers, and the loop keeps that order.
        self._model.listeners[key] = lambda part: loop.call_soon_threadsafe(sent.put_nowait, part)
        answered = asyncio.ensure_future(self.answer(request))
        answered.add_done_callback(lambda _: sent.put_nowait(None))
        try:
            while (part := await sent.get()) is not None:
                yield part
            yield await answered
        finally:
            del self._model.listeners[key]

    def sends_parts(self) -> bool:
        """Whether its handler may send parts of answers before the last."""
        return self._model.sends_parts

    def check_health(self) -> None:
        """Let Ray start a fresh replica in place of one that cannot serve any more.

        Raises:
            RuntimeError: it cannot.
        """
        if self._batches.hangs:
            raise RuntimeError("no batch has ended for responseTimeout")
        if self._model.why_unhealthy:
            raise RuntimeError(self._model.why_unhealthy)


class ModelWithFrontend(ModelReplica, Frontend):
    """One model, and the frontend in front of it, in one process."""

    def __init__(self, archive: ModelArchive, *, install_requirements: bool = False) -> None:
        ModelReplica.__init__(self, archive, install_requirements=install_requirements)
        Frontend.__init__(self, [archive])

    def _ask(self, _archive: ModelArchive, request: WireRequest) -> AsyncGenerator[Part, None]:
        return self.parts(request)
