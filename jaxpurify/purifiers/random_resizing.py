"""Random resizing and padding: the image, slightly enlarged, at a random place of a larger frame."""

import functools
import math

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
class RandomResizing:
    """Resize every image to a random size and put it at a random place of a frame of fixed size.

    For given keys it is linear, so the exact gradient is available; what protects, if anything, is the draw.

    Args:
        smallest: smallest side drawn, as a share of the image's side.
        largest: side of the frame, likewise, at least 1. A drawn side is a whole number below the frame's (static:
            it fixes the size of the output).
        fill: value around the image, in [0, 1].
        method: interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"``, ``"lanczos3"`` or ``"lanczos5"`` (static).
        keep_size: whether the frame has the size of the image, which then shrinks: the same pictures at another
            scale, for classifiers that take one size only (static).

    Returns:
        When called: images in [0, 1] of ``ceil(largest * side)`` pixels a side, or of the same size.

    Raises:
        ValueError: if a number is out of its domain or the method is unknown.

    Source: Xie, Wang, Zhang, Ren and Yuille 2018 (arXiv 1711.01991), section 3: 299 pixels to a side in [299, 331) in
    a frame of 331. Zeros are padded on the scale from −1 to 1 there, which is grey here. Other sizes of image keep the
    ratio; ``keep_size`` is our choice.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxpurify as jp
        >>> purifier = jp.purifiers.RandomResizing()
        >>> purifier(jnp.ones((1, 299, 299, 3)), jax.random.key(0)).shape
        (1, 331, 331, 3)
    """

    random = True
    smallest: Scalar = 1.0
    fill: Scalar = 0.5
    largest: float = static(331 / 299)
    method: str = static("nearest")
    keep_size: bool = static(False)

    @property
    def changes_size(self) -> bool:
        return not self.keep_size and self.largest > 1

    def check(self):
        """Refuse sizes that do not fit the frame, and unknown methods."""
        check_method(self.method)
        if not 1 <= self.largest < math.inf:
            raise ValueError(f"largest must be a share of the image's side of at least 1, got {self.largest}")
        if concrete(self.smallest) and not 0 < self.smallest <= self.largest:
            raise ValueError(f"smallest must be above 0 and at most largest ({self.largest:g}), got {self.smallest}")
        if concrete(self.fill) and not 0 <= self.fill <= 1:
            raise ValueError(f"fill must be from 0 to 1, got {self.fill}")

    def __call__(self, images, key=None):
        height, width = images.shape[1:3]
        ratio = 1.0 if self.keep_size else self.largest
        # A product such as 331 / 299 * 299 may come out above the whole number that is meant.
        frame = tuple(math.ceil(ratio * side - 1e-6) for side in (height, width))
        least = jnp.asarray(self.smallest, images.dtype) * (ratio / self.largest * min(height, width))
        fill = jnp.asarray(self.fill, images.dtype)
        return saturate(_resize_and_pad(images, key, least, fill, frame=frame, method=self.method))


@functools.partial(jax.jit, static_argnames=("frame", "method"))
def _resize_and_pad(images, keys, least, fill, *, frame, method):
    sides = images.shape[1:3]
    shorter = min(sides)
    low = jnp.maximum(jnp.ceil(least - 1e-4).astype(jnp.int32), 1)
    # Exclusive, as the paper has it, unless nothing else is left.
    high = jnp.maximum(low + 1, min(frame))

    def windows(draws):
        drawn, found = whole_number(draws[0], low=low, high=high), []
        for side, framed, draw in zip(sides, frame, draws[1:], strict=True):
            length = jnp.clip(side * drawn // shorter, 1, framed)
            found.append((whole_number(draw, low=0, high=framed - length + 1), length))
        return found

    def one(draws):
        return [
            resampling_matrix(side, output=framed, target=window, method=method, dtype=images.dtype)
            for side, framed, window in zip(sides, frame, windows(draws), strict=True)
        ]

    def long(image, draws):
        targets = windows(draws)
        (top, tall), (left, wide) = targets
        row, column = (jnp.arange(side, dtype=jnp.int32) for side in frame)
        row, column = row[:, None, None], column[None, :, None]
        beside = (row < top) | (row >= top + tall) | (column < left) | (column >= left + wide)
        return jnp.where(beside, fill, resample_window(image, output=frame, targets=targets, method=method))

    draws = jax.vmap(lambda key: jax.random.uniform(key, (3,), jnp.float32))(keys)
    if max(*sides, *frame) > LONG:
        return jax.lax.map(lambda each: long(*each), (images, draws))
    rows, columns = jax.vmap(one)(draws)
    # A row of a matrix sums to 1 where the image lies and to 0 beside it.
    covered = jnp.einsum("bu,bv->buv", rows.sum(axis=2), columns.sum(axis=2))[..., None]
    return resample(images, rows=rows, columns=columns) + fill * (1 - covered)
