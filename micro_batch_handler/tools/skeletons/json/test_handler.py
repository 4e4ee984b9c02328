"""The handler, asked without a server: pytest runs this."""

import json
from pathlib import Path

SAMPLE = json.loads((Path(__file__).parent / "sample.json").read_text(encoding="utf-8"))


def test_the_sample_is_a_setosa(ask):
    """The sample's answer is its species, with a probability; over gRPC it comes as bytes."""
    for status, answer in ask(SAMPLE, json.dumps(SAMPLE).encode()):
        assert status == 200
        assert answer["species"] == "setosa"
        assert answer["probability"] > 0.9


def test_a_bad_request_is_refused_alone(ask):
    """It gets 400; the requests beside it get their answers."""
    statuses = [status for status, _ in ask(SAMPLE, {"petals": 3}, b"no JSON", SAMPLE)]

    assert statuses == [200, 400, 400, 200]
