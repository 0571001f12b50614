"""Wavelet denoising: shrink the detail coefficients, keep the approximation."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify.images import TO_YCBCR, check_colour, saturate
from jaxpurify.models import purifier
from jaxpurify.pytrees import Scalar, concrete, static
from jaxpurify.transforms.fusion import apart
from jaxpurify.transforms.shrinkage import (
    bayes_threshold,
    estimate_sigma,
    garrote_threshold,
    hard_threshold,
    soft_threshold,
    visu_threshold,
)
from jaxpurify.transforms.wavelet_filters import check_extension, check_levels, max_levels, wavelet_filters
from jaxpurify.transforms.wavelets import wavedec2, waverec2

RULES = ("bayes", "visu")
THRESHOLDS: dict[str, Callable] = {"soft": soft_threshold, "hard": hard_threshold, "garrote": garrote_threshold}
COLOURS = ("ycbcr", "rgb")
CONVENTIONS = ("normalised", "image")

_PLANAR = (2, 3)


@purifier
class WaveletDenoising:
    """Denoise images by shrinking their wavelet coefficients.

    The approximation is kept; every detail band is shrunk by a threshold of its own (BayesShrink) or by the same
    (VisuShrink). What sigma is measured in is the ``convention``. Images of one channel are denoised as that channel,
    whatever ``colour`` says.

    Args:
        sigma: standard deviation of the noise to be removed, at least 0; 0 changes nothing. None estimates it blindly
            for every image and channel (then it is no leaf, and both conventions agree).
        wavelet: PyWavelets' name, such as ``"haar"``, ``"db4"``, ``"sym8"``, ``"coif1"``, ``"bior2.2"``. Static.
        levels: number of levels; None is ``max(max_levels - 3, 1)``, which is 2 at 32 pixels, 4 at 224. Static.
        rule: ``"bayes"`` (BayesShrink) or ``"visu"`` (VisuShrink). Static.
        threshold: ``"soft"``, ``"hard"`` or ``"garrote"``. Static.
        colour: channels that are shrunk: ``"ycbcr"`` or ``"rgb"``. Static.
        convention: what sigma is measured in. ``"normalised"``: every channel is stretched to [0, 1], and sigma is that
            of the stretched channel (the paper's own code). ``"image"``: the noise of the image, in each of R, G and B
            (scikit-image's ``rescale_sigma=True``). Static.
        extension: how the image continues beyond its border: ``"symmetric"``, ``"periodic"`` or ``"periodization"``.
            Static.

    Returns:
        When called: images of the same shape and dtype in [0, 1].

    Raises:
        ValueError: if sigma is negative, a name is unknown, or (when called) the images are too small for the levels.

    Source: Mustafa, Khan, Hayat, Shen and Shao 2019 (arXiv 1901.01677), section III-A, whose code has these defaults
    and chooses sigma by hand from 0 to 0.04; ours is the middle of that.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxpurify as jp
        >>> jp.purifiers.WaveletDenoising(sigma=0.04)(jnp.full((1, 31, 45, 3), 0.25)).shape
        (1, 31, 45, 3)
    """

    sigma: Scalar | None = 0.02
    wavelet: str = static("haar")
    levels: int | None = static(None)
    rule: str = static("bayes")
    threshold: str = static("soft")
    colour: str = static("ycbcr")
    convention: str = static("normalised")
    extension: str = static("symmetric")

    def check(self):
        """Refuse a negative sigma and unknown names."""
        if self.sigma is not None and concrete(self.sigma) and not np.all((self.sigma >= 0) & (self.sigma < np.inf)):
            raise ValueError(
                f"sigma must be a finite number of at least 0, or None for a blind estimate, got {self.sigma}"
            )
        wavelet_filters(self.wavelet)
        if self.levels is not None and (not isinstance(self.levels, int) or self.levels < 1):
            raise ValueError(
                f"levels must be an integer of at least 1, or None for the paper's rule, got {self.levels}"
            )
        for field, known in (
            ("rule", RULES),
            ("threshold", THRESHOLDS),
            ("colour", COLOURS),
            ("convention", CONVENTIONS),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} must be one of {', '.join(known)}, got {getattr(self, field)!r}")
        check_extension(self.extension)

    def __call__(self, images, key=None):
        """Denoise the images; the key is not used."""
        size = images.shape[1:3]
        levels = max(max_levels(size, wavelet=self.wavelet) - 3, 1) if self.levels is None else self.levels
        check_levels(levels, size=size, wavelet=self.wavelet)
        luminance = self.colour == "ycbcr" and images.shape[3] > 1
        if luminance:
            check_colour(images)
        noise = _noise(
            images,
            None if self.sigma is None else jnp.asarray(self.sigma, images.dtype),
            wavelet=self.wavelet,
            levels=levels,
            rule=self.rule,
            threshold=self.threshold,
            luminance=luminance,
            normalised=self.convention == "normalised",
            extension=self.extension,
        )
        return saturate(images - noise)


@functools.partial(
    jax.jit, static_argnames=("wavelet", "levels", "rule", "threshold", "luminance", "normalised", "extension")
)
def _noise(images, sigma, *, wavelet, levels, rule, threshold, luminance, normalised, extension):
    """Return what denoising removes. The approximation is kept, so that the images pass untouched where nothing is."""
    # Offsets and ranges of the channels do not matter: details see no offset, and thresholds scale along.
    mixing = TO_YCBCR if luminance else np.eye(images.shape[3])
    planes = _to_planes(_rows_of(mixing), images)
    size = planes.shape[2:]
    approximation, details = wavedec2(planes, levels=levels, wavelet=wavelet, extension=extension, axes=_PLANAR)
    span = _span(planes) if normalised or luminance else jnp.ones((), planes.dtype)
    if sigma is None:
        diagonal = details[-1][2]
        if wavelet_filters(wavelet).length == 2:
            # The last row of an odd number is paired with its own copy: differences of nothing tell nothing of noise.
            diagonal = diagonal[:, :, : max(size[0] // 2, 1), : max(size[1] // 2, 1)]
        sigma = estimate_sigma(diagonal, axes=_PLANAR)
    elif normalised:
        sigma = sigma * span
    elif luminance:
        # Independent noise of R, G and B adds up in squares.
        sigma = sigma * jnp.asarray(np.linalg.norm(TO_YCBCR, axis=1), planes.dtype).reshape(1, 3, 1, 1)
    floor = jnp.finfo(planes.dtype).eps * span**2

    def removed(band):
        if rule == "bayes":
            limit = bayes_threshold(band, sigma=sigma, floor=floor, axes=_PLANAR)
        else:
            limit = visu_threshold(sigma=sigma, pixels=size[0] * size[1])
        return band - THRESHOLDS[threshold](band, limit)

    removed_details = jax.tree.map(removed, details)
    planes = waverec2(
        (jnp.zeros_like(approximation), removed_details), size=size, wavelet=wavelet, extension=extension, axes=_PLANAR
    )
    return _to_images(_rows_of(np.linalg.inv(mixing)), planes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _to_planes(matrix, images):
    """Make planar images of mixed channels; ``_to_images`` is its transpose, with the transposed matrix."""
    return _mixed_planes(images, matrix=matrix)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _to_images(matrix, planes):
    return _interleaved(_mixed_channels(planes, matrix=matrix))


_to_planes.defvjp(
    lambda matrix, images: (_to_planes(matrix, images), None),
    lambda matrix, _, planes: (_to_images(_transposed(matrix), planes),),
)
_to_images.defvjp(
    lambda matrix, planes: (_to_images(matrix, planes), None),
    lambda matrix, _, images: (_to_planes(_transposed(matrix), images),),
)


@apart
def _mixed_planes(images, *, matrix):
    return _sums([images[..., channel] for channel in range(len(matrix))], matrix)


@apart
def _mixed_channels(planes, *, matrix):
    return _sums([planes[:, channel] for channel in range(len(matrix))], matrix)


@apart
def _interleaved(planes):
    return jnp.transpose(planes, (0, 2, 3, 1))


def _sums(channels, matrix):
    # A dense product with three channels takes thirty times as long.
    return jnp.stack(
        [sum(weight * channel for weight, channel in zip(row, channels, strict=True) if weight) for row in matrix],
        axis=1,
    )


def _rows_of(matrix):
    return tuple(map(tuple, matrix.tolist()))


def _transposed(matrix):
    return tuple(zip(*matrix, strict=True))


def _span(planes):
    """Return what every channel spans, at least a few rounding errors, so that nothing divides by 0."""
    span = jnp.max(planes, axis=_PLANAR, keepdims=True) - jnp.min(planes, axis=_PLANAR, keepdims=True)
    return jnp.maximum(span, 8 * jnp.finfo(planes.dtype).eps)
