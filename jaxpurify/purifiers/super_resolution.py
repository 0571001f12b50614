"""Super-resolution: denoise, enlarge with a network, and classify the larger image."""

import os
from typing import Any

from jaxpurify.gradients import has_surrogate, substitute
from jaxpurify.models import Sequential, attribute, purifier
from jaxpurify.purifiers.bit_depth import BitDepth
from jaxpurify.purifiers.jpeg import JPEG
from jaxpurify.purifiers.learned import as_network, network_reach, restore, warn_of_small
from jaxpurify.purifiers.resizing import Resizing
from jaxpurify.purifiers.wavelet import WaveletDenoising
from jaxpurify.pytrees import Scalar, static

# The short name of a network, and what it is registered as, but for the scale.
NETWORKS = {"small": "sesr", "edsr-baseline": "edsr-baseline", "edsr-large": "edsr-large"}
CONTROL = "bicubic"


@purifier
class SuperResolution:
    """Denoise images by wavelets and enlarge them with a super-resolution network.

    The stages, in order: ``denoise``, ``jpeg``, ``network``, and where asked for rounding and the way back. All but
    JPEG and rounding have useful exact gradients; with one of those the exact gradient is zero, and ``surrogate()``
    is the same pipeline with the surrogates of these two (without them there is no ``surrogate``). Bicubic enlarging
    (``network=Resizing(scale=2, back=False)``) is the control that belongs beside every figure.

    Beyond the border the shipped networks see the nearest pixel, which keeps an image of one colour as it is; published
    weights were trained with zeros there, and have them. An image smaller than the receptive field is enlarged like any
    other, down to a single pixel, with one warning.

    Args:
        network: images to images ``scale`` times as large, such as ``networks.load_network`` returns.
        denoise: the purifier before, or None.
        jpeg: the purifier between the two, or None. The authors' code writes what was denoised as a JPEG file, which
            their paper does not say: ``JPEG(quality=95)``.
        scale: new side over old (static). A network that enlarges otherwise is refused when it is called.
        rounded: whether what the network returns is rounded to 8 bits, as in the authors' code (static).
        back: whether to resize back to the size that came, bicubic and antialiased (static). By default the classifier
            sees the larger image, as the authors insist: it must take any size.

    Returns:
        When called: images in [0, 1], ``scale`` times as large unless ``back``.

    Raises:
        TypeError: if the network is no callable or needs a key.
        ValueError: if the scale is not positive or (when called) not the network's.

    Source: Mustafa, Khan, Hayat, Shen and Shao 2019 (arXiv 1901.01677), section III, and the authors' code. Not to
    round unless asked is our choice: rounding hides the gradient and changes a value by at most 1/510.

    Example:
        >>> import jax.numpy as jnp, jaxpurify as jp
        >>> control = jp.purifiers.SuperResolution.pretrained("bicubic")
        >>> control(jnp.full((1, 16, 12, 3), 0.25)).shape
        (1, 32, 24, 3)
    """

    network: Any
    denoise: Any = WaveletDenoising()
    jpeg: Any = None
    scale: int = static(2)
    rounded: bool = static(False)
    back: bool = static(False)

    @classmethod
    def pretrained(
        cls,
        network: str = "small",
        *,
        sigma: Scalar | None = 0.02,
        jpeg: Scalar | None = None,
        weights: str | os.PathLike | None = None,
        **fields: Any,
    ) -> "SuperResolution":
        """Construct it with a network by name.

        Args:
            network: ``"small"`` (SESR), ``"edsr-baseline"``, ``"edsr-large"``, or ``"bicubic"``, the control.
            sigma: of the wavelet denoising; None estimates it for every image, 0 leaves denoising out.
            jpeg: the quality of the JPEG step, or None for no such step.
            weights: a safetensors file; None for the shipped weights.
            fields: ``scale``, ``rounded`` and ``back``.

        Returns:
            The purifier.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the name is unknown, or the weights are missing or do not fit.
        """
        return cls(
            network=_load(network, fields.get("scale", cls.scale), weights),
            denoise=None if sigma == 0 else WaveletDenoising(sigma=sigma),
            jpeg=None if jpeg is None else JPEG(quality=jpeg),
            **fields,
        )

    def check(self):
        """Take modules and functions for networks; refuse what is none, and a scale that is not positive."""
        object.__setattr__(self, "network", as_network(self.network))
        if not isinstance(self.scale, int) or self.scale < 1:
            raise ValueError(f"scale must be an integer of at least 1, got {self.scale}")
        for name, stage in (("denoise", self.denoise), ("jpeg", self.jpeg)):
            if stage is not None and not attribute(stage, "is_purifier"):
                raise TypeError(f"{name} must be a purifier or None, got {type(stage).__name__}")

    @property
    def random(self) -> bool:
        return attribute(self.denoise, "random") or attribute(self.jpeg, "random")

    @property
    def couples_images(self) -> bool:
        return attribute(self.denoise, "couples_images") or attribute(self.jpeg, "couples_images")

    @property
    def changes_size(self) -> bool:
        return not self.back and self.scale != 1

    @property
    def reach(self) -> int | None:
        # Bicubic shrinking looks four of its own pixels wide, and those are the pixels that came.
        once = Sequential(*(stage for stage in self.stages.stages if not isinstance(stage, Resizing))).reach
        return None if once is None else once + 3 * self.back

    @property
    def stages(self) -> Sequential:
        """The stages, as a purifier."""
        enlarged = _Enlarging(network=self.network, scale=self.scale)
        rounded = BitDepth(bits=8) if self.rounded else None
        back = Resizing(scale=1 / self.scale, back=False) if self.back else None
        stages = (self.denoise, self.jpeg, enlarged, rounded, back)
        return Sequential(*(stage for stage in stages if stage is not None))

    def __call__(self, images, key=None):
        """Enlarge the images; the key is for random stages alone."""
        return self.stages(images, key)

    @property
    def surrogate(self):
        """A function that returns the differentiable stand-in, or None where the exact gradient needs none."""
        return (lambda: substitute(self.stages)) if has_surrogate(self.stages) else None


@purifier
class _Enlarging:
    """The network as a purifier."""

    network: Any
    scale: int = static()

    @property
    def changes_size(self) -> bool:
        return self.scale != 1

    @property
    def reach(self) -> int | None:
        return network_reach(self.network)

    def __call__(self, images, key=None):
        warn_of_small(self.network, images)
        return restore(self.network, images, scale=self.scale)


def _load(name: str, scale: int, weights: str | os.PathLike | None) -> Any:
    if name == CONTROL:
        if weights is not None:
            raise ValueError(f"{CONTROL} enlarging has no weights, got {os.fspath(weights)!r}: leave weights out")
        return Resizing(scale=float(scale), back=False)
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join((*NETWORKS, CONTROL))}, got {name!r}")
    from jaxpurify import networks

    return networks.load_network(f"{NETWORKS[name]}-x{scale}", weights=weights)
