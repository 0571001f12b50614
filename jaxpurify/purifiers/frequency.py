"""Random erasure of high frequencies, and the plain low-pass filter that is its control."""

from jaxpurify.images import saturate
from jaxpurify.models import purifier
from jaxpurify.pytrees import Scalar, static
from jaxpurify.transforms.frequency_mask import check_radii, check_transform, low_pass, random_frequency_mask


@purifier
class RandomFrequencyMask:
    """Erase high frequencies at random, the more likely the higher they are.

    Args:
        min_radius: smallest radius within which every frequency is kept, in (0, 1], relative to the diagonal.
        max_radius: largest radius; the radius is drawn uniformly between the two.
        transform: ``"dct"`` (over the whole frame) or ``"fft"`` (images taken as periodic). Static.
        per_image: a mask an image; False draws one for all images of a batch, as the paper has it, and then the
            images of a batch influence one another. Static.

    Returns:
        When called: images of the same shape and dtype in [0, 1].

    Raises:
        ValueError: if a radius is outside (0, 1] or the transform is unknown.

    Source: Yue et al. 2021 (arXiv 2208.00428). A mask an image, and the Fourier form, are our choice.

    Example:
        >>> import jax, jax.numpy as jnp, jaxpurify as jp
        >>> purifier = jp.purifiers.RandomFrequencyMask()
        >>> purifier(jnp.full((1, 8, 8, 3), 0.25), jax.random.key(0)).shape
        (1, 8, 8, 3)
    """

    random = True
    min_radius: Scalar = 0.43
    max_radius: Scalar = 0.50
    transform: str = static("dct")
    per_image: bool = static(True)

    @property
    def couples_images(self) -> bool:  # type: ignore[override]
        return not self.per_image

    def check(self):
        """Refuse radii outside (0, 1] and unknown transforms."""
        check_transform(self.transform)
        check_radii(self.min_radius, self.max_radius)

    def __call__(self, images, key=None):
        return saturate(
            random_frequency_mask(
                images,
                key,
                min_radius=self.min_radius,
                max_radius=self.max_radius,
                transform=self.transform,
                per_image=self.per_image,
            )
        )


@purifier
class LowPass:
    """Erase every frequency beyond a radius.

    Args:
        radius: in (0, 1], relative to the diagonal.
        transform: ``"dct"`` (over the whole frame) or ``"fft"`` (images taken as periodic). Static.

    Returns:
        When called: images of the same shape and dtype in [0, 1].

    Raises:
        ValueError: if the radius is outside (0, 1] or the transform is unknown.

    Source: our choice: the control of ``RandomFrequencyMask``. The default radius keeps as many coefficients of
    a square image as the random mask does on average (57 %).
    """

    radius: Scalar = 0.6
    transform: str = static("dct")

    def check(self):
        """Refuse a radius outside (0, 1] and unknown transforms."""
        check_transform(self.transform)
        check_radii(self.radius, self.radius)

    def __call__(self, images, key=None):
        return saturate(low_pass(images, radius=self.radius, transform=self.transform))
