"""The 300 photographs of the NIPS 2017 development set, as experiments take them: images/ID.png beside images.csv."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import jaxpurify as jp

CLASSES = tuple(str(number) for number in range(1000))
MARGIN = 256 / 224  # what the shorter side is resized to before the crop, as a multiple of the crop


def load(
    folder: str | os.PathLike, size: int = 224, limit: int | None = None, rows: Sequence[int] | slice | None = None
) -> jp.datasets.Dataset:
    """Load the photographs that a CSV file names (`ImageId`, and `TrueLabel` from 1), in its order.

    Each is resized (antialiased bilinear) and its centre cropped to `size` pixels; `rows` chooses, then `limit` cuts.
    """
    listed = _listed(folder)
    numbers = np.arange(len(listed))[slice(None) if rows is None else rows][:limit]
    images = np.stack([_cropped(listed[number][0], size) for number in numbers])
    labels = np.array([listed[number][1] for number in numbers])
    return jp.datasets.Dataset(images.astype(np.float32) / 255, labels, CLASSES, name="ImageNet photographs")


def files(folder: str | os.PathLike) -> list[Path]:
    """Return the files of the photographs, in the order of the CSV file."""
    return [file for file, _ in _listed(folder)]


def _listed(folder: str | os.PathLike) -> list[tuple[Path, int]]:
    folder = Path(folder)
    with open(folder / "images.csv", newline="", encoding="utf-8") as table:
        lines = list(csv.DictReader(table))
    return [(folder / "images" / f"{line['ImageId']}.png", int(line["TrueLabel"]) - 1) for line in lines]


def _cropped(path: Path, size: int) -> np.ndarray:
    side = round(MARGIN * size)
    left = (side - size) // 2
    with Image.open(path) as picture:
        resized = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, left, left + size, left + size)))
