"""The keys of the `micro_batching:` section, each declared once: scripts/keys-table reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Literal

from micro_batch_handler.config.limits import (
    DEFAULT_RESPONSE_TIMEOUT_S,
    MOST_THREADS,
    SECTION,
    doubtful_sizes,
    refuse_late_timeout,
    refuse_no_memory,
    refuse_together,
    refuse_unsupported,
    response_timeout_of,
    sizes_to_compile,
)
from micro_batch_handler.config.old_keys import new_spelling, read_old_keys
from micro_batch_handler.config.rules import (
    ASCENDING,
    COUNT,
    COUNT_OR_AUTO,
    FLAG,
    HOSTED,
    EachStage,
    Rule,
    Section,
    is_seconds,
    is_whole,
    key,
)
from micro_batch_handler.config.stages import AUTO, Lanes, Metrics, PerStage, Size, Stage, Threads
from micro_batch_handler.errors import ConfigError

__all__ = ["MicroBatchingConfig"]

DEFAULT_STAGE_TIMEOUT_S = 30


@dataclass(frozen=True)
class DeviceSettings:
    """How calls use a GPU."""

    streams: bool = key(
        True,
        FLAG,
        "gives stages streams of their own on a GPU. Without them all share the default "
        "stream, and nothing overlaps there",
    )
    copy_in: bool = key(
        True,
        FLAG,
        "copies CPU tensors that preprocess returns to `self.device` while other calls run. "
        "Switch it off if inference wants some of them on the CPU",
    )
    copy_out: bool = key(
        False,
        FLAG,
        "copies tensors that inference returns to the CPU while other calls run, so that "
        "postprocess gets CPU tensors. With `share_model` it always does",
    )
    pinned_bytes: int = key(
        64 * 2**20,
        Rule("a whole number of bytes >= 0", lambda value: is_whole(value, least=0)),
        "the most page-locked memory for these copies (64 MiB by default); 0 for none. With "
        "`share_model` also the memory that each worker shares with the process of the model",
    )


@dataclass(frozen=True)
class TraceSettings:
    """The trace that a worker writes of its first batches."""

    file: str | None = key(
        None,
        Rule(
            "an absolute path, since a worker runs in a folder of its own, or null",
            lambda value: (
                value is None or (isinstance(value, str) and PurePath(value).is_absolute())
            ),
        ),
        "where a worker writes a trace of its first batches; `%p` in the file's name stands for "
        "its process id. See [Where the time goes](trace.md)",
    )
    batches: int = key(20, COUNT, "how many batches the trace has")


@dataclass(frozen=True)
class MicroBatchingConfig:
    """A checked `micro_batching:` section.

    A superset of the keys of TorchServe's own micro-batching: its sections are valid here.
    """

    micro_batch_size: PerStage[Size] = key(
        PerStage("auto", "auto", "auto"),
        EachStage(COUNT_OR_AUTO),
        "the most requests of one call. `auto` learns what calls cost and takes the sizes that "
        "finish a batch first, or leaves the batch whole",
    )
    parallelism: PerStage[Lanes] = key(
        PerStage("auto", "auto", "auto"),
        EachStage(COUNT_OR_AUTO),
        "lanes of each stage. Above 1, the stage's method runs in several threads at once and must "
        "be safe for that. `auto` is one lane for inference. The other stages get one for each "
        "core that falls to a worker, at most 8, and learn how many of them pay, if their source "
        "and objects show that they are safe or the class says `thread_safe = True`; else one, and "
        f"the log says why. More than 4 for each core are not started, more than {MOST_THREADS} in "
        "all stages together refused. With `share_model` inference has four, which wait for the "
        "process with the model, and `auto` is one for the others",
    )
    intra_op_threads: PerStage[Threads] = key(
        PerStage("auto", "auto", "auto"),
        EachStage(
            Rule[Threads](
                f"a whole number from 1 to {MOST_THREADS} or 'auto'",
                lambda value: value == AUTO or is_whole(value, most=MOST_THREADS),
            )
        ),
        "threads that PyTorch may use inside one call on the CPU. `auto` is 1 in the lanes of "
        "preprocess and postprocess; the lanes of inference share the cores (of affinity and "
        "container). A whole batch gets the largest of the three, and there inference's `auto` is "
        "all cores. Workers of a model share the cores. With `share_model` the "
        "number for inference is that of the model's process, with all cores; in a worker it is 1",
    )
    share_model: bool = key(
        False,
        FLAG,
        "loads the model once, in a process that all workers of the model on a device ask; see "
        "[One model for all workers](share_model.md)",
    )
    hosted_stages: tuple[Stage, ...] = key(
        ("inference",),
        HOSTED,
        "the stages that run in that process, with `share_model`. Preprocess belongs there if it "
        "works on the GPU",
    )
    sort_by_length: bool = key(
        False,
        FLAG,
        "cuts a batch by the length of its requests (the bytes of their bodies) instead of in "
        "the order in which they came, for a model that pads its rows. Set `micro_batch_size` "
        "with it, to a half or a quarter of `batchSize`",
    )
    on_error: Literal["isolate", "fail_batch"] = key(
        "isolate",
        Rule("isolate or fail_batch", lambda value: value in ("isolate", "fail_batch")),
        "`isolate`: a fault costs only the request that caused it. `fail_batch`: it costs the "
        "whole batch, as in TorchServe",
    )
    stage_timeout: float | None = key(
        DEFAULT_STAGE_TIMEOUT_S,
        Rule("seconds > 0, or null for any time", lambda it: it is None or is_seconds(it)),
        "the longest that one call of one stage may take. It must be below `responseTimeout`, "
        "after which TorchServe ends the worker; the default is at most a quarter of that",
    )
    deadline_header: str | None = key(
        "x-envoy-expected-rq-timeout-ms",
        Rule(
            "the name of a header, or null",
            lambda value: value is None or (isinstance(value, str) and bool(value.strip())),
        ),
        "the request header that says for how many milliseconds, from when the worker gets "
        "the batch, the answer is still worth computing. [Envoy](https://www.envoyproxy.io/"
        "docs/envoy/latest/configuration/http/http_filters/router_filter) and Istio send the "
        "default by themselves; null ignores deadlines",
    )
    allowed_sizes: tuple[int, ...] | None = key(
        None,
        ASCENDING,
        "the only numbers of requests that inference is called with; smaller calls are filled up, "
        "see [GPUs](gpus.md). Powers of two if `pt2.compile.mode` makes CUDA graphs",
    )
    device: DeviceSettings = key(DeviceSettings(), Section(DeviceSettings))
    decode_input_request: bool = key(
        True,
        FLAG,
        "decodes the bodies that the server leaves undecoded (`decode_input_request=false` in "
        "config.properties). Switch it off for a handler that takes bytes",
    )
    buffered_reads: bool = key(
        True,
        FLAG,
        "reads a batch from the worker's socket in a few large pieces. Without it each field of "
        "each request takes system calls of its own. It works with TorchServe 0.12.0 only; with "
        "any other version it is off, and the log says so",
    )
    metrics: Metrics = key(
        "auto",
        Rule("auto, true or false", lambda value: value == AUTO or isinstance(value, bool)),
        "which [metrics](metrics.md) are written: those that the server's metrics.yaml declares "
        "(`auto`), all, or none",
    )
    trace: TraceSettings = key(TraceSettings(), Section(TraceSettings))

    old_keys: tuple[str, ...] = field(default=(), compare=False)
    """Keys that the section has in an old spelling."""

    @classmethod
    def from_section(
        cls, section: object, response_timeout_s: float = DEFAULT_RESPONSE_TIMEOUT_S
    ) -> MicroBatchingConfig:
        """Check the section as the yaml parser read it; `None` (no section) gives the defaults.

        Args:
            section: the mapping under `micro_batching:`.
            response_timeout_s: how long TorchServe waits for the worker's answer.

        Raises:
            ConfigError: a key cannot work; it has the key's path, the rule and the value found.
        """
        default = cls(stage_timeout=min(DEFAULT_STAGE_TIMEOUT_S, response_timeout_s / 4))
        if isinstance(section, Mapping):
            default, old = read_old_keys(section, default)
            default = replace(default, old_keys=old)
            section = {name: value for name, value in section.items() if name not in old}
        config = Section(cls).read(SECTION, section, default)
        refuse_late_timeout(config.stage_timeout, response_timeout_s)
        refuse_together(config.parallelism, config.micro_batch_size, config.allowed_sizes)
        if config.share_model:
            refuse_no_memory(config.device.pinned_bytes)
        return config

    @classmethod
    def from_model_yaml(cls, model_yaml: object) -> MicroBatchingConfig:
        """Check the section inside a whole model-config.yaml; an empty file gives the defaults.

        Raises:
            ConfigError: as `from_section`, and if keys of TorchServe's cannot work with it.
        """
        if model_yaml is None:
            return cls()
        if not isinstance(model_yaml, Mapping):
            raise ConfigError(f"model-config.yaml must be a mapping of keys, found {model_yaml!r}")
        refuse_unsupported(model_yaml)
        config = cls.from_section(model_yaml.get(SECTION), response_timeout_of(model_yaml))
        sizes = sizes_to_compile(model_yaml, config.micro_batch_size, config.allowed_sizes)
        refuse_together(config.parallelism, config.micro_batch_size, sizes)
        return replace(config, allowed_sizes=sizes)

    def doubts(self, batch_size: int) -> Iterator[str]:
        """What to change in settings that work with batches of this size, a sentence each."""
        if self.old_keys:
            yield new_spelling(self.old_keys)
        if not self.share_model:  # there, other workers' requests overlap with these
            yield from doubtful_sizes(self.micro_batch_size, batch_size)
