"""A member's questions: their way through the memory, waiting, and hosts that end."""

from __future__ import annotations

import struct
import threading
from contextlib import suppress

import numpy as np
import pytest
import torch

from micro_batch_handler.errors import ArenaTooSmall, HostLost, HostMissing
from micro_batch_handler.hosting import host_connection
from micro_batch_handler.hosting.client import RemoteFault
from tests.fakes import GateClock, ManualClock
from tests.hosting.hosts import GATE_S, Model, passed, rows


@pytest.mark.parametrize("size", [1, 100, 5000, 200_000])
@pytest.mark.parametrize(
    "make",
    [
        lambda size: torch.arange(2 * size).reshape(2, size),
        lambda size: np.arange(2.0 * size).reshape(2, size),
        lambda size: ["a" * size, "b" * size],
        lambda size: [b"a" * size, {"image": bytearray(size)}],
        lambda size: {"x": torch.ones(2, size), "names": ["a", "b" * size], "unit": 7},
    ],
)
def test_payloads_of_all_sizes_go_there_and_back(town, make, size):
    """In the message or in the memory, what arrives is what was sent."""
    model = Model(lambda payload, _: payload)
    town.host(model)
    payload = make(size)

    found = town.member(size_bytes=1 << 23).ask(payload, rows=2)

    assert type(found.result) is type(payload)
    assert str(found.result) == str(payload)


def test_the_host_sees_a_large_payload_in_the_memory(town):
    """It is not copied there, and the result is the member's own."""
    seen = []
    town.host(Model(lambda payload, _: seen.append(payload) or payload))
    one = town.member()
    first = one.ask(rows(1, columns=5000)).result

    second = one.ask(rows(2, columns=5000)).result

    assert seen[0][0, 0] == 2  # the memory of the first call is used again
    assert [first[0, 0], second[0, 0]] == [1, 2]
    second[:] = 7
    assert seen[0][0, 0] == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: x[:, 1000:],
        lambda x: x.t().contiguous().t(),
        lambda x: {"in": x, "part": x[:, :2000], "new": x * 2},
        lambda x: {"new": x * 2, "in": x},
        lambda x: [x[0], x[1], x[:1] + 1],
        lambda x: x.numpy(),
        lambda x: x.add_(1),
    ],
)
def test_a_result_that_lies_in_the_payloads_memory_comes_whole(town, function):
    """Whether it is the payload, a part of it, or both beside something new."""
    town.host(Model(lambda payload, _: function(payload)))
    one = town.member()
    for _ in range(3):  # the first has no more room than its payload
        found = one.ask(torch.arange(8000.0).reshape(2, 4000)).result

        assert str(found) == str(function(torch.arange(8000.0).reshape(2, 4000)))
    assert one.arena.take(1 << 20, 0, ManualClock())


@pytest.mark.parametrize("columns", [2000, 400_000])
def test_a_result_may_be_larger_than_its_room(town, columns):
    """It comes through the socket, and the next time there is room, if the memory has that."""
    town.host(Model(lambda payload, _: payload.repeat(1, columns)))
    one = town.member()

    for value in range(3):
        found = one.ask(rows(value, value)).result
        assert found.shape == (2, columns)
        assert (found == value).all()


class Stubborn:
    def __reduce__(self):
        raise KeyError("stubborn")


def test_a_payload_that_cannot_be_sent_is_an_error_of_the_stage_before(town):
    """It says what to change, and costs neither memory nor the connection."""
    town.host()
    one = town.member()

    with pytest.raises(TypeError, match=r"what inference gets cannot be sent.*stubborn") as raised:
        one.ask([Stubborn()])

    assert isinstance(raised.value.__cause__, KeyError)

    assert one.ask(rows(2)).result.item() == 4
    assert one.arena.take(1 << 20, 0, ManualClock())


