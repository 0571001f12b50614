"""The small convolutional network for `photos`, whose weights are shipped."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxpurify.networks.convolution import Conv, convolve
from jaxpurify.networks.layers import normalise

MEAN = (0.53, 0.37, 0.32)  # of the train patches of `photos`, a channel
DEVIATION = 0.17
BINOMIAL = (0.125, 0.375, 0.375, 0.125)
WIDTHS = (24, 32, 64, 64)
STRIDES = (1, 2, 2, 1)


class PhotosCNN(nnx.Module):
    """Classifies patches of photographs: about 1.5 million multiply-adds a 32×32 image, 65 thousand weights.

    The images are normalised and halved by a fixed binomial filter, then pass four 3×3 convolutions with ReLU, the mean
    over all pixels and a linear layer. Any size of at least 2×2 pixels goes. There is neither dropout nor batch
    normalisation: training and evaluation compute the same.

    Args:
        classes: number of logits.
        rngs: source of the initial weights.

    Source:
        Our choice: cheap enough that a demonstration with many attacks takes seconds on two cores. The filter in place
        of a first strided convolution is Zhang 2019, "Making convolutional networks shift-invariant again".
    """

    def __init__(self, classes: int = 8, *, rngs: nnx.Rngs) -> None:
        features = (3, *WIDTHS[:-1])
        self.convolutions = nnx.List(
            Conv(ins, outs, 3, strides=strides, rngs=rngs)
            for ins, outs, strides in zip(features, WIDTHS, STRIDES, strict=True)
        )
        self.logits = nnx.Linear(WIDTHS[-1], classes, rngs=rngs)

    def __call__(self, images: Float[Array, "batch height width channel"]) -> Float[Array, "batch classes"]:
        """Computes logits of images in [0, 1]."""
        values = _halve(normalise(images, MEAN, (DEVIATION,)))
        for convolution in self.convolutions:
            values = nnx.relu(convolution(values))
        return self.logits(values.mean(axis=(1, 2)))


def _halve(images: Array) -> Array:
    """Halve rows and columns, without aliasing; what lies outside an image is like its border."""
    taps = jnp.asarray(BINOMIAL, images.dtype)
    square = taps[:, None] * taps[None, :]
    kernel = square[:, :, None, None] * jnp.eye(3, dtype=images.dtype)[None, None]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return convolve(padded, kernel, strides=2, padding="VALID")
