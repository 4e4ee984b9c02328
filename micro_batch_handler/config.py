"""The `micro_batching:` section of model-config.yaml: checked once, then frozen.

Imports neither torch nor TorchServe, so that the packing tools can check a section anywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Generic, Literal, TypeGuard, TypeVar, Union

from micro_batch_handler.errors import ConfigError

__all__ = [
    "AUTO",
    "SECTION",
    "STAGES",
    "Lanes",
    "Metrics",
    "MicroBatchingConfig",
    "OnError",
    "PerStage",
    "Size",
    "Stage",
    "Threads",
    "near_miss",
]

SECTION = "micro_batching"

Stage = Literal["preprocess", "inference", "postprocess"]
STAGES: tuple[Stage, ...] = ("preprocess", "inference", "postprocess")

AUTO: Literal["auto"] = "auto"
Size = Union[int, Literal["auto"]]
Lanes = Union[int, Literal["auto"]]
Threads = Union[int, Literal["auto"]]
Metrics = Union[bool, Literal["auto"]]

OnError = Literal["isolate", "fail_batch"]

DEFAULT_RESPONSE_TIMEOUT_S = 120
"""TorchServe's own `responseTimeout`."""

DEFAULT_PINNED_BYTES = 64 * 2**20

MOST_THREADS = 256
"""Lanes of all stages, and threads of one call: of many more a process cannot start all."""

MOST_SECONDS = 10_000_000
MOST_COUNT = 2**31 - 1
"""As in TorchServe's own keys; more is a slip of the pen, or no float."""

T = TypeVar("T")


@dataclass(frozen=True)
class PerStage(Generic[T]):
    """One value for each stage."""

    preprocess: T
    inference: T
    postprocess: T

    def __getitem__(self, stage: Stage) -> T:
        value: T = getattr(self, stage)
        return value

    @classmethod
    def of(cls, value: T) -> PerStage[T]:
        """The same value for every stage."""
        return cls(value, value, value)