@pytest.mark.parametrize("make", [Stubborn, threading.Lock])
def test_a_result_that_cannot_be_pickled_is_the_stages_error(town, make):
    """The member gets the error of pickle, and the host goes on."""
    town.host(Model(lambda payload, _: [make()] if len(payload) == 1 else payload))
    one = town.member()

    with pytest.raises(RemoteFault) as raised:
        one.ask(rows(1))

    assert isinstance(raised.value.error, (KeyError, TypeError))
    assert raised.value.stage == "inference"
    assert len(one.ask(rows(2, 3)).result) == 2


class OnlyHere:
    """It can be pickled, and not loaded."""

    def __reduce__(self):
        return _not_there, ()

    def __hash__(self):
        return 1


def _not_there():
    raise ModuleNotFoundError("only here")


def test_a_payload_that_cannot_be_loaded_is_the_stages_error(town):
    """The host says why, and goes on."""
    town.host()
    one = town.member()

    with pytest.raises(RemoteFault) as raised:
        one.ask([OnlyHere()])

    assert isinstance(raised.value.error, ModuleNotFoundError)
    assert one.ask(rows(2)).result.item() == 4


def test_a_question_that_cannot_be_loaded_is_the_stages_error(town):
    """As when `group_by` has keys of a class that the host cannot import."""
    town.host()
    one = town.member()

    with pytest.raises(RemoteFault) as raised:
        one.ask(rows(1), kind=OnlyHere())

    assert isinstance(raised.value.error, ModuleNotFoundError)
    assert one.ask(rows(2)).result.item() == 4


def test_a_result_that_the_member_cannot_load_is_the_stages_error(town):
    """The memory and the connection can be used again."""
    town.host(Model(lambda payload, _: [OnlyHere()] if len(payload) == 1 else payload))
    one = town.member()

    with pytest.raises(ModuleNotFoundError):
        one.ask(rows(1))

    assert len(one.ask(rows(2, 3)).result) == 2
    assert one.arena.take(1 << 20, 0, ManualClock())


def test_a_payload_larger_than_the_memory_is_refused(town):
    """At once, with both sizes."""
    model = Model()
    town.host(model)

    with pytest.raises(ArenaTooSmall):
        town.member().ask(rows(1, columns=1 << 20))

    assert not model.calls


def test_questions_wait_for_space(town):
    """A worker whose memory is full waits for its own calls, and all are answered."""
    model = Model()
    host = town.host(model)
    model.holds = 1
    clock = GateClock()
    one = town.member(size_bytes=40_000, clock=clock)
    questions = [one.asking(rows(1, columns=6000), "A")]
    passed(model.began)
    passed(clock.waits)
    questions += [one.asking(rows(value, columns=6000), "B") for value in (2, 3)]
    passed(clock.waits, 2)
    assert len(host.lanes[0].waiting) == 0

    model.let_go()

    assert [each.result()[0, 0] for each in questions[:1]] == [2]
    assert sorted(each.result()[0, 0].item() for each in questions[1:]) == [4, 6]


def test_who_gets_no_space_in_time_is_told_so(town):
    """As a host that was not there in time, since the request cost nothing yet."""
    model = Model()
    town.host(model)
    model.holds = 1
    clock = GateClock()
    one = town.member(size_bytes=40_000, clock=clock)
    first = one.asking(rows(1, columns=6000))
    passed(model.began)
    passed(clock.waits)
    second = one.asking(rows(2, columns=6000), until_s=5.0)
    passed(clock.waits)

    clock.advance(5.0)
    with pytest.raises(HostMissing, match="shared memory"):
        second.told()
    model.let_go()

    assert first.result()[0, 0] == 2
    assert len(model.calls) == 1


def test_what_the_model_had_not_got_is_asked_again(town):
    """The question that ran is lost with the host; the next host answers the other one."""
    model = Model()
    host = town.host(model)
    model.holds = 1
    one = town.member()
    running = one.asking(rows(1, 2), "A")
    passed(model.began)
    passed(host.came)
    waiting = one.asking(rows(3, columns=3000), "B")
    passed(host.came)

    host.end()
    town.host()

    with pytest.raises(HostLost):
        running.told()
    assert waiting.result()[0, 0] == 6
    assert one.ask(rows(4)).result.item() == 8


