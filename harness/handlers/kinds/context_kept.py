"""Keeps the context of `initialize` as `self._context` and asks it for headers in two stages."""

import logging

from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class GreetingHandler(BaseHandler):
    def __init__(self):
        super().__init__()
        self._context = None
        self.initialized = False

    def initialize(self, context):
        self._context = context
        self.initialized = True
        logger.info("Greeting handler initialized")

    def preprocess(self, requests):
        lines = []
        for idx, request in enumerate(requests):
            text = request.get("data") or request.get("body")
            if isinstance(text, (bytes, bytearray)):
                text = text.decode("utf-8")
            user = self._context.get_request_header(idx, "x-user")
            lines.append(f"{user}: {text}")
        return lines

    def inference(self, lines):
        return [line.upper() for line in lines]

    def postprocess(self, lines):
        answers = []
        for idx, line in enumerate(lines):
            user = self._context.get_request_header(idx, "x-user")
            self._context.set_response_header(idx, "x-greeting", f"hello-{user}")
            answers.append({"user": user, "line": line})
        return answers
