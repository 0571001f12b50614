"""JPEG compression, the purifier that every camera has built in, and its differentiable stand-in."""

from jaxpurify.images import saturate
from jaxpurify.models import purifier
from jaxpurify.pytrees import Scalar, static
from jaxpurify.transforms.jpeg import check_jpeg, jpeg, smooth_jpeg


@purifier
class JPEG:
    """Write images as JPEG files and read them again, without the files; every pixel is libjpeg's.

    The exact gradient is zero, since everything is done in whole numbers; ``surrogate()`` is ``DifferentiableJPEG``.

    Args:
        quality: libjpeg's quality, from 1 to 100. Not necessarily whole.
        subsampling: ``"4:4:4"``, ``"4:2:2"`` (colour at half the width) or ``"4:2:0"`` (half the height too). Static.
            Grey images have none.

    Returns:
        When called: images (1 or 3 channels) of the same shape and dtype, multiples of 1/255 in [0, 1].

    Raises:
        ValueError: if the quality is out of its domain or the subsampling unknown.

    Source: Dziugaite, Ghahramani and Roy 2016 (arXiv 1608.00853); Das et al. 2017 (arXiv 1705.02900). The defaults are
    those of libjpeg and Pillow; Guo et al. 2018 (arXiv 1711.00117) use quality 75 too.

    Example:
        >>> import jax.numpy as jnp, jaxpurify as jp
        >>> purifier = JPEG(quality=30)
        >>> purifier(jnp.full((1, 8, 8, 3), 0.25)).shape
        (1, 8, 8, 3)
    """

    reach = 16  # a pixel's block of colour, and the sample beside it
    aligned = 16
    narrowest = 5

    quality: Scalar = 75.0
    subsampling: str = static("4:2:0")

    def check(self):
        """Refuse a quality out of its domain and unknown subsamplings."""
        check_jpeg(self.quality, self.subsampling)

    def purify_filled(self, images, sizes):
        """Compress images that have been filled up to one size, as ``transforms.jpeg.jpeg`` has it."""
        return jpeg(images, quality=self.quality, subsampling=self.subsampling, sizes=sizes)

    def __call__(self, images, key=None):
        """Compress the images; the key is not used."""
        return jpeg(images, quality=self.quality, subsampling=self.subsampling)

    def surrogate(self):
        """Return the differentiable stand-in with the same numbers."""
        # The numbers may be tracers, which were checked when a person gave them.
        return DifferentiableJPEG(quality=self.quality, subsampling=self.subsampling)


@purifier
class DifferentiableJPEG:
    """Compute JPEG in real numbers and go straight through its roundings backward; the stand-in for ``JPEG``.

    Args:
        quality: libjpeg's quality, from 1 to 100.
        subsampling: ``"4:4:4"``, ``"4:2:2"`` or ``"4:2:0"``. Static.

    Returns:
        When called: images (1 or 3 channels) of the same shape and dtype in [0, 1].

    Raises:
        ValueError: if the quality is out of its domain or the subsampling unknown.

    Source: Shin and Song 2017 (workshop on machine learning and computer security at NIPS), with straight-through
    rounding (Athalye, Carlini and Wagner 2018, arXiv 1802.00420) in the place of their cubic one, so that forward it
    is JPEG.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> grey = jnp.full((1, 8, 8, 3), 0.5)
        >>> bool(jax.grad(lambda images: DifferentiableJPEG()(images)[0, 0, 0, 0])(grey).any())
        True
    """

    quality: Scalar = 75.0
    subsampling: str = static("4:2:0")

    def check(self):
        """Refuse a quality out of its domain and unknown subsamplings."""
        check_jpeg(self.quality, self.subsampling)

    def __call__(self, images, key=None):
        """Compress the images; the key is not used."""
        return saturate(smooth_jpeg(images, quality=self.quality, subsampling=self.subsampling))
