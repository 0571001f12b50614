"""Neural contextual iterative smoothing: smooth, and restore every pixel from its neighbours alone, several times."""

import os
from typing import Any

import jax

from jaxpurify.gradients import rematerialised
from jaxpurify.models import Repeat, Sequential, purifier
from jaxpurify.purifiers.learned import as_network, network_reach, restore, warn_of_small
from jaxpurify.purifiers.smoothing import GaussianSmoothing
from jaxpurify.pytrees import Scalar, static

NETWORK = "blind-spot"


@purifier
class BlindSpot:
    """Restore every pixel of an image from its neighbours, with a network that does not see the pixel itself.

    Where the shipped network would look beyond the border, it looks to the opposite side of the pixel, which keeps an
    image of one colour as it is; published weights, and whatever else was trained so, have zeros there. An image
    smaller than the receptive field (43 pixels to a side for 8 layers, 97 for 17) is restored from what there is, with
    one warning; an image of one pixel has no neighbours and is refused.

    Args:
        network: images to images of the same shape, such as ``networks.load_network("blind-spot")``.

    Returns:
        When called: images of the same shape and dtype in [0, 1].

    Raises:
        TypeError: if the network is no callable or needs a key.
        ValueError: when called, if an image has one pixel or another number of channels than the network takes.

    Source: the blind-spot network of Cha, Ko, Yoo and Moon 2021 (arXiv 2106.11644) without the smoothing: the ablation
    that belongs beside ``NCIS``, as ``GaussianSmoothing``, the smoothing without the network, does.
    """

    network: Any

    @property
    def reach(self) -> int | None:
        return network_reach(self.network)

    @classmethod
    def pretrained(cls, network: str = NETWORK, *, weights: str | os.PathLike | None = None) -> "BlindSpot":
        """Construct it with a network by name.

        Args:
            network: name of a registered network.
            weights: a safetensors file; None for the shipped weights.

        Returns:
            The purifier.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the name is unknown, or the weights are missing or do not fit.
        """
        return cls(network=_load(network, weights))

    def check(self):
        """Take modules and functions for networks, and refuse what is none."""
        object.__setattr__(self, "network", as_network(self.network))

    def __call__(self, images, key=None):
        """Restore the images; the key is not used."""
        if images.shape[1:3] == (1, 1):
            raise ValueError(
                f"images must have more than one pixel, got shape {images.shape}: a blind-spot network sees the "
                "neighbours of a pixel, not the pixel itself"
            )
        warn_of_small(self.network, images)
        return restore(self.network, images)


@purifier
class NCIS:
    """Smooth images and restore them from their neighbourhoods, several times over.

    A pass is ``GaussianSmoothing(sigma, iterations)`` and then ``BlindSpot(network)``; the image is saturated after
    each. The time of a pass does not depend on ``iterations``, nor the memory of the gradient on ``passes``: where
    there are several, intermediate values are computed again on the way back, one pass at a time. What is said of
    small images under ``BlindSpot`` holds here too.

    Args:
        network: images to images of the same shape, such as ``networks.load_network("blind-spot")``.
        sigma: standard deviation of one Gaussian in pixels, at least 0.
        iterations: number of Gaussians in one pass, at least 0, not necessarily whole.
        passes: number of passes, at least 1 (static: one compilation a value, and no training).
        boundary: how the image continues for the Gaussian: ``"symmetric"`` or ``"mirror"``. Static.
        truncate: where the Gaussian is cut, in standard deviations. Static.

    Returns:
        When called: images of the same shape and dtype in [0, 1].

    Raises:
        TypeError: if the network is no callable or needs a key.
        ValueError: if a number is out of its domain or the boundary unknown; when called, if an image has one pixel or
            another number of channels than the network takes.

    Source: Cha, Ko, Yoo and Moon 2021 (arXiv 2106.11644), of which the abstract names the two steps and their
    repetition. Numbers, border and the saturation between passes (the network was trained on images) are our choice:
    the defaults are what an ablation selected for images of 32 pixels (`docs/ncis.md`); those of 224 want ``sigma=1``.

    Example:
        >>> import dataclasses, jax.numpy as jnp, jaxpurify as jp
        >>> purifier = jp.purifiers.NCIS(network=jp.purifiers.Median(), sigma=0.5, iterations=2)
        >>> twice = dataclasses.replace(purifier, passes=2)
        >>> twice(jnp.full((1, 16, 12, 3), 0.25)).shape
        (1, 16, 12, 3)
    """

    network: Any
    sigma: Scalar = 0.5
    iterations: Scalar = 2.0
    passes: int = static(1)
    boundary: str = static("symmetric")
    truncate: float = static(4.0)

    @property
    def reach(self) -> int | None:
        once = self.one_pass.reach
        return None if once is None else self.passes * once

    @classmethod
    def pretrained(cls, network: str = NETWORK, *, weights: str | os.PathLike | None = None, **fields: Any) -> "NCIS":
        """Construct it with a network by name.

        Args:
            network: name of a registered network.
            weights: a safetensors file; None for the shipped weights.
            fields: any other field of the class.

        Returns:
            The purifier.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the name is unknown, or the weights are missing or do not fit.
        """
        return cls(network=_load(network, weights), **fields)

    def check(self):
        """Take modules and functions for networks; refuse what is none, and numbers out of their domain."""
        object.__setattr__(self, "network", as_network(self.network))
        if not isinstance(self.passes, int) or self.passes < 1:
            raise ValueError(f"passes must be an integer of at least 1, got {self.passes}")
        _ = self.one_pass

    @property
    def one_pass(self) -> Sequential:
        """One pass, as a purifier."""
        smoothing = GaussianSmoothing(
            sigma=self.sigma, iterations=self.iterations, boundary=self.boundary, truncate=self.truncate
        )
        return Sequential(smoothing, BlindSpot(network=self.network))

    def __call__(self, images, key=None):
        """Purify the images; the key is not used."""
        return _purified(self, images)


@jax.jit
def _purified(purifier, images):
    if purifier.passes == 1:
        return purifier.one_pass(images)
    return rematerialised(Repeat(stage=purifier.one_pass, times=purifier.passes))(images)


def _load(name: str, weights: str | os.PathLike | None) -> Any:
    from jaxpurify import networks

    return networks.load_network(name, weights=weights)
