"""JPEG in whole numbers, with the roundings of libjpeg's accurate integer method, so that every pixel agrees.

The steps are those of the JPEG and JFIF standards. Which of the many admissible roundings each takes is libjpeg's, as
the Independent JPEG Group and libjpeg-turbo document it: colour in 16 bits after the point, the cosine transform in 13.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxpurify.transforms.fusion import apart
from jaxpurify.transforms.jpeg_blocks import (
    Arithmetic,
    along,
    from_blocks,
    interleaved,
    neighbours,
    to_blocks,
)

# Bits after the point: of the constants of colour and of the cosine transform, and of what lies between its passes.
COLOUR_BITS, COSINE_BITS, BETWEEN_BITS = 16, 13, 2


def _fixed(value: float, bits: int) -> int:
    return int(value * 2**bits + 0.5)


def _cosine_matrix() -> np.ndarray:
    """Return √8 times the orthonormal DCT, times 2**13, as the rounded constants of the fast transform add up.

    Loeffler, Ligtenberg and Moschytz need a dozen products for eight samples, each with a constant that libjpeg rounds
    to 13 bits. There is no rounding in between, so the whole is a matrix of whole numbers: sums of those constants. Its
    transpose is the inverse transform, but for the scale.
    """
    samples = np.eye(8, dtype=np.int64)
    sums, differences = samples[:4] + samples[:3:-1], samples[:4] - samples[:3:-1]
    matrix = np.zeros((8, 8), np.int64)

    outer, inner = sums[0] + sums[3], sums[1] + sums[2]
    matrix[0], matrix[4] = (outer + inner) << COSINE_BITS, (outer - inner) << COSINE_BITS
    outer, inner = sums[0] - sums[3], sums[1] - sums[2]
    shared = _fixed(0.541196100, COSINE_BITS) * (outer + inner)
    matrix[2] = shared + _fixed(0.765366865, COSINE_BITS) * outer
    matrix[6] = shared - _fixed(1.847759065, COSINE_BITS) * inner

    # The odd part: a constant for each difference, for each sum of two, and for the sum of all four.
    a, b, c, d = differences
    every = _fixed(1.175875602, COSINE_BITS) * (a + b + c + d)
    ad, bc = -_fixed(0.899976223, COSINE_BITS) * (a + d), -_fixed(2.562915447, COSINE_BITS) * (b + c)
    bd = every - _fixed(1.961570560, COSINE_BITS) * (b + d)
    ac = every - _fixed(0.390180644, COSINE_BITS) * (a + c)
    matrix[1] = _fixed(1.501321110, COSINE_BITS) * a + ad + ac
    matrix[3] = _fixed(3.072711026, COSINE_BITS) * b + bc + bd
    matrix[5] = _fixed(2.053119869, COSINE_BITS) * c + bc + ac
    matrix[7] = _fixed(0.298631336, COSINE_BITS) * d + ad + bd
    return matrix


DCT = _cosine_matrix()

TO_YCC = np.array(
    [
        [_fixed(0.299, COLOUR_BITS), _fixed(0.587, COLOUR_BITS), _fixed(0.114, COLOUR_BITS)],
        [-_fixed(0.168735892, COLOUR_BITS), -_fixed(0.331264108, COLOUR_BITS), _fixed(0.5, COLOUR_BITS)],
        [_fixed(0.5, COLOUR_BITS), -_fixed(0.418687589, COLOUR_BITS), -_fixed(0.081312411, COLOUR_BITS)],
    ]
)
FROM_CHROMA = np.array(
    [
        [0, _fixed(1.402, COLOUR_BITS)],
        [-_fixed(0.34414, COLOUR_BITS), -_fixed(0.71414, COLOUR_BITS)],
        [_fixed(1.772, COLOUR_BITS), 0],
    ]
)
# Halves of luma go up; those of chroma, whose offset of 128 libjpeg adds before it rounds, go down.
_HALF = 1 << (COLOUR_BITS - 1)
_OFFSETS = np.array([_HALF, (128 << COLOUR_BITS) + _HALF - 1, (128 << COLOUR_BITS) + _HALF - 1])


def _descale(values: Array, bits: int) -> Array:
    """Divide by a power of two and round, halves upwards."""
    return (values + (1 << (bits - 1))) >> bits


def _read(images: Array) -> tuple[Array, Array | None]:
    levels = jnp.round(jnp.clip(images, 0, 1) * 255).astype(jnp.int32)
    if images.shape[3] == 1:
        return levels[..., 0], None
    offsets = jnp.asarray(_OFFSETS.reshape(3, 1, 1, 1), jnp.int32)
    planes = (along(jnp.moveaxis(levels, 3, 0), TO_YCC, 0) + offsets) >> COLOUR_BITS
    return planes[0], planes[1:].reshape(-1, *planes.shape[2:])


def _shrink(planes: Array, across: int, down: int) -> Array:
    pairs = planes[:, :, ::2] + planes[:, :, 1::2]
    if down == 2:
        pairs = pairs[:, ::2] + pairs[:, 1::2]
    # Halves go down and up in turn from column to column, so that the mean of the image stays.
    turn = jnp.asarray((np.arange(pairs.shape[2]) % 2).reshape(1, 1, -1), jnp.int32)
    return (pairs + turn + (down - 1)) >> down


def _code(planes: Array, table: Array) -> Array:
    steps = table.reshape(8, 8, 1, 1, 1)

    def quantised(blocks):
        # The transform is eight times too large, and halves go away from zero. The quotient is exact: it is below
        # 2**11, and half a unit of the dividend keeps it further from whole numbers than float32 errs.
        coefficients = _descale(along(blocks, DCT, 0), COSINE_BITS + BETWEEN_BITS)
        dividend = (jnp.abs(coefficients) + 4 * steps).astype(jnp.float32) + 0.5
        size = jnp.floor(dividend * (1 / (8 * steps).astype(jnp.float32))).astype(jnp.int32)
        return jnp.sign(coefficients) * size * steps

    def decoded(blocks):
        return jnp.clip(_descale(along(blocks, DCT.T, 1), COSINE_BITS + BETWEEN_BITS + 3) + 128, 0, 255)

    blocks = apart(lambda planes: to_blocks(planes - 128))(planes)
    blocks = apart(lambda blocks: _descale(along(blocks, DCT, 1), COSINE_BITS - BETWEEN_BITS))(blocks)
    blocks = apart(quantised)(blocks)
    blocks = apart(lambda blocks: _descale(along(blocks, DCT.T, 0), COSINE_BITS - BETWEEN_BITS))(blocks)
    return apart(from_blocks)(apart(decoded)(blocks))


def _enlarge(planes: Array, across: int, down: int) -> Array:
    if down == 2:
        above, below = neighbours(planes, 1)
        planes = interleaved(3 * planes + above, 3 * planes + below, 1)
    before, after = neighbours(planes, 2)
    # Halves go down and up in turn; the two directions of rounding differ with the number of weights.
    even, odd, bits = (8, 7, 4) if down == 2 else (1, 2, 2)
    return interleaved((3 * planes + before + even) >> bits, (3 * planes + after + odd) >> bits, 2)


def _write(luma: Array, chroma: Array | None) -> Array:
    if chroma is None:
        return luma[..., None]
    colour = _descale(along((chroma - 128).reshape(2, *luma.shape), FROM_CHROMA, 0), COLOUR_BITS)
    return jnp.moveaxis(jnp.clip(luma[None] + colour, 0, 255), 0, 3)


INTEGER = Arithmetic(_read, _shrink, _code, _enlarge, _write)
