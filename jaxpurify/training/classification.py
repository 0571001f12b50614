"""Training the registered classifiers on labelled images."""

import dataclasses
import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from jaxpurify import datasets
from jaxpurify.checks import kind
from jaxpurify.classifiers import Function, classifier
from jaxpurify.datasets.dataset import Dataset
from jaxpurify.networks import registry
from jaxpurify.training.patch_task import precision_of
from jaxpurify.training.task import Batch, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(Task):
    """Learn to tell classes apart: cross-entropy on images that are shifted and flipped at random.

    Images are scored as they are. Running statistics of batch normalisation are kept as training left them; they are
    not averaged as the weights are.

    Args:
        network_name: a classifier of ``networks.names()``; training starts from new weights.
        label_smoothing: share of the label that is spread over all classes.
        shift: largest shift of an image in pixels, along each axis; what comes in is a reflection.
        flip: whether half of the images are flipped from left to right.
        flip_vertically: whether half of the images are flipped upside down.

    Raises:
        ValueError: if the network is unknown or no classifier, or a number is out of its domain.

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2: shifts of up to 4 pixels and horizontal flips. Reflections
    in the place of their zeros are our choice, and so is the smoothing, which Szegedy et al. 2016 (arXiv 1512.00567,
    section 7) introduced: it keeps the loss from saturating, which would hide gradients from an attack.
    """

    network_name: str = "photos-cnn"
    label_smoothing: float = 0.1
    shift: int = 4
    flip: bool = True
    flip_vertically: bool = False

    metric: ClassVar[str] = "accuracy"
    greater_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if registry.architecture(self.network_name).kind != registry.CLASSIFIER:
            raise ValueError(
                f"network_name must be a classifier, one of {', '.join(registry.names())}, "
                f"got {self.network_name!r}, which makes images of images"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be a share of at least 0 and below 1, got {self.label_smoothing}")
        if self.shift < 0:
            raise ValueError(f"shift must be a number of pixels of at least 0, got {self.shift}")

    @property
    def architecture(self) -> registry.Architecture:
        """The registered network."""
        return registry.architecture(self.network_name)

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """Construct the network."""
        return self.architecture.construct(rngs)

    def prepare(self, data: Any, *, split: str = "train") -> Dataset:
        """Load labelled images (of a name, that split), and number their classes as the network does."""
        if not isinstance(data, Dataset | str | os.PathLike):
            raise TypeError(
                f"data must be a name, a path or a Dataset, got {kind(data)}: pass "
                "jaxpurify.datasets.Dataset(images=…, labels=…, class_names=…)"
            )
        read = data if isinstance(data, Dataset) else datasets.load(data, split=split)
        read = read.matched(self.architecture.class_names, classifier=self.network_name)
        shape, wanted = read.images.shape[1:], self.architecture.image_shape
        if shape[2] != 3 or (wanted is not None and shape != wanted) or min(shape[:2]) <= self.shift:
            takes = wanted or "(height, width, 3)"
            raise ValueError(
                f"{self.network_name} takes images of shape {takes}, larger than the shift of {self.shift}, got "
                f"{shape} of {read.name}"
            )
        return read

    def batch(self, source: Dataset, rows: np.ndarray, random: np.random.Generator) -> Batch:
        """Shift and flip images."""
        images = shifted(source.images[rows], random, shift=self.shift)
        for wanted, mirror in ((self.flip, np.s_[:, :, ::-1]), (self.flip_vertically, np.s_[:, ::-1])):
            if wanted:
                images = np.where(random.random((len(images), 1, 1, 1)) < 0.5, images[mirror], images)
        return {"images": images, "labels": source.labels[rows]}

    def scored_batch(self, source: Dataset, rows: np.ndarray, random: np.random.Generator) -> Batch:
        """Take images as they are."""
        return {"images": source.images[rows], "labels": source.labels[rows]}

    def loss(self, network: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Compare logits with labels."""
        logits = network(batch["images"].astype(precision_of(network))).astype(jnp.float32)
        labels = jax.nn.one_hot(batch["labels"], logits.shape[1], dtype=jnp.float32)
        losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(labels, self.label_smoothing))
        return losses, {"accuracy": (logits.argmax(axis=1) == batch["labels"]).astype(jnp.float32)}

    def function(self, network: Any) -> Function:
        """Return the classifier."""
        known = self.architecture
        return classifier(network, name=self.network_name, class_names=known.class_names, image_shape=known.image_shape)


def shifted(images: np.ndarray, random: np.random.Generator, *, shift: int) -> np.ndarray:
    """Shift each image by its own number of whole pixels; what comes in is a reflection.

    Args:
        images: ``(batch, height, width, channel)``.
        random: where the shifts come from.
        shift: largest shift along each axis, below height and width.

    Returns:
        Same shape.
    """
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
    corners = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    rows, columns = random.integers(2 * shift + 1, size=(2, count))
    return np.moveaxis(corners[np.arange(count), rows, columns], 1, -1)