@dataclass(frozen=True)
class MicroBatchingConfig:
    """A checked `micro_batching:` section.

    Raises `ConfigError`, with the path of the key, the rule and the value found, for anything
    that cannot work. A superset of stock TorchServe's keys: its sections are valid here.
    """

    micro_batch_size: PerStage[Size] = PerStage("auto", "auto", "auto")
    """Rows that travel together through each stage, or `auto`."""

    parallelism: PerStage[Lanes] = PerStage(1, 1, 1)
    """Lanes (threads) of each stage, or `auto`: as many as the machine has use for."""

    intra_op_threads: PerStage[Threads] = PerStage("auto", "auto", "auto")
    """Threads that PyTorch may use inside one call of each stage on the CPU; `auto` shares the
    cores out."""

    sort_by_length: bool = False
    """Whether a batch is cut by the length of its requests instead of as they came, for a model
    that pads its rows: those of like length then share calls. Answers keep their requests."""

    on_error: OnError = "isolate"
    """`isolate`: a fault costs the request that caused it; `fail_batch`: TorchServe's own way."""

    stage_timeout: float | None = 30.0
    """Seconds that one call of one stage may take; None for any time.

    Unless given, a quarter of TorchServe's `responseTimeout` (120 s by default) if that is less.
    """

    deadline_header: str | None = "x-envoy-expected-rq-timeout-ms"
    """The request header with the milliseconds that the answer is still worth computing, counted
    from when the worker gets the batch; None to ignore deadlines. The default is what Envoy and
    Istio send (https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter).
    """

    allowed_sizes: tuple[int, ...] | None = None
    """Row counts that inference is called with, ascending: smaller micro-batches are filled up with
    copies of their last row, whose answers are dropped. None for any. For `torch.compile`, CUDA
    graphs and cuDNN, which prepare each size once."""

    cuda_streams: bool = True
    """Whether each stage has streams of its own on a GPU, so that the device overlaps them."""

    copy_in: bool = True
    """Whether CPU tensors that preprocess returns are copied to the handler's device meanwhile."""

    copy_out: bool = False
    """Whether postprocess gets CPU tensors, copied meanwhile, instead of the device's."""

    pinned_bytes: int = DEFAULT_PINNED_BYTES
    """The most page-locked memory for these copies; 0 for none."""

    decode_input_request: bool = True
    """Whether bodies reach the handler decoded where the server leaves them as they came
    (`decode_input_request=false` in config.properties); False for a handler that takes bytes.
    """

    buffered_reads: bool = True
    """Whether batches are read from TorchServe's socket through a buffer (TorchServe 0.12.0)."""

    metrics: Metrics = "auto"
    """`auto`: those that the server's metrics.yaml declares; True: all; False: none."""

    trace_file: str | None = None
    """The absolute path that a trace of the worker's first batches is written to; None for none."""

    trace_batches: int = 20
    """How many batches that trace has."""

    @classmethod
    def from_section(
        cls, section: object, response_timeout_s: float = DEFAULT_RESPONSE_TIMEOUT_S
    ) -> MicroBatchingConfig:
        """Check the section as the yaml parser read it; `None` (no section) gives the defaults.

        Args:
            section: the mapping under `micro_batching:`.
            response_timeout_s: how long TorchServe waits for the worker's answer.
        """
        keys = {} if section is None else section
        if not isinstance(keys, Mapping):
            raise ConfigError(f"{SECTION} must be a mapping of keys, found {section!r}")
        _refuse_unknown(SECTION, keys, [field.name for field in fields(cls)])
        default = cls()
        sizes = _per_stage(keys, "micro_batch_size", _count_or_auto, default.micro_batch_size)
        config = cls(
            micro_batch_size=sizes,
            parallelism=_per_stage(keys, "parallelism", _count_or_auto, default.parallelism),
            intra_op_threads=_per_stage(
                keys, "intra_op_threads", _threads_or_auto, default.intra_op_threads
            ),
            sort_by_length=_flag(keys, "sort_by_length", default.sort_by_length),
            on_error=_on_error(keys.get("on_error", default.on_error)),
            stage_timeout=_stage_timeout(keys, response_timeout_s),
            deadline_header=_header(keys.get("deadline_header", default.deadline_header)),
            allowed_sizes=_allowed_sizes(keys.get("allowed_sizes")),
            cuda_streams=_flag(keys, "cuda_streams", default.cuda_streams),
            copy_in=_flag(keys, "copy_in", default.copy_in),
            copy_out=_flag(keys, "copy_out", default.copy_out),
            pinned_bytes=_bytes(keys, "pinned_bytes", default.pinned_bytes),
            decode_input_request=_flag(keys, "decode_input_request", default.decode_input_request),
            buffered_reads=_flag(keys, "buffered_reads", default.buffered_reads),
            metrics=_flag_or_auto(keys, "metrics", default.metrics),
            trace_file=_trace_file(keys.get("trace_file")),
            trace_batches=_count(
                f"{SECTION}.trace_batches",
                keys.get("trace_batches", default.trace_batches),
                "a whole number >= 1",
            ),
        )
        _refuse_together(config)
        return config

    def doubts(self, batch_size: int) -> Iterator[str]:
        """What works with batches of so many rows, and gains nothing or means something else."""
        sizes = {stage: self.micro_batch_size[stage] for stage in STAGES}
        above = [
            f"{stage} {size}"
            for stage, size in sizes.items()
            if size != AUTO and size > max(batch_size, 1)
        ]
        if batch_size == 1:
            yield (
                f"batchSize is 1, so {SECTION} has nothing to cut and nothing can overlap; raise "
                f"it in model-config.yaml, to 32 for example"
            )
        elif all(size != AUTO and size >= batch_size for size in sizes.values()):
            yield (
                f"{SECTION}.micro_batch_size holds a whole batch of {batch_size} in every stage, "
                f"so nothing can overlap; set it below batchSize"
            )
        elif above:
            yield (
                f"{SECTION}.micro_batch_size is above batchSize {batch_size} ({', '.join(above)}), "
                f"so these stages get whole batches; set it below batchSize, or raise that"
            )

    @classmethod
    def from_model_yaml(cls, model_yaml: object) -> MicroBatchingConfig:
        """Check the section inside a whole model-config.yaml; an empty file gives the defaults.

        Refuses TorchServe's own settings that cannot work together with micro-batching, too.
        """
        if model_yaml is None:
            return cls()
        if not isinstance(model_yaml, Mapping):
            raise ConfigError(f"model-config.yaml must be a mapping of keys, found {model_yaml!r}")
        _refuse_unsupported(model_yaml)
        found = model_yaml.get("responseTimeout")
        response_timeout_s = float(found) if _is_seconds(found) else DEFAULT_RESPONSE_TIMEOUT_S
        config = cls.from_section(model_yaml.get(SECTION), response_timeout_s)
        _refuse_graphs_of_any_size(model_yaml.get("pt2"), config)
        return config


