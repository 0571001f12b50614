"""Iterative FGSM made to transfer: look-ahead, random resizing, smoothed gradients and tuned variance, in any mixture.

Each is a switch of one class, so that ``VMIFGSM(kernel=15, resize_share=0.9)`` has three of them; the named attacks
are the mixtures of the papers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpurify import keys as _keys
from jaxpurify.attacks.checks import check_counts, check_share, check_size
from jaxpurify.attacks.gradient import MIFGSM
from jaxpurify.attacks.norms import ball
from jaxpurify.pytrees import Scalar, pytree_dataclass, static

# Folded into the keys of a step; the draws of an expectation are numbered from 0.
_RESIZED, _NEIGHBOUR, _MOVED = 2**32 - 2, 2**32 - 3, 2**32 - 4


@pytree_dataclass
class TransferableAttack(MIFGSM):
    """Iterative FGSM with momentum and what makes its images fool other models, each part off unless asked for.

    Args:
        lookahead: whether the gradient is taken where the momentum would lead.
        resize_share: the smallest side to which images are resized at random, as a share of theirs; None for no
            resizing. They are padded with black to their size, at random places.
        probability: how often an image is resized.
        kernel: side in pixels of the Gaussian by which gradients are smoothed, odd; 1 for none.
        sigma: its standard deviation in pixels; None for (kernel - 1) / 2 / √3.
        neighbours: gradients around the iterate by whose mean the variance of the next step is tuned; 0 for none.
        radius: how far neighbours are, as a multiple of epsilon.
        chunk: neighbours computed at once, vectorised; all by default.

    Source: the named attacks below. With ``lookahead`` or ``resize_share`` the last iterate is kept, as the papers have
    it: the target was shown other images on the way.
    """

    probability: Scalar = 0.5
    sigma: Scalar | None = None
    radius: Scalar = 1.5
    lookahead: bool = static(False)
    resize_share: float | None = static(None)
    kernel: int = static(1)
    neighbours: int = static(0)
    chunk: int | None = static(None)

    def check(self):
        """Refuse what is no share, side or count."""
        super().check()
        check_share("probability", self.probability)
        if self.resize_share is not None and not 0 < self.resize_share <= 1:
            raise ValueError(f"resize_share must be above 0 and at most 1, or None, got {self.resize_share}")
        if not isinstance(self.kernel, int) or self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd number of pixels, got {self.kernel}")
        check_counts(self, "neighbours", least=0)
        if self.chunk is not None and (not isinstance(self.chunk, int) or self.chunk < 1):
            raise ValueError(f"chunk must be an integer of at least 1, or None, got {self.chunk}")
        check_size("sigma", self.sigma)
        check_size("radius", self.radius)

    @property
    def looks(self) -> int:
        """Gradients computed at each evaluation."""
        return 1 + self.neighbours

    @property
    def needs_key(self) -> bool:
        """Resizing and neighbours draw numbers."""
        return super().needs_key or self.resize_share is not None or self.neighbours > 0

    @property
    def sees_target(self) -> bool:
        """False where the search shows the target other images than the iterates."""
        return super().sees_target and not self.lookahead and self.resize_share is None

    def rule(self) -> optax.GradientTransformation:
        """Tune the variance, smooth, normalise, accumulate, step in the steepest direction."""
        parts = [tuned_variance()] if self.neighbours else []
        if self.kernel > 1:
            sigma = (self.kernel - 1) / 2 / np.sqrt(3) if self.sigma is None else self.sigma
            parts.append(optax.stateless(lambda updates, _: smoothed(updates, kernel=self.kernel, sigma=sigma)))
        return optax.chain(*parts, super().rule())

    def view(self, images: Any, keys: Any, rule_state: Any, length: Any) -> Any:
        """Return the images further along the momentum, and resized."""
        if self.lookahead:
            momentum = rule_state[-1][1]  # of negative gradients
            images = images - length[:, None, None, None] * jnp.asarray(self.decay, images.dtype) * momentum
        smallest = self.resize_share
        if smallest is not None:
            probability = jnp.asarray(self.probability, images.dtype)

            def one(image, key):
                return resized_and_padded(image, key, smallest=smallest, probability=probability)

            images = jax.vmap(one)(images, _keys.fold(keys, _RESIZED))
        return super().view(images, keys, rule_state, length)

    def surroundings(self, gradient_at: Callable, current: Any, epsilon: Any, keys: Any) -> dict[str, Any]:
        """Return the mean gradient at random points around the iterate."""
        if not self.neighbours:
            return {}
        radii = jnp.asarray(self.radius, epsilon.dtype) * epsilon

        def move(image, key, radius):
            return image + ball(self.norm).sample(key, image.shape, image.dtype, radius)

        def one(number):
            own = _keys.fold(keys, _NEIGHBOUR, number)
            return gradient_at(jax.vmap(move)(current, _keys.fold(own, _MOVED), radii), own)[2]

        # Chunks are unrolled: gradients of convolutions inside a device loop are many times slower on the CPU.
        numbers, chunk = np.arange(self.neighbours, dtype=np.uint32), self.chunk or self.neighbours
        sums = [jax.vmap(one)(numbers[first : first + chunk]).sum(axis=0) for first in range(0, self.neighbours, chunk)]
        return {"neighbours": sum(sums) / self.neighbours}


def tuned_variance() -> optax.GradientTransformationExtraArgs:
    """Add to a gradient by how much the mean gradient of its neighbours exceeded it at the step before.

    Returns:
        An Optax transformation of one image with the extra argument ``neighbours``.

    Source: Wang and He 2021 (arXiv 2103.15571), equations 6 to 8.
    """

    def update(updates, state, params=None, *, neighbours):
        del params
        return updates + state, neighbours - updates

    return optax.GradientTransformationExtraArgs(jnp.zeros_like, update)


def smoothed(gradient: Any, *, kernel: int, sigma: Any) -> Any:
    """Convolve one image's gradient with a normalised Gaussian, zero beyond the border.

    Args:
        gradient: shape ``(height, width, channel)``.
        kernel: side of the kernel in pixels, odd.
        sigma: standard deviation in pixels.

    Returns:
        The same shape.

    Source: Dong et al. 2019 (arXiv 1904.02884), section 3.3. As two dense products an image, our choice: they are
    quicker than depthwise convolutions.
    """

    def operator(size):
        reach = kernel // 2
        precision = 1 / jnp.maximum(jnp.asarray(sigma, gradient.dtype), 1e-3) ** 2

        def weight(distance):
            return jnp.exp(-0.5 * precision * (distance**2).astype(gradient.dtype))

        distance = np.abs(np.arange(size)[:, None] - np.arange(size))
        taps = weight(np.arange(-reach, reach + 1))
        return jnp.where(distance <= reach, weight(distance), 0) / taps.sum()

    return _apply(operator(gradient.shape[0]), operator(gradient.shape[1]), gradient)


def resized_and_padded(image: Any, key: Any, *, smallest: float, probability: Any) -> Any:
    """Shrink one image by a random amount and place it at random on black, or leave it as it is.

    Args:
        image: shape ``(height, width, channel)``.
        key: one typed key.
        smallest: the smallest share of a side that an image shrinks to. It always shrinks by a pixel at least.
        probability: how often it shrinks.

    Returns:
        The same shape.

    Source: Xie et al. 2019 (arXiv 1803.06978), section 3.2, where images of 299 pixels are resized to between 299 and
    329 and padded to 330. Padding to the size of the image is our choice: most networks take one size only. So is
    bilinear resizing, where the paper says nothing.
    """
    coin, scale, *places = jax.random.split(key, 4)
    share = jax.random.uniform(scale, (), image.dtype, smallest, 1)

    def operator(size, key):
        side = jnp.clip(jnp.floor(share * size), 1, max(size - 1, 1))
        offset = jnp.floor(jax.random.uniform(key, (), image.dtype) * (size - side + 1))
        return placing(size, side, offset)

    down, across = (operator(size, place) for size, place in zip(image.shape[:2], places, strict=True))
    chosen = jax.random.uniform(coin, (), image.dtype) < probability
    return jnp.where(chosen, _apply(down, across, image), image)


def placing(size: int, side: Any, offset: Any) -> Any:
    """Return the matrix that resizes a line of pixels bilinearly and places it on black.

    Args:
        size: pixels of the line, before and after.
        side: pixels that it is resized to, a traced float.
        offset: black pixels before it, a traced float of the same dtype.

    Returns:
        A matrix of shape ``(size, size)``.
    """
    pixels = jnp.arange(size, dtype=side.dtype)
    source = jnp.clip((pixels - offset + 0.5) * size / side - 0.5, 0, size - 1)
    weights = jnp.maximum(1 - jnp.abs(source[:, None] - pixels[None, :]), 0)
    inside = (pixels >= offset) & (pixels < offset + side)
    return jnp.where(inside[:, None], weights, 0)


def _apply(down: Any, across: Any, image: Any) -> Any:
    return jnp.einsum("ah,hwc,bw->abc", down, image, across, precision="highest")


@pytree_dataclass
class NIFGSM(TransferableAttack):
    """Nesterov iterative FGSM: the gradient is taken where the momentum would lead.

    Source: Lin et al. 2020 (arXiv 1908.06281), algorithm 1, without its scaled copies. Gradients are divided by their
    mean absolute value, as in its authors' code: by the L1 norm that the paper writes, an image of many pixels would
    look ahead by next to nothing. The last iterate is kept.
    """

    lookahead: bool = static(True)


@pytree_dataclass
class DIFGSM(TransferableAttack):
    """Diverse-inputs iterative FGSM (DI²-FGSM): half of the images are resized and padded at random at each step.

    Source: Xie et al. 2019 (arXiv 1803.06978), section 3.2. The last iterate is kept.
    """

    decay: Scalar = 0.0
    resize_share: float | None = static(299 / 330)


@pytree_dataclass
class MDIFGSM(DIFGSM):
    """Diverse-inputs iterative FGSM with momentum (M-DI²-FGSM).

    Source: Xie et al. 2019 (arXiv 1803.06978), section 3.3. The last iterate is kept.
    """

    decay: Scalar = 1.0


@pytree_dataclass
class TIFGSM(TransferableAttack):
    """Translation-invariant iterative FGSM: gradients are smoothed by a Gaussian.

    Source: Dong et al. 2019 (arXiv 1904.02884), section 3.3: a kernel of 15 pixels with standard deviation 7/√3. Its
    authors' code, and others after it, take 7/3.
    """

    decay: Scalar = 0.0
    kernel: int = static(15)


@pytree_dataclass
class VMIFGSM(TransferableAttack):
    """Variance-tuned momentum iterative FGSM: gradients are corrected by those around the last iterate.

    Source: Wang and He 2021 (arXiv 2103.15571), algorithm 1, with its 20 neighbours within 1.5 ε.
    """

    neighbours: int = static(20)
