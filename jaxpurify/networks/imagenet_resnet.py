"""Residual networks for ImageNet, in torchvision's names: 18, 34 and 50 layers."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from jaxpurify.networks.layers import ConvNorm, conv_norm_table, dense, linear_table, normalise
from jaxpurify.networks.weights import Entry

IMAGENET_CLASSES = tuple(str(number) for number in range(1000))
# Blocks of each of the four stages, whose first convolutions have 64, 128, 256 and 512 channels.
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
SMALLEST = 32


class _Block(nnx.Module):
    """Convolutions beside a shortcut: two of 3×3, or a bottleneck of 1×1, 3×3 and 1×1 to four times the channels.

    The stride of a bottleneck is in its 3×3, as in torchvision, and not in its first 1×1, as in the paper.
    """

    def __init__(self, in_features: int, width: int, *, strides: int, bottleneck: bool, rngs: nnx.Rngs) -> None:
        features = 4 * width if bottleneck else width
        if bottleneck:
            convolutions = [
                ConvNorm(in_features, width, 1, padding=0, rngs=rngs),
                ConvNorm(width, width, 3, strides=strides, padding=1, rngs=rngs),
                ConvNorm(width, features, 1, padding=0, rngs=rngs),
            ]
        else:
            convolutions = [
                ConvNorm(in_features, width, 3, strides=strides, padding=1, rngs=rngs),
                ConvNorm(width, features, 3, padding=1, rngs=rngs),
            ]
        self.convolutions = nnx.List(convolutions)
        resized = strides > 1 or in_features != features
        self.shortcut = ConvNorm(in_features, features, 1, strides=strides, padding=0, rngs=rngs) if resized else None

    def __call__(self, images: Array) -> Array:
        features = images
        for convolution in self.convolutions[:-1]:
            features = nnx.relu(convolution(features))
        shortcut = images if self.shortcut is None else self.shortcut(images)
        return nnx.relu(self.convolutions[-1](features) + shortcut)


class ImageNetResNet(nnx.Module):
    """The residual network of He et al. for ImageNet, with global pooling, so any size of 32 pixels or more.

    Args:
        depth: number of layers with weights: 18, 34 or 50.
        classes: number of logits.
        rngs: source of the initial weights.

    Raises:
        ValueError: if the depth is another.

    Source:
        He, Zhang, Ren, Sun 2016, table 1, shortcuts of option B; ImageNet's mean and deviation and the place of the
        stride in a bottleneck are torchvision's, so that its weights fit.
    """

    mean = (0.485, 0.456, 0.406)
    deviation = (0.229, 0.224, 0.225)

    def __init__(self, depth: int, *, classes: int = 1000, rngs: nnx.Rngs) -> None:
        counts = _stages(depth)
        self.stem = ConvNorm(3, 64, 7, strides=2, padding=3, rngs=rngs)
        blocks, features, bottleneck = [], 64, depth >= 50
        for stage, count in enumerate(counts):
            width = 64 * 2**stage
            for number in range(count):
                strides = 2 if stage and not number else 1
                blocks.append(_Block(features, width, strides=strides, bottleneck=bottleneck, rngs=rngs))
                features = 4 * width if bottleneck else width
        self.blocks = nnx.List(blocks)
        self.linear = nnx.Linear(features, classes, rngs=rngs)

    def __call__(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Return the logits (batch, classes) of images (batch, height, width, 3) in [0, 1]."""
        if min(images.shape[1:3]) < SMALLEST:
            raise ValueError(
                f"images must have at least {SMALLEST} rows and columns, got shape {images.shape}: resize them first"
            )
        features = _max_pool(nnx.relu(self.stem(normalise(images, self.mean, self.deviation))))
        for block in self.blocks:
            features = block(features)
        return dense(self.linear, features.mean(axis=(1, 2)))


def imagenet_resnet_table(depth: int) -> dict[str, Entry]:
    """Return torchvision's name of each weight of `ImageNetResNet(depth)`.

    Args:
        depth: number of layers with weights: 18, 34 or 50.

    Returns:
        torchvision's name → where the weight lives here and how its axes are laid out there.

    Raises:
        ValueError: if the depth is another.
    """
    table, position = conv_norm_table("conv1", "bn1", "stem"), 0
    for stage, count in enumerate(_stages(depth)):
        for number in range(count):
            theirs, ours = f"layer{stage + 1}.{number}", f"blocks.{position}"
            for layer in range(3 if depth >= 50 else 2):
                names = f"{theirs}.conv{layer + 1}", f"{theirs}.bn{layer + 1}"
                table |= conv_norm_table(*names, f"{ours}.convolutions.{layer}")
            # The first block of a stage changes the size or, in the first stage of bottlenecks, the channels.
            if not number and (stage or depth >= 50):
                table |= conv_norm_table(f"{theirs}.downsample.0", f"{theirs}.downsample.1", f"{ours}.shortcut")
            position += 1
    return table | linear_table("fc", "linear")


def _stages(depth: int) -> tuple[int, ...]:
    if depth not in STAGES:
        raise ValueError(f"depth must be one of {', '.join(map(str, STAGES))}, got {depth}")
    return STAGES[depth]


def _max_pool(features: Array) -> Array:
    """Return the largest of each 3×3 window, two pixels from one to the next, as PyTorch with padding 1.

    As a maximum of nine slices, because XLA's own gradient of a pooling window is several times slower on the CPU.
    Where values tie they share the gradient; PyTorch gives it to the first. After a rectifier that makes no difference
    but by chance, since ties are of zeros, and what arrives at a zero is not passed on.
    """
    rows, columns = ((size - 1) // 2 + 1 for size in features.shape[1:3])
    padded = jnp.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    largest = padded[:, : 2 * rows - 1 : 2, : 2 * columns - 1 : 2]
    for row in range(3):
        for column in range(3):
            shifted = padded[:, row : row + 2 * rows - 1 : 2, column : column + 2 * columns - 1 : 2]
            largest = jnp.maximum(largest, shifted)
    return largest
