"""Handlers that share their model; a host's process imports this file."""

from __future__ import annotations

import os

import torch
from ts.utils.util import PredictionException

from micro_batch_handler import MicroBatchHandler


class TooOldError(PredictionException):
    """Its constructor wants other arguments than its base."""

    def __init__(self, age, most):
        super().__init__(f"{age} of {most}", 418)


class Loaded(MicroBatchHandler):
    """Loads its model as BaseHandler does, and answers with three times the body."""

    def preprocess(self, data):
        return torch.tensor([[float(row["body"])] for row in data])

    def postprocess(self, outputs):
        return outputs[:, 0].tolist()


class Odd(MicroBatchHandler):
    """Answers by what the request says; the model is a function of its own."""

    def initialize(self, context):
        self.factor = 2
        self.initialized = True

    def initialize_member(self, context):
        self.factor = None

    def preprocess(self, data):
        return [row["body"] for row in data]

    def inference(self, batch):
        context, answers = self.context, []
        for at, body in enumerate(batch):
            text = body
            word, _, rest = body.partition(" ")
            if word == "status":
                context.set_response_status(int(rest), "odd", at)
                context.set_response_header(at, "x-seen", context.get_request_header(at, "x-sent"))
            elif word == "id":
                text = context.get_request_id(at)
            elif word == "error":
                raise {"KeyError": KeyError, "MemoryError": MemoryError, "Exit": SystemExit}[rest]
            elif word == "old":
                raise TooOldError(7, 3)
            elif word == "end":
                os._exit(9)
            answers.append(text * self.factor)
        return answers

    def postprocess(self, outputs):
        return outputs


class FailsToLoad(MicroBatchHandler):
    """Its model cannot be loaded."""

    def initialize(self, context):
        self.load(context.model_yaml_config["error"])

    def initialize_member(self, context):
        self.initialized = True

    def load(self, name):
        raise {
            "RuntimeError": RuntimeError,
            "MemoryError": MemoryError,
            "KeyError": KeyError,
            "Exit": SystemExit,
        }[name]("no weights")


class Heavy(Odd):
    """Loads weights in members too."""

    def initialize_member(self, context):
        self.model = torch.nn.Linear(1024, 1024)
        self.again = self.model


class Compiled(Loaded):
    """Compiles its model as BaseHandler does."""

    def initialize(self, context):
        options = dict(context.model_yaml_config["pt2"]["compile"])
        del options["enable"]
        self.model = torch.compile(torch.nn.Linear(1, 1), **options)
        torch.nn.init.constant_(self.model.weight, 3)
        torch.nn.init.zeros_(self.model.bias)
        self.device = torch.device("cpu")

    def initialize_member(self, context):
        self.device = torch.device("cpu")
