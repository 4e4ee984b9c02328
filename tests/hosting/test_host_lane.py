"""The thread of a hosted stage: results are shared out, and faults cost their own rows."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from micro_batch_handler.errors import HostLost, LengthError
from micro_batch_handler.hosting.client import RemoteFault
from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN, PayloadOps, Uncuttable
from tests.hosting.hosts import GATE_S, Effects, Model, passed, rows


def merged(host, model, asking):
    """Hold one call of a single row, until these questions wait; then let all go.

    Args:
        host: that is asked.
        model: its model.
        asking: functions that begin a question each.
    """
    while host.came.acquire(blocking=False):
        pass  # questions before
    while model.began.acquire(blocking=False):
        pass
    model.holds = 1
    first = asking[0]()
    passed(model.began)
    passed(host.came)
    rest = []
    for begin in asking[1:]:
        rest.append(begin())
        passed(host.came)
    model.let_go()
    return [first, *rest]


def names(model: Model) -> list[str]:
    """Of each call the names of its rows."""
    return ["".join(name for name, _ in call) for call in model.calls]


@pytest.mark.parametrize(
    "payload",
    [
        lambda values: rows(*values),
        lambda values: rows(*values, columns=2000),
        lambda values: [{"value": value} for value in values],
        lambda values: {"x": rows(*values), "unit": "m"},
        lambda values: (rows(*values), [str(value) for value in values]),
    ],
)
def test_each_member_gets_its_own_rows(town, payload):
    """Results of a merged call are cut in the order of the questions, whatever they are made of."""
    model = Model(lambda payload, _: payload)
    host = town.host(model)
    one, two = town.member(), town.member()
    values = [[0.0], [1.0, 2.0], [3.0], [4.0, 5.0, 6.0]]
    asking = [
        lambda at=at, part=part: (one, two)[at % 2].asking(
            payload(part), "ABCD"[at], rows=len(part)
        )
        for at, part in enumerate(values)
    ]

    found = [each.result() for each in merged(host, model, asking)]

    assert names(model) == ["A", "BBCDDD"]
    assert str(found) == str([payload(part) for part in values])


def test_effects_go_to_the_rows_that_had_them(town):
    """What the function did beside its result is shared out with it; None where it did nothing."""

    def call(payload, contexts):
        effects = ["seen" if name == "C" and place else None for name, place in contexts]
        return Effects(payload, effects)

    model = Model(call)
    host = town.host(model)
    one = town.member()
    asking = [lambda name=name: one.asking(rows(1, 2), name) for name in "ABC"]

    found = [each.told().effects for each in merged(host, model, asking)]

    assert found == [None, None, [[None, "seen"]]]


@pytest.mark.parametrize(("number", "size"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 8)])
def test_calls_are_filled_up_to_an_allowed_size(town, number, size):
    """With copies of the last row, whose results reach nobody."""
    sizes = []

    def call(payload, _):
        sizes.append(payload[:, 0].tolist())
        return payload * 2

    town.host(Model(call), allowed_sizes=(2, 4, 8))

    found = town.member().ask(rows(*range(number)))

    assert sizes == [[*range(number), *[number - 1] * (size - number)]]
    assert found.result[:, 0].tolist() == [2 * value for value in range(number)]
    assert found.call.rows == number


def test_a_result_in_a_buffer_that_the_next_call_overwrites_is_copied(town):
    """As with graphs, which write each result to the same memory."""
    buffer = torch.zeros(4, 1)

    def call(payload, _):
        return torch.mul(payload, 2, out=buffer[: len(payload)])

    model = Model(call)
    host = town.host(model, allowed_sizes=(1, 2, 4))
    members = [town.member() for _ in range(4)]
    asking = [lambda at=at: members[at].asking(rows(at), kind=at) for at in range(4)]

    found = [each.result().item() for each in merged(host, model, asking)]

    assert found == [0, 2, 4, 6]


def test_a_row_that_fails_costs_its_own_question(town):
    """All others of its call are answered, after halves that share no call."""

    def call(payload, _):
        if (payload == 13).any():
            raise KeyError("13")
        return payload * 2

    model = Model(call)
    host = town.host(model)
    members = [town.member() for _ in range(3)]
    values = [0, 1, 2, 13, 4, 5, 6, 7, 8]
    asking = [
        lambda at=at, value=value: members[at % 3].asking(rows(value), str(at))
        for at, value in enumerate(values)
    ]

    questions = merged(host, model, asking)
    with pytest.raises(RemoteFault) as raised:
        questions.pop(3).told()
    found = [each.result().item() for each in questions]

    assert found == [2 * value for value in values if value != 13]
    assert isinstance(raised.value.error, KeyError)
    assert raised.value.stage == "inference"
    assert raised.value.call.rows == 1
    calls = names(model)
    assert calls[:2] == ["0", "12345678"]
    assert "3" in calls
    # Each answered row was in one good call only, and the guilty one in at most log2 + 2.
    assert sum("3" in call for call in calls) <= 5


def test_rows_are_sent_anew_after_a_call_that_wrote_to_them(town):
    """Whatever the failed call has left in the memory, the next one gets the rows as they were."""
    seen = []

    def call(payload, contexts):
        seen.append(payload["x"].clone())
        payload["x"] *= -1
        payload["text"][0].append("spoiled")
        if len(contexts) > 1:
            raise ValueError("together")
        return payload["x"]

    model = Model(call)
    host = town.host(model)
    one, two = town.member(), town.member()
    sent = {"x": rows(1, columns=3000), "text": [["a"]]}
    asking = [
        lambda: one.asking({"x": rows(5, columns=3000), "text": [["a"]]}, "A"),
        lambda: one.asking(sent, "B", rows=1),
        lambda: two.asking({"x": rows(2, columns=3000), "text": [["a"]]}, "C", rows=1),
    ]
    asking[0] = lambda: one.asking({"x": rows(5, columns=3000), "text": [["a"]]}, "A", rows=1)

    found = [each.result()[0, 0].item() for each in merged(host, model, asking)]

    assert found == [-5, -1, -2]
    assert sorted(names(model)) == ["A", "B", "BC", "C"]
    assert [part[:, 0].tolist() for part in seen[1:]] in ([[1, 2], [1], [2]], [[1, 2], [2], [1]])
    assert torch.equal(sent["x"], rows(1, columns=3000))
    assert sent["text"] == [["a"]]


def test_a_question_that_failed_alone_is_not_called_again_here(town):
    """The member decides what becomes of it."""

    def call(_payload, _contexts):
        raise ZeroDivisionError

    model = Model(call)
    town.host(model)

    with pytest.raises(RemoteFault) as raised:
        town.member().ask(rows(1, 2, 3))

    assert isinstance(raised.value.error, ZeroDivisionError)
    assert len(model.calls) == 1


def test_a_merged_call_of_the_wrong_length_is_told_apart(town):
    """Nobody gets the rows of another; the member sees the length of its own call."""
    model = Model(lambda payload, contexts: payload[: len(contexts) - (contexts[-1][0] == "C")])
    host = town.host(model)
    one = town.member()
    asking = [lambda name=name: one.asking(rows(1, 2), name) for name in "ABC"]

    found = [each.result() for each in merged(host, model, asking)]

    assert [len(each) for each in found] == [2, 2, 1]
    assert names(model)[:2] == ["AA", "BBCC"]


def test_a_call_that_was_filled_up_and_has_the_wrong_length_fails(town):
    """The error has its type and says how many rows there were."""
    town.host(Model(lambda payload, _: payload[:1]), allowed_sizes=(4,))

    with pytest.raises(RemoteFault) as raised:
        town.member().ask(rows(1, 2, 3))

    assert isinstance(raised.value.error, LengthError)
    assert (raised.value.error.expected, raised.value.error.found) == (4, 1)


def test_what_cannot_be_cut_is_called_apart_from_then_on(town, caplog):
    """Questions get what the function returns for them; the log says so once, and what to do."""
    model = Model(lambda payload, _: {"mean": payload.mean().item()})
    host = town.host(model)
    one = town.member()
    one.ask(rows(9), "9")
    model.calls.clear()
    asking = [lambda at=at: one.asking(rows(at), str(at)) for at in range(4)]

    with caplog.at_level(logging.WARNING):
        found = [each.result()["mean"] for each in merged(host, model, asking)]
        again = [each.result()["mean"] for each in merged(host, model, asking)]

    assert found == again == [0, 1, 2, 3]
    calls = names(model)
    assert calls[1] == "123"
    assert all(len(call) == 1 for call in calls[2:])
    (record,) = (each for each in caplog.records if "cannot be cut" in each.getMessage())
    assert "override cut_payload(payload, start, stop) and join_payloads" in record.getMessage()


def test_a_handlers_hooks_cut_what_a_merged_call_returned(town):
    """They are trusted with what only they know."""

    class Box:
        def __init__(self, values):
            self.values = values

        def __reduce__(self):
            return list, (self.values,)

    ops = PayloadOps(
        lambda _: None,
        lambda _: None,
        lambda box, start, stop: Box(box.values[start:stop]),
        CUT_AND_JOIN.join,
    )
    model = Model(lambda payload, _: Box([value * 2 for value in payload]))
    host = town.host(model, ops=ops)
    one = town.member()
    asking = [lambda at=at: one.asking([at, at], str(at), kind="own") for at in range(3)]

    found = [each.result() for each in merged(host, model, asking)]

    assert found == [[0, 0] if not at else [2 * at] * 2 for at in range(3)]
    assert len(model.calls) == 2


def test_payloads_that_cannot_be_joined_are_called_apart(town):
    """A kind that promises too much costs a call, not an answer."""
    model = Model()
    host = town.host(model)
    one = town.member()
    asking = [lambda at=at: one.asking(rows(at, columns=at + 1), kind="k") for at in range(3)]

    found = [each.result().shape for each in merged(host, model, asking)]

    assert found == [(1, 1), (1, 2), (1, 3)]


class Memory:
    """A model for whose call some rows are too many."""

    def __init__(self, fits: int) -> None:
        self.fits = fits

    def __call__(self, payload, contexts):
        if len(contexts) > self.fits or (payload == 13).any():
            raise torch.OutOfMemoryError("out of memory")
        return payload * 2


def test_less_memory_makes_smaller_calls(town):
    """After calls that did not fit, merged calls stay below their size, and all are answered."""
    model = Model(Memory(3))
    host = town.host(model)
    one = town.member()
    asking = [lambda at=at: one.asking(rows(at), chr(65 + at)) for at in range(9)]

    first = [each.result().item() for each in merged(host, model, asking)]
    tried = len(model.calls)
    # Half of what failed is tried now, unless that failed when the halves were asked again.
    second = [each.result().item() for each in merged(host, model, asking)]
    known = len(model.calls)
    third = [each.result().item() for each in merged(host, model, asking)]

    assert first == second == third == [2.0 * at for at in range(9)]
    assert names(model)[1] == "BCDEFGHI"
    assert all(len(call) <= 4 for call in model.calls[tried:])
    assert all(len(call) <= 3 for call in model.calls[known:])


def test_a_row_that_never_fits_does_not_make_calls_smaller(town):
    """It is told so, and the calls of all others are as large as before."""
    model = Model(Memory(100))
    host = town.host(model)
    one = town.member()
    values = [0, 1, 2, 13, 4, 5, 6, 7]
    asking = [lambda value=value: one.asking(rows(value), str(value)) for value in values]
    questions = merged(host, model, asking)

    with pytest.raises(RemoteFault) as raised:
        questions.pop(3).told()
    for each in questions:
        each.told()
    asking = [lambda at=at: one.asking(rows(at), str(at)) for at in range(9)]
    for each in merged(host, model, asking):
        each.told()

    assert type(raised.value.error) is torch.OutOfMemoryError
    assert names(model)[-1] == "12345678"


def test_a_lost_device_ends_the_host(town):
    """The call is not answered, since it may be why; what waits is not given to the model."""

    def call(_payload, _contexts):
        raise RuntimeError("device-side assert triggered")

    model = Model(call)
    host = town.host(model)
    one = town.member()
    first, second = merged(
        host, model, [lambda: one.asking(rows(1), "A"), lambda: one.asking(rows(2), "B")]
    )
    assert host.host._over.wait(GATE_S)
    host.end()
    next_host = town.host(Model())

    with pytest.raises(HostLost):
        first.told()
    assert second.result().item() == 4
    host.thread.join(GATE_S)
    assert names(model) == ["A"]
    assert host.host.why_over == "lost"
    assert names(next_host.lanes[0].model) == ["B"]


def test_a_stage_that_cannot_be_set_up_is_the_hosts_failure(town):
    """What its thread raised at the start comes out of `serve`."""
    error = RuntimeError("no kernels")

    def setup():
        raise error

    host = town.silent_host(Model(), setup=setup)
    host.thread.start()
    host.thread.join(GATE_S)

    assert host.error is error


def test_a_stage_is_set_up_and_called_in_the_thread_that_serves(town):
    """Handlers and graphs may belong to the thread that has loaded them; others get their own."""
    threads: list = []

    def note(*_):
        threads.append(threading.current_thread())

    def called(payload, _):
        note()
        return payload

    host = town.host(Model(called), Model(called), setup=note)

    town.member().ask(rows(1))

    assert [thread.name for thread in threads] == ["mbh-main", "mbh-preprocess-0", "mbh-main"]
    assert threads[0] is host.thread


def test_two_hosted_stages_follow_each_other(town):
    """The second gets what the first returned, merged further, and each row comes home."""
    first = Model(lambda payload, _: [float(text) for text in payload])
    second = Model(lambda payload, _: [value * 2 for value in payload])
    host = town.host(first, second)
    second.holds = 1
    one, two = town.member(), town.member()
    questions = [one.asking(["1"], "A")]
    passed(second.began)
    for name, payload in (("B", ["2", "3"]), ("C", ["4"])):
        questions.append((two if name == "B" else one).asking(payload, name))
    passed(host.lanes[1].waiting.came, 2)
    while sum(len(call) for call in first.calls) < 4:
        passed(host.lanes[1].waiting.came)
    second.let_go()

    found = [each.result() for each in questions]

    assert found == [[2.0], [4.0, 6.0], [8.0]]


def test_an_error_of_the_first_hosted_stage_has_its_name(town):
    """So the client of a bad request is told what it did."""
    first = Model(lambda payload, _: [float(text) for text in payload])
    town.host(first, Model())

    with pytest.raises(RemoteFault) as raised:
        town.member().ask(["one"])

    assert raised.value.stage == "preprocess"
    assert isinstance(raised.value.error, ValueError)


def test_what_both_hosted_stages_did_beside_their_results_arrives(town):
    """The effects of the first are not lost behind those of the second."""
    first = Model(lambda payload, _: Effects(payload, [f"first {row}" for row in payload]))
    second = Model(lambda payload, _: Effects(payload, [f"second {row}" for row in payload]))
    host = town.host(first, second)
    one = town.member()
    asking = [lambda payload=payload: one.asking(payload) for payload in ([1], [2, 3], [4])]

    found = [each.told().effects for each in merged(host, first, asking)]

    assert found == [
        [["first 1"], ["second 1"]],
        [["first 2", "first 3"], ["second 2", "second 3"]],
        [["first 4"], ["second 4"]],
    ]


def test_an_odd_error_costs_its_own_rows(town):
    """One that raises whatever is asked of it, too."""

    class OddError(Exception):
        def __str__(self):
            raise SystemExit(1)

        def __reduce__(self):
            raise KeyboardInterrupt

    def call(payload, contexts):
        if contexts[0][0] == "A":
            raise OddError
        return payload

    town.host(Model(call))
    one = town.member()

    with pytest.raises(RemoteFault) as raised:
        one.ask(rows(1), "A")

    assert type(raised.value.error).__name__ == "OddError"
    assert one.ask(rows(1), "B").result.item() == 1


def test_uncuttable_keeps_its_type(town):
    """A padded call whose result is not made of rows says so."""
    town.host(Model(lambda _payload, _: {1, 2}), allowed_sizes=(4,))

    with pytest.raises(RemoteFault) as raised:
        town.member().ask(rows(1))

    assert isinstance(raised.value.error, Uncuttable)


def test_rows_that_wait_for_the_second_stage_are_asked_again(town):
    """The model has not got them, so that they cannot be why the host ends."""
    first, second = Model(lambda payload, _: payload + 1), Model()
    host = town.host(first, second)
    second.holds = 1
    one = town.member()
    running = one.asking(rows(1, 2), "A")
    passed(second.began)
    waiting = one.asking(rows(3), "B")
    passed(host.lanes[1].waiting.came, 2)

    host.end()
    town.host(Model(lambda payload, _: payload + 1), Model())

    with pytest.raises(HostLost):
        running.told()
    assert waiting.result().item() == 8
    assert names(second) == ["AA"]


def test_results_of_the_first_stage_that_cannot_be_joined_share_no_call_of_the_second(town):
    """Each call of the second gets rows of one kind, and none has to be made twice."""
    first = Model(lambda payload, _: torch.ones(len(payload), len(payload[0])))
    second = Model(lambda payload, _: payload.sum(1))
    host = town.host(first, second)
    second.holds = 1
    one = town.member()
    questions = [one.asking(["a"], "A")]
    passed(second.began)
    passed(host.lanes[1].waiting.came)
    for name, text in zip("BCDE", ("xx", "yyy", "zz", "www"), strict=True):
        questions.append(one.asking([text], name))
        passed(host.lanes[1].waiting.came)
    second.let_go()

    assert [each.result().item() for each in questions] == [1, 2, 3, 2, 3]
    assert names(second) == ["A", "BD", "CE"]


class Incomparable:
    """A key that refuses to be compared, as an array with several elements does."""

    def __eq__(self, other):
        raise ValueError("ambiguous")

    def __hash__(self):
        return 1


def test_keys_that_refuse_to_be_compared_share_no_call(town):
    """Their rows are called apart, and the host goes on."""
    model = Model()
    host = town.host(model)
    one = town.member()
    asking = [lambda at=at: one.asking(rows(at), str(at), kind=Incomparable()) for at in range(3)]

    found = [each.result().item() for each in merged(host, model, asking)]

    assert found == [0, 2, 4]
    assert names(model) == ["0", "1", "2"]
