"""Attacks on features: the target returns what a classifier sees inside beside what it says."""

from typing import Any

import jax.numpy as jnp

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.models import as_target, attribute
from jaxpurify.precision import widened
from jaxpurify.pytrees import pytree_dataclass


@pytree_dataclass
class Features:
    """A target that returns features and logits, to be attacked by ``feature_distance`` and judged by ``misled``.

    Args:
        features: images to features, an array with a leading batch axis.
        head: features to logits, so that the two are one classifier: a function, or ``models.Function`` with weights.

    Source: Sabour et al. 2016 (arXiv 1511.05122) for the features of a guide image; the pair of outputs is our choice.
    The distance has no gradient at the clean image itself, so the attack needs a random start.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxpurify.attacks import PGD
        >>> from jaxpurify.attacks.features import Features, feature_distance, misled, reached
        >>> target = Features(lambda x: x.mean(axis=(1, 2)), lambda f: f @ jnp.array([[-9.0, 9.0]] * 3) + 0.5)
        >>> images, labels = jnp.full((2, 4, 4, 3), 0.02), jnp.array([1, 1])
        >>> away = PGD(epsilon=0.1, loss=feature_distance, success=misled)
        >>> result = away(target, images, target.reference(images, labels), jax.random.key(0))
        >>> result.loss.shape
        (2,)
        >>> towards = PGD(epsilon=0.1, loss=feature_distance, success=reached)
        >>> guides = target.reference(images + 0.05, labels)
        >>> result = towards(target, images, target.reference(images, labels), jax.random.key(0), targets=guides)
        >>> bool((-result.loss < 1e-3).all())  # 2.5e-3 at first
        True
    """

    features: Any
    head: Any

    is_target = True

    def __init__(self, features: Any, head: Any):
        object.__setattr__(self, "features", as_target(features))
        object.__setattr__(self, "head", as_target(head))

    @property
    def random(self) -> bool:
        """Whether a part needs keys."""
        return attribute(self.features, "random") or attribute(self.head, "random")

    @property
    def couples_images(self) -> bool:
        """Whether a part lets the images of a batch influence one another."""
        return attribute(self.features, "couples_images") or attribute(self.head, "couples_images")

    @property
    def calls_back(self) -> bool:
        """Whether computing a part calls back to the host."""
        return attribute(self.features, "calls_back") or attribute(self.head, "calls_back")

    def __call__(self, images, key=None):
        keys: Any = None if key is None else _keys.per_image(key, images.shape[0])
        features = self.features(images, keys if attribute(self.features, "random") else None)
        return features, self.head(features, _keys.fold(keys, 1) if attribute(self.head, "random") else None)

    def reference(self, images: Any, labels: Any, key: Any = None) -> tuple[Any, Any]:
        """Return what an attack is given in the place of labels: the features of images beside their labels.

        For ``targets``, give guide images and the classes that they have.
        """
        return self(images, key)[0], labels


def feature_distance(outputs: Any, reference: Any) -> Any:
    """Return the mean squared distance of features from those of the reference.

    Args:
        outputs: features and logits.
        reference: features and labels, from ``Features.reference``.

    Returns:
        The loss to raise, or to lower where the reference is a target, shape ``(batch,)``.
    """
    features, wanted = widened(outputs[0]), widened(reference[0])
    return jnp.square(features - wanted).mean(axis=tuple(range(1, features.ndim)))


def misled(outputs: Any, reference: Any) -> Any:
    """Say which images are not given the reference's label.

    Args:
        outputs: features and logits.
        reference: features and labels.

    Returns:
        Booleans of shape ``(batch,)``, the ``success`` of an untargeted attack.
    """
    return losses.misclassified(outputs[1], reference[1])


def reached(outputs: Any, reference: Any) -> Any:
    """Say which images are given the label of the guide.

    Args:
        outputs: features and logits.
        reference: features and labels of the guides.

    Returns:
        Booleans of shape ``(batch,)``, the ``success`` of a targeted attack.
    """
    return losses.classified_as(outputs[1], reference[1])
