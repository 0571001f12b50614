"""`load`: which loader a name or path belongs to."""

import inspect
import os
from typing import Any

from jaxpurify.checks import check_count, kind
from jaxpurify.datasets import folders, npz, photos, tfds_source
from jaxpurify.datasets.dataset import Dataset
from jaxpurify.files import expanded

POSSIBLE = '"photos", a .npz file, a folder of images, or a data set of TensorFlow Datasets such as "cifar10"'


def names() -> tuple[str, ...]:
    """Return the names of the data sets that come with the package.

    Returns:
        What `load` takes besides paths and the names of TensorFlow Datasets.
    """
    return ("photos",)


def load(name: str | os.PathLike, *, split: str = "test", limit: Any = None, **options: Any) -> Dataset:
    """Load labelled images.

    Args:
        name: ``"photos"``; a path that ends in ``.npz``; a folder of images (``"./photos"`` is the folder, ``"photos"``
            the embedded set); anything else is the name of a data set of TensorFlow Datasets, such as ``"cifar10"`` or
            ``"cifar10_corrupted/fog_3"``, which is downloaded and prepared where that was not done before.
        split: the part to load. An ``.npz`` file and a folder have none: it is ignored there.
        limit: load that many images at most, the first ones. Those of ``photos`` and of a folder with a sub-folder a
            class have all classes in turn.
        **options: of a folder, ``labels``, ``class_names`` and ``size``; of TensorFlow Datasets, ``data_dir`` and
            ``size``.

    Returns:
        The images, in memory, with their labels.

    Raises:
        TypeError: if an option does not exist for that kind of data, or images or labels have a wrong type.
        ValueError: if the name is unknown, a file or folder is missing or damaged, or images do not fit together.
        ImportError: if preparing a data set needs TensorFlow, which is not installed.

    Example:
        >>> data = load("photos", split="test", limit=16)
        >>> data.images.shape, data.class_names[int(data.labels[0])]
        ((16, 32, 32, 3), 'astronaut')
    """
    limit = None if limit is None else check_count(limit, name="limit")
    if not isinstance(name, str | os.PathLike) or not str(name):
        raise ValueError(
            f"a data set is a name, a file or a folder, got {repr(name) if isinstance(name, str) else kind(name)}"
        )
    text = os.fspath(name)
    path = expanded(text)
    if text == "photos":
        return _call(photos.load, "photos", options, split=split, limit=limit)
    if text.lower().endswith(".npz"):
        return _call(npz.load, f"the file {text}", options, path=path, limit=limit)
    if path.is_dir():
        return _call(folders.load, f"the folder {text}", options, path=path, limit=limit)
    if path.exists():
        raise ValueError(f"{text} is a file, expected {POSSIBLE}")
    if not isinstance(name, str) or not tfds_source.may_be_a_name(text):
        raise ValueError(f"{text} does not exist: expected {POSSIBLE}")
    return _call(tfds_source.load, f"the data set {text}", options, name=text, split=split, limit=limit)


def _call(loader: Any, kind: str, options: dict[str, Any], **arguments: Any) -> Dataset:
    """Call a loader, naming the options that it has where one is unknown."""
    known = [option for option in inspect.signature(loader).parameters if option not in arguments]
    unknown = [option for option in options if option not in known]
    if unknown:
        has = f"its options are {', '.join(known)}" if known else "it has no options"
        raise TypeError(f"{kind} has no option {unknown[0]!r}: {has}")
    return loader(**arguments, **options)
