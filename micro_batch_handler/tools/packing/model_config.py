"""model-config.yaml as TorchServe's frontend reads it: each of its keys, and what it must hold.

The frontend only *logs* a value of a wrong type and goes on with its default, so a typing error
shows as a slow server. Keys and rules are those of `ModelConfig` and `ModelConfig$TorchRun` in
TorchServe 0.12 (frontend/archive/.../ModelConfig.java). Handlers may read other keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from micro_batch_handler.config import SECTION, MicroBatchingConfig
from micro_batch_handler.config.old_keys import OLD_KEYS
from micro_batch_handler.config.rules import FLAG, Rule, Section, is_whole, near_miss
from micro_batch_handler.errors import ConfigError

__all__ = ["FRONTEND_KEYS", "TORCHRUN_KEYS", "check_model_config", "read_model_config"]

_JOB_QUEUE_SIZE = 100
"""TorchServe's own `job_queue_size`."""

_COMMON = {"device", "metrics", "trace"}
"""Keys of the section that any handler may have for settings of its own."""

_OURS = {**OLD_KEYS, **{name: name for name in Section(MicroBatchingConfig).rules.keys() - _COMMON}}
"""The other keys, in both spellings, and their paths in the section."""


def _whole(least: int) -> Rule[int]:
    # A larger number than `is_whole` takes is a Long to the frontend, and so the wrong type.
    return Rule(f"a whole number >= {least}", lambda value: is_whole(value, least))


def _one_of(*names: str) -> Rule[str]:
    return Rule(
        "one of " + ", ".join(names),
        lambda value: isinstance(value, str) and value.lower() in names,
    )


_TEXT = Rule[str]("text", lambda value: isinstance(value, str))
_MAPPING = Rule[Any]("a mapping of keys", lambda value: isinstance(value, Mapping))
_DEVICES = Rule[Any](
    "a list of whole numbers >= 0",
    lambda value: isinstance(value, list) and all(is_whole(item, 0) for item in value),
)

FRONTEND_KEYS: Mapping[str, Rule[Any]] = {
    "minWorkers": _whole(0),
    "maxWorkers": _whole(0),
    "batchSize": _whole(1),
    "maxBatchDelay": _whole(0),
    "responseTimeout": _whole(1),
    "startupTimeout": _whole(1),
    "deviceType": _one_of("cpu", "gpu"),
    "deviceIds": _DEVICES,
    "parallelType": _one_of("pp", "tp", "pptp", "custom"),
    "parallelLevel": _whole(0),
    "torchrun": _MAPPING,
    "maxRetryTimeoutInSec": _whole(0),
    "clientTimeoutInMills": _whole(0),
    "jobQueueSize": _whole(0),
    "useJobTicket": FLAG,
    "useVenv": FLAG,
    "sequenceBatching": FLAG,
    "sequenceMaxIdleMSec": _whole(0),
    "sequenceTimeoutMSec": _whole(0),
    "maxSequenceJobQueueSize": _whole(1),
    "maxNumSequence": _whole(1),
    "continuousBatching": FLAG,
    "asyncCommunication": FLAG,
}

TORCHRUN_KEYS: Mapping[str, Rule[Any]] = {
    "nnodes": _whole(1),
    "nproc-per-node": _whole(1),
    "node-rank": _whole(0),
    "rdzv-backend": _TEXT,
    "rdzv-endpoint": _TEXT,
    "rdzv-conf": _TEXT,
    "monitor-interval": _whole(1),
    "OMP_NUMBER_THREADS": _whole(1),
}


def read_model_config(path: Path, source: bytes | None = None) -> Mapping[str, object]:
    """Parse the file.

    Args:
        path: the file.
        source: its content, if it is not on disk.

    Raises:
        ConfigError: TorchServe could not read it.
    """
    try:
        config = yaml.safe_load(path.read_bytes() if source is None else source)
    except yaml.YAMLError as error:
        # Several lines to PyYAML, one here.
        raise ConfigError(f"{path} is not yaml: {' '.join(str(error).split())}") from error
    # The frontend casts the file to a map with text keys and dies where that fails.
    if not isinstance(config, Mapping):
        found = "nothing" if config is None else repr(config)
        raise ConfigError(f"{path} must hold a mapping of keys, found {found}")
    for key in config:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: the key {key!r} must be text; put it in quotes")
    return config


