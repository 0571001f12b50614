"""Labelled images from a folder: a sub-folder a class, or a CSV file of labels."""

import csv
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxpurify import images as _images
from jaxpurify.datasets.dataset import Dataset
from jaxpurify.datasets.pictures import RESIZED, Size, as_pair, stack

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
COLUMNS = ("file", "label")


def load(
    *,
    path: str | os.PathLike,
    limit: int | None = None,
    labels: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    size: Size = None,
) -> Dataset:
    """Load a folder of images.

    Where there is a CSV file, it has the columns ``file`` (relative to the folder) and ``label``: a class's name, or
    its number from 0. Otherwise each sub-folder is a class. Classes are numbered in the order of ``class_names``, else
    of their sorted names: a classifier that numbers them otherwise, or knows more of them, needs ``class_names``.

    Args:
        path: the folder.
        limit: take the first ``limit`` images: in the order of the CSV file, else one of each class in turn.
        labels: the CSV file; None takes ``labels.csv`` in the folder where there is one.
        class_names: all classes, in the order of the labels; None takes those that are found.
        size: rows and columns (or one number for both) to resize every image to, with Pillow's bicubic filter; None
            takes images as they are, which must then share one size.

    Returns:
        The images and labels. Where some images are grey and some coloured, all become RGB; opacity is dropped.

    Raises:
        ValueError: if the folder, the CSV file or an image is missing or damaged, a class is unknown, or sizes differ.
    """
    path, pair = Path(path), as_pair(size)
    table = Path(labels) if labels is not None else path / "labels.csv"
    if labels is not None and not table.is_file():
        raise ValueError(f"{table} does not exist, expected a CSV file with the columns {' and '.join(COLUMNS)}")
    if table.is_file():
        listed = _from_csv(path, table)
        found = _class_names([label for _, label in listed])
    else:
        listed, found = _from_folders(path)
    if not listed:
        raise ValueError(f"{path} has no images, expected files that end in {', '.join(ENDINGS)}")
    listed = listed[:limit]
    known = found if class_names is None else tuple(class_names)
    numbers = np.array([_number(label, known, path) for _, label in listed], np.int32)
    return Dataset(
        images=stack(((str(file), _images.read(file)) for file, _ in listed), size=pair),
        labels=numbers,
        class_names=known,
        name=path.resolve().name,
        source=f"the folder {path.resolve().name}" + (f", {RESIZED.format(*pair)}" if pair else ""),
    )


def _from_folders(path: Path) -> tuple[list[tuple[Path, str]], tuple[str, ...]]:
    """List the images of every sub-folder, one of each in turn; an empty sub-folder is a class all the same."""
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise ValueError(
            f"{path} has neither sub-folders nor a labels.csv: expected a sub-folder a class, or a CSV file with the "
            f"columns {' and '.join(COLUMNS)}"
        )
    found = []
    for folder in folders:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        files = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in ENDINGS]
        if not files and any(entry.is_dir() for entry in entries):
            raise ValueError(f"{folder} has folders in it, no images: if those are the classes, load {folder} instead")
        found.append([(file, folder.name) for file in files])
    in_turn = [entry for turn in itertools.zip_longest(*found) for entry in turn if entry is not None]
    return in_turn, tuple(folder.name for folder in folders)


def _from_csv(path: Path, table: Path) -> list[tuple[Path, str]]:
    """List the images that a CSV file names, in its order."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            if not set(COLUMNS) <= set(columns):
                raise ValueError(
                    f"{table} must have the columns {' and '.join(COLUMNS)}, got {', '.join(columns) or 'none'}"
                )
            rows = [(row["file"], (row["label"] or "").strip()) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read as a CSV file in UTF-8 ({error})") from None
    for number, row in enumerate(rows, start=1):
        if not all(row):
            raise ValueError(f"{table} must have a file and a label in every row, but row {number} lacks one")
    return [(path / file, label) for file, label in rows]


def _class_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Name the classes of a CSV file: where all labels are numbers, they count from 0."""
    if labels and all(label.isdecimal() for label in labels):
        return tuple(str(number) for number in range(max(map(int, labels)) + 1))
    return tuple(sorted(set(labels)))


def _number(label: str, class_names: tuple[str, ...], path: Path) -> int:
    if label in class_names:
        return class_names.index(label)
    if label.isdecimal() and int(label) < len(class_names):
        return int(label)
    shown = ", ".join(class_names[:10]) + (", …" if len(class_names) > 10 else "")
    raise ValueError(f"{path} has the label {label!r}, expected one of {len(class_names)} classes: {shown}")
