"""Handlers that need what only TorchServe's worker has."""

from __future__ import annotations

import importlib
import textwrap

import pytest

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.ray.refusals import refuse_signals

BOUNDED = """
    import signal
    import signal as signals
    import threading
    from threading import main_thread

    class Handler:
        def preprocess(self, data):
            return self._read(data)

        def _read(self, data):
            {line}
            return data
"""


def handler(line, folder, monkeypatch):
    """A class whose preprocess calls a method with this line."""
    monkeypatch.syspath_prepend(str(folder))
    name = f"bounded_{abs(hash(line))}"
    (folder / f"{name}.py").write_text(textwrap.dedent(BOUNDED.format(line=line)), "utf-8")
    return importlib.import_module(name).Handler


@pytest.mark.parametrize("line", ["signal.signal(14, print)", "signals.signal(14, print)"])
def test_a_handler_that_sets_signals_is_refused_with_its_line(line, tmp_path, monkeypatch):
    """In a stage or in what it calls: Ray has the main thread."""
    kind = handler(line, tmp_path, monkeypatch)

    with pytest.raises(ArchiveError, match=r"line 12 sets the handler .*stage_timeout"):
        refuse_signals(kind)


@pytest.mark.parametrize(
    "line",
    [
        "pass",
        "signal.alarm(0)",
        "threading.main_thread() is threading.current_thread() and signal.signal(14, print)",
        "main_thread() is threading.current_thread() and signal.signal(14, print)",
        """try:
                signal.signal(14, print)
            except ValueError:
                pass""",
    ],
)
def test_other_handlers_are_not(line, tmp_path, monkeypatch):
    """An alarm may be set by any thread; one that looks where it is, or tries, is careful."""
    refuse_signals(handler(line, tmp_path, monkeypatch))
