"""The library's own convolution: the gradients of a convolution, written as forward convolutions and dense products.

XLA's CPU backend runs the convolutions that JAX generates for gradients more than ten times slower inside `scan` and
`while` than outside (jax issue 12868), while forward convolutions stay fast there. Attack loops on the device, chunks
of an expectation and iterated networks all differentiate inside a loop, so the backward pass here uses neither dilated
inputs nor batch-as-feature convolutions.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from jaxpurify.networks.borders import EDGE, ZEROS, check_border, edge_padded
from jaxpurify.networks.convolution_gradients import Geometry, input_gradient, kernel_gradient, plain

Padding = str | int | Sequence[int] | Sequence[Sequence[int]]

# Part of the key of JAX's caches: a function that was compiled with one backward pass is traced anew for the other.
_OWN = jax.make_user_context(True)


def own_gradients(own: bool) -> contextlib.AbstractContextManager:
    """Choose the backward pass of the convolutions that are traced within.

    A training step that no device loop goes around is up to three times faster on the CPU with the gradients that JAX
    generates; a network with a loop inside asks for the library's own in it, since there JAX's are the slow ones.

    Args:
        own: whether `convolve` uses the library's own backward pass, as it does by default.

    Returns:
        A context, left as it was entered.
    """
    return _OWN(own)


def convolve(
    images: Float[Array, "batch height width features"],
    kernel: Float[Array, "rows columns features outputs"],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
    precision: str | None = None,
) -> Float[Array, "batch new_height new_width outputs"]:
    """Convolve images with a kernel, with gradients that stay fast inside loops on the CPU.

    The value is that of `jax.lax.conv_general_dilated`; the gradients to images and kernel are exact. The backward
    pass is a custom rule, so forward mode (`jax.jvp`, `jax.jacfwd`, `jax.hessian`) is refused by JAX.

    Args:
        images: (batch, height, width, features), any range.
        kernel: (rows, columns, features, outputs), not flipped, as deep learning has it.
        strides: pixels from one output to the next: one number, or one for rows and one for columns.
        padding: "SAME", "VALID", one number of pixels for all four sides, one for rows and one for columns, or
            ((top, bottom), (left, right)). PyTorch's `padding=1` is 1 here, not "SAME": where strides are above 1
            they differ.
        kernel_dilation: pixels from one tap of the kernel to the next; above 1 only where strides are 1.
        precision: as in `jax.lax`: "highest" asks accelerators for full float32 (they may use TF32 by default).

    Returns:
        (batch, new_height, new_width, outputs), dtype of the images.

    Raises:
        ValueError: if the channels of images and kernel differ, the padding is unknown or negative, the kernel is
            larger than the padded image, or both strides and dilation are above 1.

    Source:
        Our choice: for a stride s the input gradient is split into s × s phases, each of them a convolution of stride 1
        with every s-th tap of the flipped kernel; the kernel gradient is one dense product a tap and block of images
        on the CPU, and what JAX generates on accelerators.
    """
    if images.shape[-1] != kernel.shape[2]:
        raise ValueError(
            f"the kernel takes {kernel.shape[2]} channels but the images have {images.shape[-1]}, in shape "
            f"{images.shape}: channels come last (channels first?)"
        )
    strides, dilation = _pair(strides, "strides"), _pair(kernel_dilation, "kernel_dilation")
    extent = tuple((size - 1) * step + 1 for size, step in zip(kernel.shape[:2], dilation, strict=True))
    pads = _pads(padding, images.shape[1:3], extent, strides)
    if max(strides) > 1 and max(dilation) > 1:
        raise ValueError(f"strides {strides} and kernel_dilation {dilation} are both above 1: one of them must be 1")
    for size, (low, high), span in zip(images.shape[1:3], pads, extent, strict=True):
        if size + low + high < span:
            raise ValueError(
                f"the kernel spans {extent} pixels, more than the padded image: images {images.shape}, padding {pads}"
            )
    geometry = Geometry(strides, pads, dilation, precision)
    return (_convolve if _OWN.value else plain)(geometry, images, kernel)


def convolve_padded(
    images: Float[Array, "batch height width features"],
    kernel: Float[Array, "rows columns features outputs"],
    *,
    kernel_dilation: int | Sequence[int] = 1,
    precision: str | None = None,
) -> Float[Array, "batch new_height new_width outputs"]:
    """Convolve images that are padded already, as `convolve` does with the padding "VALID", in less time on the CPU.

    Args:
        images: as in `convolve`.
        kernel: as in `convolve`.
        kernel_dilation: as in `convolve`.
        precision: as in `convolve`.

    Returns:
        (batch, new_height, new_width, outputs).
    """
    # A row too many: XLA's CPU backend takes up to twice the time where it has nothing to pad.
    outputs = convolve(images, kernel, padding=((0, 1), (0, 0)), kernel_dilation=kernel_dilation, precision=precision)
    return outputs[:, :-1]


def convolve_edges(
    images: Float[Array, "batch height width features"],
    kernel: Float[Array, "rows columns features outputs"],
    *,
    cell: int = 1,
    precision: str | None = None,
) -> Float[Array, "batch height width outputs"]:
    """Convolve with the nearest pixel beyond the border, which keeps the size, and an image of one colour as it is.

    Args:
        images: as in `convolve`.
        kernel: as in `convolve`, with an odd number of rows and of columns.
        cell: rows and columns of what is repeated, as in `edge_padded`.
        precision: as in `convolve`.

    Returns:
        (batch, height, width, outputs).
    """
    return convolve_padded(edge_padded(images, kernel.shape[:2], cell=cell), kernel, precision=precision)


class Conv(nnx.Module):
    """A convolution layer with the library's own backward pass (see `convolve`); it computes in the images' dtype.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the kernel: one number or a pair.
        strides: as in `convolve`.
        padding: as in `convolve`.
        kernel_dilation: as in `convolve`.
        use_bias: whether a bias is added to each output channel.
        border: what is read where the padding reaches beyond the image: "zeros", or "edge", the nearest pixel, with
            which an image of one colour stays of one colour, and which keeps the size whatever `padding` says.
        cell: with the border "edge": rows and columns of what is repeated, as in `edge_padded`.
        precision: as in `convolve`.
        rngs: source of the initial weights.

    Raises:
        ValueError: if the border is unknown, or "edge" and the kernel has an even side, strides or dilation.

    Source:
        Initial weights: He et al. 2015, normal, fan in; biases zero.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: Padding = "SAME",
        kernel_dilation: int | Sequence[int] = 1,
        use_bias: bool = True,
        border: str = ZEROS,
        cell: int = 1,
        precision: str | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (*_pair(kernel_size, "kernel_size"), in_features, out_features)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32)) if use_bias else None
        self.strides = _pair(strides, "strides")
        self.padding = padding if isinstance(padding, str | int) else _freeze(padding)
        self.kernel_dilation = _pair(kernel_dilation, "kernel_dilation")
        self.border, self.cell = check_border(border, (ZEROS, EDGE)), cell
        dense = self.strides == self.kernel_dilation == (1, 1)
        if border == EDGE and not (dense and all(side % 2 for side in shape[:2])):
            raise ValueError(
                f'the border "edge" needs an odd kernel without strides or dilation, got a kernel of {shape[:2]}, '
                f"strides {self.strides} and dilation {self.kernel_dilation}"
            )
        self.precision = precision

    def __call__(
        self, images: Float[Array, "batch height width features"]
    ) -> Float[Array, "batch new_height new_width outputs"]:
        """Convolve (batch, height, width, in_features) to (batch, new_height, new_width, out_features)."""
        kernel = self.kernel[...].astype(images.dtype)
        if self.border == EDGE:
            outputs = convolve_edges(images, kernel, cell=self.cell, precision=self.precision)
        else:
            outputs = convolve(
                images,
                kernel,
                strides=self.strides,
                padding=self.padding,
                kernel_dilation=self.kernel_dilation,
                precision=self.precision,
            )
        if self.bias is None:
            return outputs
        return outputs + per_channel(self.bias[...], images)


