"""What TorchServe's worker does: load a model, read a request; and what comes back, read again.

Each side of the frontend's protocol is spoken through TorchServe's own code where it has any. Used
by the process that checks an archive (process.py), and by the workbench inside its own. The
first runs on the archive's package, which has no tools: this file imports nothing of a package.
"""

from __future__ import annotations

import io
import json
import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "DECODES",
    "Answer",
    "LoggedErrors",
    "PackageLog",
    "cause",
    "content_type",
    "encode_request",
    "failure",
    "load",
    "parse_response",
    "request",
]

DECODES = "TS_DECODE_INPUT_REQUEST"
"""The environment variable that tells TorchServe's worker whether to decode bodies itself."""

_HTTP_OK = 200


@dataclass(frozen=True)
class Answer:
    """What a predict response says of one request; `batch_*` is said of the whole batch."""

    batch_code: int
    batch_message: str
    status: int
    reason: str
    content_type: str
    body: bytes


def load(model: Path) -> Any:
    """What `TorchModelServiceWorker.load_model` does with a load message."""
    import torch
    import ts
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import ModelLoaderFactory
    from ts.utils.util import get_yaml_config

    manifest = json.loads((model / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
    described = manifest["model"]
    config_file = described.get("configFile")
    settings = (get_yaml_config(model / config_file) if config_file else None) or {}
    on_cpu = str(settings.get("deviceType", "")).lower() == "cpu" or not torch.cuda.is_available()
    metrics = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
    metrics.initialize_cache()
    metrics.model_name = described["modelName"]
    service = ModelLoaderFactory.get_model_loader().load(
        described["modelName"],
        str(model),
        described["handler"],
        None if on_cpu else 0,
        settings.get("batchSize", 1),
        None,
        True,  # limit_max_image_pixels, the frontend's default
        metrics,
    )
    service.set_cl_socket(None)
    return service


def content_type(sample: Path) -> str:
    """What the README's `curl` line says of a file: that a .json is JSON, and of others nothing.

    `curl -T` by itself sends no content type, whatever the file's name.
    """
    return "application/json" if sample.suffix.lower() == ".json" else ""


def request(sample: Path) -> Any:
    """The sample as the worker reads it from its socket; JSON is decoded, any other body bytes."""
    from ts.protocol.otf_message_handler import retrieve_msg

    connection = _Connection(encode_request(sample.read_bytes(), content_type(sample)))
    _, (read,) = retrieve_msg(connection)
    return read


def encode_request(body: bytes, kind: str) -> bytes:
    """A predict message with one request of this content type, as the frontend sends it."""

    def field(value: bytes) -> bytes:
        return struct.pack("!i", len(value)) + value

    end = struct.pack("!i", -1)
    header = field(b"Content-Type") + field(kind.encode()) if kind else b""
    parameter = field(b"body") + field(kind.encode()) + field(body)
    return b"I" + field(b"check") + header + end + parameter + end + end


def parse_response(response: bytes) -> list[Answer]:
    """Read what `create_predict_response` wrote: an answer for each request of the batch."""
    stream = io.BytesIO(response)

    def number() -> int:
        return int(struct.unpack("!i", stream.read(4))[0])

    def read(length: int) -> bytes:
        return stream.read(length)

    batch_code, batch_message = number(), read(number()).decode()
    answers = []
    while (length := number()) >= 0:
        read(length)  # the request's id
        content_type = read(number()).decode()
        status, reason = number(), read(number()).decode()
        for _ in range(number()):
            read(number()), read(number())  # a response header and its value
        body = read(number())
        answers.append(Answer(batch_code, batch_message, status, reason, content_type, body))
    return answers


def failure(answer: Answer, logged: BaseException | None) -> str:
    """One line on why this is no good answer; nothing if it is one."""
    if answer.batch_code == answer.status == _HTTP_OK:
        return ""
    if answer.batch_code != _HTTP_OK:
        why = f": {cause(logged)}" if logged is not None else ""
        return f"its answer is {answer.batch_code} {answer.batch_message}{why}"
    body = " ".join(answer.body.decode("utf-8", errors="replace").split())
    return f"its answer is {answer.status} {answer.reason}: {body}"


def cause(error: BaseException) -> str:
    """One line on what a model raised."""
    # An ImportError in a handler file sends the loader after a built-in handler of that name,
    # whose absence then hides the first error.
    missing = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("ts.")
    if missing and isinstance(error.__context__, ImportError):
        error = error.__context__
    return " ".join(f"{type(error).__name__}: {error}".split())


class _Connection:
    """The part of a socket that TorchServe's codec reads from."""

    def __init__(self, message: bytes) -> None:
        self._stream = io.BytesIO(message)

    def recv(self, length: int) -> bytes:
        return self._stream.read(length)


class LoggedErrors(logging.Handler):
    """Keeps the last exception that was logged: TorchServe answers 503 and logs the reason."""

    def __init__(self) -> None:
        super().__init__()
        self.last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what the record carries."""
        if record.exc_info:
            self.last = record.exc_info[1]


class PackageLog(logging.Handler):
    """Keeps what the archive's package warns of: how it calls the handler, and why."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.listens = True
        self._first: dict[str, str] = {}

    @property
    def texts(self) -> list[str]:
        """The warnings, of each kind the first."""
        return list(self._first.values())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, unless it is about one failed call: these have a traceback, or several lines."""
        if not self.listens or record.levelno != logging.WARNING or record.exc_info:
            return
        text = record.getMessage()
        if record.name.startswith("micro_batch_handler.") and "\n" not in text:
            self._first.setdefault(str(record.msg), text)
