"""Labelled images from a NumPy `.npz` file."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxpurify.datasets import classes
from jaxpurify.datasets.dataset import Dataset, to_float
from jaxpurify.files import expanded

NEEDED = ("images", "labels")


def load(*, path: str | os.PathLike, limit: int | None = None) -> Dataset:
    """Load a NumPy ``.npz`` file.

    Its arrays are ``images`` (``uint8``, which is divided by 255, or floats in [0, 1]; shape ``(batch, height, width,
    channel)``), ``labels`` (integers) and, where there is one, ``class_names`` (text). Without names, classes are
    called "0", "1", … up to the largest label. Other arrays are not looked at, and pickled objects are never loaded.

    Args:
        path: the file.
        limit: take the first ``limit`` images.

    Returns:
        The images and labels; `Dataset.name` is the file's name without its ending.

    Raises:
        TypeError: if an array has a dtype that it cannot have.
        ValueError: if the file is missing, damaged or lacks an array, or an array does not fit.
    """
    path = expanded(path)
    arrays = _read(path)
    images, labels = arrays["images"], arrays["labels"]
    if images.shape[:1] != labels.shape[:1]:
        raise ValueError(f"{path} must have one label an image, got images {images.shape} and labels {labels.shape}")
    if "class_names" in arrays:
        class_names = classes.as_names(arrays["class_names"].ravel(), name=f"class_names of {path.name}")
    else:
        class_names = classes.counted(labels, name=f"labels of {path.name}")
    return Dataset(
        images=to_float(images[:limit], name=f"images of {path.name}"),
        labels=labels[:limit],
        class_names=class_names,
        name=path.stem,
        source=f"the file {path.name}",
    )


def read_images(path: str | os.PathLike) -> np.ndarray:
    """Read the images alone of a NumPy ``.npz`` file, which needs no labels then.

    Args:
        path: the file.

    Returns:
        Its array ``images``, as it is.

    Raises:
        ValueError: if the file is missing, damaged or has no such array.
    """
    return _read(expanded(path), needed=("images",))["images"]


def _read(path: Path, *, needed: tuple[str, ...] = NEEDED) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(
            f"{path} {'is a folder, expected a file' if path.exists() else 'does not exist: check the path'}"
        )
    try:
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError(f"{path} holds a single array, expected a .npz file: write it with numpy.savez")
            missing = [name for name in needed if name not in file.files]
            if missing:
                raise ValueError(
                    f"{path} must have the arrays {' and '.join(needed)}, but {' and '.join(missing)} is missing: "
                    f"it has {', '.join(file.files) or 'none'}"
                )
            return {name: file[name] for name in (*needed, "class_names") if name in file.files}
    except PermissionError:
        raise ValueError(f"{path} may not be read: ask for the permission to read it") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a .npz file ({error}): is it truncated?") from None
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(
            f"{path} holds pickled objects or is no .npz file, and pickles are never loaded since they may run code: "
            "write plain arrays with numpy.savez"
        ) from None
