"""A random crop, resized back to the whole: one draw of the ensemble of crops."""

import functools

import jax
import jax.numpy as jnp

from jaxpurify.images import saturate
from jaxpurify.models import purifier
from jaxpurify.pytrees import Scalar, concrete, static
from jaxpurify.transforms.resampling import (
    LONG,
    check_method,
    resample,
    resample_window,
    resampling_matrix,
    whole_number,
)


@purifier
class RandomCrop:
    """Cut a part of every image out at a random place and resize it to the size of the image.

    For given keys it is linear, so the exact gradient is available. ``CropEnsemble`` averages what a classifier says
    about many such crops.

    Args:
        share: side of the crop over that of the image, above 0 and at most 1; the crop's side is rounded to whole
            pixels.
        method: interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"``, ``"lanczos3"`` or ``"lanczos5"`` (static).

    Returns:
        When called: images of the same shape and dtype in [0, 1].

    Raises:
        ValueError: if the share is out of its domain or the method is unknown.

    Source: Guo, Rana, Cissé and van der Maaten 2018 (arXiv 1711.00117), section 4: crops of 90 pixels out of 224.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxpurify as jp
        >>> jp.purifiers.RandomCrop(share=0.5)(jnp.ones((2, 32, 32, 3)), jax.random.key(0)).shape
        (2, 32, 32, 3)
    """

    random = True
    share: Scalar = 90 / 224
    method: str = static("bilinear")

    def check(self):
        """Refuse a share that is no crop, and unknown methods."""
        check_method(self.method)
        if concrete(self.share) and not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

    def __call__(self, images, key=None):
        return saturate(_crop(images, key, jnp.asarray(self.share, images.dtype), method=self.method))


@functools.partial(jax.jit, static_argnames=("method",))
def _crop(images, keys, share, *, method):
    sides = images.shape[1:3]

    def windows(draws):
        found = []
        for side, draw in zip(sides, draws, strict=True):
            length = jnp.clip(jnp.round(share * side).astype(jnp.int32), 1, side)
            found.append((whole_number(draw, low=0, high=side - length + 1), length))
        return found

    def one(draws):
        return [
            resampling_matrix(side, output=side, source=window, method=method, dtype=images.dtype)
            for side, window in zip(sides, windows(draws), strict=True)
        ]

    draws = jax.vmap(lambda key: jax.random.uniform(key, (2,), jnp.float32))(keys)
    if max(sides) > LONG:
        crop = functools.partial(resample_window, output=sides, method=method)
        return jax.lax.map(lambda each: crop(each[0], sources=windows(each[1])), (images, draws))
    rows, columns = jax.vmap(one)(draws)
    return resample(images, rows=rows, columns=columns)
