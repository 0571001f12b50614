"""The median filter: it removes single pixels that stand out, and keeps edges."""

from jaxpurify.images import saturate
from jaxpurify.models import purifier
from jaxpurify.pytrees import static
from jaxpurify.transforms.median import check_size, median_filter


@purifier
class Median:
    """Replace every pixel by the median of the window around it, channel by channel.

    Its exact gradient is useful, so it has no surrogate: each window passes its own on to the pixel it chose.

    Args:
        size: side of the square window in pixels, from 1 to 7. Static.

    Returns:
        When called: images of the same shape and dtype, of values that they had.

    Raises:
        ValueError: if size is not an integer from 1 to 7.

    Source: Xu, Evans and Qi 2018 (arXiv 1704.01155), section III-B, who use 2 and 3. The default is our choice: a
    window of even size moves the image by half a pixel.

    Example:
        >>> import jax.numpy as jnp, jaxpurify as jp
        >>> purifier = jp.purifiers.Median(size=3)
        >>> purifier(jnp.full((1, 8, 8, 3), 0.25)).shape
        (1, 8, 8, 3)
    """

    size: int = static(3)

    @property
    def reach(self) -> int:
        return self.size // 2

    def check(self):
        """Refuse a window that is no square of 1 to 7 pixels."""
        check_size(self.size)

    def __call__(self, images, key=None):
        return saturate(median_filter(images, size=self.size))
