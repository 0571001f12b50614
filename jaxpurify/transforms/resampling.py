"""Resizing one window of an axis into another as a matrix, whose window may be drawn anew for every image.

A crop resized to the whole, an image resized into a larger frame and plain resizing are one matrix an axis. The windows
are numbers and may be traced; the matrix has one shape whatever they are, so that a random size compiles once. Of long
axes the matrix is never whole: it is a band where the windows are known, and made some rows at a time where they are
drawn.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from jaxpurify.images import check_images
from jaxpurify.pytrees import concrete


def _triangle(numpy, x):
    return numpy.maximum(1 - x, 0)


def _keys_cubic(numpy, x):
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return numpy.where(x < 1, near, numpy.where(x < 2, far, 0 * x))


def _lanczos(radius):
    return lambda numpy, x: numpy.where(x < radius, numpy.sinc(x) * numpy.sinc(x / radius), 0 * x)


_KERNELS: dict[str, Any] = {
    "nearest": None,
    "bilinear": _triangle,
    "bicubic": _keys_cubic,
    "lanczos3": _lanczos(3),
    "lanczos5": _lanczos(5),
}
METHODS = tuple(_KERNELS)
_RADII = {"nearest": 0.5, "bilinear": 1, "bicubic": 2, "lanczos3": 3, "lanczos5": 5}
LONG = 1024  # pixels along an axis, of the image or of the result, beyond which its matrix is not held whole
ROWS = 64  # of a matrix at a time


def check_method(method: str) -> None:
    """Refuse the name of an unknown interpolation.

    Args:
        method: what the caller gave.

    Raises:
        ValueError: if it is not one of ``METHODS``.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")


