"""JSON answers out, inside the postprocess lanes.

TorchServe encodes answers after the handler has returned, where an answer that cannot be encoded
fails the whole batch (a TypeError) or ends the worker (anything else: a lone surrogate, a circular
list). Encoded here, it fails alone.
"""

from __future__ import annotations

import io
import json
from typing import Any

import torch

__all__ = ["encode"]


def encode(answer: Any) -> Any:
    """The answer as TorchServe would send it (ts/protocol/otf_message_handler.py).

    Bytes stay as they are, a tensor is saved, text becomes UTF-8, all else JSON, indented by 2.

    Raises:
        TypeError: JSON has no such value.
        ValueError: circular, or text that is not Unicode.
        RecursionError: nested too deeply.
        Exception: whatever `torch.save` raises.
    """
    if isinstance(answer, (bytes, bytearray)):
        return answer
    if isinstance(answer, torch.Tensor):
        saved = io.BytesIO()
        torch.save(answer, saved)
        return saved.getvalue()
    if isinstance(answer, str):
        return answer.encode("utf-8")
    return json.dumps(answer, indent=2).encode("utf-8")
