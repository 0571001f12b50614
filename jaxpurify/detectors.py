"""Detectors: what tells adversarial images from legitimate ones, beside a target whose answers it does not change."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import gradients
from jaxpurify import images as _images
from jaxpurify import keys as _keys
from jaxpurify.checks import check_batch_size
from jaxpurify.independence import check_independence
from jaxpurify.models import Defended, as_purifier, as_target, attribute
from jaxpurify.outputs import check_logits
from jaxpurify.precision import widened
from jaxpurify.purifiers.bit_depth import BitDepth
from jaxpurify.pytrees import Scalar, concrete, pytree_dataclass


class Watched(NamedTuple):
    """What a target with a detector around it returns.

    Attributes:
        logits: what the target says, shape ``(batch, classes)``.
        score: how suspicious the detector finds the images, shape ``(batch,)``.
    """

    logits: Any
    score: Any


class Detector:
    """The contract of detectors: a differentiable score an image, and a threshold above which it is called adversarial.

    A subclass is a pytree dataclass with the leaf ``threshold`` and the method ``score``.
    """

    threshold: Any
    random = False
    couples_images = False
    is_detector = True

    def score(self, target: Any, images: Any, key: Any = None) -> jax.Array:
        """Return how suspicious images are, shape ``(batch,)``; a detector defines it."""
        raise NotImplementedError

    def differentiable(self) -> Any:
        """Return what an attack that knows the detector differentiates: itself, unless a detector says otherwise."""
        return self

    def detects(self, target: Any, images: Any, key: Any = None) -> jax.Array:
        """Say which images are called adversarial.

        Args:
            target: what classifies them.
            images: shape ``(batch, height, width, channel)``.
            key: one typed key or one an image, where the target or the detector is random.

        Returns:
            Booleans of shape ``(batch,)``: a score above the threshold, or one that is no number.

        Raises:
            ValueError: if the detector has no threshold yet, or images have values out of range.
        """
        if self.threshold is None:
            raise ValueError(
                f"{type(self).__name__} has no threshold yet: choose one with detector.calibrated(target, images) on "
                "legitimate training images"
            )
        images = _images.as_jax(images)
        _images.check_images(images)
        if concrete(images):
            _images.check_values(images)
        score = self.score(target, images, key)
        return ~(score <= jnp.asarray(self.threshold, score.dtype))

    def calibrated(
        self,
        target: Any,
        images: Any,
        key: Any = None,
        *,
        false_positive_rate: float = 0.05,
        batch_size: Any = 64,
    ) -> Any:
        """Return the detector with the smallest threshold that calls few of some legitimate images adversarial.

        It lies a hundred-thousandth of the scores' range above the last score that must not be called so (our choice),
        or half way to the next one: the same images in batches of another size, with other roundings, are called alike.

        Args:
            target: what classifies them.
            images: legitimate images, of the training split if its figures shall mean something, shape
                ``(images, height, width, channel)``.
            key: one typed key or one an image, where the target or the detector is random.
            false_positive_rate: largest share of these images that may be called adversarial, in [0, 1).
            batch_size: images scored at once.

        Returns:
            A detector of the same kind.

        Raises:
            ValueError: if the rate is out of its domain, the target returns no logits, a score is not finite, or an
                image's logits or score depend on the other images or on chance.
        """
        batch_size = check_batch_size(batch_size)
        if not 0 <= false_positive_rate < 1:
            raise ValueError(f"false_positive_rate must be at least 0 and below 1, got {false_positive_rate}")
        target, images = as_target(target), _images.as_array(images)
        _images.check_images(images)
        images = np.asarray(images)
        _images.check_values(images)
        keys = None if key is None else _keys.per_image(key, len(images))
        self._check(target, images, keys)
        scores: list[np.ndarray] = []
        for first in range(0, len(images), batch_size):
            # Filled up, so that one program serves all batches.
            rows = np.arange(first, first + batch_size) % len(images)
            own = None if keys is None else keys[rows]
            scores.append(np.asarray(_score(self, target, jnp.asarray(images[rows]), own)))
        known = np.sort(np.concatenate(scores)[: len(images)])
        if not np.isfinite(known).all():
            raise ValueError("the scores of legitimate images must be finite, got NaN or infinity: check the target")
        # The last of those that must not be called adversarial; a share such as 0.95 of 20 is meant to be 19.
        kept = math.ceil(len(known) * (1 - false_positive_rate) - 1e-9)
        last, above = known[kept - 1].astype(np.float64), known[kept:]
        margin = 1e-5 * max(known[-1] - known[0], abs(last))
        if above.size:
            margin = min(margin, (above[0] - last) / 2)
        return dataclasses.replace(self, threshold=float(last + margin))  # type: ignore[type-var]

    def _check(self, target: Any, images: np.ndarray, keys: Any) -> None:
        """Refuse a target without logits, and one that with this detector does not treat each image by itself."""
        own = _keys.per_image(jax.random.key(0), 1) if attribute(target, "random") else None
        name = getattr(target, "name", type(target).__name__)
        jax.eval_shape(lambda model, one: check_logits(model(one, own), 1, name=name), target, jnp.asarray(images[:1]))
        check_independence(self.around(target), images, keys, name="the target with its detector")

    def around(self, target: Any) -> Any:
        """Return the target whose outputs are ``Watched``: the logits, and the score of this detector.

        An adaptive attack gives its own ``loss(outputs, reference)`` and ``success(outputs, reference)`` on these.

        Args:
            target: what classifies.

        Returns:
            A target.
        """
        return _Around(target=as_target(target), detector=self)


@pytree_dataclass
class _Around:
    """A target and a detector beside it."""

    target: Any
    detector: Any

    is_target = True

    @property
    def random(self) -> bool:
        return attribute(self.target, "random") or attribute(self.detector, "random")

    @property
    def couples_images(self) -> bool:
        return attribute(self.target, "couples_images") or attribute(self.detector, "couples_images")

    def __call__(self, images, key=None):
        logits = self.target(images, key if attribute(self.target, "random") else None)
        return Watched(logits, self.detector.score(self.target, images, key))


def squeezers() -> tuple[Any, ...]:
    """Return the squeezers that the paper joins for photographs.

    Returns:
        Five bits a channel, a median of 2×2 pixels, and non-local means with patches of 3×3 in a window of 11×11.
    """
    from jaxpurify.purifiers.median import Median
    from jaxpurify.purifiers.non_local_means import NonLocalMeans

    return BitDepth(bits=5.0), Median(size=2), NonLocalMeans(patch_size=3, patch_distance=5, h=4 / 255)


@pytree_dataclass
class FeatureSqueezing(Detector):
    """Call images adversarial whose probabilities change much when they are squeezed.

    The score is the largest, over several squeezers, L1 distance between the probabilities of an image and those of
    the squeezed image: from 0 to 2. It is differentiable, and an adaptive attack goes through it; squeezers whose
    exact gradient is zero are exchanged first (``gradients.substitute``).

    Args:
        squeezers: purifiers. By default those that the paper joins for photographs.
        threshold: score above which an image is called adversarial, or None before ``calibrated``.

    Raises:
        ValueError: if there is no squeezer, or the threshold is not a distance.

    Source: Xu, Evans and Qi 2018 (arXiv 1704.01155), section VI: joint detection, with the threshold that calls at
    most 5 % of legitimate training images adversarial.

    Example:
        >>> import jaxpurify as jp
        >>> classifier, data = jp.networks.load_classifier("photos-cnn"), jp.datasets.load("photos", split="train")
        >>> squeezers = jp.purifiers.BitDepth(bits=4), jp.purifiers.GaussianSmoothing()
        >>> detector = jp.FeatureSqueezing(squeezers=squeezers)
        >>> detector = detector.calibrated(classifier, data.images[:100])
        >>> int(detector.detects(classifier, data.images[:100]).sum())
        5
    """

    squeezers: tuple[Any, ...] = dataclasses.field(default_factory=squeezers)
    threshold: Scalar | None = None

    def check(self):
        """Refuse a detector without squeezers, and thresholds that are no distance."""
        made = isinstance(self.squeezers, tuple) and all(
            callable(each) and not isinstance(each, type) for each in self.squeezers
        )
        if not made or not self.squeezers:
            raise ValueError(f"squeezers must be a tuple of purifiers, got {self.squeezers!r}")
        object.__setattr__(self, "squeezers", tuple(as_purifier(each) for each in self.squeezers))
        if self.threshold is not None and concrete(self.threshold) and not 0 <= self.threshold <= 2.0001:
            raise ValueError(f"threshold must be a distance of probabilities, from 0 to 2, got {self.threshold}")

    @property
    def random(self) -> bool:  # type: ignore[override]
        return any(attribute(squeezer, "random") for squeezer in self.squeezers)

    @property
    def couples_images(self) -> bool:  # type: ignore[override]
        return any(attribute(squeezer, "couples_images") for squeezer in self.squeezers)

    def differentiable(self) -> Any:
        """Return the detector with a surrogate going backward wherever a squeezer declares one."""
        stand_ins = (gradients.substitute(s) if gradients.has_surrogate(s) else s for s in self.squeezers)
        return dataclasses.replace(self, squeezers=tuple(stand_ins))

    def score(self, target: Any, images: Any, key: Any = None) -> jax.Array:
        """Return the largest distance between the probabilities of images and of squeezed images.

        Args:
            target: images to logits.
            images: shape ``(batch, height, width, channel)``.
            key: one typed key or one an image, where the target or a squeezer is random; squeezer number i and the
                target behind it draw from it with i folded in.

        Returns:
            Shape ``(batch,)``, from 0 to 2.
        """
        target, images = as_target(target), _images.as_jax(images)
        _images.check_images(images)
        if key is None and (attribute(target, "random") or self.random):
            raise ValueError("the target or a squeezer is random, expected a key: pass key=jax.random.key(0)")
        keys: Any = None if key is None else _keys.per_image(key, images.shape[0])
        logits = target(images, keys if attribute(target, "random") else None)
        name = getattr(target, "name", type(target).__name__)
        plain = jax.nn.softmax(widened(check_logits(logits, images.shape[0], name=name)))
        distances = []
        for number, squeezer in enumerate(self.squeezers):
            squeezed = Defended(target, squeezer)
            own = _keys.fold(keys, number) if squeezed.random else None
            distances.append(jnp.abs(plain - jax.nn.softmax(widened(squeezed(images, own)))).sum(axis=-1))
        return jnp.stack(distances).max(axis=0)


_score = jax.jit(lambda detector, target, images, keys: detector.score(target, images, keys))
