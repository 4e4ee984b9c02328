"""The stages as a model of Triton's Python backend, which runs this file in its own processes.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/python_backend/README.html
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as triton

BODIES: dict[str, Callable[[np.ndarray], Any]] = {
    "vector": lambda row: row,
    "image": lambda row: base64.b64decode(row[0]),
    "text": lambda row: {"text": row[0].decode()},
}
"""From a row of the tensor to a body as the stages take it."""

MERGES: dict[str, Callable[[list[Any]], Any]] = {
    "vector": torch.cat,
    "image": np.concatenate,
    "text": lambda parts: [ids for part in parts for ids in part],
}
"""From several requests' outputs of preprocess to one."""


class TritonPythonModel:
    """One instance, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the stages; serve.py says where they are."""
        parameters = json.loads(args["model_config"])["parameters"]
        found = {name: value["string_value"] for name, value in parameters.items()}
        sys.path.insert(0, found["stages"])
        from stages import Stages

        self.task = found["task"]
        self.stages = Stages()
        self.stages.initialize(SimpleNamespace(model_yaml_config=json.loads(found["config"])))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One batch for all requests whose preprocessing works; an error for each of the others."""
        parts: list[Any] = []
        answers: list[Any] = []
        for request in requests:
            rows = triton.get_input_tensor_by_name(request, "input").as_numpy()
            try:
                bodies = [{"body": BODIES[self.task](row)} for row in rows]
                parts.append(self.stages.preprocess(bodies))
                answers.append(len(rows))
            except Exception as error:
                told = triton.TritonError(str(error), triton.TritonError.INVALID_ARG)
                answers.append(triton.InferenceResponse(error=told))
        if not parts:
            return answers
        outputs = self._tensors(self.stages.inference(MERGES[self.task](parts)))
        start = 0
        for index, answer in enumerate(answers):
            if isinstance(answer, int):
                part = slice(start, start := start + answer)
                answers[index] = triton.InferenceResponse(
                    [triton.Tensor(name, rows[part]) for name, rows in outputs.items()]
                )
        return answers

    def _tensors(self, outputs: Any) -> dict[str, np.ndarray]:
        if self.task != "image":
            # Triton makes its JSON of a tensor; lists of numbers would only cost.
            return {"output": outputs.numpy()}
        likely = self.stages.postprocess(outputs)
        return {
            "classes": np.array([[int(name) for name in row] for row in likely], np.int32),
            "probabilities": np.array([list(row.values()) for row in likely], np.float32),
        }