def per_channel(values: Float[Array, " channels"], features: Array) -> Float[Array, "1 1 1 channels"]:
    """Shape one value a channel so that it meets features.

    Args:
        values: (channels,).
        features: (batch, height, width, channels): their dtype is taken.

    Returns:
        (1, 1, 1, channels).
    """
    return values.astype(features.dtype).reshape(1, 1, 1, -1)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Sizes:
    """What the backward pass knows of an input that it has not kept."""

    image: tuple[int, int]
    kernel: tuple[int, int]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(geometry: Geometry, images: Array, kernel: Array) -> Array:
    return plain(geometry, images, kernel)


def _forward(geometry: Geometry, images: Any, kernel: Any) -> tuple[Array, tuple]:
    # An input that nobody differentiates needs no residual: an attack then keeps no activations for weight gradients.
    kept_images = images.value if kernel.perturbed else None
    kept_kernel = kernel.value if images.perturbed else None
    sizes = _Sizes(images.value.shape[1:3], kernel.value.shape[:2])
    return _convolve(geometry, images.value, kernel.value), (kept_images, kept_kernel, sizes)


def _backward(geometry: Geometry, residuals: tuple, cotangent: Any) -> tuple[Any, Any]:
    images, kernel, sizes = residuals
    if isinstance(cotangent, SymbolicZero):
        return None, None
    to_images = None if kernel is None else input_gradient(geometry, cotangent, kernel, sizes.image)
    to_kernel = None if images is None else kernel_gradient(geometry, cotangent, images, sizes.kernel)
    return to_images, to_kernel


_convolve.defvjp(_forward, _backward, symbolic_zeros=True)


def _pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    pair: tuple = (value, value) if isinstance(value, int | jnp.integer) else tuple(value)
    if len(pair) != 2 or any(not isinstance(item, int | jnp.integer) or item < 1 for item in pair):
        raise ValueError(f"{name} must be a positive integer or a pair of them, got {value!r}")
    return pair


def _freeze(padding: Sequence[int] | Sequence[Sequence[int]]) -> tuple:
    return tuple(item if isinstance(item, int | jnp.integer) else tuple(item) for item in padding)


def _pads(
    padding: Padding, size: tuple[int, ...], extent: tuple[int, ...], strides: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise ValueError(f'padding must be "SAME", "VALID" or numbers of pixels, got {padding!r}')
        sides: Any = lax.padtype_to_pads(size, extent, strides, padding.upper())
    else:
        sides = (padding, padding) if isinstance(padding, int | jnp.integer) else padding
    pads: tuple = tuple((side, side) if isinstance(side, int | jnp.integer) else tuple(side) for side in sides)
    if len(pads) != 2 or any(len(pad) != 2 or min(pad) < 0 for pad in pads):
        raise ValueError(
            f"padding must be pixels that are not negative: one number, (rows, columns) or ((top, bottom), "
            f"(left, right)), got {padding!r}"
        )
    return pads
