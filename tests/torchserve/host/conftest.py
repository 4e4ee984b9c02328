"""Fixtures of the tests of `share_model`."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch

from harness.service import FakeMetrics, service_of
from tests.fakes import fake_context


class Member:
    """A handler in this process whose model is in another one."""

    def __init__(self, handler, **model_yaml) -> None:
        section = {"share_model": True, **model_yaml.pop("micro_batching", {})}
        self.handler = handler
        self.yaml = {"micro_batching": section, **model_yaml}

    def load(self):
        service = service_of(self.handler, self.yaml, FakeMetrics(), 8)
        self.context = service.context
        return self

    def ask(self, *bodies, headers=None):
        """The answers, and the context with statuses and headers."""
        context = fake_context(len(bodies), headers=headers, model_yaml=self.yaml, batch_size=8)
        return self.handler.handle([{"body": body} for body in bodies], context), context


@pytest.fixture
def shared(monkeypatch, as_before, tmp_path):
    """Makes members, and closes them."""
    made = []

    def make(handler, **model_yaml):
        made.append(handler)
        return Member(handler, **model_yaml)

    with tempfile.TemporaryDirectory(prefix="mbh", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        # Put back afterwards what a member hides from itself.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        monkeypatch.setattr(torch.cuda, "is_available", torch.cuda.is_available)
        threads = torch.get_num_threads()
        yield make
        for handler in made:
            member = vars(handler).get("_micro_batch_member")
            started = member and member.link.starter._started
            handler.close()
            if started:
                started.process.kill()
        torch.set_num_threads(threads)
