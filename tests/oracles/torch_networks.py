"""The networks of this library written again in PyTorch, from the papers and with the names of published weights."""

import torch
from torch import nn
from torch.nn import functional as F


class Normalised(nn.Module):
    """Subtracts a mean and divides by a deviation a channel; neither is a weight."""

    def __init__(self, mean, deviation):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False)

    def forward(self, images):
        return (images - self.mean) / self.deviation


class OptionABlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, images):
        features = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images)))))
        if self.new:
            images = F.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new // 2))
        return F.relu(features + images)


class CifarResNet(nn.Module):
    """He et al. 2016, section 4.2, option A."""

    def __init__(self, depth):
        super().__init__()
        self.normalise = Normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = nn.Sequential(*[OptionABlock(16, 16, 1) for _ in range(blocks)])
        self.layer2 = nn.Sequential(OptionABlock(16, 32, 2), *[OptionABlock(32, 32, 1) for _ in range(blocks - 1)])
        self.layer3 = nn.Sequential(OptionABlock(32, 64, 2), *[OptionABlock(64, 64, 1) for _ in range(blocks - 1)])
        self.linear = nn.Linear(64, 10)

    def forward(self, images):
        features = F.relu(self.bn1(self.conv1(self.normalise(images))))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(F.adaptive_avg_pool2d(features, 1).flatten(1))


class PlainBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Sequential(*([nn.Conv2d(inputs, outputs, 1, stride)] if stride > 1 else []))

    def forward(self, images):
        return F.relu(self.conv2(F.relu(self.conv1(images))) + self.shortcut(images))


class CifarResNet4b(nn.Module):
    """The network `resnet4b` of VNN-COMP 2021."""

    def __init__(self):
        super().__init__()
        self.normalise = Normalised((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1)
        self.layer1 = nn.Sequential(PlainBlock(16, 32, 2), PlainBlock(32, 32, 1))
        self.layer2 = nn.Sequential(PlainBlock(32, 32, 2), PlainBlock(32, 32, 1))
        self.linear1 = nn.Linear(512, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, images):
        features = self.layer2(self.layer1(F.relu(self.conv1(self.normalise(images)))))
        return self.linear2(F.relu(self.linear1(features.flatten(1))))


def load_checkpoint(model, path):
    """Load a published checkpoint into a network of this file and set it to evaluation mode."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(
        {name.removeprefix("module."): tensor for name, tensor in checkpoint["state_dict"].items()}, strict=True
    )
    return model.eval()
