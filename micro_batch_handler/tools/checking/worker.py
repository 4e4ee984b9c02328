"""TorchServe's worker, played: it loads a model, reads requests, answers them and logs.

TorchServe's own code does the work wherever it has any for it. The process that checks an archive
uses this file, and so does the workbench.
"""

from __future__ import annotations

import io
import json
import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from micro_batch_handler.tools.checking.answers import Answer, parse_response

__all__ = [
    "DECODES",
    "FRONTEND",
    "MANIFEST",
    "WorkerLog",
    "content_type",
    "encode_request",
    "load",
    "predict",
    "request",
]

DECODES = "TS_DECODE_INPUT_REQUEST"
"""The environment variable that tells TorchServe's worker whether to decode bodies itself."""

MANIFEST = "MAR-INF/MANIFEST.json"

FRONTEND = "MICRO_BATCH_FRONTEND"
"""The environment variable that names the process which plays TorchServe's frontend; the process
with a shared model ends with it."""


def load(model: Path, device: int = 0, metrics: Any = None) -> Any:
    """Load the model in a folder, as `TorchModelServiceWorker.load_model` does; return its service.

    Args:
        model: the folder.
        device: the number of the GPU, where there are any.
        metrics: a cache of metrics; None for TorchServe's, with what its metrics.yaml declares.

    Raises:
        Exception: whatever the handler raises.
    """
    import torch
    import ts
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import ModelLoaderFactory
    from ts.utils.util import get_yaml_config

    manifest = json.loads((model / MANIFEST).read_text(encoding="utf-8"))
    described = manifest["model"]
    config_file = described.get("configFile")
    settings = (get_yaml_config(model / config_file) if config_file else None) or {}
    on_cpu = str(settings.get("deviceType", "")).lower() == "cpu" or not torch.cuda.is_available()
    if metrics is None:
        metrics = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
        metrics.initialize_cache()
    metrics.model_name = described["modelName"]
    service = ModelLoaderFactory.get_model_loader().load(
        described["modelName"],
        str(model),
        described["handler"],
        None if on_cpu else device,
        settings.get("batchSize", 1),
        None,
        True,  # limit_max_image_pixels, the frontend's default
        metrics,
    )
    service.set_cl_socket(None)
    return service


def content_type(sample: Path) -> str:
    """The content type that the quickstart's `curl` line sends: JSON for a .json, none for others.

    `curl -T` by itself sends no content type, whatever the file's name.
    """
    return "application/json" if sample.suffix.lower() == ".json" else ""


def request(sample: Path) -> Any:
    """The sample as the worker reads it from its socket; JSON is decoded, any other body bytes."""
    from ts.protocol.otf_message_handler import retrieve_msg

    message = encode_request(sample.read_bytes(), content_type(sample))
    _, (read,) = retrieve_msg(SimpleNamespace(recv=io.BytesIO(message).read))
    return read


def predict(service: Any, batch: Sequence[Any], log: WorkerLog) -> list[Answer]:
    """Let the service answer a batch of requests, each as `request` reads it."""
    log.last_error = None
    response = service.predict(batch)
    return parse_response(response, log.last_error)


def encode_request(body: bytes, kind: str) -> bytes:
    """A predict message with one request of this content type, as the frontend sends it."""

    def field(value: bytes) -> bytes:
        return struct.pack("!i", len(value)) + value

    end = struct.pack("!i", -1)
    header = field(b"Content-Type") + field(kind.encode()) if kind else b""
    parameter = field(b"body") + field(kind.encode()) + field(body)
    return b"I" + field(b"check") + header + end + parameter + end + end


class WorkerLog(logging.Handler):
    """Keeps what explains a worker's answers: the last exception, and the package's warnings.

    TorchServe answers 503 and logs the exception. The package warns if it calls a handler in
    another way than the settings say.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last_error: BaseException | None = None
        self.keeps_warnings = True
        self._warnings: dict[str, str] = {}

    @property
    def warnings(self) -> list[str]:
        """The first warning of each kind."""
        return list(self._warnings.values())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception or the warning of a record."""
        if record.exc_info:
            self.last_error = record.exc_info[1]
        elif self.keeps_warnings and record.levelno == logging.WARNING:
            text = record.getMessage()
            # The fault of one request takes several lines, and is no warning about the handler.
            if record.name.startswith("micro_batch_handler.") and "\n" not in text:
                self._warnings.setdefault(str(record.msg), text)
