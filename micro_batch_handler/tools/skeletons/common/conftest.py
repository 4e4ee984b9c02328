"""Loads the handler as TorchServe's worker does, for tests without a server."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from handler import Handler
from ts.context import Context, RequestProcessor

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def ask():
    """A function that sends request bodies as one batch, and returns (status, answer) for each."""
    settings = yaml.safe_load((HERE / "model-config.yaml").read_text(encoding="utf-8"))
    manifest = {"model": {"modelFile": "model.py"}}
    batch_size = settings["batchSize"]
    context = Context(HERE.name, str(HERE), manifest, batch_size, None, "", metrics=Mock())
    context.model_yaml_config = settings
    handler = Handler()
    handler.initialize(context)

    def ask_batch(*bodies):
        context.request_ids = {place: f"request {place}" for place in range(len(bodies))}
        context.request_processor = [RequestProcessor({}) for _ in bodies]
        answers = handler.handle([{"body": body} for body in bodies], context)
        statuses = [context.get_response_status(place)[0] for place in range(len(bodies))]
        return list(zip(statuses, answers, strict=True))

    yield ask_batch
    handler.close()
