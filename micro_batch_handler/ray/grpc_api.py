"""TorchServe's gRPC interface for Ray's gRPC proxy, described here instead of generated.

From frontend/server/src/main/resources/proto/inference.proto of pytorch/serve. The descriptors stay
out of the process's default pool, so that generated stubs of the same messages can be imported
beside.
"""

from __future__ import annotations

import copyreg
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

__all__ = [
    "SERVICE",
    "PingResponse",
    "PredictionResponse",
    "PredictionsRequest",
    "add_InferenceAPIsServiceServicer_to_server",
]

PACKAGE = "org.pytorch.serve.grpc.inference"
SERVICE = f"{PACKAGE}.InferenceAPIsService"

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
    _add(file.message_type.add(name="PredictionResponse"), "prediction", 1, _Field.TYPE_BYTES)
    _add(file.message_type.add(name="TorchServeHealthResponse"), "health", 1, _Field.TYPE_STRING)
    file.message_type.add(name="Empty")
    return file


def _add(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: Any) -> None:
    message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL, type=kind)


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def _message(name: str) -> Any:
    """The class of a message; always the same one."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def _picklable(name: str) -> Any:
    """The class of a message that Ray can send to a replica."""
    kind = _message(name)
    copyreg.pickle(kind, lambda message: (_parsed, (name, message.SerializeToString())))
    return kind


def _parsed(name: str, data: bytes) -> Message:
    message: Message = _message(name).FromString(data)
    return message


PredictionsRequest = _picklable("PredictionsRequest")
PredictionResponse = _picklable("PredictionResponse")
PingResponse = _picklable("TorchServeHealthResponse")
_Empty = _picklable("Empty")


def add_InferenceAPIsServiceServicer_to_server(servicer: Any, server: Any) -> None:  # noqa: N802  (as generated)
    """Register the methods, for Ray's `grpc_servicer_functions`."""
    one, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    kinds = {
        "Predictions": (one, PredictionsRequest, PredictionResponse),
        "StreamPredictions": (many, PredictionsRequest, PredictionResponse),
        "Ping": (one, _Empty, PingResponse),
    }
    handlers = {
        name: kind(
            getattr(servicer, name),
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
        for name, (kind, request, response) in kinds.items()
    }
    generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server.add_generic_rpc_handlers((generic,))
