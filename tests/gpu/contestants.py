"""The handlers that are compared in one process, each with its settings."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes import fake_context

__all__ = ["Contestant", "contestants", "defaults"]

HANDLERS = Path(__file__).parents[2] / "harness" / "handlers"


@dataclass
class Contestant:
    """A handler of harness/handlers, loaded inside a `with` statement.

    Args:
        name: as the report calls it.
        module: the file, without `.py`; its class has the same name in capitals.
        settings: of the `handler:` section.
        section: `micro_batching:`.
        folder: of the file.
        pt2: what the model is compiled with, as TorchServe has it.
    """

    name: str
    module: str
    section: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = HANDLERS
    pt2: Mapping[str, Any] = field(default_factory=dict)

    @property
    def helpers(self) -> dict[str, Path]:
        """What the handler imports, by names in the archive."""
        found = (*HANDLERS.glob("*_stages.py"), *self.folder.glob("*_stages.py"))
        return {each.name: each for each in found}

    @property
    def more_yaml(self) -> dict[str, Any]:
        """Of model-config.yaml, beside the `handler:` section."""
        sections = {"micro_batching": dict(self.section), "pt2": dict(self.pt2)}
        return {name: section for name, section in sections.items() if section}

    def load(
        self,
        batch_size: int,
        gpu: int | None,
        *,
        tiny: bool,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the handler and its model; `settings` are more of the `handler:` section."""
        # Handlers import what lies beside them in the archive.
        for folder in (HANDLERS, self.folder):
            if str(folder) not in sys.path:
                sys.path.append(str(folder))
        kind = getattr(importlib.import_module(self.module), self.module.title().replace("_", ""))
        self.handler = kind()
        self._gpu = gpu
        model_yaml = {"handler": {"tiny": tiny, **self.settings, **(settings or {})}}
        model_yaml |= self.more_yaml
        self._model_yaml = model_yaml
        self.handler.initialize(self._context(1, batch_size))

    def answers(self, bodies: list[bytes]) -> list[Any]:
        """A batch, as TorchServe would hand it over."""
        rows = [{"body": body} for body in bodies]
        answers: list[Any] = self.handler.handle(rows, self._context(len(rows), len(rows)))
        return answers

    def close(self) -> None:
        """End its threads and let go of its model."""
        stock = getattr(self.handler, "handle", None)
        end = getattr(self.handler, "close", None) or getattr(stock, "shutdown", lambda: None)
        end()
        del self.handler

    def _context(self, requests: int, batch_size: int) -> Any:
        context = fake_context(requests, batch_size=batch_size, model_yaml=self._model_yaml)
        context.system_properties["gpu_id"] = self._gpu
        return context


def defaults(lanes: int) -> list[Contestant]:
    """BaseHandler, and ours as it is without settings, and with what may be wrong in them.

    Args:
        lanes: of preprocess, where there are more than one.
    """
    more = {"parallelism": {"preprocess": lanes}}
    return [
        Contestant("BaseHandler", "photo_base"),
        Contestant("ours, no settings", "photo"),
        Contestant("ours, lanes only", "photo", more),
        Contestant(
            "ours, lanes, no pinned memory", "photo", {**more, "device": {"pinned_bytes": 0}}
        ),
        Contestant("ours, lanes, streams: false", "photo", {**more, "device": {"streams": False}}),
    ]


def contestants(lanes: int, sizes: tuple[int, ...] = (4, 16, 32)) -> list[Contestant]:
    """BaseHandler, TorchServe's own micro-batching, and ours in several settings.

    Args:
        lanes: of preprocess, for all who have any.
        sizes: of TorchServe's micro-batches, which are the same for all stages; the middle one
            is ours for inference.
    """
    parallelism = {"preprocess": lanes, "inference": 1, "postprocess": 1}
    size = sizes[len(sizes) // 2]
    ours = {
        "micro_batch_size": {"preprocess": 2, "inference": size, "postprocess": size},
        "parallelism": parallelism,
        "stage_timeout": None,
    }
    two = {**ours, "parallelism": {**parallelism, "inference": 2}}
    on_host = {"to_device": False}
    return [
        Contestant("BaseHandler", "photo_base"),
        *(
            Contestant(
                f"TorchServe's MicroBatching, {each}",
                "photo_stock",
                {"micro_batch_size": each, "parallelism": parallelism},
            )
            for each in sizes
        ),
        Contestant("ours", "photo", ours, on_host),
        Contestant("ours, handler copies by itself", "photo", ours),
        Contestant("ours, copy_out", "photo", {**ours, "device": {"copy_out": True}}, on_host),
        Contestant(
            "ours, no pinned memory", "photo", {**ours, "device": {"pinned_bytes": 0}}, on_host
        ),
        Contestant("ours, two lanes of inference", "photo", two, on_host),
        Contestant(
            "ours, streams: false", "photo", {**ours, "device": {"streams": False}}, on_host
        ),
    ]
