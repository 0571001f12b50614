"""The discrete Fourier transform of images, as far as filters need it."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpurify.images import check_images


def fft_filter(
    images: Float[Array, "batch height width channel"], gains: Float[Array, "group height half_width"]
) -> Float[Array, "batch height width channel"]:
    """Multiply the Fourier coefficients of images by real gains.

    Args:
        images: shape ``(batch, height, width, channel)``, any number of channels.
        gains: one a coefficient of ``rfft2``, shape ``(batch, height, width // 2 + 1)``, or ``(1, …)`` for all images
            alike. Rows are frequencies 0, 1, …, −2, −1. For real images, a frequency and its negative must have the
            same gain: within the column of horizontal frequency 0, and of ``width / 2``, rows u and −u.

    Returns:
        Same shape and dtype as the images, not clipped. Images are taken as periodic.

    Raises:
        TypeError: if the dtype of the images is not float32 or float64.
        ValueError: if the shapes do not fit.

    Source: the convolution theorem; ``jax.numpy.fft``.
    """
    check_images(images, features=True)
    batch, height, width, _ = images.shape
    shape = (height, width // 2 + 1)
    if gains.shape not in ((batch, *shape), (1, *shape)):
        raise ValueError(f"gains must have shape {(batch, *shape)} or {(1, *shape)}, got {gains.shape}")
    coefficients = jnp.fft.rfft2(jnp.transpose(images, (0, 3, 1, 2)))
    filtered = coefficients * gains[:, None].astype(coefficients.dtype)
    return jnp.transpose(jnp.fft.irfft2(filtered, s=(height, width)), (0, 2, 3, 1))
