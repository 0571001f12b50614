"""What the formats of image files hold: channels, depth, size, and whether every pixel comes back."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Format(NamedTuple):
    """A format that is written."""

    name: str
    pillow: str  # Pillow's name for it
    endings: tuple[str, ...]
    channels: tuple[int, ...]  # 1 grey, 2 grey and opacity, 3 RGB, 4 RGB and opacity
    bits: tuple[int, ...] = (8,)  # a channel
    exact: bool = True
    side: int = 65_535  # pixels at most
    exif: bool = False  # whether it holds the camera's notes
    xmp: bool = False  # whether it holds those of editors
    texts: bool = False  # whether it holds texts by keyword
    density: bool = False  # whether it holds pixels an inch
    options: dict[str, Any] = {}  # noqa: RUF012 (of a tuple, never changed)


# WebP and AVIF hold grey as three equal channels. WebP drops colour under no opacity unless it is told to be exact.
# What JPEG loses by Pillow's defaults would purify by itself.
FORMATS = (
    Format(
        "PNG", "PNG", (".png",), (1, 2, 3, 4), (8, 16), side=1_000_000, exif=True, xmp=True, texts=True, density=True
    ),
    Format("TIFF", "TIFF", (".tif", ".tiff"), (1, 2, 3, 4), (8, 16), side=1_000_000, exif=True, xmp=True, density=True),
    Format(
        "WebP", "WEBP", (".webp",), (1, 3, 4), side=16_383, exif=True, xmp=True,
        options={"lossless": True, "exact": True},
    ),
    Format(
        "JPEG", "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), (1, 3), exact=False, side=65_500, exif=True, xmp=True,
        density=True, options={"quality": 95, "subsampling": 0},
    ),
    Format("JPEG 2000", "JPEG2000", (".jp2", ".j2k", ".jpf", ".jpx"), (1, 2, 3, 4), side=1_000_000),
    Format("BMP", "BMP", (".bmp", ".dib"), (1, 3), side=1_000_000, density=True),
    Format("PPM", "PPM", (".ppm", ".pnm"), (1, 3), side=1_000_000),
    Format("PGM", "PPM", (".pgm",), (1,), side=1_000_000),
    Format("TGA", "TGA", (".tga",), (1, 2, 3, 4)),
    Format("PCX", "PCX", (".pcx",), (1, 3)),
    Format("SGI", "SGI", (".sgi",), (1, 3, 4)),
    Format(
        "AVIF", "AVIF", (".avif",), (1, 3, 4), exact=False, exif=True, xmp=True,
        options={"quality": 95, "subsampling": "4:4:4"},
    ),
)  # fmt: skip
BY_ENDING = {ending: each for each in FORMATS for ending in each.endings}
READ_ONLY = (".apng", ".dds", ".gif", ".icns", ".ico", ".mpo", ".pbm", ".pfm", ".psd", ".qoi", ".xbm", ".xpm")
ENDINGS = (*BY_ENDING, *READ_ONLY)  # of files that are taken for images
COMMON = (".png", ".jpg", ".tif", ".webp", ".bmp")
HOLD = {1: "grey", 2: "grey with opacity", 3: "colour", 4: "colour with opacity"}


def format_of(path: Path) -> Format:
    """Return the format that the ending of a path says.

    Args:
        path: a file that is to be written.

    Returns:
        One of ``FORMATS``.

    Raises:
        ValueError: if the ending is not that of a format that is written.
    """
    found = BY_ENDING.get(path.suffix.lower())
    if found is None:
        known = ", ".join(COMMON)
        raise ValueError(f"{path} has no ending of an image format that is written, expected one such as {known}")
    return found


def check_held(path: Path, shape: tuple[int, ...], dtype: Any) -> Format:
    """Check that the format of a path holds an image whole.

    Args:
        path: where it is to be written.
        shape: ``(height, width, channel)``.
        dtype: ``uint8`` or ``uint16``.

    Returns:
        The format.

    Raises:
        ValueError: if it does not hold that many channels, bits or pixels to a side.
    """
    found, bits = format_of(path), 8 * np.dtype(dtype).itemsize
    opacity = shape[2] in (2, 4) and shape[2] not in found.channels
    if shape[2] not in found.channels or bits not in found.bits:
        what = f"{bits} bits a channel" if bits not in found.bits else "opacity" if opacity else HOLD[shape[2]]
        raise ValueError(f"{path} cannot hold {what} ({found.name}): write a .png or .tif instead")
    if max(shape[:2]) > found.side:
        raise ValueError(
            f"{path} cannot hold {shape[0]}×{shape[1]} pixels, {found.name} has at most {found.side} to a side: "
            "write a .png or .tif instead"
        )
    return found
