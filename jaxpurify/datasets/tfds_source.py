"""Labelled images from TensorFlow Datasets, read without TensorFlow."""

import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxpurify.datasets.dataset import Dataset
from jaxpurify.datasets.pictures import RESIZED, as_pair, stack
from jaxpurify.files import expanded

FORMAT = "array_record"
INSTALL = "pip install 'jaxpurify[tensorflow]'"
# name/configuration:version, as TensorFlow Datasets writes them.
NAME = re.compile(r"[A-Za-z_]\w*(/[\w.+-]+)?(:[\d.*]+)?")


def may_be_a_name(text: str) -> bool:
    """Tell whether a text has the form of a name of TensorFlow Datasets, and not that of a path.

    Args:
        text: what the caller gave.

    Returns:
        Whether to look it up.
    """
    return NAME.fullmatch(text) is not None


def load(
    *,
    name: str,
    split: str = "test",
    limit: int | None = None,
    data_dir: str | os.PathLike | None = None,
    size: Any = None,
) -> Dataset:
    """Load a data set of TensorFlow Datasets, downloading and preparing it where that was not done before.

    It is prepared as array_record files, which are read without TensorFlow; some data sets need TensorFlow while they
    are prepared.

    Args:
        name: its name, with a configuration where it has several: ``"cifar10"``, ``"cifar10_corrupted/fog_3"``.
        split: one of its splits, or a part of one such as ``"test[:50%]"``.
        limit: take the first ``limit`` images.
        data_dir: where prepared data sets are; None is TensorFlow Datasets' own choice (``~/tensorflow_datasets``).
        size: rows and columns (or one number for both) to resize every image to, with Pillow's bicubic filter; None
            takes images as they are, which must then share one size.

    Returns:
        The images and labels.

    Raises:
        ImportError: if preparing it needs TensorFlow, or another package, which is not installed.
        ValueError: if there is no such data set, configuration or split, it cannot be downloaded, it does not consist
            of labelled images, or sizes differ.
    """
    pair = as_pair(size)
    builder, source = _source(name, split, data_dir)
    image, label = _features(builder.info, name)
    count = len(source) if limit is None else min(limit, len(source))
    if not count:
        raise ValueError(f"the split {split!r} of {name} has no images")
    labels = np.empty(count, np.int32)

    def pictures() -> Iterator[tuple[str, np.ndarray]]:
        for row in range(count):
            example = source[row]
            labels[row] = example[label]
            yield f"image {row}", np.asarray(example[image])

    images = stack(pictures(), size=pair)
    return Dataset(
        images=images,
        labels=labels,
        class_names=tuple(builder.info.features[label].names),
        name=name,
        split=split,
        licence=builder.info.as_proto.redistribution_info.license,
        source=f"TensorFlow Datasets, {builder.info.full_name}" + (f", {RESIZED.format(*pair)}" if pair else ""),
    )


def read_images(name: str, *, split: str, data_dir: str | os.PathLike | None = None) -> list[np.ndarray]:
    """Read the images alone of a data set of TensorFlow Datasets: of any sizes, with or without labels.

    Args:
        name: as in ``load``.
        split: as in ``load``.
        data_dir: as in ``load``.

    Returns:
        ``uint8`` ``(height, width, channel)`` each. Of several images an example, as in super-resolution pairs, the
        largest.

    Raises:
        ImportError: as in ``load``.
        ValueError: as in ``load``, but that there need be no labels.
    """
    builder, source = _source(name, split, data_dir)
    images = _named(builder.info, "Image")
    if not images:
        raise ValueError(f"{name} must have an image, but its features are {', '.join(_features_of(builder.info))}")
    return [max((np.asarray(example[key]) for key in images), key=np.size) for example in source]


def _source(name: str, split: str, data_dir: str | os.PathLike | None) -> tuple[Any, Any]:
    """Return the builder of a data set and the examples of one split."""
    import tensorflow_datasets as tfds

    data_dir = None if data_dir is None else expanded(data_dir)
    builder = _prepared(tfds, name, data_dir)
    try:
        return builder, tfds.data_source(name, split=split, data_dir=data_dir, download=False)
    except NotImplementedError:
        raise ValueError(
            f"{name} lies at {builder.data_dir} as {builder.info.file_format.value} files, which only TensorFlow reads"
            f": pass another data_dir=, where it is prepared as {FORMAT}, or delete that folder"
        ) from None
    except ValueError as error:
        known = ", ".join(builder.info.splits)
        raise ValueError(f"{name} has no split {split!r}, expected one of: {known} ({_first_line(error)})") from None


def _prepared(tfds: Any, name: str, data_dir: str | os.PathLike | None) -> Any:
    """Return the builder of a data set that lies on the disk, which is prepared first where it does not."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f'there is no data set {name!r}: expected "photos", a .npz file, a folder of images (does it exist?), or a '
            "name of tensorflow.org/datasets such as cifar10"
        ) from None
    except ValueError as error:
        raise ValueError(f"TensorFlow Datasets cannot construct {name}: {_first_line(error)}") from None
    if builder.is_prepared():
        return builder
    try:
        builder.download_and_prepare(file_format=FORMAT)
    except ImportError as error:
        missing = _missing_package(error)
        cure = INSTALL if missing == "tensorflow" else f"pip install {missing}"
        raise ImportError(
            f"preparing {name} for the first time needs {missing}, which is not installed: run {cure} "
            "(reading it afterwards needs no TensorFlow)",
            name=missing,
        ) from None
    except (OSError, tfds.download.DownloadError) as error:
        raise ValueError(
            f"{name} could not be downloaded to {builder.data_dir} ({_first_line(error)}): is there a network, and "
            "room on the disk?"
        ) from None
    except Exception as error:  # Builders are other people's programs: what they raise is anything.
        raise ValueError(f"{name} could not be prepared ({type(error).__name__}: {_first_line(error)})") from None
    return builder


def _features(info: Any, name: str) -> tuple[str, str]:
    """Find the image and its label: what the data set supervises with, else the first of each."""
    images, labels = _named(info, "Image"), _named(info, "ClassLabel")
    if not images or not labels:
        features = ", ".join(_features_of(info))
        raise ValueError(f"{name} must have an image and a class label, but its features are {features}")
    return images[0], labels[0]


def _named(info: Any, kind: str) -> list[str]:
    """Return the names of the features of one kind, what the data set supervises with first."""
    import tensorflow_datasets as tfds

    features = _features_of(info)
    supervised = [key for key in info.supervised_keys or () if isinstance(key, str)]
    return [
        key
        for key in dict.fromkeys((*supervised, *features))
        if isinstance(features.get(key), getattr(tfds.features, kind))
    ]


def _features_of(info: Any) -> dict[str, Any]:
    return dict(info.features.items()) if hasattr(info.features, "items") else {}


def _missing_package(error: BaseException) -> str:
    """Find the package that could not be imported: TensorFlow Datasets wraps the error, and its name is lost."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError) and cause.name:
            return cause.name.partition(".")[0]
        cause = cause.__cause__ or cause.__context__
    return "tensorflow"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
