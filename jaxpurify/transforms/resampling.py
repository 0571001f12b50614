"""Resizing one window of an axis into another as a dense matrix, whose window may be drawn anew for every image.

A crop resized to the whole, an image resized into a larger frame and plain resizing are one matrix an axis. The windows
are numbers and may be traced; the matrix has one shape whatever they are, so that a random size compiles once.
"""

from typing import Any

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
    (start, length), (first, count) = (
        tuple(numpy.asarray(number).astype(np.int32) for number in window) for window in (source, target)
    )
    row = numpy.arange(output, dtype=np.int32)[:, None] - first
    pixel = numpy.arange(size, dtype=np.int32)[None, :] - start
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
    rows: Float[Array | np.ndarray, "... out_height height"],
    columns: Float[Array | np.ndarray, "... out_width width"],
) -> Float[Array, "batch out_height out_width channel"]:
    """Apply a matrix to the rows and another to the columns of images, one for all or one an image.

    Args:
        images: shape ``(batch, height, width, channel)``.
        rows: shape ``(out_height, height)``, or ``(batch, out_height, height)``.
        columns: shape ``(out_width, width)``, or ``(batch, out_width, width)``.

    Returns:
        Shape ``(batch, out_height, out_width, channel)``, same dtype, not clipped.
    """
    check_images(images)
    # Planar, because a product over width with the channels innermost is slower than both transpositions.
    planes = jnp.transpose(images, (0, 3, 1, 2))
    of_rows, of_columns = ("buh" if rows.ndim == 3 else "uh"), ("bvw" if columns.ndim == 3 else "vw")
    planes = jnp.einsum(f"bchw,{of_columns}->bchv", planes, columns, precision="highest")
    planes = jnp.einsum(f"{of_rows},bchv->bcuv", rows, planes, precision="highest")
    return jnp.transpose(planes, (0, 2, 3, 1))
