"""Plain resizing: larger or smaller, and back again unless told otherwise; the control of super-resolution."""

import functools
import math

import jax
import numpy as np

from jaxpurify.images import saturate
from jaxpurify.models import purifier
from jaxpurify.pytrees import static
from jaxpurify.transforms.resampling import LONG, check_method, resample, resampling_band, resampling_matrix


@purifier
class Resizing:
    """Resize images, and back to their size: one linear operator an axis, whose exact gradient is its transpose.

    Enlarging and coming back is nearly the identity; shrinking first (``scale=0.5``) removes what is finest. Without
    the way back, a classifier sees more pixels, which alone changes what it says: the control of any
    super-resolution whose result is not resized back.

    Args:
        scale: new side over old, above 0; the new side is rounded to whole pixels (static).
        method: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` (Keys, a = −0.5), ``"lanczos3"`` or ``"lanczos5"``, with
            antialiasing where an image shrinks (static).
        back: whether to resize back to the size that came (static).

    Returns:
        When called: images in [0, 1], of the same shape and dtype unless ``back`` is False.

    Raises:
        ValueError: if the scale is not positive or the method is unknown.

    Source: the interpolations that Mustafa et al. 2019 (arXiv 1901.01677) compare super-resolution with. Between the
    two resizings nothing is clipped or rounded: our choice, which keeps the whole linear.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxpurify as jp
        >>> jp.purifiers.Resizing(scale=2.0, method="lanczos3", back=False)(jnp.ones((1, 8, 6, 3))).shape
        (1, 16, 12, 3)
    """

    scale: float = static(2.0)
    method: str = static("bicubic")
    back: bool = static(True)

    @property
    def changes_size(self) -> bool:
        return not self.back and self.scale != 1

    def check(self):
        """Refuse a scale that is not positive and unknown methods."""
        check_method(self.method)
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be a finite number above 0, got {self.scale}")

    def __call__(self, images, key=None):
        return saturate(_resize(images, scale=float(self.scale), method=self.method, back=self.back))


@functools.partial(jax.jit, static_argnames=("scale", "method", "back"))
def _resize(images, *, scale, method, back):
    rows, columns = (_operator(side, scale, method, back, images.dtype) for side in images.shape[1:3])
    return resample(images, rows=rows, columns=columns)


def _operator(side, scale, method, back, dtype):
    # In NumPy, because the compiler would take seconds to multiply two constants.
    resized = max(1, round(scale * side))
    if max(side, resized) > LONG:
        return resampling_band((side, resized, side) if back else (side, resized), method=method, dtype=dtype)
    there = resampling_matrix(side, output=resized, method=method, dtype=np.float64)
    again = resampling_matrix(resized, output=side, method=method, dtype=np.float64)
    return (again @ there if back else there).astype(dtype)
