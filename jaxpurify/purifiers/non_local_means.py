"""Non-local means: pixels are averaged with those whose surroundings look the same."""

from jaxpurify.images import saturate
from jaxpurify.models import purifier
from jaxpurify.pytrees import Scalar, static
from jaxpurify.transforms.non_local_means import check_non_local_means, non_local_means


@purifier
class NonLocalMeans:
    """Average every pixel with those around it whose patches resemble its own.

    Args:
        h: how different patches may be, above 0, in units of the images.
        sigma: standard deviation of the noise, at least 0, in units of the images, where it is known.
        patch_size: side of a patch in pixels, odd, at least 3. Static.
        patch_distance: how far apart two pixels may be in rows and in columns, at least 1. Static.

    Returns:
        When called: images of the same shape and dtype in [0, 1].

    Raises:
        ValueError: if a number is out of its domain.

    Source: Buades, Coll and Morel 2005 (CVPR), as scikit-image has it with ``fast_mode=False``; as a defence, Xu, Evans
    and Qi 2018 (arXiv 1704.01155), section III-B, who use OpenCV's with patches of 3, a window of 11 and h of 4. The
    default patches and window are theirs; h is our choice for noise of 8/255.

    Example:
        >>> import jax.numpy as jnp, jaxpurify as jp
        >>> purifier = jp.purifiers.NonLocalMeans(h=0.05)
        >>> purifier(jnp.full((1, 8, 8, 3), 0.25)).shape
        (1, 8, 8, 3)
    """

    h: Scalar = 0.05
    sigma: Scalar = 0.0
    patch_size: int = static(3)
    patch_distance: int = static(5)

    @property
    def reach(self) -> int:
        return self.patch_distance + self.patch_size // 2

    def check(self):
        """Refuse numbers out of their domain."""
        check_non_local_means(self.h, self.sigma, self.patch_size, self.patch_distance, dtype="float32")

    def __call__(self, images, key=None):
        return saturate(
            non_local_means(
                images,
                h=self.h,
                sigma=self.sigma,
                patch_size=self.patch_size,
                patch_distance=self.patch_distance,
            )
        )
