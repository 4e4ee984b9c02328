"""As a translator: a loop that makes one token after the other, until all rows are done."""

from ts.torch_handler.base_handler import BaseHandler


class Translator(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return [bytes(row.get("data") or row.get("body")).decode("utf-8") for row in data]

    def inference(self, texts):
        made = [""] * len(texts)
        while any(len(done) < len(text) for done, text in zip(made, texts, strict=True)):
            made = [
                done + text[len(done)].swapcase() if len(done) < len(text) else done
                for done, text in zip(made, texts, strict=True)
            ]
        return made

    def postprocess(self, outputs):
        return [{"input": text.swapcase(), "translation": text} for text in outputs]
