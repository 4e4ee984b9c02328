"""A host that stands still is ended by a member, which asks the next one."""

from __future__ import annotations

import os
import signal
import struct

import pytest

from micro_batch_handler.errors import HostLost
from micro_batch_handler.hosting import host_connection
from tests.fakes import ManualClock
from tests.hosting.hosts import Model, passed, rows


def asked_of_a_held_model(town, monkeypatch, **settings):
    """A question that a model has, the member's clock, what was killed, and the host."""
    monkeypatch.setattr(host_connection, "LOOK_EVERY", struct.pack("ll", 0, 5000))
    killed: list = []
    model = Model()
    host = town.host(model)

    def kill(pid, number):
        killed.append((pid, number))
        host.end()

    monkeypatch.setattr(os, "kill", kill)
    model.holds = 1
    clock = ManualClock()
    member = town.member(clock=clock, **settings)
    question = member.asking(rows(1))
    passed(model.began)
    return question, clock, killed, host


def test_a_host_that_stands_still_is_ended(town, monkeypatch):
    """Not before its time, and the process that is ended is the one that has greeted the member."""
    question, clock, killed, host = asked_of_a_held_model(town, monkeypatch, still_s=20.0)
    stood_s = 0.0
    while not killed and stood_s < 60:
        clock.advance(1.0)
        stood_s += 1.0
        question.join(0.02)  # the member looks meanwhile

    with pytest.raises(HostLost):
        question.told()
    assert stood_s > 19
    assert killed == [(host.pid, signal.SIGKILL)]


def test_a_member_that_stood_still_itself_does_not_end_the_host(town, monkeypatch):
    """Both stand still where their container does."""
    question, clock, killed, host = asked_of_a_held_model(town, monkeypatch, still_s=20.0)

    clock.advance(1000.0)
    question.join(0.1)
    host.lanes[0].model.let_go()

    assert question.result().item() == 2
    assert not killed


def test_a_host_that_moves_is_not_ended(town, monkeypatch):
    """However long its call takes."""
    question, clock, killed, host = asked_of_a_held_model(town, monkeypatch, still_s=20.0)

    for _ in range(5):
        clock.advance(19.0)
        host.host._members.beat()
        question.join(0.05)  # the member looks meanwhile
    host.lanes[0].model.let_go()

    assert question.result().item() == 2
    assert not killed
