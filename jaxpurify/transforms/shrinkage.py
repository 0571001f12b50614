"""Shrinkage of wavelet coefficients: three thresholding functions, two threshold rules, and a blind noise estimate."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpurify.pytrees import Scalar

# The median absolute value of a standard normal variable is 0.6745, its third quartile.
_QUARTILE = 0.6744897501960817


def soft_threshold(coefficients: Float[Array, "*shape"], threshold: Scalar) -> Float[Array, "*shape"]:
    """Move coefficients towards zero by the threshold, and those below it to zero.

    Args:
        coefficients: any shape.
        threshold: at least 0, a scalar or an array that broadcasts against the coefficients, axis by axis.

    Returns:
        Same shape and dtype. At threshold 0 this is the identity, its gradient included.

    Source: Donoho 1995, "De-noising by soft-thresholding"; PyWavelets' ``threshold(mode="soft")``.

    Example:
        >>> import jax.numpy as jnp
        >>> soft_threshold(jnp.array([-3.0, 0.5, 2.0]), 1.0).tolist()
        [-2.0, 0.0, 1.0]
    """
    threshold = jnp.asarray(threshold, coefficients.dtype)
    zeros, moved = jnp.zeros_like(coefficients), coefficients - threshold * jnp.sign(coefficients)
    return jnp.where(jnp.abs(coefficients) < threshold, zeros, moved)


def hard_threshold(coefficients: Float[Array, "*shape"], threshold: Scalar) -> Float[Array, "*shape"]:
    """Set coefficients below the threshold to zero and leave the others.

    Args:
        coefficients: any shape.
        threshold: at least 0, as for ``soft_threshold``. It gets no gradient: the function jumps there.

    Returns:
        Same shape and dtype.

    Source: Donoho and Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage"; PyWavelets'
    ``threshold(mode="hard")``, which keeps a coefficient that equals the threshold.

    Example:
        >>> import jax.numpy as jnp
        >>> hard_threshold(jnp.array([-3.0, 0.5, 1.0]), 1.0).tolist()
        [-3.0, 0.0, 1.0]
    """
    threshold = jnp.asarray(threshold, coefficients.dtype)
    return jnp.where(jnp.abs(coefficients) < threshold, jnp.zeros_like(coefficients), coefficients)


def garrote_threshold(coefficients: Float[Array, "*shape"], threshold: Scalar) -> Float[Array, "*shape"]:
    """Shrink coefficients d to d − T²/d, and those below the threshold T to zero: between soft and hard.

    Args:
        coefficients: any shape.
        threshold: at least 0, as for ``soft_threshold``.

    Returns:
        Same shape and dtype.

    Source: Gao 1998, "Wavelet shrinkage denoising using the non-negative garrote"; PyWavelets'
    ``threshold(mode="garrote")``.

    Example:
        >>> import jax.numpy as jnp
        >>> garrote_threshold(jnp.array([-2.0, 0.5, 4.0]), 1.0).tolist()
        [-1.5, 0.0, 3.75]
    """
    threshold = jnp.asarray(threshold, coefficients.dtype)
    removed = jnp.abs(coefficients) < threshold
    divisor = jnp.where(removed | (coefficients == 0), jnp.ones_like(coefficients), coefficients)
    return jnp.where(removed, jnp.zeros_like(coefficients), coefficients - threshold**2 / divisor)


def bayes_threshold(
    details: Float[Array, "..."], *, sigma: Scalar, floor: Scalar | None = None, axes: tuple[int, int] = (1, 2)
) -> Array:
    """Compute BayesShrink's threshold of a detail band, ``σ² / √max(mean(d²) − σ², ε)``.

    Where a band holds no more than the noise, the threshold is so large that (almost) nothing of the band is left.

    Args:
        details: one detail band, shape ``(batch, height, width, channel)``, or any other with height and width on
            ``axes``.
        sigma: standard deviation of the noise in the units of the images: a scalar, or an array like the result.
        floor: ε, above 0, likewise. By default the machine epsilon of the dtype, as scikit-image has it for values that
            span [0, 1]; where they span r, r² times as much gives what r times smaller values would.
        axes: height and width.

    Returns:
        Thresholds with height and width of 1.

    Source: Chang, Yu and Vetterli 2000, "Adaptive wavelet thresholding for image denoising and compression", equation
    (14). The floor is scikit-image's.
    """
    variance = jnp.asarray(sigma, details.dtype) ** 2
    floor = jnp.asarray(jnp.finfo(details.dtype).eps if floor is None else floor, details.dtype)
    signal = jnp.mean(details**2, axis=axes, keepdims=True) - variance
    return variance / jnp.sqrt(jnp.maximum(signal, floor))


def visu_threshold(*, sigma: Scalar, pixels: int) -> Array:
    """Compute VisuShrink's universal threshold, ``σ √(2 ln N)``.

    Args:
        sigma: standard deviation of the noise in the units of the images, a scalar or an array.
        pixels: N, the number of pixels of one channel of an image.

    Returns:
        Thresholds in the shape of sigma, the same for all bands.

    Source: Donoho and Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage", equation (31).

    Example:
        >>> round(float(visu_threshold(sigma=0.1, pixels=224 * 224)), 4)
        0.4652
    """
    return jnp.asarray(sigma) * float(np.sqrt(2 * np.log(pixels)))


def estimate_sigma(diagonal: Float[Array, "..."], *, axes: tuple[int, int] = (1, 2)) -> Array:
    """Estimate the standard deviation of the noise, blindly, from the finest diagonal band: median(|d|) / 0.6745.

    One number an image and channel, because channels differ in noise; for one number an image, take their mean.

    Args:
        diagonal: finest diagonal band of an orthonormal wavelet, shape ``(batch, height, width, channel)`` or any other
            with height and width on ``axes``.
        axes: height and width.

    Returns:
        Estimates with height and width of 1. Gradients are those of the median: they reach the one or two
        coefficients in the middle, and ties share them.

    Source: Donoho and Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage", section 4.2. Coefficients that
    are exactly zero count like any other; scikit-image leaves them out.

    Example:
        >>> import jax
        >>> noise = 0.1 * jax.random.normal(jax.random.key(0), (1, 100, 100, 1))
        >>> round(float(estimate_sigma(noise)[0, 0, 0, 0]), 2)
        0.1
    """
    sizes = jnp.moveaxis(jnp.abs(diagonal), axes, (-2, -1))
    middle = _median(sizes.reshape(-1, sizes.shape[-2] * sizes.shape[-1]))
    return jnp.moveaxis(middle.reshape(*sizes.shape[:-2], 1, 1), (-2, -1), axes) / _QUARTILE


def _median(rows: Array) -> Array:
    """Return the median of every row of numbers that are at least 0, without sorting them."""
    rank = (rows.shape[1] - 1) // 2
    fixed = jax.lax.stop_gradient(rows)
    lower = _order_statistic(fixed, rank)
    if rows.shape[1] % 2:
        return _picked(rows, lower)
    # The next number is the same one if it occurs again, or the smallest of those above it.
    above = jnp.min(jnp.where(fixed > lower, fixed, jnp.full_like(fixed, jnp.inf)), axis=1, keepdims=True)
    again = jnp.sum(fixed <= lower, axis=1, keepdims=True) > rank + 1
    return 0.5 * (_picked(rows, lower) + _picked(rows, jnp.where(again, lower, above)))


def _picked(rows: Array, value: Array) -> Array:
    """Return a value that occurs in every row, with a gradient shared among its occurrences."""
    equal = (rows == value).astype(rows.dtype)
    share = jnp.sum(rows * equal, axis=1, keepdims=True) / jnp.maximum(jnp.sum(equal, axis=1, keepdims=True), 1)
    return value + share - jax.lax.stop_gradient(share)


def _order_statistic(rows: Array, rank: int) -> Array:
    """Find the number of a rank in every row, bit by bit: numbers above 0 are ordered like their bits.

    Sorting takes XLA's CPU compiler ten times as long.
    """
    bits = np.finfo(rows.dtype).bits
    integer = jnp.dtype(f"uint{bits}")
    keys = jax.lax.bitcast_convert_type(rows, integer)

    def place(number, found):
        bit = jnp.left_shift(jnp.ones((), integer), (bits - 2 - number).astype(integer))
        candidate = found | bit
        below = jnp.sum(keys < candidate, axis=1, keepdims=True)
        return jnp.where(below <= rank, candidate, found)

    found = jax.lax.fori_loop(0, bits - 1, place, jnp.zeros((rows.shape[0], 1), integer))
    return jax.lax.bitcast_convert_type(found, rows.dtype)
