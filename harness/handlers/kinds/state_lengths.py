"""Remembers how long each prompt was, to cut it off what the model generated after it."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class GenerationHandler(BaseHandler):
    def initialize(self, context):
        self.max_new_tokens = 5
        self.initialized = True

    def preprocess(self, requests):
        prompts = []
        for request in requests:
            text = request.get("data") or request.get("body")
            if isinstance(text, (bytes, bytearray)):
                text = text.decode("utf-8")
            prompts.append([ord(letter) for letter in text])
        self.prompt_lengths = [len(prompt) for prompt in prompts]
        longest = max(self.prompt_lengths)
        input_ids = torch.zeros(len(prompts), longest + self.max_new_tokens, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            input_ids[i, : len(prompt)] = torch.tensor(prompt)
        return input_ids

    def inference(self, input_ids):
        for i, length in enumerate(self.prompt_lengths):
            for step in range(self.max_new_tokens):
                so_far = input_ids[i, : length + step]
                input_ids[i, length + step] = 97 + (so_far.sum() * 7 + so_far[-1]) % 26
        return input_ids

    def postprocess(self, output_ids):
        generated = []
        for i, row in enumerate(output_ids.tolist()):
            start = self.prompt_lengths[i]
            generated.append("".join(map(chr, row[start : start + self.max_new_tokens])))
        return generated
