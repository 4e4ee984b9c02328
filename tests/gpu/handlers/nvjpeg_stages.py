"""PhotoStages that decode on the GPU, by torchvision's nvJPEG; on a CPU as a rehearsal, by PIL."""

import io

import numpy as np
import torch
from photo_stages import EDGE, PhotoStages
from PIL import Image
from torch.nn.functional import interpolate


class NvjpegStages(PhotoStages):
    """Bodies are JPEGs of one size."""

    def preprocess(self, data):
        bodies = [bytearray(row.get("body") or row.get("data")) for row in data]
        decode = self._decoded if self.device.type == "cuda" else _decoded_by_pil
        photos = torch.stack(decode(bodies)).to(self.dtype)
        photos = interpolate(photos, (EDGE, EDGE), mode="bilinear", antialias=True)
        mean, deviation = self.norm
        return (photos / 255 - mean) / deviation

    def _decoded(self, bodies):
        from torchvision.io import ImageReadMode, decode_jpeg

        # It writes into free memory of this stream, in a stream of its own that does not wait for
        # kernels which still read there: https://github.com/pytorch/vision/pull/9606
        torch.cuda.current_stream(self.device).synchronize()
        read = [torch.frombuffer(body, dtype=torch.uint8) for body in bodies]
        return decode_jpeg(read, mode=ImageReadMode.RGB, device=self.device)


def _decoded_by_pil(bodies):
    images = [Image.open(io.BytesIO(body)).convert("RGB") for body in bodies]
    return [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
