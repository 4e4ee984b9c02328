"""One TorchServe for each contender, with the repository's server files; a check of its answers."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.throughput.workload import Config, Contender, Workload
from harness.crowd import crowd
from harness.load import Load, Served
from harness.rest import RestClient
from harness.settings import OVERRIDES
from harness.torchserve import TorchServe

__all__ = [
    "Stand",
    "WrongAnswerError",
    "expected_answers",
    "same",
    "stand",
]

HERE = Path(__file__).parent

CHECKING_CLIENTS = 8
TOLERANCE = 1e-4
"""A kernel's result depends on the size of its batch, in the last digits."""


class WrongAnswerError(Exception):
    """A contender answers something else than the three methods, so its speed means nothing."""


@dataclass(frozen=True)
class Stand:
    """A contender and its server."""

    workload: Workload
    contender: Contender
    server: TorchServe
    device: Path

    @contextmanager
    def serving(self, candidate: Config, load: Load) -> Iterator[Served]:
        """The contender in these settings, checked, while the `with` statement runs.

        Raises:
            WrongAnswerError: an answer is not what it must be.
        """
        helpers = {
            "stages.py": HERE / "stages" / f"{self.workload.stages}.py",
            "accelerator.py": HERE / "accelerator.py",
        }
        handler = HERE / "contenders" / self.contender.file
        config = self.workload.config_for(candidate, str(self.device))
        # TorchServe starts minWorkers of the config, whatever a registration asks for, and waits
        # until each has loaded the model.
        with self.server.model(handler, config, helpers=helpers) as model:
            self._check(model.name)
            yield Served(self.server, model.name, load)

    def _check(self, model: str) -> None:
        bodies = self.workload.bodies()
        expected = _right_answers(self.workload, self.contender)

        def ask(client: RestClient, number: int, turn: int) -> None:
            index = (number + turn * CHECKING_CLIENTS) % len(bodies)
            headers = {"content-type": self.workload.content_type}
            answer = client.predict(model, data=bodies[index], headers=headers)
            if not answer.ok or not same(answer.json(), expected[index]):
                raise WrongAnswerError(
                    f"{self.workload.name}, {self.contender.title}: body {index} is answered "
                    f"{answer.status_code} {answer.text[:200]}"
                )

        turns = max(2, -(-len(bodies) // CHECKING_CLIENTS))
        # The error of the first client that failed is raised, with its number.
        try:
            crowd(self.server, min(CHECKING_CLIENTS, self.workload.clients), ask, turns=turns)
        except AssertionError as error:
            raise error.__cause__ or error from None


@contextmanager
def stand(workload: Workload, contender: Contender, device: Path) -> Iterator[Stand]:
    """The contender's server, without a model yet, while the `with` statement runs."""
    properties = {**OVERRIDES, "decode_input_request": str(contender.decode).lower()}
    with TorchServe(properties, shipped=True) as server:
        yield Stand(workload, contender, server, device)


def same(found: Any, expected: Any) -> bool:
    """Whether two decoded answers are equal, numbers to rounding."""
    if isinstance(expected, float):
        return isinstance(found, (int, float)) and math.isclose(
            found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE
        )
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(map(same, found, expected))
        )
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], value) for key, value in expected.items())
        )
    return bool(found == expected)


def expected_answers(workload: Workload) -> list[Any]:
    """What the stages answer to each body alone, in this process; computed once."""
    if workload.name not in _ANSWERS:
        _ANSWERS[workload.name] = _compute(workload)
    return _ANSWERS[workload.name]


_ANSWERS: dict[str, list[Any]] = {}
"""By the workload's name."""


def _compute(workload: Workload) -> list[Any]:
    module = importlib.import_module(f"benchmarks.throughput.stages.{workload.stages}")
    config = workload.config_for({}, "")
    config["handler"]["accelerator"] = None
    stages = module.Stages()
    stages.initialize(SimpleNamespace(model_yaml_config=config))
    decoded = workload.content_type == "application/json"
    rows = [{"body": json.loads(body) if decoded else body} for body in workload.bodies()]
    answers = [stages.postprocess(stages.inference(stages.preprocess([row])))[0] for row in rows]
    return [json.loads(json.dumps(answer)) for answer in answers]


def _right_answers(workload: Workload, contender: Contender) -> list[Any]:
    if contender.key != "constant":
        return expected_answers(workload)
    module = importlib.import_module(f"benchmarks.throughput.stages.{workload.stages}")
    return [json.loads(module.CONSTANT_ANSWER)] * len(workload.bodies())
