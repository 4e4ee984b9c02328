"""The handler, asked without a server: pytest runs this."""

from pathlib import Path

SAMPLE = (Path(__file__).parent / "sample.png").read_bytes()


def test_the_sample_is_blue(ask):
    """The sample's answer is its colour, with a probability."""
    ((status, answer),) = ask(SAMPLE)

    assert status == 200
    assert answer["colour"] == "blue"
    assert answer["probability"] > 0.9


def test_a_bad_request_is_refused_alone(ask):
    """It gets 400; the requests before and after it get their answers."""
    statuses = [status for status, _ in ask(SAMPLE, SAMPLE[:50], SAMPLE)]

    assert statuses == [200, 400, 200]
