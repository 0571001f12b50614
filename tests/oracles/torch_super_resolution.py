"""EDSR written again in PyTorch, from the paper and with the names of the published weights."""

import torch
from torch import nn

MEAN = (0.4488, 0.4371, 0.4040)


def conv3x3(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class MeanShift(nn.Conv2d):
    """Adds or subtracts the mean colour, as the fixed 1×1 convolution of the authors' code."""

    def __init__(self, levels, sign):
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.bias.data = sign * levels * torch.tensor(MEAN)
        self.requires_grad_(False)


class Block(nn.Module):
    def __init__(self, features, residual_scale):
        super().__init__()
        self.body = nn.Sequential(conv3x3(features, features), nn.ReLU(), conv3x3(features, features))
        self.residual_scale = residual_scale

    def forward(self, features):
        return features + self.body(features) * self.residual_scale


class EDSR(nn.Module):
    """Lim et al. 2017, for images in 0..levels."""

    def __init__(self, scale, *, features=64, blocks=16, residual_scale=1.0, levels=255.0):
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(levels, -1), MeanShift(levels, 1)
        self.head = nn.Sequential(conv3x3(3, features))
        body = [Block(features, residual_scale) for _ in range(blocks)]
        self.body = nn.Sequential(*body, conv3x3(features, features))
        upsampler = []
        for step in (2, 2) if scale == 4 else (scale,):
            upsampler += [conv3x3(features, features * step**2), nn.PixelShuffle(step)]
        self.tail = nn.Sequential(nn.Sequential(*upsampler), conv3x3(features, 3))
        self.levels = levels

    def forward(self, images):
        """Super-resolve images in [0, 1]."""
        features = self.head(self.sub_mean(images * self.levels))
        return self.add_mean(self.tail(self.body(features) + features)) / self.levels


def random_edsr(scale, **options):
    """Return one with weights of its framework's initial size, and biases large enough to be seen in the output."""
    torch.manual_seed(scale)
    network = EDSR(scale, **options)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("bias") and weight.requires_grad:
                weight.uniform_(-0.1 * network.levels, 0.1 * network.levels)
    return network.eval()
