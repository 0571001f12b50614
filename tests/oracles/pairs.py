"""One model in JAX and in PyTorch, so that what one framework does can be judged by the other."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
import torch_networks

from jaxpurify import networks
from jaxpurify.models import classifier


class Pair(NamedTuple):
    """One model in both frameworks, with images and labels."""

    ours: Any
    theirs: Any
    images: np.ndarray
    labels: np.ndarray


def planar(images):
    """Return images of shape (batch, height, width, channel) as PyTorch has them."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()


def predictions(model, images):
    """Return the classes that a PyTorch model finds in images of shape (batch, height, width, channel)."""
    with torch.no_grad():
        return model(planar(images)).argmax(dim=1).numpy()


class Perceptron(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = [torch.from_numpy(weight) for weight in weights]
        self.register_buffer("somewhere", torch.zeros(1))  # torchattacks asks a model for its device

    def parameters(self, recurse=True):
        return iter([self.somewhere])

    def forward(self, images):
        return torch.tanh(images.permute(0, 2, 3, 1).flatten(1) @ self.weights[0]) @ self.weights[1]


def random_perceptron():
    """Return a pair with random weights and images, right on all of them."""
    random = np.random.default_rng(0)
    weights = [np.float32(random.normal(size=(192, 24)) * 0.2), np.float32(random.normal(size=(24, 10)))]
    images = np.float32(random.uniform(size=(256, 8, 8, 3)))

    def apply(weights, images):
        return jnp.tanh(images.reshape(images.shape[0], -1) @ weights[0]) @ weights[1]

    theirs = Perceptron(weights)
    return Pair(classifier(apply, weights), theirs, images, predictions(theirs, images).astype(np.int32))


def cifar(real_data, folder, name, checkpoint, peer, count):
    """Return the pair of a published checkpoint, with the first test images of CIFAR-10; `folder` takes our weights."""
    source, target = real_data / "cifar10" / checkpoint, folder / "weights.safetensors"
    networks.convert(source, target)
    content = np.load(real_data / "cifar10" / "test.npz")
    images = content["images"][:count].astype(np.float32) / np.float32(255)
    labels = content["labels"][:count].astype(np.int32)
    return Pair(
        networks.load_classifier(name, weights=target), torch_networks.load_checkpoint(peer, source), images, labels
    )
