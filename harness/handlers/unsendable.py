"""Gives TorchServe, for the request that asks for it, what its protocol cannot carry."""

from micro_batch_handler import MicroBatchHandler


class Unsendable(MicroBatchHandler):
    """`{"number": n, "kind": "a set"}`; without a kind the answer is n."""

    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return [row["body"] for row in data]

    def inference(self, batch):
        return batch

    def postprocess(self, outputs):
        return [self._answer(place, row) for place, row in enumerate(outputs)]

    def _answer(self, place, row):  # noqa: C901  (a list of cases)
        kind = row.get("kind")
        if kind == "header None":
            self.context.set_response_header(place, "x-name", None)
        elif kind == "header on two lines":
            self.context.set_response_header(place, "x-name", "one\r\ntwo: three")
        elif kind == "header without a name":
            self.context.set_response_header(place, "", "value")
        elif kind == "status of an interim answer":
            self.context.set_response_status(100, "", place)
        elif kind == "content type on two lines":
            self.context.set_response_content_type(place, "text/plain\r\ntwo: three")
        elif kind == "content type beyond ASCII":
            self.context.set_response_content_type(place, "text/señor")
        elif kind == "status as text":
            self.context.set_response_status("404", "", place)
        elif kind == "half a letter":
            return f"hello {row['text']}"
        elif kind == "a set":
            return {"numbers": {1, 2}}
        elif kind == "a circle":
            circle = []
            circle.append(circle)
            return circle
        return row["number"]
