"""Blocks of 8×8 samples, laid out so that arithmetic on them fills vector registers; shared by both JPEG codecs.

The two positions within a block come first, ``(8, 8, plane, block row, block column)``: a pass of the cosine transform
is then a sum of eight long arrays, and nothing is gathered from short axes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

SIDE = 8


class Arithmetic(NamedTuple):
    """The steps of a codec in one kind of numbers; planes are arrays of shape ``(plane, height, width)``.

    Args:
        read: images to luma and to both chroma planes, one behind the other (None for grey images).
        shrink: planes, steps across and down to smaller planes.
        code: planes and quantisation table to what is left of them after coding and decoding.
        enlarge: the reverse of shrink.
        write: luma and chroma, as ``read`` gave them, to images.
    """

    read: Callable
    shrink: Callable
    code: Callable
    enlarge: Callable
    write: Callable


def to_blocks(planes: Array) -> Array:
    """Cut planes into blocks.

    Args:
        planes: shape ``(plane, height, width)``, both multiples of 8.

    Returns:
        Shape ``(8, 8, plane, height / 8, width / 8)``: row and column within the block come first.
    """
    count, height, width = planes.shape
    cut = planes.reshape(count, height // SIDE, SIDE, width // SIDE, SIDE)
    return cut.transpose(2, 4, 0, 1, 3)


def from_blocks(blocks: Array) -> Array:
    """Put blocks together again; the inverse of ``to_blocks``.

    Args:
        blocks: shape ``(8, 8, plane, rows, columns)``.

    Returns:
        Shape ``(plane, 8 rows, 8 columns)``.
    """
    _, _, count, rows, columns = blocks.shape
    return blocks.transpose(2, 3, 0, 4, 1).reshape(count, SIDE * rows, SIDE * columns)


def along(values: Array, matrix: np.ndarray, axis: int) -> Array:
    """Multiply by a small matrix along one axis.

    Args:
        values: an array with ``columns`` entries along the axis, which should not be the last one.
        matrix: shape ``(rows, columns)``.
        axis: the axis.

    Returns:
        An array with ``rows`` entries along the axis; same dtype.
    """

    def multiply(values, matrix):
        shape = [1] * values.ndim
        shape[axis] = len(matrix)
        first, *others = (
            jax.lax.slice_in_dim(values, index, index + 1, axis=axis) * jnp.asarray(column.reshape(shape), values.dtype)
            for index, column in enumerate(matrix.T)
        )
        return sum(others, first)

    # What JAX would derive adds up padded slices, twenty times slower.
    product = jax.custom_vjp(lambda values: multiply(values, matrix))
    product.defvjp(lambda values: (multiply(values, matrix), None), lambda _, gradient: (multiply(gradient, matrix.T),))
    return product(values)


def continued(values: Array, axis: int, size: int) -> Array:
    """Repeat the last row or column until there are enough.

    Args:
        values: an array.
        axis: the axis to continue.
        size: its new size.

    Returns:
        The array, longer along that axis.
    """
    missing = size - values.shape[axis]
    if not missing:
        return values
    return jnp.pad(values, [(0, missing if number == axis else 0) for number in range(values.ndim)], mode="edge")


def ended(planes: Array, axis: int, sizes: Array) -> Array:
    """Repeat the last row or column of each plane beyond the plane's true size.

    Args:
        planes: shape ``(plane, height, width)``.
        axis: 1 for rows, 2 for columns.
        sizes: how many of them are true, from 1 on, shape ``(plane,)``; traced or not.

    Returns:
        Planes of the same shape.
    """
    within = jnp.expand_dims(jnp.arange(planes.shape[axis], dtype=jnp.int32)[None] < sizes[:, None], 3 - axis)
    last = jnp.take_along_axis(planes, (sizes - 1).reshape(-1, 1, 1), axis=axis, mode="clip")
    return jnp.where(within, planes, last)


def neighbours(values: Array, axis: int) -> tuple[Array, Array]:
    """Return, for every sample, the ones before and after it; at the ends, the sample itself.

    Args:
        values: an array.
        axis: the axis along which to look.

    Returns:
        Two arrays of the same shape.
    """
    size = values.shape[axis]
    first, last = (jax.lax.slice_in_dim(values, place, place + 1, axis=axis) for place in (0, size - 1))
    before = jnp.concatenate([first, jax.lax.slice_in_dim(values, 0, size - 1, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(values, 1, size, axis=axis), last], axis)
    return before, after


def interleaved(even: Array, odd: Array, axis: int) -> Array:
    """Alternate the entries of two arrays.

    Args:
        even: what comes at 0, 2, 4 …
        odd: what comes at 1, 3, 5 …
        axis: along which axis.

    Returns:
        An array twice as long along that axis.
    """
    shape = list(even.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis + 1).reshape(shape)
