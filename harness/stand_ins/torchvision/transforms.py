"""Each transform as its user sees it, on Pillow images and tensors."""

import numpy as np
import torch


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, image):
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    def __init__(self, edge):
        self.edge = edge

    def __call__(self, image):
        scale = self.edge / min(image.size)
        return image.resize([round(scale * edge) for edge in image.size])


class CenterCrop:
    def __init__(self, edge):
        self.edge = edge

    def __call__(self, image):
        left, top = ((edge - self.edge) // 2 for edge in image.size)
        return image.crop((left, top, left + self.edge, top + self.edge))


class ToTensor:
    def __call__(self, image):
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, image):
        return (image - self.mean) / self.std
