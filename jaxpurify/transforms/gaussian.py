"""Iterated Gaussian smoothing in closed form: any number of passes for the price of two dense products an image.

One pass of a truncated, sampled Gaussian along one axis has the eigenvalues ``1 - 4 Σ_k w_k sin²(k θ / 2)``, where w_k
is the weight k pixels from the centre and θ runs over the frequencies of the cosine transform that belongs to the
border. K passes have their K-th powers. So the matrix of K passes is built once a call, and applied once an axis.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxpurify.images import check_images
from jaxpurify.pytrees import Scalar, concrete
from jaxpurify.transforms.dct import check_boundary, cosine_basis, period

# The kernel is folded onto a circle of one period of the continued row, so its radius may exceed the image. A radius of
# 64 periods is enough: there what is left of a Gaussian cut at four sigma, but for the mean, is below 3e-6.
_PERIODS = 64


def gaussian_smooth(
    images: Float[Array, "batch height width channel"],
    *,
    sigma: Scalar,
    iterations: Scalar = 1.0,
    boundary: str = "symmetric",
    truncate: float = 4.0,
) -> Float[Array, "batch height width channel"]:
    """Smooth images with a truncated Gaussian any number of times, at the cost of once.

    Equal to SciPy's ``gaussian_filter`` applied ``iterations`` times to height and width. The kernel is cut at the
    radius ``floor(truncate * sigma + 0.5)`` in pixels and normalised; a sigma whose radius is 0 changes nothing. Both
    numbers may be traced. The radius jumps, so the derivative with respect to sigma is that of the weights at a fixed
    radius.

    Args:
        images: shape ``(batch, height, width, channel)``, float32 or float64.
        sigma: standard deviation of one pass in pixels, a scalar of at least 0.
        iterations: number of passes, a scalar of at least 0, not necessarily whole.
        boundary: how the image continues beyond its border: ``"symmetric"`` (d c b a | a b c d | d c b a; SciPy calls
            it "reflect") or ``"mirror"`` (d c b | a b c d | c b a).
        truncate: where the kernel is cut, in standard deviations, above 0.

    Returns:
        Same shape and dtype, not clipped.

    Raises:
        TypeError: if the dtype of the images is not float32 or float64.
        ValueError: if a shape, boundary or truncate is out of its domain, or a sigma or iterations that is not traced.

    Source: the iterated Gaussian smoothing of Cha, Ko, Yoo and Moon 2021 (arXiv 2106.11644). The closed form is our
    choice, for speed. Broken numbers of passes are our choice too, so that they can be swept and differentiated: real
    powers of the eigenvalues, of which a truncated Gaussian has small negative ones; these take the real part of
    the principal power, which is exact at whole numbers. Between 0 and 1 pass this amplifies rounding errors of
    frequencies that a whole pass would remove.

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
        >>> smoothed = gaussian_smooth(images, sigma=1.0, iterations=10)
        >>> round(float(smoothed.sum()), 5), round(float(smoothed.max()), 3)
        (1.0, 0.04)
    """
    check_images(images)
    sigma, iterations = check_smoothing(sigma, iterations, boundary, truncate, dtype=images.dtype)
    return _smooth(images, sigma, iterations, boundary=boundary, truncate=float(truncate))


def smoothing_operator(
    size: int,
    *,
    sigma: Scalar,
    iterations: Scalar = 1.0,
    boundary: str = "symmetric",
    truncate: float = 4.0,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "size size"]:
    """Compute the matrix that smooths one axis, the one that ``gaussian_smooth`` applies to rows and columns.

    Args:
        size: number of pixels along the axis.
        sigma: standard deviation of one pass in pixels, a scalar of at least 0.
        iterations: number of passes, a scalar of at least 0.
        boundary: ``"symmetric"`` or ``"mirror"``.
        truncate: where the kernel is cut, in standard deviations, above 0.
        dtype: float32 or float64.

    Returns:
        Shape ``(size, size)``; every row sums to 1.

    Raises:
        ValueError: as ``gaussian_smooth``.

    Source: our choice, as in ``gaussian_smooth``.
    """
    sigma, iterations = check_smoothing(sigma, iterations, boundary, truncate, dtype=dtype)
    return _operator(size, sigma, iterations, boundary, float(truncate))


def check_smoothing(
    sigma: Scalar, iterations: Scalar, boundary: str, truncate: float, *, dtype: DTypeLike
) -> tuple[Array, Array]:
    """Check the parameters of Gaussian smoothing, the values only of those that are not traced.

    Args:
        sigma: standard deviation of one pass in pixels, a scalar of at least 0.
        iterations: number of passes, a scalar of at least 0.
        boundary: ``"symmetric"`` or ``"mirror"``.
        truncate: where the kernel is cut, in standard deviations, above 0.
        dtype: the dtype to compute in.

    Returns:
        Sigma and iterations as scalar arrays of that dtype.

    Raises:
        ValueError: if one is out of its domain.
    """
    check_boundary(boundary)
    if not 0 < truncate < np.inf:
        raise ValueError(f"truncate must be a finite number of standard deviations above 0, got {truncate}")
    for name, value in (("sigma", sigma), ("iterations", iterations)):
        if jnp.ndim(value) != 0:
            raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}: several values? use sweep")
        if concrete(value) and not 0 <= float(value) < np.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return jnp.asarray(sigma, dtype), jnp.asarray(iterations, dtype)


def smoothing_reach(sigma: Scalar, iterations: Scalar, truncate: float) -> int | None:
    """Return how far smoothing looks: as far as its passes, or as what is left of them in float32.

    Args:
        sigma: standard deviation of one pass in pixels.
        iterations: number of passes.
        truncate: where the kernel is cut, in standard deviations.

    Returns:
        Pixels; None where the numbers are traced or not scalars, or the number of passes is not whole: no kernel of
        finite size has that many.
    """
    if not concrete((sigma, iterations)) or jnp.ndim(sigma) or jnp.ndim(iterations):
        return None
    sigma, iterations = float(sigma), float(iterations)
    if not iterations.is_integer() or not np.isfinite(sigma):
        return None
    radius = int(truncate * sigma + 0.5)
    return min(int(iterations) * radius, int(np.ceil(6 * sigma * iterations**0.5))) if radius else 0


@functools.partial(jax.jit, static_argnames=("boundary", "truncate"))
def _smooth(images: Array, sigma: Array, iterations: Array, *, boundary: str, truncate: float) -> Array:
    height, width = images.shape[1:3]
    columns = _operator(height, sigma, iterations, boundary, truncate)
    rows = columns if height == width else _operator(width, sigma, iterations, boundary, truncate)
    # Planar, because a product over width with the three channels innermost is slower than the two transpositions.
    planes = jnp.transpose(images, (0, 3, 1, 2))
    planes = jnp.einsum("bchw,vw->bchv", planes, rows, precision="highest")
    planes = jnp.einsum("uh,bchv->bcuv", columns, planes, precision="highest")
    return jnp.transpose(planes, (0, 2, 3, 1))


@functools.partial(jax.jit, static_argnames=("size", "boundary", "truncate"))
def _operator(size: int, sigma: Array, iterations: Array, boundary: str, truncate: float) -> Array:
    analysis, synthesis = (jnp.asarray(matrix, sigma.dtype) for matrix in cosine_basis(size, boundary=boundary))
    spectrum = _power(_removed(size, sigma, boundary, truncate), iterations)
    # What all frequencies share is a multiple of the identity. Taken out before the products it carries no rounding
    # error, so that weak smoothing is as accurate as strong, and none at all is exactly none.
    shared = spectrum[-1]
    rest = jnp.matmul(synthesis * (spectrum - shared)[None, :], analysis, precision="highest")
    return shared * jnp.eye(size, dtype=sigma.dtype) + rest


def _removed(size: int, sigma: Array, boundary: str, truncate: float) -> Array:
    """Return one minus the eigenvalue of one pass, for every frequency, exact where it is small."""
    length = period(size, boundary=boundary)
    distance = jnp.arange(_PERIODS * length).astype(sigma.dtype)
    sigma = jnp.minimum(sigma, _PERIODS * length / truncate)
    radius = jnp.floor(truncate * sigma + 0.5)
    # Divided by 1 where the radius is 0, so that derivatives stay finite down to sigma 0. A NaN stays a NaN.
    scaled = distance / jnp.where(radius < 1, jnp.ones_like(sigma), sigma)
    beside = jnp.where((distance > radius) | (distance == 0), jnp.zeros_like(distance), jnp.exp(-0.5 * scaled**2))
    folded = (beside / (1 + 2 * jnp.sum(beside))).reshape(_PERIODS, length).sum(axis=0)
    # sin² is the same for k and length − k, so the second half of the circle is folded onto the first.
    half = length // 2
    near, far = folded[1 : half + 1], folded[half + 1 :][::-1]
    frequency, offset = np.arange(size)[:, None], np.arange(1, half + 1)[None, :]
    squares = jnp.asarray(np.sin(np.pi / length * (frequency * offset % length)) ** 2, sigma.dtype)
    once = jnp.matmul(squares, near, precision="highest")
    return 4 * (once + jnp.matmul(squares[:, : far.shape[0]], far, precision="highest"))


def _power(removed: Array, exponent: Array) -> Array:
    """Return ``(1 - removed) ** exponent``, to full precision where removed is small and the exponent large."""
    small = removed < 0.5
    tiny = float(jnp.finfo(removed.dtype).tiny) ** 0.75
    logarithm = jnp.where(
        small,
        jnp.log1p(-jnp.where(small, removed, 0)),
        jnp.log(jnp.maximum(jnp.abs(1 - jnp.where(small, 0, removed)), tiny)),
    )
    sign = jnp.where(removed > 1, jnp.cos(jnp.pi * exponent), jnp.ones_like(exponent))
    return sign * jnp.exp(exponent * logarithm)
