"""Answers, encoded in the postprocess lanes.

TorchServe encodes answers after the handler has returned, in the worker's one thread. There, an
answer that cannot be encoded fails the whole batch (a TypeError) or ends the worker (any other
error: a lone surrogate, a circular list). Here it fails alone.

    answer                   sent (ts/protocol/otf_message_handler.py, `create_predict_response`)
    bytes, bytearray         as it is
    str                      UTF-8
    tensor                   as `torch.save` writes it
    NumPy array or scalar    JSON of its `tolist()`; TorchServe refuses it
    anything else            JSON

The JSON is compact, where TorchServe indents by 2; parsed, it is the same. If orjson is installed,
it writes all answers of which it makes what `json` would:

    orjson                             therefore
    writes null for NaN, Infinity      an answer with null in it is searched for them
    takes enums, UUIDs, dataclasses    only plain types reach it, as marshal finds out at C speed
    refuses keys that are no text,     json.dumps writes such an answer, or refuses it
    long integers, lone surrogates
"""

from __future__ import annotations

import io
import json
import marshal
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
import torch

try:
    import orjson
except ImportError:  # an archive may run on a server without it
    orjson = None  # type: ignore[assignment]

__all__ = ["encode", "is_json"]


def encode(answer: Any) -> Any:
    """The answer as TorchServe sends it.

    Raises:
        TypeError: JSON has no such value.
        ValueError: circular, or text that is not Unicode.
        RecursionError: nested too deeply.
        Exception: whatever `torch.save` raises.
    """
    if is_json(answer):
        return _json(answer)
    if isinstance(answer, str):
        return answer.encode("utf-8")
    if isinstance(answer, torch.Tensor):
        saved = io.BytesIO()
        torch.save(answer, saved)
        return saved.getvalue()
    return answer


def is_json(answer: Any) -> bool:
    """Whether the answer is sent as JSON. Text and bytes may be anything."""
    return not isinstance(answer, (bytes, bytearray, str, torch.Tensor))


def _json(answer: Any) -> bytes:
    if orjson is not None and _is_plain(answer):
        try:
            data = orjson.dumps(answer, default=_numpy)
        except TypeError:
            pass
        else:
            # Searching for one byte is much faster than for four.
            if b"n" not in data or b"null" not in data or _is_finite(answer):
                return data
    return EVERYTHING.encode(answer).encode("utf-8")


def _is_plain(answer: Any) -> bool:
    """Whether the answer is made of Python's own types and NumPy's: no subclass, no enum."""
    try:
        # It takes exact types only, and objects with a buffer, as NumPy's are.
        marshal.dumps(answer)
    except ValueError:
        return False
    return True


def _is_finite(answer: Any) -> bool:
    """Whether no float in the answer is NaN or infinite."""
    if isinstance(answer, float):
        return isfinite(answer)
    if isinstance(answer, (list, tuple)):
        return all(map(_is_finite, answer))
    if isinstance(answer, Mapping):
        return all(map(_is_finite, answer.values()))
    if isinstance(answer, (np.ndarray, np.generic)):
        return _is_finite(answer.tolist())
    return True


NUMPY_KINDS = "biufUO"
"""Booleans, integers, floats, text, and objects, each of which is encoded by itself."""

DOUBLE_BYTES = 8


def _numpy(value: Any) -> Any:
    """A NumPy value as Python's own, every float with all its digits.

    Raises:
        TypeError: it is not NumPy's, or it holds dates, complex numbers, bytes, records or long
            doubles.
    """
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"an answer cannot hold {type(value).__name__}: JSON has no such value")
    kind = value.dtype.kind
    if kind not in NUMPY_KINDS or (kind == "f" and value.dtype.itemsize > DOUBLE_BYTES):
        raise TypeError(f"an answer cannot hold NumPy's {value.dtype}: JSON has no such value")
    return value.tolist()


EVERYTHING = json.JSONEncoder(separators=(",", ":"), default=_numpy)
