"""Asks asyncio for the event loop of the thread in inference."""

import asyncio

from ts.torch_handler.base_handler import BaseHandler


class ClientHandler(BaseHandler):
    def initialize(self, context):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.initialized = True

    def preprocess(self, data):
        return [int(row["body"]["number"]) for row in data]

    async def _remote(self, number):
        await asyncio.sleep(0)
        return number * number

    async def _remote_all(self, numbers):
        return list(await asyncio.gather(*map(self._remote, numbers)))

    def inference(self, numbers):
        loop = asyncio.get_event_loop()
        return loop.run_until_complete(self._remote_all(numbers))

    def postprocess(self, squares):
        return [{"square": square} for square in squares]
