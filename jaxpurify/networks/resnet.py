"""Residual networks for CIFAR-10: those of He et al. with option-A shortcuts, and a plain one of four blocks."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from jaxpurify.networks.convolution import Conv
from jaxpurify.networks.layers import ConvNorm, conv_norm_table, conv_table, dense, linear_table, normalise
from jaxpurify.networks.weights import Entry, flattened

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class _OptionABlock(nnx.Module):
    """Two convolutions beside a shortcut that subsamples and pads with zero channels, and so has no weights."""

    def __init__(self, in_features: int, features: int, *, strides: int, rngs: nnx.Rngs) -> None:
        self.first = ConvNorm(in_features, features, 3, strides=strides, padding=1, rngs=rngs)
        self.second = ConvNorm(features, features, 3, padding=1, rngs=rngs)
        self.strides = strides
        self.new_channels = features - in_features

    def __call__(self, images: Array) -> Array:
        shortcut = images[:, :: self.strides, :: self.strides]
        if self.new_channels:
            before = self.new_channels // 2
            shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (before, self.new_channels - before)))
        return nnx.relu(self.second(nnx.relu(self.first(images))) + shortcut)


class CifarResNet(nnx.Module):
    """The residual network of He et al. for CIFAR-10: 6n + 2 layers, global pooling, so any size of 4 pixels or more.

    Args:
        depth: number of layers with weights: 20, 32, 44, 56, 110 or any other 6n + 2.
        classes: number of logits.
        rngs: source of the initial weights.

    Raises:
        ValueError: if the depth is not 6n + 2.

    Source:
        He, Zhang, Ren, Sun 2016, section 4.2, shortcuts of option A. Half of a shortcut's new channels come before
        the old ones, and the normalisation is ImageNet's, as in the widely used weights of akamaster.
    """

    mean = (0.485, 0.456, 0.406)
    deviation = (0.229, 0.224, 0.225)

    def __init__(self, depth: int, *, classes: int = 10, rngs: nnx.Rngs) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2 (20, 32, 44, 56, 110, ...), got {depth}")
        self.stem = ConvNorm(3, 16, 3, padding=1, rngs=rngs)
        blocks, features = [], 16
        for stage in range(3):
            for number in range(depth // 6):
                strides = 2 if stage and not number else 1
                blocks.append(_OptionABlock(features, 16 * 2**stage, strides=strides, rngs=rngs))
                features = 16 * 2**stage
        self.blocks = nnx.List(blocks)
        self.linear = nnx.Linear(features, classes, rngs=rngs)

    def __call__(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Return the logits (batch, classes) of images (batch, height, width, 3) in [0, 1]."""
        features = nnx.relu(self.stem(normalise(images, self.mean, self.deviation)))
        for block in self.blocks:
            features = block(features)
        return dense(self.linear, features.mean(axis=(1, 2)))


class _PlainBlock(nnx.Module):
    """Two convolutions with biases beside a shortcut that is a 1×1 convolution where the size changes."""

    def __init__(self, in_features: int, features: int, *, strides: int, rngs: nnx.Rngs) -> None:
        self.first = Conv(in_features, features, 3, strides=strides, padding=1, rngs=rngs)
        self.second = Conv(features, features, 3, padding=1, rngs=rngs)
        resized = strides > 1 or in_features != features
        self.shortcut = Conv(in_features, features, 1, strides=strides, padding=0, rngs=rngs) if resized else None

    def __call__(self, images: Array) -> Array:
        shortcut = images if self.shortcut is None else self.shortcut(images)
        return nnx.relu(self.second(nnx.relu(self.first(images))) + shortcut)


class CifarResNet4b(nnx.Module):
    """The residual network of four blocks without batch normalisation that VNN-COMP 2021 verifies; 32×32 images only.

    Args:
        classes: number of logits.
        rngs: source of the initial weights.

    Source:
        The adversarially trained CIFAR-10 network `resnet4b` of VNN-COMP 2021 (Bak et al. 2021).
    """

    mean = (0.4914, 0.4822, 0.4465)
    deviation = (0.2471, 0.2435, 0.2616)
    image_shape = (32, 32, 3)

    def __init__(self, *, classes: int = 10, rngs: nnx.Rngs) -> None:
        self.stem = Conv(3, 16, 3, strides=2, padding=1, rngs=rngs)
        self.blocks = nnx.List(
            [
                _PlainBlock(16, 32, strides=2, rngs=rngs),
                _PlainBlock(32, 32, strides=1, rngs=rngs),
                _PlainBlock(32, 32, strides=2, rngs=rngs),
                _PlainBlock(32, 32, strides=1, rngs=rngs),
            ]
        )
        self.hidden = nnx.Linear(4 * 4 * 32, 100, rngs=rngs)
        self.linear = nnx.Linear(100, classes, rngs=rngs)

    def __call__(self, images: Float[Array, "batch 32 32 3"]) -> Float[Array, "batch classes"]:
        """Return the logits (batch, classes) of images (batch, 32, 32, 3) in [0, 1]."""
        features = nnx.relu(self.stem(normalise(images, self.mean, self.deviation)))
        for block in self.blocks:
            features = block(features)
        hidden = nnx.relu(dense(self.hidden, features.reshape(features.shape[0], -1)))
        return dense(self.linear, hidden)


def cifar_resnet_table(depth: int) -> dict[str, Entry]:
    """Return PyTorch's name of each weight of `CifarResNet(depth)`, in the naming of akamaster's code.

    Args:
        depth: number of layers with weights.

    Returns:
        PyTorch's name → where the weight lives here and how its axes are laid out there.
    """
    table = conv_norm_table("conv1", "bn1", "stem")
    for number in range(3 * (depth // 6)):
        stage, block = divmod(number, depth // 6)
        theirs, ours = f"layer{stage + 1}.{block}", f"blocks.{number}"
        table |= conv_norm_table(f"{theirs}.conv1", f"{theirs}.bn1", f"{ours}.first")
        table |= conv_norm_table(f"{theirs}.conv2", f"{theirs}.bn2", f"{ours}.second")
    return table | linear_table("linear", "linear")


def cifar_resnet4b_table() -> dict[str, Entry]:
    """Return PyTorch's name of each weight of `CifarResNet4b`.

    Returns:
        PyTorch's name → where the weight lives here and how its axes are laid out there.
    """
    table = conv_table("conv1", "stem")
    for number in range(4):
        theirs, ours = f"layer{number // 2 + 1}.{number % 2}", f"blocks.{number}"
        table |= conv_table(f"{theirs}.conv1", f"{ours}.first") | conv_table(f"{theirs}.conv2", f"{ours}.second")
        if number % 2 == 0:
            table |= conv_table(f"{theirs}.shortcut.0", f"{ours}.shortcut")
    # PyTorch flattens (channel, height, width), this library (height, width, channel).
    hidden = linear_table("linear1", "hidden") | {"linear1.weight": Entry("hidden.kernel", flattened(32, 4, 4))}
    return table | hidden | linear_table("linear2", "linear")