UNSUPPORTED: tuple[tuple[str, tuple[object, ...], str], ...] = (
    (
        "asyncCommunication",
        (True,),
        "the frontend loses answers under load and the worker does not recover. Remove the key",
    ),
    (
        "continuousBatching",
        (True,),
        "the same request comes again in batch after batch, and its stopping criteria go by its "
        "place in the whole batch. Remove the key, or use a handler without micro-batching",
    ),
    (
        "parallelType",
        ("tp", "pp", "pptp"),
        "all ranks must make the same calls in the same order, and lanes do not promise that. "
        "Remove the key, or use a handler without micro-batching",
    ),
)
"""TorchServe keys, the values that cannot work, and why."""


def _refuse_unsupported(model_yaml: Mapping[object, object]) -> None:
    for key, values, why in UNSUPPORTED:
        value = model_yaml.get(key)
        # The frontend reads names in any case.
        if (value.lower() if isinstance(value, str) else value) in values:
            raise ConfigError(f"{key}: {value!r} cannot work with micro-batching: {why}")


GRAPH_MODES = ("reduce-overhead", "max-autotune")
"""Modes of `torch.compile` that make CUDA graphs."""


def _refuse_graphs_of_any_size(pt2: object, config: MicroBatchingConfig) -> None:
    """A graph overwrites what its last call returned, which postprocess may be reading.

    With `allowed_sizes` results are copied, and graphs stay in the one thread that made them.
    """
    options = pt2.get("compile", pt2) if isinstance(pt2, Mapping) else None
    if not isinstance(options, Mapping) or options.get("enable") is False:
        return
    mode = options.get("mode")
    if mode in GRAPH_MODES and config.allowed_sizes is None:
        raise ConfigError(
            f"pt2.compile.mode {mode!r} makes CUDA graphs, which need "
            f"{SECTION}.allowed_sizes: [1, 2, 4, …] up to the micro-batch size of inference. "
            f"Set them, or remove the mode"
        )


def _refuse_unknown(path: str, section: Mapping[object, object], known: list[str]) -> None:
    for key in section:
        if key not in known:
            near = near_miss(str(key), known, 0.6)
            hint = f" (did you mean {near}?)" if near else ""
            raise ConfigError(
                f"{path}.{key} is not a known key{hint}; known are {', '.join(known)}"
            )


def near_miss(key: str, known: Iterable[str], cutoff: float) -> str | None:
    """The known key that another is spelled most like, whatever its case, `_` and `-`."""

    def plain(name: str) -> str:
        return name.lower().replace("_", "").replace("-", "")

    names = {plain(name): name for name in known}
    close = difflib.get_close_matches(plain(key), names, n=1, cutoff=cutoff)
    return names[close[0]] if close else None


def _per_stage(
    section: Mapping[object, object],
    name: str,
    check: Callable[[str, object], T],
    default: PerStage[T],
) -> PerStage[T]:
    """One value for all stages, or a mapping that may leave stages at their default."""
    if name not in section:
        return default
    value = section[name]
    path = f"{SECTION}.{name}"
    if not isinstance(value, Mapping):
        return PerStage.of(check(path, value))
    _refuse_unknown(path, value, list(STAGES))
    return PerStage(
        *(
            check(f"{path}.{stage}", value[stage]) if stage in value else default[stage]
            for stage in STAGES
        )
    )


def _count(path: str, value: object, rule: str) -> int:
    # bool is an int to Python; `parallelism: yes` in yaml must not mean one lane.
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_COUNT:
        raise ConfigError(f"{path} must be {rule}, found {_shown(value)}")
    return value


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # a number of more than 4300 digits
        return "a number that is too long to show"


def _count_or_auto(path: str, value: object) -> Union[int, Literal["auto"]]:
    if value == AUTO:
        return AUTO
    return _count(path, value, "a whole number >= 1 or 'auto'")


def _threads_or_auto(path: str, value: object) -> Union[int, Literal["auto"]]:
    threads = _count_or_auto(path, value)
    if threads != AUTO and threads > MOST_THREADS:
        raise ConfigError(f"{path} must be at most {MOST_THREADS}, found {threads}")
    return threads


