"""The paths of TorchServe's inference address, and what each asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

__all__ = ["Route", "route_of"]

Kind = Literal["predict", "ping", "models", "model", "live", "ready", "ready_model", "unknown"]


class Route(NamedTuple):
    """What a path asks for."""

    kind: Kind
    model: str = ""
    version: str | None = None
    """None for the default one."""
    headers: tuple[tuple[str, str], ...] = ()
    """What TorchServe's frontend adds to those of the request, for the handler."""


def route_of(path: str) -> Route:
    """What a path asks for; percent-encoding is decoded already."""
    segments = path.split("/")[1:] or [""]
    route = PATHS.get(tuple(segments))
    if route is not None:
        return route
    of: dict[str, Callable[..., Route | None]] = {
        "predictions": _prediction,
        "explanations": _prediction,
        "models": _model,
        "v1": _v1,
        "v2": _v2,
    }
    first = of.get(segments[0])
    found = first(*segments) if first is not None and len(segments) > 1 else None
    return found or Route("unknown")


PATHS = {
    ("ping",): Route("ping"),
    ("models",): Route("models"),
    ("v2", "health", "live"): Route("live"),
    ("v2", "health", "ready"): Route("ready"),
}


def _prediction(what: str, model: str, *rest: str) -> Route:
    explains = _explains("explain" if what == "explanations" else "predict")
    added = (("url_path", "/".join(rest[1:])), *explains)
    return Route("predict", model, rest[0] if rest else None, added)


def _model(_: str, model: str, *rest: str) -> Route | None:
    if rest == ("invoke",):
        return Route("predict", model)
    return Route("model", model, next(iter(rest), None)) if len(rest) <= 1 else None


def _v1(_: str, models: str, *rest: str) -> Route | None:
    """KServe's first protocol: /v1/models/<model>:predict."""
    if models != "models" or len(rest) != 1:
        return None
    model, _, what = rest[0].partition(":")
    if what in WHAT:
        return Route("predict", model, None, _explains(WHAT[what]))
    return None if what else Route("ready_model", model)


def _v2(_: str, models: str, *rest: str) -> Route | None:
    """KServe's second protocol, the Open Inference Protocol: /v2/models/<model>/infer."""
    match models, rest:
        case "models", (model, "ready"):
            return Route("ready_model", model)
        case "models", (model, "infer" | "explain" as what):
            return Route("predict", model, None, _explains(WHAT[what]))
    return None


WHAT = {"predict": "predict", "infer": "predict", "explain": "explain"}


def _explains(what: str) -> tuple[tuple[str, str], ...]:
    return (("explain", str(what == "explain")),)
