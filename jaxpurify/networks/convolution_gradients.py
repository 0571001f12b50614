"""The gradients of a convolution, written as forward convolutions and dense products (see `convolution.py`)."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
# Numbers in a block of the kernel's gradient: 1 MB of float32, in the cache of any core; 2**17 to 2**19 are alike.
BLOCK = 2**18


class Geometry(NamedTuple):
    """What is static about a convolution: hashable, so that `jax.custom_vjp` can keep it."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    precision: str | None


def plain(geometry: Geometry, images: Array, kernel: Array) -> Array:
    """Convolve as XLA does, with the gradients that JAX generates.

    Args:
        geometry: strides, padding, dilation and precision.
        images: (batch, height, width, features).
        kernel: (rows, columns, features, outputs).

    Returns:
        (batch, new_height, new_width, outputs).
    """
    return lax.conv_general_dilated(
        images,
        kernel,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUT,
        precision=geometry.precision,
    )


class _Phase(NamedTuple):
    """One axis of one phase of the input gradient: which taps reach its pixels, and how their convolution is padded."""

    first_tap: int
    taps: int
    padding: tuple[int, int]
    outputs: int


def _phase(start: int, stride: int, low: int, dilation: int, size: int, taps: int, outputs: int) -> _Phase:
    """Describe the input pixels start, start + stride, … of one axis."""
    first_output, first_tap = divmod(start + low, stride)
    taps = len(range(first_tap, taps, stride))
    pixels = -(-size // stride)
    reach = dilation * (taps - 1)
    return _Phase(first_tap, taps, (reach - first_output, pixels + first_output - outputs), pixels)


def input_gradient(geometry: Geometry, cotangent: Array, kernel: Array, size: tuple[int, int]) -> Array:
    """Compute every phase of the gradient to the images as a forward convolution of stride 1, and interleave them.

    Args:
        geometry: strides, padding, dilation and precision of the convolution.
        cotangent: gradient to its output, (batch, new_height, new_width, outputs).
        kernel: (rows, columns, features, outputs).
        size: height and width of the images.

    Returns:
        Gradient to the images, (batch, height, width, features).
    """
    rows, columns = (
        [
            _phase(start, stride, geometry.padding[axis][0], dilation, size[axis], taps, outputs)
            for start in range(stride)
        ]
        for axis, (stride, dilation, taps, outputs) in enumerate(
            zip(geometry.strides, geometry.dilation, kernel.shape[:2], cotangent.shape[1:3], strict=True)
        )
    )
    phases = [[_phase_gradient(geometry, cotangent, kernel, row, column) for column in columns] for row in rows]
    if geometry.strides == (1, 1):
        return phases[0][0]
    # Pixel i * stride + a of the gradient is pixel i of phase a. One axis at a time: a sharded batch forbids more.
    rows_of_phases = [_interleave(across, 2) for across in phases]
    return _interleave(rows_of_phases, 1)[:, : size[0], : size[1]]


def _interleave(phases: list[Array], axis: int) -> Array:
    stacked = jnp.stack(phases, axis=axis + 1)
    return lax.collapse(stacked, axis, axis + 2)


def _phase_gradient(geometry: Geometry, cotangent: Array, kernel: Array, row: _Phase, column: _Phase) -> Array:
    batch, features = cotangent.shape[0], kernel.shape[2]
    if row.taps == 0 or column.taps == 0:
        return jnp.zeros((batch, row.outputs, column.outputs, features), cotangent.dtype)
    taps = kernel[row.first_tap :: geometry.strides[0], column.first_tap :: geometry.strides[1]]
    return lax.conv_general_dilated(
        cotangent,
        taps[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        (row.padding, column.padding),
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUT,
        precision=geometry.precision,
    )


def kernel_gradient(geometry: Geometry, cotangent: Array, images: Array, taps: tuple[int, int]) -> Array:
    """Compute the gradient to the kernel.

    Args:
        geometry: strides, padding, dilation and precision of the convolution.
        cotangent: gradient to its output, (batch, new_height, new_width, outputs).
        images: (batch, height, width, features).
        taps: rows and columns of the kernel.

    Returns:
        Gradient to the kernel, (rows, columns, features, outputs).
    """
    # Accelerators have no slow convolutions in loops, and one large operation suits them better than many small ones.
    return lax.platform_dependent(
        images,
        cotangent,
        cpu=partial(_kernel_gradient_by_blocks, geometry, taps),
        default=partial(_kernel_gradient_by_jax, geometry, taps),
    )


def _kernel_gradient_by_jax(geometry: Geometry, taps: tuple[int, int], images: Array, cotangent: Array) -> Array:
    kernel = jnp.zeros((*taps, images.shape[3], cotangent.shape[3]), images.dtype)
    _, pull_back = jax.vjp(lambda kernel: plain(geometry, images, kernel), kernel)
    return pull_back(cotangent)[0]


def _kernel_gradient_by_blocks(geometry: Geometry, taps: tuple[int, int], images: Array, cotangent: Array) -> Array:
    """Sum the kernel's gradient over blocks of images whose shifted copies stay in the cache: 4 times faster."""
    batch, *image, outputs = cotangent.shape
    features = images.shape[3]
    block = max(1, min(batch, BLOCK // (math.prod(image) * max(features, outputs))))
    blocks = -(-batch // block)
    empty = (0, blocks * block - batch)
    images = jnp.pad(images, (empty, *geometry.padding, (0, 0)))
    cotangent = jnp.pad(cotangent, (empty, (0, 0), (0, 0), (0, 0)))
    # A block takes every so many images, not neighbours: where the batch is divided over devices, each has its share.
    images = images.reshape(block, blocks, *images.shape[1:])
    cotangent = cotangent.reshape(block, blocks, *image, outputs)

    def add(total: Array, number: Array) -> tuple[Array, None]:
        some_images = lax.dynamic_index_in_dim(images, number, axis=1, keepdims=False)
        some_cotangent = lax.dynamic_index_in_dim(cotangent, number, axis=1, keepdims=False)
        return total + _products_by_tap(geometry, taps, some_images, some_cotangent), None

    zeros = jnp.zeros((*taps, features, outputs), images.dtype)
    return lax.scan(add, zeros, jnp.arange(blocks))[0]


def _products_by_tap(geometry: Geometry, taps: tuple[int, int], images: Array, cotangent: Array) -> Array:
    """Give each tap of the kernel the dense product of the padded images, shifted by the tap, with the cotangent."""
    batch, height, width, outputs = cotangent.shape
    features = images.shape[3]
    flat_cotangent = cotangent.reshape(-1, outputs)

    def product(row: int, column: int) -> Array:
        (down, right), (top, left) = geometry.strides, (row * geometry.dilation[0], column * geometry.dilation[1])
        shifted = lax.slice(
            images,
            (0, top, left, 0),
            (batch, top + (height - 1) * down + 1, left + (width - 1) * right + 1, features),
            (1, down, right, 1),
        )
        return jnp.matmul(shifted.reshape(-1, features).T, flat_cotangent, precision=geometry.precision)

    return jnp.stack([jnp.stack([product(row, column) for column in range(taps[1])]) for row in range(taps[0])])
