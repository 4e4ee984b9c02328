"""TorchServe's inference address: what a request asks for, and which model answers it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
from starlette.requests import Request
from starlette.responses import Response

from micro_batch_handler.ray.answers import (
    Part,
    ServerError,
    error_response,
    json_response,
    response_of,
)
from micro_batch_handler.ray.grpc_api import PingResponse, PredictionResponse
from micro_batch_handler.ray.model_archive import ModelArchive
from micro_batch_handler.ray.paths import Route, route_of
from micro_batch_handler.ray.wire_request import WireRequest, from_grpc, from_http

__all__ = ["Frontend", "FrontendOfSeveral"]

NOT_FOUND = 404
UNKNOWN = ServerError(
    NOT_FOUND,
    "ResourceNotFoundException",
    "Requested resource is not found, please refer to API document.",
)


class Frontend:
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
            return await response_of(self._ask(archive, await from_http(request, route.headers)))
        found = self._tell(route)
        return error_response(found) if isinstance(found, ServerError) else json_response(found)

    async def Predictions(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802  (gRPC's name)
        """Answer a request over gRPC; parts are joined, errors are INTERNAL, as TorchServe's."""
        parts = [part.prediction async for part in self.StreamPredictions(request, grpc_context)]
        return PredictionResponse(prediction=b"".join(parts))

    async def StreamPredictions(  # noqa: N802
        self, request: Any, grpc_context: Any
    ) -> AsyncIterator[Any]:
        """Answer a request over gRPC part by part; most handlers give one."""
        archive = self._find(request.model_name, request.model_version or None)
        if isinstance(archive, ServerError):
            _refuse(grpc_context, archive)
            return
        async for part in self._ask(archive, from_grpc(request.input)):
            if isinstance(part, ServerError):
                _refuse(grpc_context, part)
                return
            yield PredictionResponse(prediction=part.body)

    async def Ping(self, _request: Any) -> Any:  # noqa: N802
        """Say that replicas answer."""
        return PingResponse(health="Healthy")

    def _ask(self, archive: ModelArchive, request: WireRequest) -> AsyncGenerator[Part, None]:
        """The answer, behind the parts of it that its handler sends before."""
        raise NotImplementedError  # abstract

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


class FrontendOfSeveral(Frontend):
    """The frontend of several models.

    Args:
        archives: that are served.
        models: a handle to the replicas of each, by its key.
    """

    def __init__(self, archives: Sequence[ModelArchive], models: Mapping[str, Any]) -> None:
        super().__init__(archives)
        self._models = models
        self._sending: dict[str, bool] = {}

    async def _ask(self, archive: ModelArchive, request: WireRequest) -> AsyncGenerator[Part, None]:
        model = self._models[archive.key]
        if archive.key not in self._sending:
            self._sending[archive.key] = await model.sends_parts.remote()
        if not self._sending[archive.key]:  # a stream between processes costs more
            yield await model.answer.remote(request)
            return
        async for part in model.parts.options(stream=True).remote(request):
            yield part


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


def _refuse(grpc_context: Any, error: ServerError) -> None:
    grpc_context.set_code(grpc.StatusCode.INTERNAL)
    grpc_context.set_details(f"{error.message}\n{error.type}: {error.message}")
