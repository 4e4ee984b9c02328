"""Fixtures of the tests of hosts and members."""

from __future__ import annotations

import tempfile

import pytest

from tests.hosting.hosts import LocalHost, LocalMember, Model


class Town:
    """Makes hosts and members that meet, and ends them all."""

    def __init__(self) -> None:
        self.made: list = []
        self.key = "town"

    def host(self, *models, **settings) -> LocalHost:
        """A host that answers already."""
        return self.silent_host(*models, **settings).serve()

    def silent_host(self, *models, **settings) -> LocalHost:
        """A host that still loads its model."""
        host = LocalHost(self.key, *(models or (Model(),)), **settings)
        self.made.append(host)
        return host

    def member(self, *arguments, **settings) -> LocalMember:
        """A member that knows the host already."""
        member = self.new_member(*arguments, **settings)
        member.link.load()
        return member

    def new_member(self, *arguments, **settings) -> LocalMember:
        """A member that has not looked for a host yet."""
        member = LocalMember(self.key, *arguments, **settings)
        self.made.append(member.client)
        return member

    def end(self) -> None:
        for each in reversed(self.made):
            each.close()


@pytest.fixture
def short_tmp(monkeypatch, tmp_path):  # pytest's own is made elsewhere, before
    """A temporary folder whose path leaves space for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="mbh", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield folder


@pytest.fixture
def town(short_tmp):
    made = Town()
    yield made
    made.end()
