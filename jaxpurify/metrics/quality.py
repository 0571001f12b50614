"""How near images are to their references: signal-to-noise ratios and structural similarity, a number an image."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxpurify.images import as_jax, check_images
from jaxpurify.transforms.gaussian import gaussian_smooth

# MATLAB's rgb2ycbcr: BT.601 for pixels of 0 to 255, with luma from 16 to 235; in a difference the 16 cancel.
STUDIO_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
# Wang et al. 2004: a window of 11×11 pixels, and what keeps the quotients away from 0/0.
SIGMA = 1.5
RADIUS = 5
TRUNCATE = 3.5  # floor(3.5 · 1.5 + 0.5) = 5
C1, C2 = 0.01**2, 0.03**2


def psnr(images: ArrayLike, reference: ArrayLike) -> Float[Array, " batch"]:
    """Compute each image's peak signal-to-noise ratio, over all pixels and channels.

    Args:
        images: shape ``(batch, height, width, channel)``, float32 or float64, peak 1; not clipped.
        reference: what the images should be; same shape and dtype.

    Returns:
        Decibels, shape ``(batch,)``: ``-10 log10`` of the mean squared difference; infinity where images are equal.

    Raises:
        TypeError: if the dtype is not float32 or float64.
        ValueError: if shapes or dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> float(psnr(jnp.full((1, 4, 4, 3), 0.6), jnp.full((1, 4, 4, 3), 0.5))[0])
        20.0
    """
    images, reference = _pair(images, reference)
    return _decibels(images - reference)


def luma_psnr(images: ArrayLike, reference: ArrayLike, *, shave: int = 0) -> Float[Array, " batch"]:
    """Compute each image's peak signal-to-noise ratio in luma, as papers on super-resolution do.

    Both images are rounded to the 256 values of 8 bits, which clips them to [0, 1]; luma is that of MATLAB's
    ``rgb2ycbcr``, BT.601 from 16 to 235, left unrounded; the peak is nevertheless 255, which adds 1.3 dB. An image of
    one channel is luma already. Rounding has no gradient: this is for measuring.

    Args:
        images: shape ``(batch, height, width, channel)``, float32 or float64, 1 or 3 channels, 1 is white.
        reference: what the images should be; same shape and dtype.
        shave: pixels left out at each of the four borders: papers take the factor of the super-resolution.

    Returns:
        Decibels, shape ``(batch,)``; infinity where images are equal.

    Raises:
        TypeError: if the dtype is not float32 or float64.
        ValueError: if shapes or dtypes differ, there are not 1 or 3 channels, or nothing is left between the borders.

    Source:
        The convention of Lim et al. 2017 (EDSR, arXiv 1707.02921) and its code, which leaves luma unrounded; MATLAB
        itself rounds it, which changes hundredths of a decibel.

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.zeros((1, 8, 8, 3)).at[:, 0].set(1.0)
        >>> float(luma_psnr(images, jnp.zeros((1, 8, 8, 3)), shave=2)[0])
        inf
    """
    images, reference = _pair(images, reference)
    rows, columns, channels = images.shape[1:]
    if channels not in (1, 3):
        raise ValueError(f"luma needs images of 1 or 3 channels, got shape {images.shape}")
    if not 0 <= 2 * shave < min(rows, columns):
        raise ValueError(
            f"shave must be at least 0 pixels and leave some of {rows}×{columns} between the borders, got {shave}"
        )
    inner = (slice(None), slice(shave, rows - shave), slice(shave, columns - shave))
    return _decibels((_luma(images[inner]) - _luma(reference[inner])) / 255)


def ssim(images: ArrayLike, reference: ArrayLike) -> Float[Array, " batch"]:
    """Compute each image's mean structural similarity, averaged over channels.

    A Gaussian window of 11×11 pixels, sigma 1.5, wherever it lies inside the image; population covariances;
    ``K1 = 0.01``, ``K2 = 0.03``, range 1. Equal to scikit-image's ``structural_similarity`` with
    ``gaussian_weights=True, use_sample_covariance=False, data_range=1``.

    Args:
        images: shape ``(batch, height, width, channel)``, float32 or float64, range [0, 1], at least 11×11 pixels.
        reference: what the images should be; same shape and dtype.

    Returns:
        Shape ``(batch,)``, from -1 to 1; 1 where images are equal.

    Raises:
        TypeError: if the dtype is not float32 or float64.
        ValueError: if shapes or dtypes differ, or the images are smaller than the window.

    Source:
        Wang, Bovik, Sheikh, Simoncelli 2004, section III-C. Averaging over channels is our choice, and
        scikit-image's.

    Example:
        >>> import jax.numpy as jnp
        >>> image = jnp.linspace(0.0, 1.0, 256).reshape(1, 16, 16, 1)
        >>> float(ssim(image, image)[0])
        1.0
    """
    images, reference = _pair(images, reference)
    if min(images.shape[1:3]) < 2 * RADIUS + 1:
        raise ValueError(f"images must have at least 11 rows and columns for the window, got shape {images.shape}")
    # Covariances do not change with what is subtracted from both; subtracting grey halves their rounding errors.
    ours, theirs = images - 0.5, reference - 0.5
    mean, their_mean = _windowed(ours), _windowed(theirs)
    variances = _windowed(ours**2 + theirs**2) - mean**2 - their_mean**2
    covariance = _windowed(ours * theirs) - mean * their_mean
    mean, their_mean = mean + 0.5, their_mean + 0.5
    luminance = (2 * mean * their_mean + C1) / (mean**2 + their_mean**2 + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    return (luminance * structure).mean(axis=(1, 2, 3))


def _pair(images: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    first, second = as_jax(images), as_jax(reference)
    check_images(first)
    check_images(second, name="reference")
    if first.shape != second.shape or first.dtype != second.dtype:
        raise ValueError(
            f"images and their reference must have one shape and dtype, got {first.shape} {first.dtype} and "
            f"{second.shape} {second.dtype}"
        )
    return first, second


def _decibels(difference: Array) -> Array:
    return -10 * jnp.log10((difference**2).mean(axis=(1, 2, 3)))


def _luma(images: Array) -> Array:
    pixels = jnp.round(255 * jnp.clip(images, 0, 1))
    if images.shape[-1] == 1:
        return pixels
    # Not a matrix product, whose factors accelerators may round to 10 bits.
    return (pixels * jnp.asarray(STUDIO_LUMA, images.dtype).reshape(1, 1, 1, 3)).sum(axis=-1, keepdims=True)


def _windowed(images: Array) -> Array:
    """Average within the window, wherever it lies inside the image."""
    smoothed = gaussian_smooth(images, sigma=SIGMA, truncate=TRUNCATE)
    return smoothed[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
