"""A handler in this process, loaded as TorchServe's worker loads it, to run batches and watch them.

    with Workbench(Path("model.mar"), batch_size=32) as bench:
        ran = bench.run([Path("cat.jpg"), Path("dog.jpg")], rows=32)
        ran.records[0].outcomes.calls

Code, model and settings are the archive's, but the engine is this package's. A process can load
only one package of a name, and an older copy in the archive may not record its calls.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from micro_batch_handler.config import AUTO, SECTION, MicroBatchingConfig
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.pipeline.outcomes import BatchRecord
from micro_batch_handler.tools.checking.answers import cause
from micro_batch_handler.tools.checking.ways import TRACE_KEYS
from micro_batch_handler.tools.checking.worker import (
    DECODES,
    FRONTEND,
    WorkerLog,
    load,
    predict,
    request,
)
from micro_batch_handler.tools.workbench.model_folder import (
    ModelFiles,
    environment,
    importable,
    model_folder,
    working_in,
)
from micro_batch_handler.tools.workbench.ran import Ran
from micro_batch_handler.torchserve.handler import MicroBatchMixin, engine_of
from micro_batch_handler.torchserve.sharing import MEMBER, member_of
from micro_batch_handler.tracing.recording import Setup

__all__ = ["Workbench"]


class Workbench:
    """A loaded handler. Use it in a `with` statement, or call `close()`.

    While it is open, the model's folder comes first on the import path, so only one may be open.

    Args:
        source: an archive (.mar, .tar.gz, .tgz, or its folder), or a handler file.
        files: a handler file's other files; None for an archive, which has its own.
        batch_size: replaces the archive's `batchSize`.
        in_place: whether the source is the folder of another workbench, to be worked in; with
            `share_model` both then ask the same process with the model.
        device: the number of the GPU, where there are any.

    Raises:
        ArchiveError: the source cannot be found, unpacked or loaded, or does not micro-batch.
        ConfigError: a setting cannot work.
    """

    def __init__(
        self,
        source: Path,
        files: ModelFiles | None = None,
        *,
        batch_size: int | None = None,
        in_place: bool = False,
        device: int = 0,
    ) -> None:
        self._records: list[BatchRecord] = []
        self._log = WorkerLog()
        with ExitStack() as stack:
            self.folder = source
            """That it is loaded from."""
            if not in_place:
                private = stack.enter_context(tempfile.TemporaryDirectory(prefix="micro-batch-"))
                self.folder = model_folder(source.resolve(), files, Path(private))
            stack.enter_context(importable(self.folder))
            logging.getLogger().addHandler(self._log)
            stack.callback(logging.getLogger().removeHandler, self._log)
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            # As config.properties has it: decoding is work of the preprocess lanes.
            stack.enter_context(environment({DECODES: "false", FRONTEND: str(os.getpid())}))
            self._service, self._handler = self._load(source, device)
            stack.callback(MicroBatchMixin.close, self._handler)
            self._given = dict(self._service.context.model_yaml_config or {})
            self.configure(batch_size=batch_size)
            self._stack = stack.pop_all()

    @property
    def batch_size(self) -> int:
        """The most requests of a batch."""
        return int(self._service.context.system_properties["batch_size"])

    @property
    def model_yaml(self) -> Mapping[str, Any]:
        """The archive's model-config.yaml."""
        return self._given

    @property
    def setup(self) -> Setup:
        """The setup that batches run with."""
        return engine_of(self._handler, self._service.context).setup

    @property
    def config(self) -> MicroBatchingConfig:
        """The settings in force."""
        return MicroBatchingConfig.from_model_yaml(self._service.context.model_yaml_config)

    @property
    def host(self) -> int | None:
        """The process with the model, if it is shared; None if it is in this process."""
        member = member_of(self._handler, self._service.context)
        ready = None if member is None else member.link.ready
        return None if ready is None else ready.pid

    @property
    def warnings(self) -> Sequence[str]:
        """What this package has warned of, the first of each kind."""
        return self._log.warnings

    @property
    def handler(self) -> MicroBatchMixin:
        """That is loaded."""
        return self._handler

    def configure(
        self,
        *,
        batch_size: int | None = None,
        micro_batching: Mapping[str, object] | None = None,
        workers: int | None = None,
    ) -> None:
        """Go on with other settings and a new engine, which has learned nothing; the model stays.

        Args:
            batch_size: replaces the archive's `batchSize`; None leaves it.
            micro_batching: keys that replace those in the archive's section; None leaves them all.
            workers: how many share the cores; None for the archive's `minWorkers`.

        Raises:
            ConfigError: a setting cannot work.
        """
        given = {**self._given, **({} if workers is None else {"minWorkers": workers})}
        section = {**(given.get(SECTION) or {}), **(micro_batching or {})}
        for key in TRACE_KEYS:
            section.pop(key, None)
        settings = {**given, SECTION: section}
        MicroBatchingConfig.from_model_yaml(settings)  # before anything is closed
        context = self._service.context
        context.model_yaml_config = settings
        context.system_properties["batch_size"] = batch_size or given.get("batchSize") or 1
        member = vars(self._handler).pop(MEMBER, None)
        MicroBatchMixin.close(self._handler)
        if member is not None:  # which keeps its way to the model
            vars(self._handler)[MEMBER] = member
        torch.set_num_threads(self._threads)
        with working_in(self.folder):
            engine = engine_of(self._handler, context)
        engine.listeners.append(self._records.append)

    def run(
        self, samples: Sequence[Path], rows: int | None = None, *, plainly: bool = False
    ) -> Ran:
        """Answer one batch.

        Args:
            samples: files with the body of one request each; a file's name tells its content type.
            rows: the number of requests, for which the samples are taken in turn; None for each
                sample once.
            plainly: whether the class beside the mixin answers, as on TorchServe alone.

        Raises:
            ArchiveError: a sample cannot be read, or the handler can serve no more because its
                device or its lanes are lost.
        """
        named = list(islice(cycle(samples), rows or len(samples)))
        self._records.clear()
        with self._plainly() if plainly else nullcontext():
            began_s = time.perf_counter()
            try:
                batch = [request(sample) for sample in named]
            except OSError as error:
                raise ArchiveError(f"a sample cannot be read: {error}") from error
            with working_in(self.folder):
                answers = predict(self._service, batch, self._log)
            ended_s = time.perf_counter()
        ran = Ran.of(named, answers, self._records, ended_s - began_s)
        if any(record.outcomes.fatal for record in ran.records):
            why = next(iter(ran.failures.values()), "")
            raise ArchiveError(f"a worker would end here, its device or lanes are lost: {why}")
        return ran

    def close(self) -> None:
        """End the lanes and remove what was unpacked; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Workbench:  # noqa: PYI034  (typing.Self needs Python 3.11)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """In the body the class beside the mixin answers, and TorchServe decodes bodies."""
        usual, decodes = self._service._entry_point, os.environ[DECODES]  # noqa: SLF001
        self._service._entry_point = super(MicroBatchMixin, self._handler).handle  # type: ignore[misc]  # noqa: SLF001
        os.environ[DECODES] = "true"
        try:
            yield
        finally:
            self._service._entry_point = usual  # noqa: SLF001
            os.environ[DECODES] = decodes

    def _load(self, source: Path, device: int) -> tuple[Any, MicroBatchMixin]:
        before = torch.get_num_threads()
        try:
            with working_in(self.folder):
                service = load(self.folder, device)
        except Exception as error:
            raise ArchiveError(f"TorchServe cannot load {source}: {cause(error)}") from error
        handler = getattr(service._entry_point, "__self__", None)  # noqa: SLF001 - no other way to it
        if not isinstance(handler, MicroBatchMixin):
            raise ArchiveError(
                f"the handler of {source} does not micro-batch; subclass MicroBatchHandler, or "
                "put MicroBatchMixin in front of its class"
            )
        # With `auto` the engine keeps the number of the handler; any other setting hides it.
        config = MicroBatchingConfig.from_model_yaml(service.context.model_yaml_config)
        asked = config.intra_op_threads.inference == AUTO
        self._threads = torch.get_num_threads() if asked else before
        return service, handler
