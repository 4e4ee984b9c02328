"""A client of the gRPC interface, with the package's own description of its messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import grpc

from harness.settings import Ports
from micro_batch_handler.ray.grpc_api import SERVICE, PredictionResponse, PredictionsRequest

__all__ = ["GrpcClient"]

TIMEOUT_S = 60.0


class GrpcClient:
    """One channel, for any number of threads; use it in a `with` statement."""

    def __init__(self, ports: Ports) -> None:
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{ports.grpc_inference}", options=[("grpc.enable_http_proxy", 0)]
        )
        self._predictions = self._channel.unary_unary(
            f"/{SERVICE}/Predictions",
            request_serializer=PredictionsRequest.SerializeToString,
            response_deserializer=PredictionResponse.FromString,
        )

        self._stream = self._channel.unary_stream(
            f"/{SERVICE}/StreamPredictions",
            request_serializer=PredictionsRequest.SerializeToString,
            response_deserializer=PredictionResponse.FromString,
        )

    def __enter__(self) -> GrpcClient:  # noqa: PYI034  (typing.Self needs Python 3.11)
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def predict(self, model: str, **inputs: bytes) -> bytes:
        """The answer to one request; the handler finds `inputs` in its row, by their names.

        Raises:
            grpc.RpcError: the frontend gave the request a status.
        """
        return self.predict_with(model, inputs)

    def predict_with(self, model: str, inputs: Mapping[str, bytes]) -> bytes:
        """The same for names that are no Python names."""
        request = PredictionsRequest(model_name=model, input=inputs)
        return bytes(self._predictions(request, timeout=TIMEOUT_S).prediction)

    def stream(self, model: str, **inputs: bytes) -> Iterator[bytes]:
        """The parts of the answer to one request.

        Raises:
            grpc.RpcError: the frontend ended the stream with a status.
        """
        request = PredictionsRequest(model_name=model, input=inputs)
        for part in self._stream(request, timeout=TIMEOUT_S):
            yield bytes(part.prediction)
