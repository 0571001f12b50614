"""Pixel deflection: some pixels take the value of a neighbour, and wavelet denoising blends them in."""

import functools

import jax
import jax.numpy as jnp

from jaxpurify.images import saturate
from jaxpurify.models import purifier
from jaxpurify.purifiers.wavelet import WaveletDenoising
from jaxpurify.pytrees import Scalar, concrete, static
from jaxpurify.transforms.resampling import whole_number


@purifier
class PixelDeflection:
    """Replace some pixels by others from their neighbourhood at random, then denoise by wavelets.

    For given keys the exact gradient is available: a pixel that was replaced has none, the one it was replaced by has
    its own and the other's.

    Args:
        sigma: standard deviation of the noise that the wavelets remove, at least 0; 0 leaves them out.
        share: share of the pixels that is replaced, above 0 and at most 1; at least one pixel is (static: it fixes
            the number of draws).
        window: how far away a replacement may be, in pixels, in rows and in columns, at least 1 (static).

    Returns:
        When called: images of the same shape and dtype in [0, 1].

    Raises:
        ValueError: if a number is out of its domain.

    Source: Prakash, Moran, Garber, DiLillo and Storer 2018 (arXiv 1801.08926), algorithm 1 and section 5: 200 pixels
    of 224×224, a window of 10 and sigma 0.04. All pixels are as likely to be replaced: the map that steers
    deflections away from the object needs a classifier's activations, and is left out. Our choice: all replacements
    read the image as it came.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxpurify as jp
        >>> purifier = jp.purifiers.PixelDeflection(share=0.05)
        >>> purifier(jnp.full((2, 32, 32, 3), 0.25), jax.random.key(0)).shape
        (2, 32, 32, 3)
    """

    random = True
    sigma: Scalar = 0.04
    share: float = static(200 / 224**2)
    window: int = static(10)

    def check(self):
        """Refuse numbers out of their domains."""
        if concrete(self.sigma):
            WaveletDenoising(sigma=self.sigma)
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")
        if not isinstance(self.window, int) or self.window < 1:
            raise ValueError(f"window must be an integer of at least 1, got {self.window}")

    def __call__(self, images, key=None):
        height, width = images.shape[1:3]
        count = max(1, round(self.share * height * width))
        deflected = _deflect(images, key, count=count, window=self.window)
        return saturate(WaveletDenoising(sigma=self.sigma)(deflected))


@functools.partial(jax.jit, static_argnames=("count", "window"))
def _deflect(images, keys, *, count, window):
    height, width, channels = images.shape[1:]

    def one(image, key):
        draws = jax.random.uniform(key, (4, count), jnp.float32)
        row, column = whole_number(draws[0], low=0, high=height), whole_number(draws[1], low=0, high=width)
        place, origin = row * width + column, _near(draws[2], row, height, window) * width
        origin += _near(draws[3], column, width, window)
        # Where several deflections meet the last one wins, and the others write nowhere: the same on every device.
        number = jnp.arange(count, dtype=jnp.int32)
        last = jnp.zeros(height * width, jnp.int32).at[place].max(number)
        place = jnp.where(last[place] == number, place, height * width + number)
        pixels = image.reshape(height * width, channels)
        written = pixels.at[place].set(pixels[origin], mode="drop", unique_indices=True)
        return written.reshape(image.shape)

    return jax.vmap(one)(images, keys)


def _near(draw, centre, size, window):
    """Return a place within a window around another, uniformly among those inside the image."""
    low, high = jnp.maximum(centre - window, 0), jnp.minimum(centre + window, size - 1)
    return whole_number(draw, low=low, high=high + 1)
