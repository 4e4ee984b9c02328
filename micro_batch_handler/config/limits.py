"""Settings that are right one by one but not together, TorchServe's own included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from micro_batch_handler.config.rules import is_seconds, is_whole
from micro_batch_handler.config.stages import AUTO, STAGES, Lanes, PerStage, Size
from micro_batch_handler.errors import ConfigError

__all__ = [
    "DEFAULT_RESPONSE_TIMEOUT_S",
    "GRAPH_MODES",
    "MOST_THREADS",
    "SECTION",
    "compile_options",
    "doubtful_sizes",
    "refuse_late_timeout",
    "refuse_no_memory",
    "refuse_together",
    "refuse_unsupported",
    "response_timeout_of",
    "sizes_to_compile",
]

SECTION = "micro_batching"

MOST_THREADS = 256
"""The most lanes of all stages together, and the most threads of one call. A process cannot start
many more."""

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
"""TorchServe's keys that cannot work with micro-batching: the key, the values, and why."""

DEFAULT_RESPONSE_TIMEOUT_S = 120
"""TorchServe's own `responseTimeout`."""

LEAST_SHARED_BYTES = 2**20
"""That a worker shares with the process of the model."""

GRAPH_MODES = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}
"""Modes of `torch.compile` that make CUDA graphs, and what they are without them."""


def refuse_together(
    lanes: PerStage[Lanes], sizes: PerStage[Size], allowed_sizes: tuple[int, ...] | None
) -> None:
    """Refuse more lanes than a process can start, and calls that `allowed_sizes` rules out."""
    number = sum(1 if count == AUTO else count for count in lanes)
    if number > MOST_THREADS:
        raise ConfigError(
            f"{SECTION}.parallelism must be at most {MOST_THREADS} lanes in all stages together, "
            f"found {number} ({', '.join(map(str, lanes))}): each is a thread. Give a stage as "
            f"many as there are cores, or auto"
        )
    if allowed_sizes is None:
        return
    if lanes.inference not in (1, AUTO):
        raise ConfigError(
            f"{SECTION}.parallelism.inference must be 1 with allowed_sizes, found "
            f"{lanes.inference}: CUDA graphs, torch.compile's too, belong to the thread that made "
            f"them"
        )
    if sizes.inference != AUTO and sizes.inference > allowed_sizes[-1]:
        raise ConfigError(
            f"{SECTION}.micro_batch_size.inference must be at most {allowed_sizes[-1]}, the "
            f"largest of allowed_sizes, found {sizes.inference}"
        )


def response_timeout_of(model_yaml: Mapping[Any, object]) -> float:
    """How long TorchServe waits for a worker's answer, as far as model-config.yaml says."""
    found = model_yaml.get("responseTimeout")
    return float(found) if is_seconds(found) else DEFAULT_RESPONSE_TIMEOUT_S


def refuse_no_memory(pinned_bytes: int) -> None:
    """Refuse `share_model` without memory that a worker can share."""
    if pinned_bytes < LEAST_SHARED_BYTES:
        raise ConfigError(
            f"{SECTION}.device.pinned_bytes must be at least {LEAST_SHARED_BYTES} with "
            f"share_model, found {pinned_bytes}: requests travel through this memory. Give it "
            f"twice the size of a preprocessed batch"
        )


def refuse_late_timeout(stage_timeout: float | None, response_timeout_s: float) -> None:
    """Refuse a time-out that TorchServe's own would always precede."""
    if stage_timeout is not None and stage_timeout >= response_timeout_s:
        raise ConfigError(
            f"{SECTION}.stage_timeout must be below responseTimeout ({response_timeout_s:g} s), "
            f"after which TorchServe ends the whole worker, found {stage_timeout!r}"
        )


def refuse_unsupported(model_yaml: Mapping[object, object]) -> None:
    """Refuse keys of TorchServe's that cannot work with micro-batching."""
    for name, values, why in UNSUPPORTED:
        value = model_yaml.get(name)
        # The frontend reads names in any case.
        if (value.lower() if isinstance(value, str) else value) in values:
            raise ConfigError(f"{name}: {value!r} cannot work with micro-batching: {why}")


def compile_options(model_yaml: Mapping[Any, object]) -> dict[str, Any] | None:
    """What `pt2` gives `torch.compile`, as BaseHandler reads it; None if nothing is compiled."""
    pt2 = model_yaml.get("pt2")
    if isinstance(pt2, str):
        return {"backend": pt2}
    if not isinstance(pt2, Mapping) or "export" in pt2:
        return None
    options = pt2.get("compile", pt2)
    if not isinstance(options, Mapping) or options.get("enable") is False:
        return None
    return {str(key): options[key] for key in options if key != "enable"}


def sizes_to_compile(
    model_yaml: Mapping[object, object],
    sizes: PerStage[Size],
    allowed_sizes: tuple[int, ...] | None,
) -> tuple[int, ...] | None:
    """The `allowed_sizes`, or those of a model that `pt2` compiles into CUDA graphs; None for any.

    Each size is a graph of its own, so there are few: powers of two, up to the largest call. A
    graph overwrites the result of its last call, which postprocess may still be reading. With
    `allowed_sizes` results are copied, and graphs stay in the thread that made them.

    Args:
        model_yaml: a whole model-config.yaml.
        sizes: of micro-batches.
        allowed_sizes: as the section gives them.

    Raises:
        ConfigError: it is not known how large calls can be, or programs are for any number of rows.
    """
    options = compile_options(model_yaml) or {}
    mode = options.get("mode")
    if (allowed_sizes or mode in GRAPH_MODES) and options.get("dynamic"):
        raise ConfigError(
            f"pt2.compile.dynamic must not be true with {SECTION}.allowed_sizes, nor with mode "
            f"{' or '.join(GRAPH_MODES)}, which sets them: the model is compiled for each of few "
            f"sizes. Remove dynamic and bring rows to one shape in preprocess, or remove the others"
        )
    if allowed_sizes or mode not in GRAPH_MODES:
        return allowed_sizes
    most = model_yaml.get("batchSize") if sizes.inference == AUTO else sizes.inference
    if not isinstance(most, int) or not is_whole(most):
        raise ConfigError(
            f"pt2.compile.mode {mode!r} makes a CUDA graph for each size of a call, and "
            f"model-config.yaml does not say how large calls are. Set batchSize there, or "
            f"{SECTION}.allowed_sizes: [1, 2, 4, …]"
        )
    return (*(1 << bits for bits in range((most - 1).bit_length())), most)


def doubtful_sizes(micro_batch_size: PerStage[Size], batch_size: int) -> Iterator[str]:
    """What to change in sizes with which nothing can overlap in batches of this size."""
    above = [
        f"{stage} {size}"
        for stage, size in zip(STAGES, micro_batch_size, strict=True)
        if size != AUTO and size > max(batch_size, 1)
    ]
    if batch_size == 1:
        yield (
            f"batchSize is 1, so {SECTION} has nothing to cut and nothing can overlap; raise "
            f"it in model-config.yaml, to 32 for example"
        )
    elif all(size != AUTO and size >= batch_size for size in micro_batch_size):
        yield (
            f"{SECTION}.micro_batch_size holds a whole batch of {batch_size} in every stage, "
            f"so nothing can overlap; set it below batchSize"
        )
    elif above:
        yield (
            f"{SECTION}.micro_batch_size is above batchSize {batch_size} ({', '.join(above)}), "
            f"so these stages get whole batches; set it below batchSize, or raise that"
        )
