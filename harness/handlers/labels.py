"""Each stage sets something of each response, as the request's own body says."""

from micro_batch_handler import MicroBatchHandler


class Labels(MicroBatchHandler):
    """`{"name": "…", "code": 418, "phrase": "…", "type": "text/x-…"}`; indices are local."""

    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        bodies = [row["body"] for row in data]
        for place, body in enumerate(bodies):
            self.context.set_response_header(place, "x-name", body["name"])
        return bodies

    def inference(self, batch):
        for place, body in enumerate(batch):
            self.context.set_response_status(body["code"], body["phrase"], place)
        return batch

    def postprocess(self, outputs):
        for place, body in enumerate(outputs):
            self.context.set_response_content_type(place, body["type"])
            self.context.set_response_header(
                place, "x-tag-again", self.context.get_request_header(place, "x-tag")
            )
        return [body["name"] for body in outputs]
