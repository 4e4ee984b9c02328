"""Members that start hosts: one of them does, whatever becomes of host and folder."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from micro_batch_handler.errors import ConfigError, HostLost, HostMissing
from micro_batch_handler.hosting.host_link import LoadError
from micro_batch_handler.hosting.meeting_place import MeetingPlace
from tests.fakes import ManualClock
from tests.hosting.hosts import GATE_S, Asking, rows

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class Starts:
    """Starts fake hosts, and kills them at the end."""

    def __init__(self, folder: str) -> None:
        self._file = Path(folder, "starts")
        self.task = "serve"

    def __call__(self, place: MeetingPlace):
        command = [sys.executable, str(HERE / "fake_host.py"), self.task]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": tempfile.gettempdir()}
        return place.start_host(command, str(self._file).encode(), environment)

    @property
    def pids(self) -> list[int]:
        """Of all hosts that were started."""
        return [int(line) for line in self._file.read_text("utf-8").split()]

    def kill(self) -> None:
        """Kill the last one."""
        os.kill(self.pids[-1], signal.SIGKILL)


@pytest.fixture
def starts(short_tmp):
    made = Starts(short_tmp)
    yield made
    if made._file.exists():
        for pid in made.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_one_of_many_members_starts_the_host_and_the_next_one(town, starts):
    """All are answered by the same process, also after it was killed."""
    members = [town.new_member(starts) for _ in range(6)]
    loads = [threading.Thread(target=member.link.load, daemon=True) for member in members]
    for load in loads:
        load.start()
    for load in loads:
        load.join(GATE_S)
    assert [member.ask(rows(at)).result.item() for at, member in enumerate(members)] == [
        2 * at for at in range(6)
    ]
    assert len(starts.pids) == 1

    starts.kill()
    questions = [member.asking(rows(at)) for at, member in enumerate(members)]

    assert [question.result().item() for question in questions] == [2 * at for at in range(6)]
    assert len(starts.pids) == 2
    assert sum(member.link.restarts for member in members) == 1
    assert {member.link.ready.pid for member in members} == {starts.pids[-1]}


def test_a_row_that_ends_its_host_is_lost_and_others_go_on(town, starts):
    """Each host that it ends is replaced."""
    one, two = town.member(starts), town.member(starts)

    for _ in range(2):
        with pytest.raises(HostLost):
            one.ask(rows(13))
        assert two.ask(rows(3)).result.item() == 6

    assert len(starts.pids) == 3


def test_a_crash_while_the_model_loads_is_the_members_failure(town, starts):
    """With how it ended and what it wrote last; it is not started again and again."""
    starts.task = "crash"
    one = town.new_member(starts)

    with pytest.raises(LoadError) as raised:
        one.link.load()

    assert "it ended with status 3: no such library" in str(raised.value.error)
    assert isinstance(raised.value.error, RuntimeError)
    assert len(starts.pids) == 1


def test_an_error_while_the_model_loads_is_the_members_failure(town, starts):
    """With its type and the traceback in the host."""
    starts.task = "fail"
    one = town.new_member(starts)

    with pytest.raises(LoadError) as raised:
        one.link.load()

    assert type(raised.value.error) is MemoryError
    assert "no memory for the weights" in str(raised.value.error.__cause__)


def test_a_host_that_cannot_load_again_is_missing_and_the_next_one_may(town, starts, monkeypatch):
    """Requests wait for it as long as they may; the error says why there was none."""
    clock = ManualClock()
    one = town.member(starts, clock=clock)
    starts.task = "fail"
    starts.kill()
    log = logging.getLogger("micro_batch_handler.hosting.host_link")
    monkeypatch.setattr(log, "error", lambda *_, **__: clock.advance(1000))

    with pytest.raises(HostMissing, match="MemoryError: no memory for the weights"):
        one.ask(rows(1), until_s=500.0)

    starts.task = "serve"
    assert one.ask(rows(2)).result.item() == 4


def test_the_log_says_how_a_host_ended(town, starts, caplog):
    """The member that has started it knows the signal."""
    one = town.member(starts)

    starts.kill()
    one.ask(rows(1))

    text = "it ended by signal 9"
    assert any(text in record.getMessage() for record in caplog.records)


def test_a_folder_that_was_removed_is_made_again(town, starts):
    """A host that runs goes on; members that come later meet in the new one."""
    one = town.member(starts)
    for path in one.link._place.folder.iterdir():
        path.unlink()
    one.link._place.folder.rmdir()

    assert one.ask(rows(1)).result.item() == 2
    two = town.member(starts)

    assert two.ask(rows(2)).result.item() == 4
    assert len(starts.pids) == 2


def test_a_folder_that_others_can_enter_is_refused(short_tmp):
    """They could ask the model, or answer in its place."""
    folder = MeetingPlace("town").folder
    folder.chmod(0o755)

    with pytest.raises(ConfigError, match=f"{folder} must be a folder that only this user"):
        MeetingPlace("town")


def test_a_file_in_place_of_the_folder_is_refused(short_tmp):
    """So is a link to another folder."""
    Path(short_tmp, "mbh-town").symlink_to(short_tmp)

    with pytest.raises(ConfigError, match="must be a folder"):
        MeetingPlace("town")


def test_a_long_path_is_refused(short_tmp, monkeypatch):
    """The message has the length, the limit and what to set."""
    monkeypatch.setattr(tempfile, "tempdir", f"{short_tmp}/{'a' * 100}")

    with pytest.raises(ConfigError, match=r"has 1\d\d characters, 10\d at most. Set TMPDIR"):
        MeetingPlace("town")


def test_a_temporary_folder_that_is_not_there_is_refused(short_tmp, monkeypatch):
    """As a setting, since TorchServe answers nothing else."""
    monkeypatch.setattr(tempfile, "tempdir", f"{short_tmp}/none")

    with pytest.raises(ConfigError, match="Set TMPDIR"):
        MeetingPlace("town")


def test_a_socket_of_a_killed_host_is_replaced(town, starts):
    """Nobody listens at it any more."""
    place = MeetingPlace("town")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(place.folder / "socket"))
    assert place.connect() is None

    assert town.member(starts).ask(rows(1)).result.item() == 2


def test_a_host_that_cannot_be_started_is_a_setting_to_change(short_tmp, starts):
    """Whatever the system says, and the lock is free again."""
    place = MeetingPlace("town")
    (place.folder / "socket").mkdir()
    assert place.connect() is None

    for _ in range(2):
        with pytest.raises(ConfigError, match="socket"):
            starts(place)


def test_a_host_that_cannot_be_started_again_is_missing(town, starts):
    """Requests are told so in time, and a later one is answered once it can be."""
    one = town.member(starts)
    folder = one.link._place.folder
    (folder / "socket").unlink()
    (folder / "socket").mkdir()
    starts.kill()

    with pytest.raises(HostMissing, match="socket"):
        one.ask(rows(1), until_s=one.client._clock.now_s() + 0.5)

    (folder / "socket").rmdir()
    assert one.ask(rows(2)).result.item() == 4


def test_a_forked_child_of_the_host_does_not_stand_in_its_way(town, starts):
    """Neither the lock nor the connections outlive the host in it."""
    one = town.member(starts)
    assert one.ask(rows(17)).result.item() == 34

    starts.kill()

    assert one.ask(rows(1)).result.item() == 2
    assert len(starts.pids) == 2


def test_closing_ends_the_wait_for_a_host_that_loads(town):
    """The member is not connected afterwards."""
    town.silent_host()
    one = town.new_member()
    question = Asking(lambda: one.ask(rows(1)))

    one.client.close()

    with pytest.raises(HostMissing, match="closed"):
        question.told()
    assert not one.link.connections._open


def test_a_process_that_a_member_forks_meanwhile_does_not_stand_in_the_next_hosts_way(
    town, starts, monkeypatch
):
    """Neither lock nor socket outlives the host in it, though it was forked while that started."""
    forked: list[int] = []
    start = subprocess.Popen

    def fork_first(*arguments, **settings):
        forked.append(os.fork())
        if not forked[-1]:
            threading.Event().wait(60)
            os._exit(0)
        return start(*arguments, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", fork_first)
        one = town.member(starts)
    try:
        starts.kill()

        assert one.asking(rows(1)).result().item() == 2
        assert len(starts.pids) == 2
    finally:
        os.kill(forked[0], signal.SIGKILL)
        os.waitpid(forked[0], 0)


def test_a_host_that_is_stopped_is_replaced(town, starts):
    """Its connections stay open, and it does nothing: a member that waits for it ends it."""
    one, two = town.member(starts, still_s=2.0), town.member(starts)
    assert [member.ask(rows(1)).result.item() for member in (one, two)] == [2, 2]
    os.kill(starts.pids[0], signal.SIGSTOP)

    questions = [member.asking(rows(at)) for at, member in enumerate((one, two))]

    assert [each.result().item() for each in questions] == [0, 2]
    assert len(starts.pids) == 2


def test_a_member_that_loads_slowly_keeps_its_host(town):
    """It is connected from the begin, long before it waits for the model."""
    clock = ManualClock()
    host = town.host(clock=clock)
    one = town.new_member()
    one.link.begin()
    while not host.host._members:
        host.host._over.wait(0.01)

    clock.advance(1000)

    assert not host.host._members.have_been_gone(10.0)
    one.link.load()
    assert one.ask(rows(1)).result.item() == 2
