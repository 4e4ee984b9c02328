"""A subclass of BaseHandler with `handle` only, which takes the first request and no other."""

from ts.torch_handler.base_handler import BaseHandler


class ChatHandler(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        text = data[0].get("data") or data[0].get("body")
        if isinstance(text, (bytes, bytearray)):
            text = text.decode("utf-8")
        reply = " ".join(reversed(text.split()))
        context.set_response_content_type(0, "text/plain")
        return [reply]
