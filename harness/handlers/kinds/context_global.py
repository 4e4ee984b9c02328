"""Keeps the context in a global of the module, for functions that are no methods."""

from ts.torch_handler.base_handler import BaseHandler

CONTEXT = None


def user_of(index):
    return CONTEXT.get_request_header(index, "x-user") or "nobody"


def request_id_of(index):
    return CONTEXT.get_request_id(index)


class AuditHandler(BaseHandler):
    def initialize(self, context):
        global CONTEXT  # noqa: PLW0603
        CONTEXT = context
        self.initialized = True

    def preprocess(self, data):
        return [
            (request_id_of(i), user_of(i), bytes(row.get("data") or row.get("body")))
            for i, row in enumerate(data)
        ]

    def inference(self, rows):
        return [(name, user, body.decode("ascii")[::-1]) for name, user, body in rows]

    def postprocess(self, rows):
        answers = []
        for i, (name, user, text) in enumerate(rows):
            if name != request_id_of(i):
                raise RuntimeError(f"{name} is not {request_id_of(i)}")
            answers.append(f"{user}/{user_of(i)}: {text}")
        return answers
