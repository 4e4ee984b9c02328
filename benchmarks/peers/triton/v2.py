"""The workloads' requests and answers in Triton's HTTP protocol, KServe v2 in JSON.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/customization_guide/inference_protocols.html
"""

from __future__ import annotations

import base64
import json
from typing import Any

from benchmarks.throughput.workload import Workload

__all__ = ["PATH", "content_type", "unwrap", "wrap"]

PATH = "/v2/models/stages/infer"


def wrap(workload: Workload, body: bytes) -> bytes:
    """An inference request for a batch of one row.

    A JPEG travels in base64: JSON holds no bytes, and Triton's binary tensors ask for one more
    header, Inference-Header-Content-Length, which clients that send a body and its type lack (and
    are answered in bytes, not in JSON). As a JSON list of UINT8 it would be 2.7 times as long.
    """
    if workload.stages == "image":
        datatype, data = "BYTES", [base64.b64encode(body).decode()]
    elif workload.stages == "text":
        datatype, data = "BYTES", [json.loads(body)["text"]]
    else:
        datatype, data = "FP32", json.loads(body)
    tensor = {"name": "input", "shape": [1, len(data)], "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def content_type(_workload: Workload) -> str:
    """Always JSON."""
    return "application/json"


def unwrap(answer: Any) -> Any:
    """The row of one tensor; a dictionary of two, classes and their probabilities."""
    data = {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}
    if "classes" in data:
        return dict(zip(map(str, data["classes"]), data["probabilities"], strict=True))
    return data["output"]
