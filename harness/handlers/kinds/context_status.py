"""Sets the status, the content type and a header of each answer through a context that it kept."""

import json
import math

import torch
from ts.torch_handler.base_handler import BaseHandler


class RootHandler(BaseHandler):
    def initialize(self, ctx):
        self.ctx = ctx
        self.device = torch.device("cpu")
        self.initialized = True

    def preprocess(self, data):
        values = []
        for i, row in enumerate(data):
            value = row["body"].get("value")
            if value is None:
                self.ctx.set_response_status(code=422, phrase="Unprocessable Entity", idx=i)
                value = math.nan
            values.append(value)
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def inference(self, values):
        return torch.sqrt(values)

    def postprocess(self, roots):
        answers = []
        for i, root in enumerate(roots.tolist()):
            if math.isnan(root):
                self.ctx.set_response_content_type(i, "text/plain")
                answers.append("there is no value")
            else:
                self.ctx.set_response_content_type(i, "application/json")
                self.ctx.set_response_header(i, "x-root", f"{root:.3f}")
                answers.append(json.dumps({"root": root}))
        return answers
