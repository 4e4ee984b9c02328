"""Loads the inputs of a batch in threads of its own, which ask the context for headers."""

from concurrent.futures import ThreadPoolExecutor

from ts.torch_handler.base_handler import BaseHandler


class DownloadHandler(BaseHandler):
    def initialize(self, context):
        self._context = context
        self.initialized = True

    def _load(self, idx, row):
        text = bytes(row.get("data") or row.get("body")).decode("utf-8")
        user = self._context.get_request_header(idx, "x-user")
        if user != self.context.get_request_header(idx, "x-user"):
            raise RuntimeError("the contexts tell different users")
        return f"{user} has {text}"

    def preprocess(self, data):
        with ThreadPoolExecutor(max_workers=4) as pool:
            return list(pool.map(self._load, range(len(data)), data))

    def inference(self, texts):
        return [text.swapcase() for text in texts]

    def postprocess(self, texts):
        return texts
