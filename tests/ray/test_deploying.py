"""Archives that are deployed on Ray Serve: what is read of them, and what is refused."""

from __future__ import annotations

import importlib
import json
import re
import socket
import textwrap
import zipfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("ray", reason="the extra `ray` is not installed")

import psutil
from ray.serve.schema import ServeDeploySchema

from harness.archives import pack, pack_plain
from harness.kinds import KINDS
from harness.ray_serve import RayServe
from micro_batch_handler.__main__ import main
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.ray import app, deployment
from micro_batch_handler.ray.model_archive import ModelArchive

ROOT = Path(__file__).parents[2]

SETTINGS = {"batchSize": 4, "maxBatchDelay": 30, "minWorkers": 2, "maxWorkers": 5}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An Echo."""
    return pack("echo", "echo", SETTINGS, tmp_path_factory.mktemp("archives"))


@pytest.mark.parametrize("style", ["zip-store", "no-archive"])
def test_an_archive_is_read_as_torchserve_reads_it(tmp_path, style):
    """Name, version and settings, of a file and of a folder."""
    path = pack("echo", "echo", SETTINGS, tmp_path, style, version="2.1")

    found = ModelArchive.read(path)

    assert (found.key, found.batch_size, found.batch_delay_s) == ("echo/2.1", 4, 0.03)
    assert found.workers == (2, 5)


def test_workers_become_replicas(archive):
    """`minWorkers` and `maxWorkers` are the bounds between which Ray scales; options come first."""
    scaled = deployment(archive)._bound_deployment
    fixed = deployment(archive, num_replicas=3)._bound_deployment

    assert scaled._deployment_config.autoscaling_config.min_replicas == 2
    assert scaled._deployment_config.autoscaling_config.max_replicas == 5
    assert fixed.num_replicas == 3
    assert fixed._deployment_config.health_check_period_s == 2


def test_what_cannot_be_deployed_is_refused_at_once(archive, tmp_path):
    """No archive, none of that name, none at all inside, the same one twice, one for TorchServe."""
    broken = tmp_path / "broken.mar"
    broken.write_bytes(b"no zip")
    empty = tmp_path / "empty.mar"
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {}}))

    waiting = {**SETTINGS, "continuousBatching": True}
    continuous = pack("continuous", "echo", waiting, tmp_path)

    for arguments, why in (
        ((), "name at least one"),
        ((tmp_path / "none.mar",), "No such file"),
        ((broken,), "it is no archive"),
        ((empty,), "modelName"),
        ((continuous,), "continuousBatching, which Ray Serve has nothing like"),
        ((archive, archive), "two archives have the same model and version: echo/1.0"),
    ):
        with pytest.raises(ArchiveError, match=why):
            deployment(*arguments)
    with pytest.raises(ArchiveError, match="must be a list of paths"):
        app({"archives": "x.mar"})


def test_the_command_says_in_one_line_what_to_change(archive, tmp_path, capsys, monkeypatch):
    """A port in use, an archive that is not there, and Ray missing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["ray", str(archive), "--port", str(port)]) == 1
    assert "Give another with --port" in capsys.readouterr().err

    free = ["--port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    assert main(["ray", str(tmp_path / "none.mar"), *free]) == 1
    assert "none.mar cannot be deployed" in capsys.readouterr().err

    monkeypatch.setattr("micro_batch_handler.ray.command.find_spec", lambda _name: None)
    assert main(["ray", str(archive), *free]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("not installed: ray. pip install 'micro-batch-handler[ray]'")


@pytest.mark.server
def test_a_handler_that_cannot_be_loaded_is_told_in_one_line(tmp_path):
    """The last line is what its replicas failed with."""
    (kind,) = (each for each in KINDS if each.name == "thread_signal")
    archive = pack_plain("bounded", str(kind.file), {}, tmp_path, {})
    assert main(["wrap", str(archive)]) == 0

    with pytest.raises(TimeoutError) as failed, RayServe([archive], "--quiet"):
        pass  # it is not served

    last = str(failed.value).strip().splitlines()[-1]
    assert last.startswith("micro-batch-handler ray: error: it cannot be served: ")
    assert "thread_signal line 22 sets the handler of a signal" in last


@pytest.mark.server
def test_a_sigterm_ends_it_in_order(archive):
    """Status 0 within seconds, and no process that it started is left."""
    with RayServe([archive], "--replicas", "1", "--quiet") as served:
        started = psutil.Process(served.process.pid).children(recursive=True)

        served.process.terminate()

        assert served.process.wait(20) == 0
        assert not psutil.wait_procs(started, 5)[1]


@pytest.mark.parametrize("where", ["docs/ray.md", "examples/kuberay.yaml"])
def test_config_files_as_printed_are_valid_for_ray_serve(where):
    """Ray Serve's own schema takes them, and the functions that they name are there."""
    text = (ROOT / where).read_text(encoding="utf-8")
    if where.endswith(".md"):
        (printed,) = re.findall(r"```yaml\n(.+?)```", text, re.DOTALL)
    else:
        printed = yaml.safe_load(text)["spec"]["serveConfigV2"]

    config = ServeDeploySchema.model_validate(yaml.safe_load(textwrap.dedent(printed)))

    (application,) = config.applications
    named = [
        application.import_path.replace(":", "."),
        *config.grpc_options.grpc_servicer_functions,
    ]
    for name in named:
        module, _, function = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))
    assert application.args["archives"]
