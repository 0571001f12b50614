"""Bit-depth reduction: a purifier whose exact gradient is zero, with the surrogate that shows it for what it is."""

import jax.numpy as jnp

from jaxpurify.images import saturate
from jaxpurify.models import purifier
from jaxpurify.purifiers.identity import Identity
from jaxpurify.pytrees import Scalar, concrete


@purifier
class BitDepth:
    """Round every value to a few bits.

    The exact gradient is zero everywhere, which hides the classifier from a gradient attack without making it any
    safer; ``surrogate()`` is the identity.

    Args:
        bits: bits a channel, from 1 to 8. A real number is accepted (2 to the power of it, less one, steps).

    Returns:
        When called: images of the same shape and dtype, on the grid of ``2**bits`` levels from 0 to 1.

    Raises:
        ValueError: if bits is outside [1, 8].

    Source: Xu, Evans and Qi 2018 (arXiv 1704.01155), section III; Guo et al. 2018 (arXiv 1711.00117).
    """

    reach = 0

    bits: Scalar = 3.0

    def check(self):
        """Refuse a number of bits outside [1, 8]."""
        if concrete(self.bits) and not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be from 1 to 8, got {self.bits}")

    def __call__(self, images, key=None):
        steps = 2 ** jnp.asarray(self.bits, images.dtype) - 1
        return saturate(jnp.round(images * steps) / steps)

    def surrogate(self):
        """Return the identity."""
        return Identity()
