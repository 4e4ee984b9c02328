"""A batch that the workbench has run: its answers, its records, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from micro_batch_handler.pipeline.outcomes import BatchRecord
from micro_batch_handler.tools.checking.answers import Answer, cause

__all__ = ["Ran"]


@dataclass(frozen=True)
class Ran:
    """A batch that was run."""

    answers: Sequence[Answer]
    """One for each request, in order."""

    records: Sequence[BatchRecord]
    """One; none if the class beside the mixin has answered by itself, as it does for `explain`."""

    failures: Mapping[int, str]
    """Why a request's answer is bad, with its body; by the request's place."""

    seconds: float
    """From the first request, read by TorchServe's code, to the last answer, encoded."""

    @classmethod
    def of(
        cls,
        samples: Sequence[Path],
        answers: Sequence[Answer],
        records: Sequence[BatchRecord],
        seconds: float,
    ) -> Ran:
        """A batch of these samples, one for each request."""
        failed = records[-1].outcomes.failures if records else {}
        failures = {}
        for at, (answer, sample) in enumerate(zip(answers, samples, strict=True)):
            if answer.problem:
                # Clients are not told what was raised, but who runs this is.
                raised = f" ({cause(failed[at].error)})" if at in failed else ""
                failures[at] = f"{sample.name}: {answer.problem}{raised}"
        return cls(answers, tuple(records), failures, seconds)
