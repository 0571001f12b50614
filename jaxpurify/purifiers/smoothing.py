"""Iterated Gaussian smoothing, the simplest purifier that withstands attackers who do not know it."""

from jaxpurify.images import saturate
from jaxpurify.models import purifier
from jaxpurify.pytrees import Scalar, static
from jaxpurify.transforms.gaussian import check_smoothing, gaussian_smooth, smoothing_reach


@purifier
class GaussianSmoothing:
    """Smooth images with a Gaussian several times over; the time it takes does not depend on how many times.

    Away from the borders, K passes of standard deviation σ equal one of σ√K, up to the cut tails. The number of
    passes is a number like any other: both it and sigma can be traced, swept, differentiated and learned.

    Args:
        sigma: standard deviation of one pass in pixels, at least 0. Below ``0.5 / truncate`` nothing changes.
        iterations: number of passes, at least 0, not necessarily whole.
        boundary: how the image continues beyond its border: ``"symmetric"`` (d c b a | a b c d | d c b a) or
            ``"mirror"`` (d c b | a b c d | c b a). Static.
        truncate: where the kernel is cut, in standard deviations. Static.

    Returns:
        When called: images of the same shape and dtype in [0, 1].

    Raises:
        ValueError: if a number is out of its domain or the boundary is unknown.

    Source: Cha, Ko, Yoo and Moon 2021 (arXiv 2106.11644), who apply Gaussian smoothing iteratively. The defaults
    and the border are our choice: SciPy's, since the abstract names none.

    Example:
        >>> import jax.numpy as jnp, jaxpurify as jp
        >>> purifier = jp.purifiers.GaussianSmoothing(sigma=1.0, iterations=10)
        >>> purifier(jnp.full((1, 8, 8, 3), 0.25)).shape
        (1, 8, 8, 3)
    """

    sigma: Scalar = 1.0
    iterations: Scalar = 1.0
    boundary: str = static("symmetric")
    truncate: float = static(4.0)

    @property
    def reach(self) -> int | None:
        return smoothing_reach(self.sigma, self.iterations, self.truncate)

    def check(self):
        """Refuse numbers out of their domain and unknown boundaries."""
        check_smoothing(self.sigma, self.iterations, self.boundary, self.truncate, dtype="float32")

    def __call__(self, images, key=None):
        """Smooth the images; the key is not used."""
        return saturate(
            gaussian_smooth(
                images,
                sigma=self.sigma,
                iterations=self.iterations,
                boundary=self.boundary,
                truncate=self.truncate,
            )
        )