def _allowed_sizes(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    path = f"{SECTION}.allowed_sizes"
    rule = "a list of whole numbers >= 1, each above the one before, or null"
    if not isinstance(value, (list, tuple)) or not value:
        raise ConfigError(f"{path} must be {rule}, found {_shown(value)}")
    sizes = tuple(
        _count(f"{path}[{at}]", size, "a whole number >= 1") for at, size in enumerate(value)
    )
    if any(size >= after for size, after in pairwise(sizes)):
        raise ConfigError(f"{path} must be {rule}, found {_shown(value)}")
    return sizes


def _refuse_too_large(sizes: PerStage[Size], allowed: tuple[int, ...]) -> None:
    """No call of inference may be larger than all sizes it can be padded up to."""
    found = sizes.inference
    if found != AUTO and found > allowed[-1]:
        raise ConfigError(
            f"{SECTION}.micro_batch_size.inference must be at most {allowed[-1]}, the largest of "
            f"allowed_sizes, found {found}"
        )


def _on_error(value: object) -> OnError:
    if value not in ("isolate", "fail_batch"):
        raise ConfigError(f"{SECTION}.on_error must be isolate or fail_batch, found {value!r}")
    return value


def _is_seconds(value: object) -> TypeGuard[float]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value <= MOST_SECONDS  # type: ignore[operator]  # mypy loses `number`


def _stage_timeout(section: Mapping[Any, Any], response_timeout_s: float) -> float | None:
    if "stage_timeout" not in section:
        return min(MicroBatchingConfig.stage_timeout or 30, response_timeout_s / 4)
    value = section["stage_timeout"]
    if value is None:
        return None
    path = f"{SECTION}.stage_timeout"
    if not _is_seconds(value):
        raise ConfigError(
            f"{path} must be seconds > 0, or null for any time, found {_shown(value)}"
        )
    if value >= response_timeout_s:
        raise ConfigError(
            f"{path} must be below responseTimeout ({response_timeout_s:g} s), after which "
            f"TorchServe ends the whole worker, found {value!r}"
        )
    return float(value)


def _flag(section: Mapping[Any, Any], name: str, default: bool) -> bool:
    value = section.get(name, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{SECTION}.{name} must be true or false, found {_shown(value)}")
    return value


def _flag_or_auto(section: Mapping[Any, Any], name: str, default: Metrics) -> Metrics:
    value = section.get(name, default)
    if value == AUTO:
        return AUTO
    if not isinstance(value, bool):
        raise ConfigError(f"{SECTION}.{name} must be auto, true or false, found {_shown(value)}")
    return value


def _bytes(section: Mapping[Any, Any], name: str, default: int) -> int:
    value = section.get(name, default)
    if value == 0 and not isinstance(value, bool):
        return 0
    return _count(f"{SECTION}.{name}", value, "a whole number of bytes >= 0")


def _trace_file(value: object) -> str | None:
    if value is None or (isinstance(value, str) and PurePath(value).is_absolute()):
        return value
    raise ConfigError(
        f"{SECTION}.trace_file must be an absolute path, since a worker runs in a folder of its "
        f"own, or null, found {_shown(value)}"
    )


def _refuse_together(config: MicroBatchingConfig) -> None:
    """Refuse keys that are right one by one and cannot work together."""
    lanes = [config.parallelism[stage] for stage in STAGES]
    number = sum(1 if each == AUTO else each for each in lanes)
    if number > MOST_THREADS:
        raise ConfigError(
            f"{SECTION}.parallelism must be at most {MOST_THREADS} lanes in all stages together, "
            f"found {number} ({', '.join(map(str, lanes))}): each is a thread. Give a stage as "
            f"many as there are cores, or auto"
        )
    if config.allowed_sizes is None:
        return
    if config.parallelism.inference not in (1, AUTO):
        raise ConfigError(
            f"{SECTION}.parallelism.inference must be 1 with allowed_sizes, found "
            f"{config.parallelism.inference}: CUDA graphs, torch.compile's too, belong to the "
            f"thread that made them"
        )
    _refuse_too_large(config.micro_batch_size, config.allowed_sizes)


def _header(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ConfigError(
            f"{SECTION}.deadline_header must be the name of a header, or null, found {value!r}"
        )
    return value
