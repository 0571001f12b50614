"""The one form that labelled images have here, wherever they come from."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpurify import images as _images
from jaxpurify.datasets.classes import as_names, matched_labels


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Holds labelled images in memory, checked once.

    Args:
        images: ``float32`` of shape ``(batch, height, width, channel)``, values in [0, 1] with a tolerance of 1e-6.
        labels: integers of shape ``(batch,)`` in ``[0, classes)``; kept as ``int32``.
        class_names: the name of each class, in the order of the labels.
        name: what reports call the data set.
        split: the part of it that these images are, such as ``"test"``; empty where there are no parts.
        demonstration: whether figures on these images are a demonstration and no evidence.
        licence: under which terms the images may be used, where known.
        source: where the images come from and what was done to them.

    Raises:
        TypeError: if images are not ``float32`` or labels not integers.
        ValueError: if there are no images, a shape is wrong, a value is not finite or out of range, or a label has no
            class.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str = "arrays"
    split: str = ""
    demonstration: bool = False
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Check everything, and keep labels as int32."""
        of = f" of {self.name}"
        images = np.asarray(_images.as_array(self.images, name="images" + of))
        labels = np.asarray(_images.as_array(self.labels, name="labels" + of))
        class_names = as_names(self.class_names)
        _images.check_images(images, name="images" + of)
        if images.dtype != np.float32:
            raise TypeError(f"images{of} must be float32, got {images.dtype}: convert them with astype('float32')")
        _images.check_values(images, name="images" + of)
        _images.check_labels(labels, len(images), classes=len(class_names), name="labels" + of)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int32))
        object.__setattr__(self, "class_names", class_names)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        part = f" ({self.split})" if self.split else ""
        shape = "×".join(map(str, self.images.shape[1:]))
        return f"<Dataset {self.name}{part}: {len(self)} images of {shape}, {len(self.class_names)} classes>"

    def take(self, rows: slice | Sequence[int] | np.ndarray) -> "Dataset":
        """Select images.

        Args:
            rows: a slice, an array of row numbers, or a mask of one boolean an image.

        Returns:
            A data set of those images, with the same classes.

        Raises:
            ValueError: if a row does not exist or none is left.
        """
        try:
            chosen = np.atleast_1d(np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows)])
        except IndexError:
            raise ValueError(f"rows must be a slice, row numbers below {len(self)} or a mask, got {rows!r}") from None
        if not len(chosen):
            raise ValueError(f"rows must select at least one of the {len(self)} images of {self.name}, got {rows!r}")
        return dataclasses.replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def matched(self, class_names: tuple[str, ...] | None, *, classifier: str = "the classifier") -> "Dataset":
        """Number labels as a classifier numbers its classes: by name where both have names.

        Args:
            class_names: the classifier's classes, or None.
            classifier: what an error message calls it.

        Returns:
            The data set with the classifier's classes; the same one where labels stand as they are.

        Raises:
            ValueError: if a class of the data is not one of the classifier's, or could be several.
        """
        labels, names = matched_labels(
            self.labels, self.class_names, class_names, data=self.name, classifier=classifier
        )
        if labels is self.labels:
            return self
        return dataclasses.replace(self, labels=labels, class_names=names or self.class_names)

    def fingerprint(self) -> str:
        """Hash images and labels, so that a run that goes on notices other data.

        Returns:
            The SHA-256 of shapes, pixels and labels, as 64 hexadecimal digits.
        """
        digest = hashlib.sha256(repr((self.images.shape, self.labels.shape)).encode())
        for values in (self.images, self.labels):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def to_float(images: Any, *, name: str) -> np.ndarray:
    """Convert pixels as files have them to the range of the library.

    Args:
        images: ``uint8``, which is divided by 255, or floats, which are taken to be in [0, 1] already.
        name: what an error message calls them.

    Returns:
        ``float32``, same shape.

    Raises:
        TypeError: if they are neither.
    """
    values = np.asarray(images)
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"{name} must be uint8 or floats in [0, 1], got {values.dtype}: convert them first")
    return values.astype(np.float32, copy=False)