def test_a_question_outlives_two_hosts(town):
    """As long as the model never gets it."""
    host = town.host(takes=False)
    question = town.member().asking(rows(1, columns=3000))
    for _ in range(2):
        passed(host.came)
        host.end()
        host = town.host(takes=False) if host is town.made[0] else town.host()

    assert question.result()[0, 0] == 2


class Deadly:
    """It ends the host that loads it."""

    end = None

    def __reduce__(self):
        return _end_the_host, ()


def _end_the_host():
    Deadly.end()
    raise EOFError


def test_a_question_that_ends_hosts_before_the_model_gets_it_is_lost(town, monkeypatch):
    """A payload may end whoever reads it: it is not asked again for ever."""
    hosts = [town.host()]

    def end():
        hosts[-1].end()
        hosts.append(town.host())

    monkeypatch.setattr(Deadly, "end", end)
    one = town.member()

    with pytest.raises(HostLost):
        one.asking([Deadly()]).told()

    assert len(hosts) <= 5
    assert one.ask(rows(2)).result.item() == 4


def test_without_a_host_questions_wait_until_their_time_is_over(town):
    """Then they say that there was none."""
    clock = ManualClock()
    host = town.host(clock=clock)
    one = town.member(clock=clock)
    host.end()
    clock.advance(10.0)

    with pytest.raises(HostMissing):
        one.ask(rows(1), until_s=10.0)

    town.host(clock=clock)
    assert one.ask(rows(2), until_s=20.0).result.item() == 4


def test_a_host_that_loads_for_too_long_is_missing(town):
    """Who waits for it gives up in time, and asks it once it is ready."""
    host = town.silent_host()
    one = town.new_member()

    with pytest.raises(HostMissing):
        one.ask(rows(1), until_s=0.0)

    host.serve()
    assert one.ask(rows(2)).result.item() == 4


def test_members_wait_while_the_host_loads(town):
    """All of them are answered when it has."""
    host = town.silent_host()
    questions = [town.new_member().asking(rows(value)) for value in range(3)]

    host.serve()

    assert [each.result().item() for each in questions] == [0, 2, 4]


def test_closing_ends_what_waits(town):
    """A call in the host, one that waits for space, and one that comes later are told so."""
    model = Model()
    town.host(model)
    model.holds = 1
    clock = GateClock()
    one = town.member(size_bytes=40_000, clock=clock)
    running = one.asking(rows(1, columns=6000))
    passed(model.began)
    passed(clock.waits)
    waiting = one.asking(rows(2, columns=6000))
    passed(clock.waits)

    one.client.close()
    one.client.close()

    for question in (running, waiting, one.asking(rows(3))):
        with pytest.raises((HostMissing, HostLost)):
            question.told()
    assert one.arena.shared.fd == -1


def answered(member, payload):
    """The result for a payload that is no host's fault."""
    while True:
        with suppress(HostLost):
            return member.ask(payload).result


def test_many_threads_of_several_members_get_their_own_answers(town, quick_turns):
    """Whatever is merged with whatever, while calls fail and hosts end."""

    def call(payload, contexts):
        if len(contexts) > 5 and (payload[:, 0] % 7 == 3).any():
            raise ValueError("together")
        return payload * 2

    hosts = [town.host(Model(call))]
    members = [town.member(size_bytes=200_000) for _ in range(3)]
    wrong: list = []

    def work(member, begin):
        for value in range(begin, begin + 25):
            payload = rows(*range(value, value + value % 3 + 1), columns=1 + value % 2 * 400)
            if not torch.equal(answered(member, payload), payload * 2):
                wrong.append(value)

    threads = [
        threading.Thread(target=work, args=(member, 100 * at), daemon=True)
        for at, member in enumerate(members * 3)
    ]
    for thread in threads:
        thread.start()
    for calls in (30, 30):
        passed(hosts[-1].lanes[0].model.began, calls)
        hosts[-1].end()
        hosts.append(town.host(Model(call)))
    for thread in threads:
        thread.join(GATE_S)

    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    for member in members:
        assert member.arena.take(200_000, 0, ManualClock())


