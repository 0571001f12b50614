"""Random Gaussian noise: the simplest random purifier, and the control of every other."""

import jax
import jax.numpy as jnp

from jaxpurify.images import saturate
from jaxpurify.models import purifier
from jaxpurify.pytrees import Scalar, concrete


@purifier
class GaussianNoise:
    """Add Gaussian noise, drawn anew for every image.

    For given keys its gradient is the identity's: an attacker who averages over draws loses nothing.

    Args:
        sigma: standard deviation of the noise, at least 0, in units of [0, 1].

    Returns:
        When called: images of the same shape and dtype in [0, 1].

    Raises:
        ValueError: if sigma is negative or not finite.

    Source: Cohen, Rosenfeld and Kolter 2019 (arXiv 1902.02918), equation 1, who classify many such copies and certify
    what they agree on; the default is our choice.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxpurify as jp
        >>> noisy = jp.purifiers.GaussianNoise(sigma=0.1)(jnp.full((1, 64, 64, 3), 0.5), jax.random.key(0))
        >>> round(float(noisy.std()), 2)
        0.1
    """

    random = True
    sigma: Scalar = 0.05

    def check(self):
        """Refuse a standard deviation that cannot be meant."""
        if concrete(self.sigma) and not 0 <= self.sigma < float("inf"):
            hint = ": divide by 255" if self.sigma > 1 else ""
            raise ValueError(f"sigma must be finite and at least 0, got {self.sigma}{hint}")

    def __call__(self, images, key=None):
        noise = jax.vmap(lambda one: jax.random.normal(one, images.shape[1:], images.dtype))(key)
        return saturate(images + jnp.asarray(self.sigma, images.dtype) * noise)
