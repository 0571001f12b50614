"""EDSR: residual super-resolution without batch normalisation, in the naming of the published weights."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from jaxpurify.images import check_colour
from jaxpurify.networks.borders import EDGE, ZEROS, check_border
from jaxpurify.networks.convolution import Conv
from jaxpurify.networks.layers import conv_table
from jaxpurify.networks.weights import CONVOLUTION, Entry, Layout, State

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K's training images, a channel
LEVELS = 255.0  # The published networks compute in 0..255.
SCALES = (2, 3, 4)
BORDERS = (ZEROS, EDGE)
# Published state dicts hold the mean shift too, as the fixed weights of 1×1 convolutions.
MEAN_SHIFT = tuple(f"{shift}.{part}" for shift in ("sub_mean", "add_mean") for part in ("weight", "bias"))


class _Block(nnx.Module):
    """Two convolutions and a rectifier beside the identity."""

    def __init__(self, features: int, residual_scale: float, **options: Any) -> None:
        self.first = _convolution(features, features, **options)
        self.second = _convolution(features, features, **options)
        self.residual_scale = residual_scale

    def __call__(self, features: Array) -> Array:
        residual = self.second(nnx.relu(self.first(features)))
        return features + (residual if self.residual_scale == 1 else residual * self.residual_scale)


class EDSR(nnx.Module):
    """Super-resolves images by 2, 3 or 4: residual blocks without normalisation, then sub-pixel convolutions.

    Args:
        scale: 2, 3 or 4: rows and columns of the output for one of the input.
        features: channels of the hidden layers.
        blocks: number of residual blocks.
        residual_scale: what the output of a block's convolutions is multiplied by before it is added.
        border: what every convolution reads beyond the border: "zeros", as in the authors' code, with which an image
            gets darker towards its border, or "edge", the nearest pixel, with which one colour stays one colour; after
            the pixel shuffle it is what the nearest pixel has become.
        precision: as in `convolve`.
        rngs: source of the initial weights.

    Raises:
        ValueError: if the scale is not 2, 3 or 4, a size is not positive, or the border is unknown.

    Source:
        Lim, Son, Kim, Nah, Lee 2017, "Enhanced deep residual networks for single image super-resolution", section 3;
        mean shift and range as in the authors' code. Initial weights: normal, variance 1 / (3 fan in), that of the
        authors' framework, under which 16 or 32 blocks do not blow the activations up; our choice is a last
        convolution a hundred times smaller, so that an untrained network returns about the mean colour.
    """

    def __init__(
        self,
        scale: int = 2,
        *,
        features: int = 64,
        blocks: int = 16,
        residual_scale: float = 1.0,
        border: str = ZEROS,
        precision: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        if scale not in SCALES:
            raise ValueError(f"scale must be 2, 3 or 4, got {scale}")
        if features < 1 or blocks < 1:
            raise ValueError(f"features and blocks must be 1 or more, got {features} and {blocks}")
        self.scale, self.border = scale, check_border(border, BORDERS)
        options: dict[str, Any] = {"border": border, "precision": precision, "rngs": rngs}
        self.head = _convolution(3, features, **options)
        self.blocks = nnx.List([_Block(features, residual_scale, **options) for _ in range(blocks)])
        self.body_end = _convolution(features, features, **options)
        self.upsamplers = nnx.List(
            [
                _convolution(features, features * step**2, cell=step**number, **options)
                for number, step in enumerate(_steps(scale))
            ]
        )
        self.tail = _convolution(features, 3, gain=0.01, cell=scale, **options)

    @classmethod
    def baseline(cls, scale: int = 2, *, border: str = ZEROS, rngs: nnx.Rngs) -> "EDSR":
        """Construct the paper's baseline: 64 features, 16 blocks.

        Args:
            scale: 2, 3 or 4.
            border: "zeros" or "edge".
            rngs: source of the initial weights.

        Returns:
            The network; 1,369,859 weights for scale 2.
        """
        return cls(scale, border=border, rngs=rngs)

    @classmethod
    def large(cls, scale: int = 2, *, border: str = ZEROS, rngs: nnx.Rngs) -> "EDSR":
        """Construct the paper's large network: 256 features, 32 blocks, residual scale 0.1.

        Args:
            scale: 2, 3 or 4.
            border: "zeros" or "edge".
            rngs: source of the initial weights.

        Returns:
            The network; about 40.7 million weights for scale 2.
        """
        return cls(scale, features=256, blocks=32, residual_scale=0.1, border=border, rngs=rngs)

    def __call__(
        self, images: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch new_height new_width 3"]:
        """Super-resolve images (batch, height, width, 3) in [0, 1]; the output is not clipped."""
        check_colour(images)
        mean = (jnp.array(MEAN, images.dtype) * LEVELS).reshape(1, 1, 1, 3)
        head = self.head(images * LEVELS - mean)
        features = head
        for block in self.blocks:
            features = block(features)
        features = self.body_end(features) + head
        for upsampler, step in zip(self.upsamplers, _steps(self.scale), strict=True):
            features = pixel_shuffle(upsampler(features), step)
        return (self.tail(features) + mean) / LEVELS

    @property
    def receptive_field(self) -> int:
        """Rows (or columns) of the input that a pixel of the output depends on."""
        span = 3  # of the last convolution, in pixels of the output; then back towards the input
        for step in reversed(_steps(self.scale)):
            span = (span + step - 2) // step + 1 + 2
        return span + 2 * (2 * len(self.blocks) + 2)

    @property
    def macs_per_pixel(self) -> int:
        """Multiply-adds of the convolutions for a pixel of the input."""
        pixels, total = 1, _taps(self.head) + _taps(self.body_end)
        total += sum(_taps(block.first) + _taps(block.second) for block in self.blocks)
        for upsampler, step in zip(self.upsamplers, _steps(self.scale), strict=True):
            total += pixels * _taps(upsampler)
            pixels *= step**2
        return total + pixels * _taps(self.tail)


def pixel_shuffle(
    features: Float[Array, "batch height width features"], scale: int
) -> Float[Array, "batch new_height new_width channels"]:
    """Rearrange the channels of each pixel into scale × scale pixels.

    Args:
        features: (batch, height, width, scale² · channels): the new pixels of a pixel, row after row.
        scale: pixels that one pixel becomes, along each axis.

    Returns:
        (batch, height · scale, width · scale, channels).

    Source:
        Shi et al. 2016, section 3.2. Our choice: the channels of a pixel lie together, which moves whole runs of
        memory; PyTorch's order, in which those of one channel do, is undone once, when weights are loaded.
    """
    batch, height, width, total = features.shape
    pixels = features.reshape(batch, height, width, scale, scale, total // scale**2)
    return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * scale, width * scale, -1)


def edsr_table(scale: int, *, blocks: int = 16) -> dict[str, Entry]:
    """Return PyTorch's name of each trained weight of `EDSR(scale, blocks=blocks)`, in the naming of the authors' code.

    Args:
        scale: 2, 3 or 4.
        blocks: number of residual blocks.

    Returns:
        PyTorch's name → where the weight lives here and how its axes are laid out there.
    """
    table = conv_table("head.0", "head") | conv_table(f"body.{blocks}", "body_end") | conv_table("tail.1", "tail")
    for number in range(blocks):
        table |= conv_table(f"body.{number}.body.0", f"blocks.{number}.first")
        table |= conv_table(f"body.{number}.body.2", f"blocks.{number}.second")
    for number, step in enumerate(_steps(scale)):
        theirs, ours = f"tail.0.{2 * number}", f"upsamplers.{number}"
        kernel, bias = _shuffled(CONVOLUTION, step), _shuffled(Layout(np.asarray, np.asarray), step)
        table |= {f"{theirs}.weight": Entry(f"{ours}.kernel", kernel), f"{theirs}.bias": Entry(f"{ours}.bias", bias)}
    return table


def without_mean_shift(state: State) -> State:
    """Check and remove the mean shift that published state dicts hold as fixed weights.

    Args:
        state: name → array, in PyTorch's names; with or without `sub_mean` and `add_mean`.

    Returns:
        The trained weights alone, for images in 0..255. Weights for images in 0..1 become these: a network of
        convolutions and rectifiers is the same function of either where its biases are multiplied by 255.

    Raises:
        ValueError: if the mean shift is another one than that of DIV2K's images, in 0..255 or 0..1.
    """
    shifts = {name: np.asarray(state[name], np.float32) for name in MEAN_SHIFT if name in state}
    if not shifts:
        return state
    fitting = [levels for levels in (LEVELS, 1.0) if all(_is_shift(name, shifts[name], levels) for name in shifts)]
    if not fitting:
        raise ValueError(
            f"the mean shift of the weights (sub_mean, add_mean) must be {MEAN} times 255 or 1, in RGB order, got "
            f"others: these weights were trained with another normalisation, which EDSR here does not have"
        )
    factor = np.float32(LEVELS / fitting[0])
    trained = {name: array for name, array in state.items() if name not in MEAN_SHIFT}
    if factor == 1:
        return trained
    biases = {name: array.astype(np.float32) * factor for name, array in trained.items() if name.endswith("bias")}
    return trained | biases


def _is_shift(name: str, array: np.ndarray, levels: float) -> bool:
    if name.endswith("weight"):
        return array.shape == (3, 3, 1, 1) and np.allclose(array[:, :, 0, 0], np.eye(3), atol=1e-5)
    sign = -1 if name.startswith("sub") else 1
    return array.shape == (3,) and np.allclose(array, sign * levels * np.array(MEAN), rtol=1e-3)


def _steps(scale: int) -> tuple[int, ...]:
    return (2, 2) if scale == 4 else (scale,)


def _convolution(ins: int, outs: int, *, gain: float = 1.0, **options: Any) -> Conv:
    conv = Conv(ins, outs, 3, padding=1, **options)
    # From He's variance, 2 / fan in.
    conv.kernel[...] = conv.kernel[...] * (gain / math.sqrt(6))
    return conv


def _taps(conv: Conv) -> int:
    return math.prod(conv.kernel.shape)


def _shuffled(layout: Layout, step: int) -> Layout:
    """Return a layout whose outputs are (pixel, channel) here and (channel, pixel) there, before a pixel shuffle."""

    def decode(theirs: np.ndarray) -> np.ndarray:
        ours = layout.decode(theirs)
        return ours.reshape(*ours.shape[:-1], -1, step**2).swapaxes(-1, -2).reshape(ours.shape)

    def encode(ours: np.ndarray) -> np.ndarray:
        return layout.encode(ours.reshape(*ours.shape[:-1], step**2, -1).swapaxes(-1, -2).reshape(ours.shape))

    return Layout(decode, encode)
