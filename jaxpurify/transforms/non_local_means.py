"""Non-local means: every pixel becomes the mean of the pixels around it, weighted by how alike their patches are.

One loop over the offsets between two pixels, half of them because patches are as far from one another both ways. As
in ``total_variation`` a channel is one row of numbers, so that an offset is a slice, at a place that may be traced.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxpurify.images import check_images
from jaxpurify.pytrees import Scalar, concrete
from jaxpurify.transforms.loops import image_by_image

# Patches further apart than this, in units of h², have no weight.
_CUT = 5.0
# Far enough beyond the cut, yet where the exponential is still a positive number in float32.
_FURTHEST = 60.0
# How far Schraudolph's exponential is lowered, in octaves, for the smallest mean squared error.
_LOWERED = 60801 / 2**20


def non_local_means(
    images: Float[Array, "batch height width channel"],
    *,
    h: Scalar,
    sigma: Scalar = 0.0,
    patch_size: int = 3,
    patch_distance: int = 5,
) -> Float[Array, "batch height width channel"]:
    """Average every pixel with those around it whose patches resemble its own.

    The weight of a pixel at distance d² between patches is ``exp(−max(d² − 2 σ², 0) / h²)``, where d² is the mean over
    channels, and over the patch with Gaussian weights of standard deviation ``(patch_size − 1) / 4``. Equal to
    scikit-image's ``denoise_nl_means`` with ``fast_mode=False``, down to its exponential: straight between powers of
    two (within 4 %), and cut where d² exceeds 5 h² before the last row of the patch. Patches go on beyond the border
    (d c b | a b c d | c b a); the pixels averaged do not.

    Args:
        images: shape ``(batch, height, width, channel)``, float32 or float64.
        h: how different patches may be, a scalar above 0, in units of the images.
        sigma: standard deviation of the noise, a scalar of at least 0, in units of the images.
        patch_size: side of a patch in pixels, odd, at least 3.
        patch_distance: how far apart, in rows and in columns, two pixels may be, in pixels, at least 1.

    Returns:
        Same shape and dtype, between the smallest and the largest value of each image and channel.

    Raises:
        TypeError: if the dtype of the images is not float32 or float64.
        ValueError: if a number is out of its domain; h and sigma only if not traced.

    Source: Buades, Coll and Morel, "A non-local algorithm for image denoising", CVPR 2005, and "Non-local means
    denoising", IPOL 1, 2011 (sigma). The exponential: Schraudolph, "A fast, compact approximation of the exponential
    function", Neural Computation 11, 1999, without its rounding. That of scikit-image is taken so that the two can be
    compared to the last digits.

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.full((1, 7, 7, 1), 0.5).at[0, ::2].set(0.51)
        >>> bool(jnp.ptp(non_local_means(images, h=0.1)) < 0.01)
        True
    """
    check_images(images)
    h, sigma = check_non_local_means(h, sigma, patch_size, patch_distance, dtype=images.dtype)
    run = functools.partial(_non_local_means, patch_size=patch_size, patch_distance=patch_distance)
    return image_by_image(lambda image: run(image, h, sigma), images)


def check_non_local_means(
    h: Scalar, sigma: Scalar, patch_size: int, patch_distance: int, *, dtype: DTypeLike
) -> tuple[Array, Array]:
    """Check the parameters of non-local means, the values only of those that are not traced.

    Args:
        h: how different patches may be, a scalar above 0.
        sigma: standard deviation of the noise, a scalar of at least 0.
        patch_size: side of a patch in pixels, odd, at least 3.
        patch_distance: how far apart two pixels may be, at least 1.
        dtype: the dtype to compute in.

    Returns:
        h and sigma as scalar arrays of that dtype.

    Raises:
        ValueError: if one is out of its domain.
    """
    for name, value in (("h", h), ("sigma", sigma)):
        if jnp.ndim(value) != 0:
            raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}: several values? use sweep")
    if concrete(h) and not 0 < float(h) < np.inf:
        raise ValueError(f"h must be finite and above 0, got {h}: values are in [0, 1], so 0.03 is usual")
    if concrete(sigma) and not 0 <= float(sigma) < np.inf:
        raise ValueError(f"sigma must be finite and at least 0, got {sigma}: 0 if the noise is not known")
    whole = isinstance(patch_size, int | np.integer) and not isinstance(patch_size, bool)
    if not whole or patch_size < 3 or patch_size % 2 == 0:
        raise ValueError(
            f"patch_size must be an odd integer of at least 3 pixels, got {patch_size}: 3, 5 or 7 is usual"
        )
    if not isinstance(patch_distance, int | np.integer) or isinstance(patch_distance, bool) or patch_distance < 1:
        raise ValueError(f"patch_distance must be an integer of at least 1 pixel, got {patch_distance}: 5 is usual")
    return jnp.asarray(h, dtype), jnp.asarray(sigma, dtype)


@functools.partial(jax.jit, static_argnames=("patch_size", "patch_distance"))
def _non_local_means(image: Array, h: Array, sigma: Array, *, patch_size: int, patch_distance: int) -> Array:
    height, width, channels = image.shape
    reach, side = min(patch_distance, max(height, width) - 1), patch_size // 2
    profile = np.exp(-0.5 * (np.arange(-side, side + 1) / ((patch_size - 1) / 4)) ** 2)
    profile /= profile.sum()
    # A last plane of ones makes the sum of the weights, and is 0 beyond the image. It is made of the image lest JAX
    # keep what follows from it, for every offset, until the way back.
    inside = jnp.ones((height, width), image.dtype) + 0 * image[:, :, 0]
    margin = [(side, side), (side, side)]
    planes = [jnp.pad(image[:, :, channel], margin, mode="reflect") for channel in range(channels)]
    planes.append(jnp.pad(inside, margin))
    # What lies between two rows of the image keeps them further apart than any offset.
    row = width + 2 * side + reach
    size, first, furthest = height * row, side * row + side, reach * row + reach
    planes = [jnp.pad(jnp.pad(plane, [(0, 0), (0, reach)]).ravel(), (furthest, furthest + row)) for plane in planes]
    start = furthest + first
    weights = jnp.asarray(profile, image.dtype)
    scale = 1 / (channels * jnp.maximum(h**2, float(jnp.finfo(image.dtype).tiny) ** 0.5))
    noise = 2 * channels * sigma**2

    def likeness(shift):
        """Return the weights of the pixels at an offset, 0 where they lie outside the image."""
        span, across_span = size + 2 * first, size + 2 * side * row
        there = [_part(plane, furthest + shift, span) for plane in planes[:-1]]
        squares = sum((_part(plane, furthest, span) - other) ** 2 for plane, other in zip(planes, there, strict=False))
        squares = (squares - noise) * scale

        # Sums over the patch are loops because XLA would fuse unrolled ones, and compute every square 9 times.
        def add_column(k, across):
            return across + weights[k] * _part(squares, k, across_span)

        def add_row(k, state):
            distance, near = state
            return distance + weights[k] * _part(across, k * row, size), near & (distance <= _CUT)

        across = jax.lax.fori_loop(1, patch_size, add_column, weights[0] * squares[:across_span])
        distance = weights[0] * across[:size]
        distance, near = jax.lax.fori_loop(1, patch_size, add_row, (distance, distance <= _CUT))
        weight = jnp.where(near, _exponential(jnp.clip(-distance, -_FURTHEST, 0.0)), 0)
        return weight * _part(planes[-1], start, size) * _part(planes[-1], start + shift, size)

    def add(sums, shift):
        ahead = jnp.pad(likeness(shift), (furthest, 0))
        there, back = _part(ahead, furthest, size), _part(ahead, furthest - shift, size)
        return tuple(
            total + there * _part(plane, start + shift, size) + back * _part(plane, start - shift, size)
            for total, plane in zip(sums, planes, strict=True)
        ), None

    own = _exponential(jnp.zeros((), image.dtype))
    sums = tuple(own * _part(plane, start, size) for plane in planes)
    add = jax.checkpoint(add, prevent_cse=False)  # type: ignore[attr-defined]
    *totals, count = jax.lax.scan(add, sums, _offsets(reach, row))[0]
    # Between the rows of the image there is nothing to average.
    mean = jnp.stack([total / jnp.maximum(count, own) for total in totals], axis=-1)
    return mean.reshape(height, row, channels)[:, :width]


def _part(values: Array, start: int | Array, length: int) -> Array:
    return jax.lax.dynamic_slice(values, (start,), (length,))


def _offsets(reach: int, row: int) -> Array:
    """Return the half of the offsets that look down, or right in the same row, as distances along the row."""
    down, right = np.mgrid[0 : reach + 1, -reach : reach + 1].reshape(2, -1)
    half = (down > 0) | (right > 0)
    return jnp.asarray(down[half] * row + right[half], jnp.int32)


@jax.custom_jvp
def _exponential(exponent: Array) -> Array:
    """Return Schraudolph's exponential: a float whose bits are a straight function of the exponent."""
    return jax.lax.bitcast_convert_type(_bits(exponent), exponent.dtype)


@_exponential.defjvp
def _exponential_jvp(primals, tangents):
    (exponent,), (tangent,) = primals, tangents
    mantissa = jnp.finfo(exponent.dtype).nmant
    power = jax.lax.bitcast_convert_type((_bits(exponent) >> mantissa) << mantissa, exponent.dtype)
    return _exponential(exponent), power * tangent / float(np.log(2))


def _bits(exponent: Array) -> Array:
    kind = jnp.finfo(exponent.dtype)
    integer = jnp.int32 if kind.bits == 32 else jnp.int64
    zero = round((kind.maxexp - 1 - _LOWERED) * 2**kind.nmant)
    return (exponent * (2**kind.nmant / float(np.log(2)))).astype(integer) + jnp.asarray(zero, integer)
