"""The stages of photo*.py: images through a network of ResNet-50's shape, with random weights.

The network is the one of https://arxiv.org/abs/1512.03385, table 1, with the stride in the 3x3
convolution, as libraries have it.
"""

import io

import numpy as np
import torch
from PIL import Image
from torch import nn

EDGE = 224
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

RESNET_50 = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a short cut."""

    def __init__(self, channels, width, stride):
        super().__init__()
        out = 4 * width
        self.path = nn.Sequential(
            *_convolution(channels, width, 1),
            nn.ReLU(),
            *_convolution(width, width, 3, stride),
            nn.ReLU(),
            *_convolution(width, out, 1),
        )
        # So that random weights do not make the values grow from block to block.
        nn.init.constant_(self.path[-1].weight, 0.2)
        same = stride == 1 and channels == out
        self.short_cut = nn.Sequential(*([] if same else _convolution(channels, out, 1, stride)))

    def forward(self, batch):
        return torch.relu(self.path(batch) + self.short_cut(batch))


def resnet(blocks=RESNET_50, width=64, classes=1000):
    """The network; fewer blocks and a smaller width for tests on a CPU."""
    torch.manual_seed(0)
    layers = [*_convolution(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for place, number in enumerate(blocks):
        for block in range(number):
            stride = 2 if place and not block else 1
            layers.append(Bottleneck(channels, width << place, stride))
            channels = 4 * (width << place)
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    ).eval()


def _convolution(channels, out, size, stride=1):
    convolution = nn.Conv2d(channels, out, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return [convolution, nn.BatchNorm2d(out)]


class PhotoStages:
    """One class for all handlers that are compared.

    Keys of `handler:` in model-config.yaml:

    tiny: a network that a CPU computes in no time.
    half: float16 instead of float32.
    raw: bodies are pixels, three planes of bytes, and no JPEG; the device makes floats of them.
    to_device: whether preprocess copies to the device by itself, as TorchServe's handlers do.
    """

    def initialize(self, context):
        section = context.model_yaml_config.get("handler") or {}
        gpu = context.system_properties.get("gpu_id")
        on_gpu = gpu is not None and torch.cuda.is_available()
        self.device = torch.device("cuda", int(gpu)) if on_gpu else torch.device("cpu")
        self.to_device = section.get("to_device", True)
        self.raw = section.get("raw", False)
        self.dtype = torch.float16 if section.get("half") else torch.float32
        self.norm = [each.to(self.device, self.dtype) for each in (MEAN, DEVIATION)]
        # Not a thread for each core in each lane.
        torch.set_num_threads(1)
        sizes = {"blocks": (1, 1), "width": 8, "classes": 10} if section.get("tiny") else {}
        self.model = resnet(**sizes).to(self.device, self.dtype)
        if options := (context.model_yaml_config.get("pt2") or {}).get("compile"):
            # As BaseHandler does it.
            enable = options.pop("enable")
            self.model = torch.compile(self.model, **options) if enable else self.model
        self.initialized = True

    def preprocess(self, data):
        take = _pixels if self.raw else _decoded
        photos = torch.stack([take(row.get("body") or row.get("data")) for row in data])
        return photos.to(self.device) if self.to_device else photos

    def inference(self, batch):
        batch = batch.to(self.device)
        with torch.inference_mode():
            if self.raw:
                mean, deviation = self.norm
                batch = (batch.to(self.dtype) / 255 - mean) / deviation
            return self.model(batch.to(self.dtype))

    def postprocess(self, outputs):
        scores, places = outputs.topk(5)
        return [
            {"classes": each, "scores": score}
            for each, score in zip(places.tolist(), scores.tolist(), strict=True)
        ]


def _pixels(body):
    return torch.frombuffer(bytearray(body), dtype=torch.uint8).view(3, EDGE, EDGE)


def _decoded(body):
    image = Image.open(io.BytesIO(body)).convert("RGB").resize((EDGE, EDGE))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return (pixels / 255 - MEAN) / DEVIATION
