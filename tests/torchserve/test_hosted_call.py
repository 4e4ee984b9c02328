"""What a member asks its host for a call of its pipeline, and which calls share one of the host."""

from __future__ import annotations

import torch

from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN
from micro_batch_handler.torchserve.hosted_call import HostedCall
from tests.fakes import fake_context
from tests.hosting.conftest import Town, short_tmp, town  # noqa: F401  (fixtures)
from tests.hosting.hosts import Asking, Model, passed


class Batch:
    """A batch that is served."""

    def __init__(self, requests: int) -> None:
        self.context = fake_context(requests)
        self.until_s = None
        self.streamed: set = set()


class MicroBatch:
    """All requests of a batch."""

    failed = False

    def __init__(self, requests: int) -> None:
        self.indices = range(requests)

    def __len__(self) -> int:
        return len(self.indices)


class Call:
    """Of inference."""

    stage = "inference"
    parts = ()
    host = None

    def __init__(self, requests: int) -> None:
        self.micro_batch = MicroBatch(requests)


def asking(member, requests, values):
    """The result for a payload of these values, in a thread."""
    hosted = HostedCall(member.client, CUT_AND_JOIN, 64, lambda: True)
    payload = torch.tensor(values)
    return Asking(lambda: hosted(Batch(requests), Call(requests), payload)[0])


def test_a_payload_of_another_length_shares_no_call(town):  # noqa: F811
    """Two such could add up to the right number, and all get the results of others."""
    model = Model()
    host = town.host(model)
    one, two = town.member(), town.member()
    model.holds = 1
    questions = [asking(one, 1, [0.0])]
    passed(model.began)
    passed(host.came)
    for member, requests, values in (
        (one, 2, [1.0]),
        (two, 2, [2.0, 3.0, 4.0]),
        (one, 2, [5.0, 6.0]),
        (two, 1, [7.0]),
    ):
        questions.append(asking(member, requests, values))
        passed(host.came)
    model.let_go()

    found = [each.told().tolist() for each in questions]

    assert found == [[0], [2], [4, 6, 8], [10, 12], [14]]
    assert sorted(len(call) for call in model.calls) == [1, 2, 2, 3]
