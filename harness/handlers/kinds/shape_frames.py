"""Puts the frames of all videos into one tensor, with the number of each video's beside it."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class VideoHandler(BaseHandler):
    def initialize(self, context):
        self.device = torch.device("cpu")
        self.initialized = True

    def preprocess(self, data):
        frames, counts = [], []
        for row in data:
            video = row["body"]["frames"]
            counts.append(len(video))
            frames.extend(torch.tensor(frame, dtype=torch.float64) for frame in video)
        return torch.stack(frames).to(self.device), counts

    def inference(self, data):
        frames, counts = data
        with torch.no_grad():
            return frames.mean(dim=1), counts

    def postprocess(self, data):
        scores, counts = data
        results, start = [], 0
        for count in counts:
            mine = scores[start : start + count]
            results.append({"frames": mine.tolist(), "peak": int(mine.argmax())})
            start += count
        return results