def check_model_config(
    path: Path, config: Mapping[str, object], *, micro_batched: bool = True
) -> list[str]:
    """Refuse settings that cannot work; return notes on legal ones that look like mistakes.

    Args:
        path: the file, for messages.
        config: its content, as `read_model_config` returns it.
        micro_batched: whether it is packed with a handler of the user's own, not a built-in one.

    Raises:
        ConfigError: a setting cannot work; the message names the key, the rule and the value.
    """
    _refuse_wrong_types(f"{path}", config, FRONTEND_KEYS)
    torchrun = config.get("torchrun", {})
    if isinstance(torchrun, Mapping):
        _refuse_wrong_types(f"{path}: torchrun", torchrun, TORCHRUN_KEYS)
    try:
        if micro_batched:
            ours = MicroBatchingConfig.from_model_yaml(config)
        else:  # a built-in handler may use what only micro-batching forbids
            ours = MicroBatchingConfig.from_section(config.get(SECTION))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    notes = [*_ignored_keys(config), *_ignored_workers(config), *_batch_size_notes(config, ours)]
    return [f"{path}: {note}" for note in notes]


def _refuse_wrong_types(
    path: str, config: Mapping[str, object], rules: Mapping[str, Rule[Any]]
) -> None:
    for key, value in config.items():
        rule = rules.get(key)
        if rule is not None and not rule.holds(value):
            found = "nothing" if value is None else repr(value)
            raise ConfigError(f"{path}: {key} must be {rule.text}, found {found}")


def _ignored_keys(config: Mapping[str, object]) -> Iterator[str]:
    """Keys that nothing reads, but that are spelled much like keys that something does."""
    for key in config:
        if key in FRONTEND_KEYS or key == SECTION:
            continue
        close = near_miss(key, [*FRONTEND_KEYS, *_OURS], 0.88) or near_miss(key, [SECTION], 0.8)
        if close in _OURS:
            yield f"{key!r} is not read here; {_OURS[close]} belongs under {SECTION}:"
        elif close:
            yield f"{key!r} is not a key of TorchServe's; did you mean {close!r}?"
    torchrun = config.get("torchrun")
    for key in torchrun if isinstance(torchrun, Mapping) else ():
        if key not in TORCHRUN_KEYS:
            yield f"torchrun.{key} is ignored by TorchServe; it reads {', '.join(TORCHRUN_KEYS)}"


def _ignored_workers(config: Mapping[str, object]) -> Iterator[str]:
    low, high = config.get("minWorkers", 0), config.get("maxWorkers", 0)
    if isinstance(low, int) and isinstance(high, int) and (low or high) and not 0 < low <= high:
        yield (
            f"minWorkers {low} and maxWorkers {high} are ignored by TorchServe; "
            "give both, with 1 <= minWorkers <= maxWorkers"
        )


def _batch_size_notes(config: Mapping[str, object], ours: MicroBatchingConfig) -> Iterator[str]:
    batch_size, queue = config.get("batchSize", 1), config.get("jobQueueSize")
    if not isinstance(batch_size, int):
        return  # refused before
    if SECTION in config:
        yield from ours.doubts(batch_size)
    if batch_size > (queue if isinstance(queue, int) and queue else _JOB_QUEUE_SIZE):
        allowed = (
            f"jobQueueSize {queue}"
            if queue
            else f"{_JOB_QUEUE_SIZE}, unless job_queue_size in config.properties says otherwise"
        )
        yield (
            f"batchSize {batch_size} is above the number of requests that may wait ({allowed}), so "
            f"batches hardly fill; set jobQueueSize to several batches"
        )
