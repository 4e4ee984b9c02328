"""As named entities: a label for each token, so each answer is a list."""

from ts.torch_handler.base_handler import BaseHandler


class Tokens(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        texts = [bytes(row.get("data") or row.get("body")).decode() for row in data]
        return {"texts": texts, "words": [text.split() for text in texts]}

    def inference(self, batch):
        batch["labels"] = [
            ["NAME" if word[0].isupper() else "O" for word in words] for words in batch["words"]
        ]
        return batch

    def postprocess(self, batch):
        return [
            list(zip(words, labels, strict=True))
            for words, labels in zip(batch["words"], batch["labels"], strict=True)
        ]
