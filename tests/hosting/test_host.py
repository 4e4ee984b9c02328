"""The host itself: calls that hang, members that go, what it says, and when it ends."""

from __future__ import annotations

import io
import socket
import struct
import sys
import threading

import pytest

from micro_batch_handler.errors import HostLost, StageTimeout
from micro_batch_handler.hosting import log_relay, transport
from micro_batch_handler.hosting.client import RemoteFault
from micro_batch_handler.hosting.host_link import LoadError
from tests.fakes import ManualClock
from tests.hosting.hosts import GATE_S, Model, passed, rows


def watched(host, stage_timeout_s=None, lives=lambda: "") -> threading.Thread:
    """The host's watch, in a thread; it ends the connections as the end of a process would."""

    def watch():
        host.host.watch(lives, stage_timeout_s)
        host.end()

    thread = threading.Thread(target=watch, name="mbh-watch", daemon=True)
    thread.start()
    return thread


def ended(watch: threading.Thread, clock: ManualClock) -> None:
    """Let the clock run until the watch has ended."""
    for _ in range(3000):
        clock.advance(0.5)
        watch.join(0.01)
        if not watch.is_alive():
            return
    pytest.fail("the host does not end")


def written(output: io.StringIO, text: str) -> str:
    """What members have written, once this text is in it."""
    for _ in range(1000):
        if text in output.getvalue():
            break
        threading.Event().wait(0.01)
    return output.getvalue()


def test_a_row_that_hangs_alone_is_told_so_before_the_host_ends(town, caplog):
    """It gets the time-out as its verdict, and the log shows where the call hangs."""
    clock = ManualClock()
    model = Model()
    host = town.host(model, clock=clock)
    model.holds = 1
    question = town.member().asking(rows(1))
    passed(model.began)
    watch = watched(host, 30.0)

    clock.advance(29.9)
    assert not host.host._over.wait(0.05)
    ended(watch, clock)

    with pytest.raises(RemoteFault) as raised:
        question.told()
    assert isinstance(raised.value.error, StageTimeout)
    assert str(raised.value.error) == "inference: one call took longer than 30 s"
    assert host.host.why_over == "a call of inference took longer than 30 s"
    assert "What the threads of the host do" in caplog.text


def test_rows_that_hang_together_are_lost_with_the_host(town):
    """Nobody knows which of them it is; what waits is asked again."""
    clock = ManualClock()
    model = Model()
    host = town.host(model, clock=clock)
    model.holds = 1
    one = town.member()
    hangs = one.asking(rows(1, 2), "A")
    passed(model.began)
    passed(host.came)
    waits = one.asking(rows(3), "B")
    passed(host.came)
    watch = watched(host, 30.0)

    clock.advance(30.0)
    ended(watch, clock)
    town.host()

    with pytest.raises(HostLost):
        hangs.told()
    assert waits.result().item() == 6
    assert len(model.calls) == 1


def test_a_host_without_members_ends_after_a_while(town):
    """Not while one is connected, and not before another could have come."""
    clock = ManualClock()
    host = town.host(clock=clock)
    one = town.member()
    one.ask(rows(1))
    watch = watched(host)
    clock.advance(1000)
    assert not host.host._over.wait(0.05)

    one.client.close()
    while host.host._members:
        host.host._over.wait(0.01)
    clock.advance(9)
    assert not host.host._over.wait(0.05)
    ended(watch, clock)

    assert host.host.why_over == "no worker has been connected for some seconds"


def test_a_host_ends_with_its_server(town):
    """Members or not."""
    clock = ManualClock()
    host = town.host(clock=clock)
    town.member().ask(rows(1))
    watch = watched(host, lives=lambda: "the server has ended" if clock.now_s() >= 1 else "")

    ended(watch, clock)

    assert host.host.why_over == "the server has ended"


