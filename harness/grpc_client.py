"""A client of the gRPC interface, with its messages described here instead of generated.

From frontend/server/src/main/resources/proto/inference.proto of pytorch/serve, what a prediction
needs of it. The descriptors stay out of the process's default pool, so that generated stubs of
the same messages can be imported beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from harness.settings import Ports

__all__ = ["SERVICE", "GrpcClient"]

PACKAGE = "org.pytorch.serve.grpc.inference"
SERVICE = f"/{PACKAGE}.InferenceAPIsService"
TIMEOUT_S = 60.0

_Field = descriptor_pb2.FieldDescriptorProto


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="inference.proto", package=PACKAGE, syntax="proto3"
    )
    request = file.message_type.add(name="PredictionsRequest")
    _add(request, "model_name", 1, _Field.TYPE_STRING)
    _add(request, "model_version", 2, _Field.TYPE_STRING)
    entry = request.nested_type.add(name="InputEntry")  # what map<string, bytes> stands for
    entry.options.map_entry = True
    _add(entry, "key", 1, _Field.TYPE_STRING)
    _add(entry, "value", 2, _Field.TYPE_BYTES)
    request.field.add(
        name="input",
        number=3,
        label=_Field.LABEL_REPEATED,
        type=_Field.TYPE_MESSAGE,
        type_name=f".{PACKAGE}.PredictionsRequest.InputEntry",
    )
    response = file.message_type.add(name="PredictionResponse")
    _add(response, "prediction", 1, _Field.TYPE_BYTES)
    return file


def _add(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: Any) -> None:
    message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL, type=kind)


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


PredictionsRequest = _message("PredictionsRequest")
PredictionResponse = _message("PredictionResponse")


class GrpcClient:
    """One channel, for any number of threads; use it in a `with` statement."""

    def __init__(self, ports: Ports) -> None:
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{ports.grpc_inference}", options=[("grpc.enable_http_proxy", 0)]
        )
        self._predictions = self._channel.unary_unary(
            f"{SERVICE}/Predictions",
            request_serializer=PredictionsRequest.SerializeToString,
            response_deserializer=PredictionResponse.FromString,
        )

        self._stream = self._channel.unary_stream(
            f"{SERVICE}/StreamPredictions",
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
