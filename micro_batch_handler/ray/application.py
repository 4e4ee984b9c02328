"""Ray Serve applications of archives, with settings derived from model-config.yaml.

minWorkers, maxWorkers    replicas, scaled between the two by the requests under way
batchSize                 requests of a batch; a replica has up to four batches under way
deviceType                a GPU for each replica, unless it is cpu or the cluster has none
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.ray.frontend import FrontendOfSeveral
from micro_batch_handler.ray.model_archive import ModelArchive
from micro_batch_handler.ray.replica import ModelReplica, ModelWithFrontend
from micro_batch_handler.ray.served_model import IN_FLIGHT

__all__ = ["app", "deployment"]

SCALING = frozenset({"num_replicas", "autoscaling_config"})
"""Options of which Ray Serve takes one only."""

HEALTH_CHECK_S = 2
"""How often a replica is asked whether it can serve; Ray replaces it after three that it fails. Its
own ten seconds let a replica whose device is lost refuse requests for half a minute."""

LEAST_ONGOING = 100
"""Requests that a replica takes at a time, as TorchServe's default `jobQueueSize`."""


def deployment(
    *archives: str | os.PathLike[str], install_requirements: bool = False, **options: Any
) -> serve.Application:
    """A Ray Serve application that answers on TorchServe's paths.

    Args:
        archives: models and versions, each as TorchServe takes it: a .mar, .tar.gz, .tgz or its
            folder. They must be at these paths on every node, on a shared volume or in Ray's
            `working_dir`. Of several versions of a model the first is its default.
        install_requirements: whether replicas install the archive's requirements with pip, as
            TorchServe does with `install_py_dep_per_model=true`.
        options: of `serve.deployment`, for all models. They replace what model-config.yaml says:
            `num_replicas`, `ray_actor_options={"num_gpus": 0.25}`.

    Raises:
        ArchiveError: there are no archives, one cannot be read, or two are the same.
    """
    found = [ModelArchive.read(Path(each)) for each in archives]
    if not found:
        raise ArchiveError("no archives: name at least one .mar")
    if len({each.key for each in found}) < len(found):
        listed = ", ".join(sorted(f"{each.key} ({each.path.name})" for each in found))
        raise ArchiveError(f"two archives have the same model and version: {listed}")
    kind: Any = ModelReplica if len(found) > 1 else ModelWithFrontend
    models = {
        each.key: serve.deployment(kind)
        .options(**{"name": each.key.replace("/", "-"), **_options_of(each, options)})
        .bind(each, install_requirements=install_requirements)
        for each in found
    }
    if len(found) == 1:
        return models[found[0].key]
    logs = {key: options[key] for key in ("logging_config",) if key in options}
    frontend = serve.deployment(FrontendOfSeveral).options(
        name="frontend", max_ongoing_requests=sum(map(_ongoing, found)), **logs
    )
    return frontend.bind(found, models)


def app(args: Mapping[str, Any]) -> serve.Application:
    """The same for a config file of `serve run` and `serve deploy`.

    Args:
        args: `archives`, a list, and any other argument of `deployment`.

    Raises:
        ArchiveError: as `deployment`; or `archives` is no list.
    """
    options = dict(args)
    archives = options.pop("archives", None)
    if isinstance(archives, str) or not isinstance(archives, Sequence):
        raise ArchiveError(f"args.archives must be a list of paths, found {archives!r}")
    return deployment(*archives, **options)


def _options_of(archive: ModelArchive, own: Mapping[str, Any]) -> dict[str, Any]:
    """What model-config.yaml says, in Ray Serve's words; the user's own options come first."""
    least, most = archive.workers
    ongoing = _ongoing(archive)
    scaling: dict[str, Any] = {"num_replicas": least}
    if SCALING & own.keys():
        scaling = {}
    elif most > least:
        target = archive.batch_size * IN_FLIGHT
        scaling = {
            "autoscaling_config": {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": target,
            }
        }
    on_gpu = str(archive.model_yaml.get("deviceType", "gpu")).lower() != "cpu"
    gpus = int(on_gpu and ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0)
    actor = {"ray_actor_options": {"num_gpus": gpus}} if gpus else {}
    return {
        **scaling,
        **actor,
        "max_ongoing_requests": ongoing,
        "health_check_period_s": HEALTH_CHECK_S,
        **own,
    }


def _ongoing(archive: ModelArchive) -> int:
    """The batches under way, and one that is collected."""
    return max(LEAST_ONGOING, archive.batch_size * (IN_FLIGHT + 1))
