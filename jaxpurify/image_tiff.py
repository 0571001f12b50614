"""TIFF files of grey and RGB in 8 or 16 bits, whole: Pillow drops channels and signs, and cuts colour to 8 bits."""

import io
import os
from typing import Any, BinaryIO

import numpy as np

from jaxpurify.image_headers import RefusedError
from jaxpurify.image_notes import ORIENTATION, UPRIGHT, XMP, About, read_tiff_notes

PROFILE = 34675  # the tag of a colour profile
COLOURS = {0: 1, 1: 1, 2: 3}  # channels of colour by photometric interpretation: grey (white or black is zero), RGB
PALETTE, INKS, YCBCR = 3, 5, 6  # further interpretations


def left_to_pillow(picture: Any) -> bool:
    """Tell whether Pillow reads a TIFF file right: palettes, CMYK, YCbCr, and grey of fewer than 8 bits.

    Args:
        picture: Pillow's image.

    Returns:
        Whether it does; else ``decode`` reads the file or refuses it.

    Raises:
        RefusedError: if it holds what Pillow would drop.
    """
    tags = picture.tag_v2
    photometric, bits, further = tags.get(262, 0), max(tags.get(258, (1,))), tags.get(338, ())
    further = further if isinstance(further, tuple) else (further,)
    if bits > 8 or (photometric in COLOURS and bits == 8):
        return False
    if set(np.ravel(tags.get(339, (1,)))) != {1}:
        raise RefusedError(
            "has pixels that are signed or no integers, expected unsigned ones of 8 or 16 bits: convert it"
        )
    if further and not (photometric == PALETTE and further == (2,)):
        raise RefusedError("has a channel besides colour that is not opacity: remove it first")
    if photometric == INKS and tags.get(332, 1) != 1:
        raise RefusedError("has inks other than CMYK: convert it to RGB")
    if photometric not in (*COLOURS, PALETTE, INKS, YCBCR):
        raise RefusedError(f"has colours of TIFF's kind {photometric}, expected grey, RGB or CMYK: convert it to RGB")
    return True


def decode(file: BinaryIO) -> tuple[np.ndarray, bytes | None, About]:
    """Decode a TIFF file of grey or RGB, with opacity or without.

    Args:
        file: the file.

    Returns:
        ``uint8`` or ``uint16`` pixels ``(height, width, channel)``, upright, with 1, 3 or 4 channels; the ICC profile
        that they are in; and what else the file says.

    Raises:
        RefusedError: if it holds anything else.
    """
    import tifffile
    from PIL import Image

    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        if len(tiff.pages) > 1:
            raise RefusedError(f"holds {len(tiff.pages)} frames or pages, expected one image: split it first")
        colours = COLOURS.get(int(page.photometric), 0)
        further = page.samplesperpixel - colours
        if page.bitspersample not in (8, 16) or page.sampleformat != 1 or not colours:
            raise RefusedError(
                f"has pixels of {page.bitspersample} bits ({page.photometric.name.lower()}, sample format "
                f"{page.sampleformat}), expected unsigned ones of 8 or 16 in grey or RGB: convert it"
            )
        kinds = [int(each) for each in page.extrasamples or ()] or [
            2
        ]  # RGB with a fourth channel: opacity, as readers take it
        if further not in (0, 1) or (further and kinds[0] not in (1, 2)):
            raise RefusedError("has a channel besides colour that is not opacity: remove it first")
        if page.imagewidth * page.imagelength > 2 * (Image.MAX_IMAGE_PIXELS or np.inf):
            raise Image.DecompressionBombError(f"{page.imagewidth}×{page.imagelength} pixels")
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        if any(not count or offset + count > size for offset, count in parts):
            raise RefusedError("lacks some of its strips or tiles: is it truncated?")
        values = page.asarray()
        values = np.moveaxis(values, 0, -1) if int(page.planarconfig) == 2 and page.samplesperpixel > 1 else values
        values = values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        if int(page.photometric) == 0:  # white is zero
            values = np.concatenate([np.iinfo(values.dtype).max - values[..., :1], values[..., 1:]], axis=-1)
        values = divided(values) if further and kinds[0] == 1 else values
        values = values[..., [0, 0, 0, 1]] if values.shape[-1] == 2 else values
        profile = page.tags.get(PROFILE)
        turned = UPRIGHT.get(page.tags.valueof(ORIENTATION, 1), np.asarray)
    about = read_tiff_notes(file)
    return np.ascontiguousarray(turned(values)), None if profile is None else bytes(profile.value), about


def divided(values: np.ndarray) -> np.ndarray:
    """Divide colour by the opacity that it is multiplied by.

    Args:
        values: ``uint8`` or ``uint16`` ``(height, width, channel)``, the last channel being opacity.

    Returns:
        The same with colour as it is under full opacity.
    """
    top = np.iinfo(values.dtype).max
    opacity = values[..., -1:].astype(np.float64)
    straight = np.rint(values[..., :-1] * (top / np.maximum(opacity, 1))).clip(0, top)
    return np.concatenate([straight.astype(values.dtype), values[..., -1:]], axis=-1)


def encode(values: np.ndarray, about: About) -> bytes:
    """Encode pixels of 16 bits.

    Args:
        values: ``uint16`` ``(height, width)`` or ``(height, width, channel)``.
        about: what else is to be written.

    Returns:
        The file's bytes.
    """
    import tifffile

    content, channels = io.BytesIO(), values.shape[2] if values.ndim == 3 else 1
    options: dict[str, Any] = {"resolution": about.density, "resolutionunit": "INCH"} if about.density else {}
    options |= {"extratags": [(XMP, 1, len(about.xmp), about.xmp, True)]} if about.xmp else {}
    options |= {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
    options |= {"planarconfig": "contig"} if channels > 1 else {}
    photometric = "rgb" if channels > 2 else "minisblack"
    tifffile.imwrite(content, values, photometric=photometric, metadata=None, software=False, **options)
    return content.getvalue()
