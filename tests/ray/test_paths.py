"""What a path of TorchServe's inference address asks for."""

from __future__ import annotations

import pytest

from micro_batch_handler.ray.paths import Route, route_of

PREDICTS = (("explain", "False"),)
EXPLAINS = (("explain", "True"),)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/ping", Route("ping")),
        ("/models", Route("models")),
        ("/models/cat", Route("model", "cat")),
        ("/models/cat/2.0", Route("model", "cat", "2.0")),
        ("/models/cat/invoke", Route("predict", "cat")),
        ("/predictions/cat", Route("predict", "cat", None, (("url_path", ""), *PREDICTS))),
        ("/predictions/cat/2.0", Route("predict", "cat", "2.0", (("url_path", ""), *PREDICTS))),
        (
            "/predictions/cat/2.0/v1/chat",
            Route("predict", "cat", "2.0", (("url_path", "v1/chat"), *PREDICTS)),
        ),
        ("/explanations/cat", Route("predict", "cat", None, (("url_path", ""), *EXPLAINS))),
        ("/v1/models/cat:predict", Route("predict", "cat", None, PREDICTS)),
        ("/v1/models/cat:explain", Route("predict", "cat", None, EXPLAINS)),
        ("/v1/models/cat", Route("ready_model", "cat")),
        ("/v2/models/cat/infer", Route("predict", "cat", None, PREDICTS)),
        ("/v2/models/cat/explain", Route("predict", "cat", None, EXPLAINS)),
        ("/v2/models/cat/ready", Route("ready_model", "cat")),
        ("/v2/health/live", Route("live")),
        ("/v2/health/ready", Route("ready")),
    ],
)
def test_a_path_is_understood_as_by_torchserve(path, route):
    """Model, version and the headers that its frontend adds; KServe's readiness paths besides."""
    assert route_of(path) == route


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/predictions",
        "/ping/x",
        "/v1/models/cat:train",
        "/v1/models",
        "/v2/models/cat/train",
        "/v2/x/cat/infer",
        "/models/cat/1.0/x",
        "/x",
    ],
)
def test_other_paths_are_unknown(path):
    """They are answered 404."""
    assert route_of(path).kind == "unknown"
