"""What runs in Ray's processes: a model, and the frontend that clients talk to.

of one archive       ModelWithFrontend: no hop between the two
of several           Frontend -> a ModelReplica for each model and version
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from micro_batch_handler.ray.answers import (
    ServerError,
    error_response,
    json_response,
    response_of,
)
from micro_batch_handler.ray.grpc_api import PingResponse, PredictionResponse
from micro_batch_handler.ray.model_archive import ModelArchive
from micro_batch_handler.ray.paths import Route, route_of
from micro_batch_handler.ray.served_model import ServedModel
from micro_batch_handler.ray.wire_request import WireRequest, from_grpc, from_http
from micro_batch_handler.tools.checking.response import WireAnswer

__all__ = ["Frontend", "ModelReplica", "ModelWithFrontend"]

NOT_FOUND = 404
UNKNOWN = ServerError(
    NOT_FOUND,
    "ResourceNotFoundException",
    "Requested resource is not found, please refer to API document.",
)


class ModelReplica:
    """One model in one process.

    Args:
        archive: what to load.
        install_requirements: whether to install its requirements with pip.
    """

    def __init__(self, archive: ModelArchive, *, install_requirements: bool = False) -> None:
        self._model = ServedModel(archive, install_requirements=install_requirements)
        pool = ThreadPoolExecutor(self._model.in_flight, thread_name_prefix="mbh-batch")

        @serve.batch(  # type: ignore[untyped-decorator]  # Ray is untyped
            max_batch_size=archive.batch_size,
            batch_wait_timeout_s=archive.batch_delay_s,
            max_concurrent_batches=self._model.in_flight,
        )
        async def answer(requests: list[WireRequest]) -> list[WireAnswer | ServerError]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, self._model.answers, requests)

        self._answer_in_batch = answer

    async def answer(self, request: WireRequest) -> WireAnswer | ServerError:
        """The answer to one request, which shares a batch with others."""
        answered: WireAnswer | ServerError = await self._answer_in_batch(request)
        return answered

    def check_health(self) -> None:
        """Let Ray start a fresh replica in place of one that cannot serve any more.

        Raises:
            RuntimeError: it cannot.
        """
        if self._model.why_unhealthy:
            raise RuntimeError(self._model.why_unhealthy)


class _Frontend:
    """TorchServe's inference address; subclasses know where the models are.

    Args:
        archives: that are served; the first version of a model is its default.
    """

    def __init__(self, archives: Sequence[ModelArchive]) -> None:
        self._archives: dict[str, dict[str, ModelArchive]] = {}
        for archive in archives:
            self._archives.setdefault(archive.name, {})[archive.version] = archive

    async def __call__(self, request: Request) -> Response:
        """Answer a request over HTTP."""
        route = route_of(request.scope["path"])
        if route.kind == "predict":
            archive = self._find(route.model, route.version)
            if isinstance(archive, ServerError):
                return error_response(archive)
            answer = await self._ask(archive, await from_http(request, route.headers))
            if isinstance(answer, ServerError):
                return error_response(answer)
            return response_of(answer)
        found = self._tell(route)
        return error_response(found) if isinstance(found, ServerError) else json_response(found)

    async def Predictions(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802  (gRPC's name)
        """Answer a request over gRPC; errors are INTERNAL, as TorchServe's."""
        answer: Any = self._find(request.model_name, request.model_version or None)
        if isinstance(answer, ModelArchive):
            answer = await self._ask(answer, from_grpc(request.input))
        if isinstance(answer, ServerError):
            grpc_context.set_code(grpc.StatusCode.INTERNAL)
            grpc_context.set_details(f"{answer.message}\n{answer.type}: {answer.message}")
            return PredictionResponse()
        return PredictionResponse(prediction=answer.body)

    async def Ping(self, _request: Any) -> Any:  # noqa: N802
        """Say that replicas answer."""
        return PingResponse(health="Healthy")

    async def _ask(self, archive: ModelArchive, request: WireRequest) -> WireAnswer | ServerError:
        raise NotImplementedError

    def _find(self, name: str, version: str | None) -> ModelArchive | ServerError:
        versions = self._archives.get(name)
        if not versions:
            return ServerError(NOT_FOUND, "ModelNotFoundException", f"Model not found: {name}")
        if version is None:
            return next(iter(versions.values()))
        if version not in versions:
            return ServerError(
                NOT_FOUND,
                "ModelVersionNotFoundException",
                f"Model version: {version} does not exist for model: {name}",
            )
        return versions[version]

    def _tell(self, route: Route) -> object | ServerError:
        """What a request gets that asks for no prediction."""
        if route.kind == "ping":
            return {"status": "Healthy"}
        if route.kind == "models":
            named = [(name, next(iter(found.values()))) for name, found in self._archives.items()]
            listed = [{"modelName": name, "modelUrl": each.path.name} for name, each in named]
            return {"models": sorted(listed, key=lambda each: each["modelName"])}
        if route.kind in {"live", "ready"}:
            return {route.kind: True}
        if route.kind in {"model", "ready_model"}:
            archive = self._find(route.model, route.version)
            if isinstance(archive, ServerError):
                return archive
            ready = {"name": archive.name, "ready": True}
            return [_described(archive)] if route.kind == "model" else ready
        return UNKNOWN


class ModelWithFrontend(ModelReplica, _Frontend):
    """One model, and the frontend in front of it, in one process."""

    def __init__(self, archive: ModelArchive, *, install_requirements: bool = False) -> None:
        ModelReplica.__init__(self, archive, install_requirements=install_requirements)
        _Frontend.__init__(self, [archive])

    async def _ask(self, _archive: ModelArchive, request: WireRequest) -> WireAnswer | ServerError:
        return await self.answer(request)


class Frontend(_Frontend):
    """The frontend of several models.

    Args:
        archives: that are served.
        models: a handle to the replicas of each, by its key.
    """

    def __init__(self, archives: Sequence[ModelArchive], models: Mapping[str, Any]) -> None:
        super().__init__(archives)
        self._models = models

    async def _ask(self, archive: ModelArchive, request: WireRequest) -> WireAnswer | ServerError:
        answered: WireAnswer | ServerError = await self._models[archive.key].answer.remote(request)
        return answered


def _described(archive: ModelArchive) -> dict[str, Any]:
    """As TorchServe's management address describes a model, its workers left out."""
    least, most = archive.workers
    return {
        "modelName": archive.name,
        "modelVersion": archive.version,
        "modelUrl": archive.path.name,
        "runtime": "python",
        "minWorkers": least,
        "maxWorkers": most,
        "batchSize": archive.batch_size,
        "maxBatchDelay": round(1000 * archive.batch_delay_s),
    }