def test_a_member_that_goes_while_its_question_waits_costs_nobody_else(town):
    """The host computes what it has, and goes on."""
    model = Model()
    host = town.host(model)
    model.holds = 1
    one, two = town.member(), town.member()
    running = two.asking(rows(1))
    passed(model.began)
    passed(host.came)
    gone = one.asking(rows(2))
    passed(host.came)
    one.client.close()
    with pytest.raises(Exception, match="closed"):
        gone.told()

    model.let_go()

    assert running.result().item() == 2
    assert two.ask(rows(3)).result.item() == 6


def test_strangers_cost_nobody_anything(town):
    """Who connects and says nothing, or something else, or leaves."""
    host = town.host()
    for said in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(8)):
        connection = host.place.connect()
        connection.sendall(said)
        connection.close()

    assert town.member().ask(rows(1)).result.item() == 2


def test_a_process_of_another_user_is_refused(town, monkeypatch):
    """On both sides."""
    mine, other = socket.socketpair()
    with mine, other:
        transport.check_peer(mine)
        monkeypatch.setattr(transport.os, "geteuid", lambda: 12345)
        with pytest.raises(PermissionError, match="user"):
            transport.check_peer(mine)


def test_what_the_host_writes_is_written_by_one_member(town, monkeypatch):
    """Also what it wrote before a member came."""
    monkeypatch.setattr(sys, "stdout", output := io.StringIO())
    host = town.silent_host()
    host.host.log.say("early\n")
    host.serve()
    one, two = town.member(), town.member()
    host.host.log.say("late\n")
    written(output, "late\n")

    one.client.close()
    two.client.close()
    while host.host._members:
        host.host._over.wait(0.01)

    assert output.getvalue() == "early\nlate\n"


def test_another_member_writes_when_the_first_has_gone(town, monkeypatch):
    """No line is lost between them."""
    monkeypatch.setattr(sys, "stdout", output := io.StringIO())
    host = town.host()
    one, _ = town.member(), town.member()
    one.client.close()
    while len(host.host._members) > 1:
        host.host._over.wait(0.01)

    host.host.log.say("line\n")

    assert written(output, "line\n") == "line\n"


def test_a_member_that_does_not_read_the_log_keeps_nobody_waiting(town, monkeypatch):
    """Neither who writes nor other members wait for it; one of those gets the lines that follow."""
    monkeypatch.setattr(sys, "stdout", output := io.StringIO())
    monkeypatch.setattr(log_relay, "PATIENCE", struct.pack("ll", 0, 50_000))
    host = town.host()
    stopped = town.new_member()
    deaf = stopped.link._introduced(listens=True)  # as of a process that is stopped
    while not host.host.log._listeners:
        host.host._over.wait(0.01)
    one = town.member()

    for _ in range(200):
        host.host.log.say("x" * 20_000 + "\n")
        assert one.ask(rows(1)).result.item() == 2
    host.host.log.say("the end\n")

    assert "the end\n" in written(output, "the end\n")
    deaf.close()


def test_members_are_told_why_the_model_cannot_be_loaded(town):
    """All that wait for it, with type and traceback; then the host is over."""
    clock = ManualClock()
    host = town.silent_host(clock=clock)
    members = [town.new_member() for _ in range(3)]
    errors: list = []

    def load(member):
        try:
            member.link.load()
        except LoadError as error:
            errors.append(error.error)

    threads = [threading.Thread(target=load, args=(member,), daemon=True) for member in members]
    for thread in threads:
        thread.start()
    while len(host.host._members) < 3:
        host.host._over.wait(0.01)
    failing = threading.Thread(target=host.host.fail, args=(FileNotFoundError(2, "no", "x"),))
    failing.start()
    for thread in threads:
        thread.join(GATE_S)
    clock.advance(1.0)
    failing.join(GATE_S)

    assert [type(error) for error in errors] == [FileNotFoundError] * 3
    assert host.host.why_over == "the model cannot be loaded"


def test_a_repr_says_what_the_host_does(town):
    """Members, calls, rows and what waits."""
    host = town.host()
    one = town.member()
    one.ask(rows(1, 2))

    assert repr(host.host) == "<Host 1 members, inference: 1 calls of 2 rows, 0 waiting>"
    assert repr(one.client).startswith("<HostClient host ")
