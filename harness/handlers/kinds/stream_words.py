"""Streams: sends a part of each answer while it computes, and the last one as usual."""

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler


class StreamHandler(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return [bytes(row.get("data") or row.get("body")).decode("utf-8") for row in data]

    def inference(self, texts):
        for step in range(3):
            send_intermediate_predict_response(
                [f"{text}-{step} " for text in texts],
                self.context.request_ids,
                "Intermediate Prediction success",
                200,
                self.context,
            )
        return [text.upper() for text in texts]

    def postprocess(self, texts):
        return texts