def resampling_matrix(
    size: int,
    *,
    output: int,
    source: tuple[ArrayLike, ArrayLike] | None = None,
    target: tuple[ArrayLike, ArrayLike] | None = None,
    method: str = "bilinear",
    dtype: DTypeLike = jnp.float32,
) -> Float[Array | np.ndarray, "output size"]:
    """Compute the matrix that resizes one window of an axis into another, antialiased where it shrinks.

    Pixels outside the source window have no weight: the window is cut out first. Rows outside the target window are
    zero. Distances are ratios of whole numbers, rounded once, so that float32 is as exact as the weights themselves.

    Args:
        size: number of pixels along the axis.
        output: number of pixels of the result.
        source: start and length of the window that is read, whole numbers, traced or not; all of the axis by default.
        target: start and length of the window that is written, likewise; all of the result by default.
        method: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` (Keys, a = −0.5), ``"lanczos3"`` or ``"lanczos5"``.
        dtype: float32 or float64.

    Returns:
        Shape ``(output, size)``; rows within the target window sum to 1. A NumPy array unless a window is traced.

    Raises:
        ValueError: if the method is unknown.

    Source: pixel centres at half integers, weights normalised, kernels widened where the image shrinks: as
    ``jax.image.resize`` and Pillow have it, which are the references in our tests.

    Example:
        >>> resampling_matrix(2, output=4).tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
        >>> resampling_matrix(2, output=4, target=(1, 2)).tolist()
        [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    check_method(method)
    source, target = (0, size) if source is None else source, (0, output) if target is None else target
    numpy: Any = np if concrete((source, target)) else jnp
    row, pixel = (numpy.arange(count, dtype=np.int32) for count in (output, size))
    return _weights(numpy, row[:, None], pixel[None, :], source, target, method, dtype)


def _weights(numpy, row, pixel, source, target, method, dtype):
    """Return the part of the matrix in some rows and columns; the columns must hold all that its rows see."""
    whole = np.int64 if numpy is np else np.int32  # products of two sides exceed 32 bits from some 30,000 pixels on
    (start, length), (first, count) = (
        tuple(numpy.asarray(number).astype(whole) for number in window) for window in (source, target)
    )
    row, pixel = row - first, pixel - start
    centre = (2 * row + 1) * length  # of the row in the source window, in units of 1 / (2 count) pixels
    if method == "nearest":
        weights = (centre // (2 * count) == pixel).astype(dtype)
    else:
        working = np.float64 if numpy is np else dtype
        distance = numpy.abs(centre - count - 2 * count * pixel).astype(working)
        width = (2 * numpy.maximum(length, count)).astype(working)
        weights = _KERNELS[method](numpy, distance / width)
        weights = numpy.where((pixel >= 0) & (pixel < length), weights, 0 * weights)
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / numpy.where(total == 0, 0 * total + 1, total)
    inside = (row >= 0) & (row < count)
    return numpy.where(inside, weights, 0 * weights).astype(dtype)


class Band(NamedTuple):
    """A matrix whose rows see few pixels each, as blocks of rows; what ``resample`` takes for one.

    Attributes:
        starts: the first pixel that each block sees, shape ``(blocks,)``.
        weights: shape ``(blocks, ROWS, width)``, zero beyond the last row.
        rows: rows of the matrix: an empty array of that many, since only shapes may be structure.
    """

    starts: Int[Array | np.ndarray, " blocks"]
    weights: Float[Array | np.ndarray, "blocks rows width"]
    rows: Float[Array | np.ndarray, "output 0"]


def resampling_band(sizes: Sequence[int], *, method: str = "bilinear", dtype: DTypeLike = jnp.float32) -> Band:
    """Compute the band of the matrix that resizes an axis once or several times over.

    Args:
        sizes: number of pixels along the axis, before and after each resizing: two or more.
        method: as in ``resampling_matrix``.
        dtype: float32 or float64.

    Returns:
        The band of the product of the matrices.

    Raises:
        ValueError: if the method is unknown.
    """
    check_method(method)
    output, blocks = sizes[-1], -(-sizes[-1] // ROWS)
    parts = []
    for block in range(blocks):
        low, high = block * ROWS, min((block + 1) * ROWS, output)
        part = np.eye(high - low)
        for size, resized in zip(sizes[-2::-1], sizes[:0:-1], strict=True):
            ratio = size / resized
            radius = _RADII[method] * max(ratio, 1) + 1
            first, last = max(0, math.floor(low * ratio - radius)), min(size, math.ceil(high * ratio + radius))
            row, pixel = np.arange(low, high)[:, None], np.arange(first, last)[None, :]
            part = part @ _weights(np, row, pixel, (0, size), (0, resized), method, np.float64)
            low, high = first, last
        parts.append((low, part))
    width = max(part.shape[1] for _, part in parts)
    starts = np.array([min(low, sizes[0] - width) for low, _ in parts], np.int32)
    weights = np.zeros((blocks, ROWS, width), dtype)
    for block, (low, part) in enumerate(parts):
        offset = low - starts[block]
        weights[block, : part.shape[0], offset : offset + part.shape[1]] = part
    return Band(starts, weights, np.zeros((output, 0), np.float32))


def whole_number(share: Float[Array, "..."], *, low: ArrayLike, high: ArrayLike) -> Int[Array, "..."]:
    """Return the whole number in [low, high) that lies a share of the way: uniform where the share is.

    Args:
        share: in [0, 1).
        low: smallest number, traced or not.
        high: one more than the largest, above ``low``.

    Returns:
        int32 of the share's shape.
    """
    low, high = jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32)
    return jnp.minimum(low + jnp.floor(share * (high - low).astype(share.dtype)).astype(jnp.int32), high - 1)


@jax.jit
def resample(
    images: Float[Array, "batch height width channel"],
    *,
    rows: Float[Array | np.ndarray, "... out_height height"] | Band,
    columns: Float[Array | np.ndarray, "... out_width width"] | Band,
) -> Float[Array, "batch out_height out_width channel"]:
    """Apply a matrix to the rows and another to the columns of images, one for all or one an image.

    Args:
        images: shape ``(batch, height, width, channel)``.
        rows: shape ``(out_height, height)``, or ``(batch, out_height, height)``, or a band.
        columns: shape ``(out_width, width)``, or ``(batch, out_width, width)``, or a band.

    Returns:
        Shape ``(batch, out_height, out_width, channel)``, same dtype, not clipped.
    """
    check_images(images)
    # Planar, because a product over width with the channels innermost is slower than both transpositions.
    planes = jnp.transpose(images, (0, 3, 1, 2))
    if isinstance(columns, Band):
        planes = _banded(planes, columns, 3)
    else:
        of_columns = "bvw" if columns.ndim == 3 else "vw"
        planes = jnp.einsum(f"bchw,{of_columns}->bchv", planes, columns, precision="highest")
    if isinstance(rows, Band):
        planes = _banded(planes, rows, 2)
    else:
        of_rows = "buh" if rows.ndim == 3 else "uh"
        planes = jnp.einsum(f"{of_rows},bchv->bcuv", rows, planes, precision="highest")
    return jnp.transpose(planes, (0, 2, 3, 1))


def _banded(planes: Array, band: Band, axis: int) -> Array:
    width, output = band.weights.shape[2], band.rows.shape[0]

    def block(part):
        start, weights = part
        return _along(weights, jax.lax.dynamic_slice_in_dim(planes, start, width, axis=axis), axis)

    return _joined(jax.lax.map(block, (jnp.asarray(band.starts), jnp.asarray(band.weights))), axis, output)


def _along(matrix: Array, planes: Array, axis: int) -> Array:
    formula = "bchw,vw->bchv" if axis == 3 else "uh,bchv->bcuv"
    operands = (planes, matrix) if axis == 3 else (matrix, planes)
    return jnp.einsum(formula, *operands, precision="highest")


def _joined(blocks: Array, axis: int, size: int) -> Array:
    """Put blocks of rows or columns, one behind the other on a leading axis, side by side."""
    joined = jnp.moveaxis(blocks, 0, axis)
    joined = joined.reshape(*joined.shape[:axis], -1, *joined.shape[axis + 2 :])
    return jax.lax.slice_in_dim(joined, 0, size, axis=axis)


def resample_window(
    image: Float[Array, "height width channel"],
    *,
    output: tuple[int, int],
    sources: Sequence[tuple[ArrayLike, ArrayLike]] | None = None,
    targets: Sequence[tuple[ArrayLike, ArrayLike]] | None = None,
    method: str = "bilinear",
) -> Float[Array, "out_height out_width channel"]:
    """Resize a window of an image, which may be traced, without ever holding a whole matrix.

    Args:
        image: shape ``(height, width, channel)``.
        output: height and width of the result.
        sources: the windows that are read from rows and from columns, as in ``resampling_matrix``; all by default.
        targets: likewise, those that are written.
        method: as in ``resampling_matrix``.

    Returns:
        Shape ``(*output, channel)``, same dtype, zero beside the target window, not clipped.
    """
    planes = jnp.transpose(image, (2, 0, 1))[None]
    for axis in (3, 2):
        size, resized = planes.shape[axis], output[axis - 2]
        source = (0, size) if sources is None else sources[axis - 2]
        target = (0, resized) if targets is None else targets[axis - 2]
        pixel = jnp.arange(size, dtype=jnp.int32)[None, :]

        def block(first, planes=planes, axis=axis, pixel=pixel, source=source, target=target):
            row = first + jnp.arange(ROWS, dtype=jnp.int32)[:, None]
            return _along(_weights(jnp, row, pixel, source, target, method, image.dtype), planes, axis)

        starts = jnp.arange(0, resized, ROWS, dtype=jnp.int32)
        planes = _joined(jax.lax.map(jax.checkpoint(block), starts), axis, resized)
    return jnp.transpose(planes[0], (1, 2, 0))
