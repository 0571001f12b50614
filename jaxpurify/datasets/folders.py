"""Labelled images from a folder: a sub-folder a class, or a CSV file of labels."""

import csv
import itertools
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxpurify import images as _images
from jaxpurify.datasets import classes
from jaxpurify.datasets.dataset import Dataset
from jaxpurify.datasets.pictures import RESIZED, as_pair, stack
from jaxpurify.files import expanded
from jaxpurify.formats import ENDINGS
from jaxpurify.listing import list_images, some

COLUMNS = ("file", "label")


def load(
    *,
    path: str | os.PathLike,
    limit: int | None = None,
    labels: str | os.PathLike | None = None,
    class_names: Any = None,
    size: Any = None,
) -> Dataset:
    """Load a folder of images.

    Where there is a CSV file, it has the columns ``file`` (relative to the folder) and ``label``: a class's name, or
    its number from 0. Otherwise each sub-folder is a class. Where all labels or sub-folders are whole numbers, those
    are the numbers of the classes ("007" and "7.0" are 7). Otherwise classes are numbered in the order of
    ``class_names``, else of their sorted names: ``evaluate`` and the command match those with the classifier's by name.

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
        TypeError: if ``class_names`` are not names.
        ValueError: if the folder, the CSV file or an image is missing or damaged, a class is unknown, a number cannot
            be a class's, or sizes differ.
    """
    path, pair = expanded(path), as_pair(size)
    given = None if class_names is None else classes.as_names(class_names)
    table = expanded(labels) if labels is not None else path / "labels.csv"
    if labels is not None and not table.is_file():
        raise ValueError(f"{table} does not exist, expected a CSV file with the columns {' and '.join(COLUMNS)}")
    if table.is_file():
        listed = _from_csv(path, table)
        where: dict[str, str] = {}
        for row, (_, label) in enumerate(listed, start=1):
            where.setdefault(label, f"row {row} of {table}")
        numbers, known = classes.numbered(where, class_names=given) if listed else ({}, ())
    else:
        folders = _from_folders(path)
        numbers, known = classes.numbered({folder.name: str(folder) for folder in folders}, class_names=given)
        _check_apart(path, numbers)
        listed = _in_turn(folders)
    if not listed:
        raise ValueError(f"{path} has no images, expected files that end in {', '.join(ENDINGS)}")
    listed = listed[:limit]
    return Dataset(
        images=stack(((str(file), _images.deep_as_float(_images.read(file))) for file, _ in listed), size=pair),
        labels=np.array([numbers[label] for _, label in listed], np.int32),
        class_names=known,
        name=path.resolve().name,
        source=f"the folder {path.resolve().name}" + (f", {RESIZED.format(*pair)}" if pair else ""),
    )


def _from_folders(path: Path) -> dict[Path, list[Path]]:
    """List the images of every sub-folder; an empty sub-folder is a class all the same."""
    beside = list_images(path, deep=False)
    folders = [entry for entry in beside.others if entry.is_dir()]
    if not folders:
        raise ValueError(
            f"{path} has neither sub-folders nor a labels.csv: expected a sub-folder a class, or a CSV file with the "
            f"columns {' and '.join(COLUMNS)}"
        )
    found, left_out = {}, [*beside.images, *(entry for entry in beside.others if not entry.is_dir())]
    broken = list(beside.broken)
    for folder in folders:
        listing = list_images(folder, deep=False)
        found[folder], others = listing.images, listing.others
        if not found[folder] and any(entry.is_dir() for entry in others):
            raise ValueError(f"{folder} has folders in it, no images: if those are the classes, load {folder} instead")
        if not found[folder] and (others or listing.broken):
            what = others[0].name if others else listing.broken[0]
            raise ValueError(
                f"{folder} must hold images that end in {', '.join(ENDINGS)}, or nothing, got {what}: "
                "convert its images, or move the folder away if it is not a class"
            )
        left_out, broken = left_out + others, broken + listing.broken
    if left_out:
        names = some(entry.relative_to(path) for entry in left_out)
        warnings.warn(f"{path}: left out what is no image in a sub-folder: {names}", stacklevel=3)
    for sentence in broken:
        warnings.warn(f"left out: {sentence}", stacklevel=3)
    return found


def _in_turn(folders: dict[Path, list[Path]]) -> list[tuple[Path, str]]:
    """List one image of each class in turn: folders in the order of their numbers, else of their names."""
    ordered = sorted(folders, key=lambda folder: (classes.class_number(folder.name) or 0, folder.name))
    files = [[(file, folder.name) for file in folders[folder]] for folder in ordered]
    return [entry for turn in itertools.zip_longest(*files) for entry in turn if entry is not None]


def _check_apart(path: Path, numbers: dict[str, int]) -> None:
    """Check that no two sub-folders are one class, as "7" and "07" would be."""
    first: dict[int, str] = {}
    for name, number in numbers.items():
        if number in first:
            raise ValueError(
                f"{path} must have one sub-folder a class, but {first[number]} and {name} are both class {number}: "
                "rename one or put their images together"
            )
        first[number] = name


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
