"""Ensembles: the average of what a classifier says about many draws of a random purifier.

An ensemble is no map from images to images. It stands where a purifier stands and is put *around* the classifier, so
that ``Defended`` and the evaluation take it like any purifier.
"""

from typing import Any

import jax.numpy as jnp

from jaxpurify import keys as _keys
from jaxpurify.gradients import Expectation
from jaxpurify.models import Defended, Sequential, as_purifier, attribute, purifier
from jaxpurify.purifiers.random_crop import RandomCrop
from jaxpurify.pytrees import Scalar, concrete, static

AVERAGED = ("probabilities", "logits")


class _Around:
    """What all ensembles share; a class gives ``after``."""

    random = True
    is_ensemble = True

    def around(self, classifier: Any) -> Defended:
        """Return the target that averages what a classifier says about the draws.

        Args:
            classifier: images to logits, or any target with such outputs.

        Returns:
            A random target. Where probabilities are averaged, its outputs are the logarithms of the averages, which
            are logits too: their softmax is the average.
        """
        return Defended(classifier, self)


@purifier
class Ensemble(_Around):
    """Average what a classifier says about several draws of a random purifier.

    ``Defended(classifier, ensemble)`` is the averaged classifier, and so is ``ensemble.around(classifier)``. Called as
    a purifier is, it returns its first draw, which is what pictures and probes of a purifier get to see.

    Args:
        stage: the random purifier. Draw d receives the keys with d folded in.
        samples: number of draws (static).
        of: what is averaged: ``"probabilities"``, or ``"logits"`` (static).
        chunk: draws computed at once, vectorised; all by default. Each chunk is computed again on the way back, so
            that memory holds one (on the CPU, where they are unrolled, the compiler may keep more) (static).

    Raises:
        ValueError: if a number is out of its domain or the stage draws nothing.
        TypeError: if the stage is no purifier.

    Source: Guo, Rana, Cissé and van der Maaten 2018 (arXiv 1711.00117), section 4, for random crops; Xie et al. 2018
    (arXiv 1711.01991) average 30 random resizings.

    Example:
        >>> import jax, jaxpurify as jp
        >>> images = jp.datasets.load("photos", limit=2).images
        >>> ensemble = jp.Ensemble(stage=jp.purifiers.GaussianNoise(), samples=3)
        >>> model = jp.Defended(jp.networks.load_classifier("photos-cnn"), ensemble)
        >>> model(images, jax.random.key(0)).shape
        (2, 8)
    """

    stage: Any
    samples: int = static(30)
    of: str = static("probabilities")
    chunk: int | None = static(None)

    def check(self):
        """Refuse what cannot be averaged."""
        if not callable(self.stage) or isinstance(self.stage, type):
            raise TypeError(f"stage must be a random purifier, got {getattr(self.stage, '__name__', self.stage)!r}")
        if attribute(self.stage, "is_ensemble"):
            raise ValueError("stage must be a random purifier, got an ensemble: draw more samples instead")
        if not attribute(as_purifier(self.stage), "random"):
            raise ValueError(f"stage must be random, got {type(self.stage).__name__}, of which every draw is the same")
        _check_average(self.samples, self.of, self.chunk)
        object.__setattr__(self, "stage", as_purifier(self.stage))

    @property
    def couples_images(self) -> bool:
        return attribute(self.stage, "couples_images")

    @property
    def changes_size(self) -> bool:
        return attribute(self.stage, "changes_size")

    def after(self, *stages: Any) -> "Ensemble":
        """Return the ensemble whose every draw passes some stages first.

        Args:
            stages: purifiers.

        Returns:
            The ensemble of their ``Sequential``; of what no draw changes, one computation serves all draws.
        """
        if not stages:
            return self
        return Ensemble(stage=Sequential(*stages, self.stage), samples=self.samples, of=self.of, chunk=self.chunk)

    def average(self, member: Any, images: Any, keys: Any) -> Any:
        """Average what a random target says over the draws.

        Args:
            member: the classifier behind the stage.
            images: shape ``(batch, height, width, channel)``.
            keys: typed keys of shape ``(batch,)``.

        Returns:
            Mean logits, or the logarithms of mean probabilities, shape ``(batch, classes)``.
        """
        mean = Expectation(samples=self.samples, chunk=self.chunk, of=self.of)
        return mean(member, images, keys, lambda outputs: jnp.zeros(len(outputs), outputs.dtype))[1]

    def __call__(self, images, key=None):
        return self.stage(images, _keys.fold(key, 0))


@purifier
class CropEnsemble(_Around):
    """Average what a classifier says about random crops, each resized to the whole.

    Args:
        share: side of a crop over that of the image, above 0 and at most 1.
        samples: number of crops (static).
        of: what is averaged: ``"probabilities"``, or ``"logits"`` (static).
        chunk: crops computed at once; all by default, as ``Ensemble`` has it (static).

    Raises:
        ValueError: if a number is out of its domain.

    Source: Guo, Rana, Cissé and van der Maaten 2018 (arXiv 1711.00117), section 4: 30 crops of 90 pixels out of 224.

    Example:
        >>> import jaxpurify as jp
        >>> jp.purifiers.CropEnsemble(share=0.75, samples=10).after().stage
        RandomCrop(share=0.75, method='bilinear')
    """

    share: Scalar = 90 / 224
    samples: int = static(30)
    of: str = static("probabilities")
    chunk: int | None = static(None)

    def check(self):
        """Refuse what is no crop or cannot be averaged."""
        if concrete(self.share):
            RandomCrop(share=self.share)
        _check_average(self.samples, self.of, self.chunk)

    def after(self, *stages: Any) -> Ensemble:
        """Return it as an ``Ensemble``, whose every draw passes some stages first.

        Args:
            stages: purifiers.

        Returns:
            The ensemble.
        """
        ensemble = Ensemble(stage=RandomCrop(share=self.share), samples=self.samples, of=self.of, chunk=self.chunk)
        return ensemble.after(*stages)

    def __call__(self, images, key=None):
        return self.after()(images, key)


def _check_average(samples: int, of: str, chunk: int | None) -> None:
    if of not in AVERAGED:
        raise ValueError(f"of must be one of {', '.join(AVERAGED)}, got {of!r}")
    Expectation(samples=samples, chunk=chunk, of=of)
