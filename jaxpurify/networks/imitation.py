"""A small residual network that learns to do what some other function of images does."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from jaxpurify.networks.convolution import Conv

DILATIONS = (1, 2, 4)


class ImitationNetwork(nnx.Module):
    """Adds a learned correction to images of any size; an untrained one is the identity.

    A 3×3 convolution, residual blocks of two 3×3 convolutions each, the first of them dilated by 1, 2 and 4 in turn,
    and a last convolution whose output is added to the image. What a pixel becomes depends on ``receptive_field`` rows
    and columns around it, and on no more: a flip or any other rearrangement of the image is out of its reach.

    Args:
        channels: channels of the images.
        width: channels of the hidden layers.
        blocks: number of residual blocks.
        rngs: source of the initial weights.

    Raises:
        ValueError: if a size is not positive.

    Source:
        Our choice. No normalisation, as in EDSR (Lim et al. 2017); smooth rectifiers (SiLU), since the network is there
        for its gradient; and nothing between the blocks, so that a linear map has a linear way through.
    """

    def __init__(self, channels: int = 3, *, width: int = 32, blocks: int = 4, rngs: nnx.Rngs) -> None:
        for name, count in (("channels", channels), ("width", width), ("blocks", blocks)):
            if count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count}")
        self.head = Conv(channels, width, 3, rngs=rngs)
        dilations = [DILATIONS[number % len(DILATIONS)] for number in range(blocks)]
        self.blocks = nnx.List([_Block(width, dilation, rngs=rngs) for dilation in dilations])
        self.tail = Conv(width, channels, 3, rngs=rngs)
        self.tail.kernel[...] = jnp.zeros_like(self.tail.kernel[...])
        self.receptive_field = 1 + 2 * (2 + sum(dilation + 1 for dilation in dilations))

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Correct images (batch, height, width, channels) in [0, 1]; the result is not clipped."""
        features = self.head(images - 0.5)
        for block in self.blocks:
            features = block(features)
        return images + self.tail(features)


class _Block(nnx.Module):
    """Two convolutions and a smooth rectifier beside the identity."""

    def __init__(self, width: int, dilation: int, *, rngs: nnx.Rngs) -> None:
        self.first = Conv(width, width, 3, kernel_dilation=dilation, rngs=rngs)
        self.second = Conv(width, width, 3, rngs=rngs)
        # From He's variance to a quarter of it: the sum with the identity would otherwise double with every block.
        self.second.kernel[...] = self.second.kernel[...] / 2

    def __call__(self, features: Array) -> Array:
        return features + self.second(nnx.silu(self.first(features)))