def given_up(town, clock):
    """A member whose only question was given up, though the host's model still has it."""
    model = Model()
    host = town.host(model, clock=clock)
    model.holds = 1
    one = town.member(size_bytes=40_000, clock=clock, call_s=10.0)
    question = one.asking(rows(1, columns=6000), until_s=5.0)
    passed(model.began)
    clock.advance(16.0)
    with pytest.raises(HostMissing, match="too much to do"):
        question.told()
    return host, one


@pytest.fixture
def looks_often(monkeypatch):
    """Who waits for a reply looks at the clock often."""
    often = struct.pack("ll", 0, 5000)
    monkeypatch.setattr(host_connection, "LOOK_EVERY", often)


@pytest.mark.usefixtures("looks_often")
def test_the_memory_of_a_question_that_was_given_up_is_not_used_until_its_host_has_ended(town):
    """That host may still read from it, and write to it."""
    clock = ManualClock()
    host, one = given_up(town, clock)

    with pytest.raises(HostMissing, match="shared memory"):
        one.ask(rows(2, columns=6000), until_s=clock.now_s())
    host.end()
    town.host(clock=clock)

    assert one.ask(rows(3)).result.item() == 6
    assert one.ask(rows(2, columns=6000)).result[0, 0] == 4


@pytest.mark.usefixtures("looks_often")
def test_a_question_that_waits_for_such_memory_finds_the_next_host(town):
    """Nothing else would, where each question needs that memory."""
    clock = ManualClock()
    host, one = given_up(town, clock)
    question = one.asking(rows(2, columns=6000))

    host.end()
    town.host(clock=clock)
    while question.is_alive():
        clock.advance(1.0)
        question.join(0.01)

    assert question.result()[0, 0] == 4


@pytest.mark.usefixtures("looks_often")
def test_memory_comes_back_though_the_next_host_was_there_before_the_last_was_seen_to_end(town):
    """A connection to another process shows it."""
    clock = ManualClock()
    _, one = given_up(town, clock)
    town.host(clock=clock)

    assert one.ask(rows(3)).result.item() == 6
    assert one.ask(rows(2, columns=6000), until_s=clock.now_s()).result[0, 0] == 4


@pytest.mark.usefixtures("looks_often")
def test_a_host_that_closes_a_connection_has_not_ended(town):
    """It keeps the memory of the question that was given up."""
    clock = ManualClock()
    host, one = given_up(town, clock)
    host.lanes[0].model.let_go()

    one.link.connections.lost(one.link.connection("inference", None))
    assert one.ask(rows(3)).result.item() == 6

    with pytest.raises(HostMissing, match="shared memory"):
        one.ask(rows(2, columns=6000), until_s=clock.now_s())


def test_a_question_that_is_late_is_not_called(town):
    """Nobody waits for it any more: the model has time for others."""
    clock = ManualClock()
    model = Model()
    host = town.host(model, clock=clock)
    model.holds = 1
    one = town.member()
    first = one.asking(rows(1), "A")
    passed(model.began)
    passed(host.came)
    questions = [one.asking(rows(at), "B", until_s=at * 10.0) for at in (1, 2)]
    passed(host.came, 2)
    clock.advance(10.5)

    model.let_go()

    assert first.result().item() == 2
    with pytest.raises(HostMissing, match="too much to do"):
        questions[0].told()
    assert questions[1].result().item() == 4
    assert [len(call) for call in model.calls] == [1, 1]
