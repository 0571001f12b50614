"""JPEG in real numbers, with a gradient: the steps of the whole-number codec, its roundings straight through."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpurify.transforms.fusion import apart
from jaxpurify.transforms.jpeg_blocks import Arithmetic, along, from_blocks, interleaved, neighbours, to_blocks
from jaxpurify.transforms.jpeg_integer import BETWEEN_BITS, COLOUR_BITS, COSINE_BITS, DCT, FROM_CHROMA, TO_YCC

_TO_YCC, _FROM_CHROMA = TO_YCC / 2**COLOUR_BITS, FROM_CHROMA / 2**COLOUR_BITS
# √8 times the orthonormal transform: forward and back again multiply by 8 along each axis.
_DCT, _BETWEEN = DCT / 2**COSINE_BITS, 2.0**BETWEEN_BITS


@jax.custom_jvp
def straight_through_round(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Round to whole numbers, halves upwards; the derivative is the identity's.

    Args:
        values: any shape.

    Returns:
        Same shape and dtype.

    Source: Bengio, Léonard and Courville 2013 (arXiv 1308.3432), section 4. Halves go where libjpeg's shifts take them.
    """
    return jnp.floor(values + 0.5)


@straight_through_round.defjvp
def _straight_through(primals, tangents):
    return straight_through_round(*primals), tangents[0]


def _read(images: Array, rounded: Callable) -> tuple[Array, Array | None]:
    levels = rounded(images * 255)
    if images.shape[3] == 1:
        return levels[..., 0], None
    planes = along(jnp.moveaxis(levels, 3, 0), _TO_YCC, 0)
    return rounded(planes[0]), rounded(planes[1:].reshape(-1, *planes.shape[2:]) + 128)


def _shrink(planes: Array, across: int, down: int, rounded: Callable) -> Array:
    pairs = planes[:, :, ::2] + planes[:, :, 1::2]
    if down == 2:
        pairs = pairs[:, ::2] + pairs[:, 1::2]
    # Means are multiples of a half or a quarter; halves go down and up in turn.
    turn = np.where(np.arange(pairs.shape[2]) % 2, 0.0, -0.125).reshape(1, 1, -1)
    return rounded(pairs / (across * down) + jnp.asarray(turn, planes.dtype))


def _code(planes: Array, table: Array, rounded: Callable) -> Array:
    steps = 8 * table.reshape(8, 8, 1, 1, 1)

    def quantised(blocks, steps):
        quotients = rounded(along(blocks, _DCT / _BETWEEN, 0)) / steps
        # Halves of negative quotients go down; two different ones are at least 1/2040 apart.
        return rounded(quotients - jnp.where(quotients < 0, jnp.asarray(2.0**-12, steps.dtype), 0)) * steps

    blocks = apart(lambda planes: to_blocks(planes - 128))(planes)
    blocks = apart(lambda blocks: rounded(along(blocks, _DCT * _BETWEEN, 1)))(blocks)
    blocks = apart(quantised)(blocks, steps)
    blocks = apart(lambda blocks: rounded(along(blocks, _DCT.T * (_BETWEEN / 8), 0)))(blocks)
    blocks = apart(lambda blocks: rounded(along(blocks, _DCT.T / (_BETWEEN * 8), 1) + 128))(blocks)
    return apart(from_blocks)(blocks)


def _enlarge(planes: Array, across: int, down: int, rounded: Callable) -> Array:
    if down == 2:
        above, below = neighbours(planes, 1)
        planes = interleaved(0.75 * planes + 0.25 * above, 0.75 * planes + 0.25 * below, 1)
    before, after = neighbours(planes, 2)
    # As in whole numbers, halves go up in one column and down in the next.
    even, odd = (0.0, 0.03125) if down == 2 else (0.125, 0.0)
    return interleaved(rounded(0.75 * planes + 0.25 * before - even), rounded(0.75 * planes + 0.25 * after - odd), 2)


def _write(luma: Array, chroma: Array | None, rounded: Callable) -> Array:
    if chroma is None:
        return luma[..., None]
    colour = rounded(along((chroma - 128).reshape(2, *luma.shape), _FROM_CHROMA, 0))
    return jnp.moveaxis(luma[None] + colour, 0, 3)


def smooth(rounded: Callable) -> Arithmetic:
    """Return the steps of the codec with one way of rounding.

    Args:
        rounded: ``straight_through_round``, or the identity for the map without any rounding, which is affine.

    Returns:
        The steps.
    """
    return Arithmetic(*(functools.partial(step, rounded=rounded) for step in (_read, _shrink, _code, _enlarge, _write)))
