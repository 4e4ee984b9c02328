"""What a member tells the model host that it starts."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
from ts.context import Context

from micro_batch_handler.errors import ConfigError

__all__ = ["FRONTEND", "HostJob"]

FRONTEND = "MICRO_BATCH_FRONTEND"
"""The environment variable that names the process which plays TorchServe's frontend."""


@dataclass(frozen=True)
class HostJob:
    """The handler that a host loads, as its members have it."""

    module: str
    class_name: str
    model_name: str
    manifest: Mapping[str, Any] | None
    properties: Mapping[str, Any]
    """`context.system_properties`, with the GPU."""
    model_yaml: Mapping[str, Any]
    metrics_file: str | None
    """The server's metrics.yaml."""
    search_path: tuple[str, ...]
    frontend: int
    """The process of the server's frontend. The host ends when it has ended."""
    key: str
    """The same for all members that share the model."""

    @classmethod
    def of(cls, handler: Any, context: Context) -> HostJob:
        """The job for the handler of a member.

        Raises:
            ConfigError: the host could not import its class.
        """
        kind = type(handler)
        module = sys.modules.get(kind.__module__)
        if getattr(module, kind.__qualname__, None) is not kind:
            raise ConfigError(
                f"share_model needs a handler class at the top of its file, since the process with "
                f"the model imports it; {kind.__qualname__} is none. Write "
                f"class {kind.__name__}(MicroBatchMixin, ...) there"
            )
        properties = dict(context.system_properties)
        frontend = _frontend()
        model_yaml = getattr(context, "model_yaml_config", None) or {}
        same = (
            frontend,
            kind.__module__,
            kind.__qualname__,
            context.model_name,
            context.manifest,
            sorted(properties.items(), key=str),
            model_yaml,
        )
        return cls(
            kind.__module__,
            kind.__qualname__,
            context.model_name,
            context.manifest,
            properties,
            model_yaml,
            getattr(context.metrics, "config_file_path", None),
            tuple(sys.path),
            frontend,
            hashlib.sha256(repr(same).encode()).hexdigest()[:16],
        )


def _frontend() -> int:
    """TorchServe's frontend, which runs in Java; this process where there is none.

    A tool that plays the frontend names itself, for all its workers and whatever started it.
    """
    if FRONTEND in os.environ:
        return int(os.environ[FRONTEND])
    for parent in psutil.Process().parents():
        if parent.name().startswith("java"):
            return int(parent.pid)
    return os.getpid()
