"""Serves the stages with the Triton Inference Server, whose Python backend runs model.py.

The server is the one that PyTriton's package carries; PyTriton itself is not used.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/python_backend/README.html
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TENSORS = {
    "vector": (["input", "TYPE_FP32", 384], ["output", "TYPE_FP32", 384]),
    "image": (
        ["input", "TYPE_STRING", 1],
        ["classes", "TYPE_INT32", 5],
        ["probabilities", "TYPE_FP32", 5],
    ),
    "text": (["input", "TYPE_STRING", 1], ["output", "TYPE_FP32", 384]),
}
"""By task, what goes in and then what comes out."""


def write_repository(folder: Path, parameters: dict[str, str], settings: dict[str, Any]) -> None:
    """A model repository with model.py as `stages`.

    https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
    """
    place = folder / "stages" / "1"
    place.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("model.py"), place)
    lines = [
        'name: "stages"',
        'backend: "python"',
        f"max_batch_size: {settings['batch']}",
        f"dynamic_batching {{ max_queue_delay_microseconds: {settings['wait_us']} }}",
        f"instance_group [{{ kind: KIND_CPU count: {settings['instances']} }}]",
    ]
    for number, (name, datatype, size) in enumerate(TENSORS[settings["task"]]):
        kind = "output" if number else "input"
        lines.append(f'{kind} {{ name: "{name}" data_type: {datatype} dims: [{size}] }}')
    lines += [
        f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}'
        for key, value in parameters.items()
    ]
    (place.parent / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def lay_out_backends(triton: Path, folder: Path) -> None:
    """The Python backend with its program for this version of Python, as links."""
    folder.mkdir(parents=True)
    for file in (triton / "backends" / "python").glob("*.*"):
        (folder / file.name).symlink_to(file)
    stubs = triton / "python_backend_stubs" / "{}.{}".format(*sys.version_info)
    # A copy, since PyTriton's is not executable everywhere.
    shutil.copy(stubs / "triton_python_backend_stub", folder)
    (folder / "triton_python_backend_stub").chmod(0o755)


def main() -> None:
    """Become Triton, which serves until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ("stages", "port", "config", "settings"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    config, settings = json.loads(options.config), json.loads(options.settings)
    config["handler"]["threads"] = settings.get("threads", config["handler"]["threads"])
    folder = Path(options.stages).absolute()
    parameters = {
        "task": settings["task"],
        "stages": str(folder),
        "config": json.dumps(config),
    }
    write_repository(folder / "models", parameters, settings)
    package = Path(find_spec("pytriton").origin).parent
    lay_out_backends(package / "tritonserver", folder / "backends" / "python")
    # Its Python finds this environment by PATH.
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(package.parent / "nvidia_pytriton.libs"),
    }
    command = [
        str(package / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={options.port}",
        f"--http-thread-count={settings['http_threads']}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--log-info=false",
        # Its instances need a while to end where all processors are busy.
        "--exit-timeout-secs=15",
        # Of shared memory, at first and at each growth, so that a small /dev/shm will do.
        f"--backend-config=python,shm-region-prefix-name=triton-{os.getpid()}-",
        f"--backend-config=python,shm-default-byte-size={1 << 24}",
        f"--backend-config=python,shm-growth-byte-size={1 << 24}",
    ]
    os.execve(command[0], command, environment)  # noqa: S606


if __name__ == "__main__":
    main()
