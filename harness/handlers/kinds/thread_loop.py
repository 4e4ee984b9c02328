"""Makes an event loop when the model loads and runs coroutines on it in preprocess."""

import asyncio

from ts.torch_handler.base_handler import BaseHandler


class AsyncHandler(BaseHandler):
    def initialize(self, context):
        self.loop = asyncio.new_event_loop()
        self.initialized = True

    async def _fetch(self, row):
        for _ in range(3):
            await asyncio.sleep(0)
        return row["body"]["document"]

    async def _fetch_all(self, data):
        return await asyncio.gather(*(self._fetch(row) for row in data))

    def preprocess(self, data):
        return self.loop.run_until_complete(self._fetch_all(data))

    def inference(self, documents):
        return [sorted(document.split()) for document in documents]

    def postprocess(self, words):
        return [" ".join(each) for each in words]
