"""SESR: super-resolution by linear blocks that are trained wide and collapse to single small convolutions for use."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from jaxpurify.images import check_colour
from jaxpurify.networks.borders import EDGE, ZEROS, check_border
from jaxpurify.networks.convolution import Conv, convolve, convolve_edges, per_channel
from jaxpurify.networks.edsr import BORDERS, SCALES, pixel_shuffle
from jaxpurify.networks.layers import PReLU


class LinearBlock(nnx.Module):
    """A convolution to many channels and a 1×1 convolution back to few, with nothing between: one convolution in use.

    Only the collapsed convolution ever runs over images: its kernel is the product of the two, which costs little
    beside a batch of images, and so do its gradients.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the kernel.
        expansion: channels between.
        residual: whether the input is added to the output, which collapses into the kernel too.
        gain: variance of the output of an untrained block, the input's being 1; the added input aside.
        border: "zeros" or "edge", as in `EDSR`.
        precision: as in `convolve`.
        rngs: source of the initial weights.

    Source:
        Bhardwaj et al. 2022, "Collapsible linear blocks for super-efficient super resolution", sections 3.1 to 3.3.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        expansion: int,
        residual: bool,
        gain: float,
        border: str,
        precision: str | None,
        rngs: nnx.Rngs,
    ) -> None:
        normal = nnx.initializers.lecun_normal()
        self.expand = nnx.Param(normal(rngs.params(), (kernel_size, kernel_size, in_features, expansion), jnp.float32))
        project = normal(rngs.params(), (expansion, out_features), jnp.float32)
        self.project = nnx.Param(math.sqrt(gain) * project)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))
        self.residual = residual
        self.border = border
        self.precision = precision

    @property
    def kernel(self) -> Array:
        """Kernel of the one convolution, (rows, columns, in_features, out_features)."""
        kernel = jnp.matmul(self.expand[...], self.project[...].reshape(1, 1, *self.project.shape), precision="highest")
        if not self.residual:
            return kernel
        rows, columns, features, _ = kernel.shape
        return kernel.at[rows // 2, columns // 2].add(jnp.eye(features, dtype=kernel.dtype))

    def __call__(
        self, images: Float[Array, "batch height width features"]
    ) -> Float[Array, "batch height width outputs"]:
        """Convolve (batch, height, width, in_features) to (batch, height, width, out_features)."""
        kernel = self.kernel.astype(images.dtype)
        convolution = convolve_edges if self.border == EDGE else convolve
        outputs = convolution(images, kernel, precision=self.precision)
        return outputs + per_channel(self.bias[...], images)


class _Upscaler(nnx.Module):
    """What both forms compute: they differ in what a layer is."""

    scale: int
    border: str
    first: Any
    blocks: Any
    last: Any
    activations: Any

    def _assemble(self, scale: int, features: int, blocks: int, border: str, layer: Callable[..., nnx.Module]) -> None:
        if scale not in SCALES:
            raise ValueError(f"scale must be 2, 3 or 4, got {scale}")
        if features < 1 or blocks < 1:
            raise ValueError(f"features and blocks must be 1 or more, got {features} and {blocks}")
        self.scale, self.border = scale, check_border(border, BORDERS)
        self.first = layer(3, features, 5)
        self.blocks = nnx.List([layer(features, features, 3) for _ in range(blocks)])
        self.last = layer(features, 3 * scale**2, 5)
        self.activations = nnx.List([PReLU(features) for _ in range(blocks + 1)])

    def __call__(
        self, images: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch new_height new_width 3"]:
        """Super-resolve images (batch, height, width, 3) in [0, 1]; the output is not clipped."""
        check_colour(images)
        first = self.activations[0](self.first(images))
        features = first
        for block, activation in zip(self.blocks, self.activations[1:], strict=True):
            features = activation(block(features))
        pixels = self.last(features + first)
        return pixel_shuffle(pixels + jnp.tile(images, (1, 1, 1, self.scale**2)), self.scale)

    @property
    def receptive_field(self) -> int:
        """Rows (or columns) of the input that a pixel of the output depends on."""
        return 1 + 4 + 2 * len(self.blocks) + 4

    @property
    def macs_per_pixel(self) -> int:
        """Multiply-adds of the convolutions, collapsed, for a pixel of the input."""
        features = self.activations[0].slope.shape[0]
        return features * (25 * 3 + 9 * features * len(self.blocks) + 25 * 3 * self.scale**2)


class SESR(_Upscaler):
    """Super-resolves images by 2, 3 or 4 with very few multiply-adds; this is the form to train, `collapse` it for use.

    A 5×5 linear block, 3×3 linear blocks with short residuals, a long residual over all of them and a last 5×5 block,
    whose output is added to the image and rearranged into pixels. The initial network repeats pixels, exactly.

    Args:
        scale: 2, 3 or 4: rows and columns of the output for one of the input.
        features: channels of the collapsed hidden layers.
        blocks: number of 3×3 linear blocks.
        expansion: channels inside a linear block while it is trained.
        border: what every convolution reads beyond the border: "zeros", with which an image gets darker towards its
            border, or "edge", the nearest pixel, with which one colour stays one colour.
        precision: as in `convolve`.
        rngs: source of the initial weights.

    Raises:
        ValueError: if the scale is not 2, 3 or 4, a size is not positive, or the border is unknown.

    Source:
        Bhardwaj et al. 2022, "Collapsible linear blocks for super-efficient super resolution", section 3; they
        super-resolve luma, this network RGB. Our choice: one pixel shuffle by 4 for ×4, where they shuffle by 2 twice
        (the same but for the order of channels); PReLU slopes a channel; a last block that starts at zero, so that
        training starts from repeated pixels.
    """

    def __init__(
        self,
        scale: int = 2,
        *,
        features: int = 16,
        blocks: int = 11,
        expansion: int = 256,
        border: str = ZEROS,
        precision: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        if expansion < 1:
            raise ValueError(f"expansion must be 1 or more, got {expansion}")

        def layer(ins: int, outs: int, size: int) -> LinearBlock:
            residual = size == 3
            # Residuals of all blocks together about as large as what they are added to.
            gain = 1 / blocks if residual else 1.0 if ins == 3 else 0.0
            return LinearBlock(
                ins,
                outs,
                size,
                expansion=expansion,
                residual=residual,
                gain=gain,
                border=border,
                precision=precision,
                rngs=rngs,
            )

        self.precision = precision
        self._assemble(scale, features, blocks, border, layer)

    def collapse(self) -> "CollapsedSESR":
        """Collapse every linear block to one convolution.

        Returns:
            A network that computes the same, but for rounding.
        """
        collapsed = CollapsedSESR(
            self.scale,
            features=self.first.bias.shape[0],
            blocks=len(self.blocks),
            border=self.border,
            precision=self.precision,
            rngs=nnx.Rngs(0),
        )
        for ours, theirs in zip(_layers(collapsed), _layers(self), strict=True):
            ours.kernel[...], ours.bias[...] = theirs.kernel, theirs.bias[...]
        for activation, other in zip(collapsed.activations, self.activations, strict=True):
            activation.slope[...] = other.slope[...]
        return collapsed


class CollapsedSESR(_Upscaler):
    """Super-resolves as the `SESR` that it was collapsed from, by plain small convolutions.

    Args:
        scale: 2, 3 or 4: rows and columns of the output for one of the input.
        features: channels of the hidden layers.
        blocks: number of 3×3 convolutions.
        border: as in `SESR`.
        precision: as in `convolve`.
        rngs: source of the initial weights, which `SESR.collapse` or a weight file replaces.

    Raises:
        ValueError: if the scale is not 2, 3 or 4, a size is not positive, or the border is unknown.

    Source:
        Bhardwaj et al. 2022, section 3.1.
    """

    def __init__(
        self,
        scale: int = 2,
        *,
        features: int = 16,
        blocks: int = 11,
        border: str = ZEROS,
        precision: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        options: dict[str, Any] = {"border": border, "precision": precision, "rngs": rngs}
        self._assemble(scale, features, blocks, border, lambda *sizes: Conv(*sizes, **options))


def _layers(network: Any) -> Sequence[Any]:
    return [network.first, *network.blocks, network.last]
